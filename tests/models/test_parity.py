"""Every variant against PaddleClas's own classes: keys, order, names, outputs, gradients, statistics, init."""

from __future__ import annotations

import json

import numpy as np
import paddle
import pytest
from network_helpers import fingerprint, parameter_names, photos, randomise, trainable

from ppmobilenet.models import family_of
from ppmobilenet.weights.optimizer_names import automatic_names
from ppmobilenet.zoo import create_model, list_models

VARIANTS = [*list_models("MobileNetV[12]*"), *list_models("MobileNetV3_*_x*")]
V4 = list_models("MobileNetV4*")
BIG = ("MobileNetV4_conv_large", "MobileNetV4_hybrid_large")


def theirs(module, name, **kwargs):
    with paddle.utils.unique_name.guard():
        return getattr(module, name)(**kwargs)


def module_of(peer, name):
    return getattr(peer, name[len("MobileNet") :][:2].lower())


def pair(module, name, **kwargs):
    """Our network and theirs with the same random weights, theirs given ours by key."""
    ours, reference = create_model(name, **kwargs), theirs(module, name, **kwargs)
    randomise(ours)
    missing, unexpected = reference.set_state_dict({k: v.numpy() for k, v in ours.state_dict().items()})
    assert not missing and not unexpected
    return ours, reference


def assert_equal(module, name, side: int, **kwargs):
    """Keys, order, names, evaluation, then training: logits, gradients and running statistics."""
    ours, reference = models = pair(module, name, class_num=5, **kwargs)
    assert [(k, v.shape) for k, v in ours.state_dict().items()] == [
        (k, v.shape) for k, v in reference.state_dict().items()
    ]
    table = automatic_names(ours) if family_of(ours).automatic_names else {}
    assert [table.get(n, n) for n in parameter_names(ours)] == parameter_names(reference)
    ours.eval(), reference.eval()
    odd = 0 if "hybrid" in name else 13  # PaddleClas's raises
    x = photos(2, side, side + odd)
    with paddle.no_grad():
        mine, other = ours(x).numpy(), reference(x).numpy()
    assert mine.std() > 1e-3, "the comparison would be one of zeros"
    assert np.abs(mine - other).max() == 0.0

    labels = paddle.to_tensor([0, 3, 2])
    for model in models:
        model.train()
        paddle.seed(5)
        paddle.nn.functional.cross_entropy(model(photos(3, side + odd)), labels).backward()
    mine, other = (
        {k: (v.numpy(), None if v.grad is None else v.grad.numpy()) for k, v in m.state_dict().items()} for m in models
    )
    for key, (value, gradient) in mine.items():
        assert np.array_equal(value, other[key][0]), f"{key}: running statistics differ"
        if gradient is not None:
            assert np.array_equal(gradient, other[key][1]), f"{key}: gradients differ"
    assert sum(g is not None for _, g in mine.values()) == len(trainable(ours))


@pytest.mark.parametrize("name", VARIANTS)
def test_variants_equal_paddleclas_s(peer, name):
    assert_equal(module_of(peer, name), name, 32)


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] if n in BIG else []) for n in V4])
def test_v4_equals_paddleclas_s_paths_dropped_too(peer_v4, name):
    assert_equal(peer_v4, name, 64 if "hybrid" in name else 32, drop_path_rate=0.2)


@pytest.mark.parametrize("name", [*list_models("MobileNetV3_*_x*"), *V4])
def test_keys_and_outputs_are_those_that_paddleclas_s_classes_gave(repo, name):
    golden = json.loads((repo / "tests" / "golden" / "families.json").read_text())[name]
    found = fingerprint(create_model(name, class_num=5))
    numbers = {key for key, value in golden.items() if isinstance(value, float)}
    assert {k: v for k, v in found.items() if k not in numbers} == {k: v for k, v in golden.items() if k not in numbers}
    for key in numbers:
        assert found[key] == pytest.approx(golden[key], rel=1e-3, abs=1e-3 * golden["deviation"])


@pytest.mark.parametrize("name", ["MobileNetV1_x0_25", "MobileNetV2_x0_25", "MobileNetV3_small_x0_35"])
def test_one_seed_gives_the_initial_weights_of_paddleclas(peer, name):
    paddle.seed(7)
    ours = create_model(name)
    paddle.seed(7)
    reference = theirs(module_of(peer, name), name).state_dict()
    for key, value in ours.state_dict().items():
        assert np.array_equal(value.numpy(), reference[key].numpy()), key


def test_v2_nhwc_and_prefix_are_paddleclas_s_too(peer):
    ours, reference = pair(peer.v2, "MobileNetV2_x0_25", data_format="NHWC", prefix_name="left_", class_num=7)
    assert parameter_names(ours) == parameter_names(reference)
    assert all(n.startswith("left_") for n in parameter_names(ours))
    ours.eval(), reference.eval()
    assert np.abs(ours(photos()).numpy() - reference(photos()).numpy()).max() == 0.0
