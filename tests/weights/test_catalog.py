"""The catalogue of published weights against the networks and against what was published."""

from __future__ import annotations

import pytest

from ppmobilenet.errors import UserError
from ppmobilenet.weights import catalog, layouts

pytest.importorskip("paddle")
ROWS = tuple(catalog.rows().values())


def batch_norm_values(model, cost) -> int:
    """Output values of all batch norms of one image: one behind each convolution of a map."""
    return sum(c * h * w for c, h, w in (x.output_shape for x in cost.layers if x.kind != "fc") if h * w > 1)


@pytest.mark.parametrize("model", sorted({row.model for row in ROWS}))
def test_exact_and_published_figures(model):
    from ppmobilenet.paper.cost import cost_of
    from ppmobilenet.zoo import create_model

    network = create_model(model)
    cost = cost_of(network, 224)
    counted = {
        layouts.AS_BUILT: cost.madds - cost.products,
        layouts.AS_PAPER: cost.paper_madds,
        layouts.NORM_ONCE: cost.madds + batch_norm_values(network, cost),
        layouts.WITH_NORM: cost.madds + 2 * batch_norm_values(network, cost),
    }
    rows = [row for row in ROWS if row.model == model]
    assert rows
    assert (cost.products > 0) == ("hybrid" in model)
    points = sum(layer.madds for layer in cost.layers if layer.output_shape[1:] in ((), (1, 1)))
    counted = {how: (n - points) * (rows[0].preprocessing.crop / 224) ** 2 + points for how, n in counted.items()}
    for row in rows:
        assert (row.parameters, row.madds) == (cost.parameters, cost.madds - cost.products)
        assert row.published_parameters == pytest.approx(cost.parameters / 1e6, rel=0.03)
        assert row.published_madds == pytest.approx(counted[row.madds_counted] / 1e6, rel=0.03)


def test_rows_cover_every_published_model_and_point_to_files():
    from ppmobilenet.zoo import list_models

    open_names = {"MobileNetV3_small", "MobileNetV3_large"}
    assert [row.model for row in ROWS if not row.ssld] == [name for name in list_models() if name not in open_names]
    assert len({row.url for row in ROWS}) == len(ROWS) == 30
    assert {row.any_scale for row in ROWS} & open_names == open_names
    assert catalog.rows()["MobileNetV4_hybrid_large"].preprocessing.crop == 448
    for row in ROWS:
        assert row.url.startswith("https://") and row.url.endswith(f"/{row.name}_pretrained.pdparams")
        assert 50 < row.top1 < row.top5 < 100
        assert row.status == "unverified" or row.sha256


def test_recipes_exist_and_evaluate_with_the_rows_preprocessing(repo):
    import yaml

    for row in ROWS:
        recipe = yaml.safe_load((repo / row.recipe).read_text(encoding="utf-8"))
        assert recipe["Arch"]["name"] == row.model
        ops = {k: v for op in recipe["DataLoader"]["Eval"]["dataset"]["transform_ops"] for k, v in op.items()}
        assert ops["ResizeImage"]["resize_short"] == row.preprocessing.resize
        assert ops["CropImage"]["size"] == row.preprocessing.crop
        assert tuple(ops["NormalizeImage"]["mean"]) == row.preprocessing.mean
        assert tuple(ops["NormalizeImage"]["std"]) == row.preprocessing.std


def test_find_knows_ssld_and_what_there_is_not():
    assert catalog.find("MobileNetV2", use_ssld=True).top1 == 76.74
    assert catalog.find("MobileNetV1_ssld").model == "MobileNetV1"
    with pytest.raises(UserError, match="no SSLD weights of MobileNetV2_x0_5.*\n.*MobileNetV1, MobileNetV2"):
        catalog.find("MobileNetV2_x0_5", use_ssld=True)
    with pytest.raises(UserError, match="did you mean"):
        catalog.find("MobileNetV2_x05")


def test_peer_addresses_are_these(peer):
    theirs = {**peer.v1.MODEL_URLS, **peer.v2.MODEL_URLS, **peer.v3.MODEL_URLS}
    assert {row.model: row.url for row in ROWS if not row.ssld and row.family != "MobileNetV4"} == theirs
