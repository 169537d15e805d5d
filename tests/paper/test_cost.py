"""Costs against paddle.flops, the papers' formulas and the papers' tables."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from math import ceil

import numpy as np
import paddle
import pytest

from ppmobilenet.cli import main
from ppmobilenet.errors import UserError
from ppmobilenet.models import mobilenet_v1, mobilenet_v2
from ppmobilenet.paper import bottleneck, cost, published
from ppmobilenet.paper.cost_text import cost_text
from ppmobilenet.zoo import create_model, list_models

V2_SCALES = {"MobileNetV2": 1.0, "MobileNetV2_x0_25": 0.25, "MobileNetV2_x1_5": 1.5}


def separable_madds(height: int, width: int, m: int, n: int, k: int = 3) -> int:
    """Multiply-adds of a depthwise separable convolution (MobileNetV1, eq. 5): 1/N + 1/k^2 of a standard one."""
    return height * width * m * k * k + height * width * m * n


def bottleneck_madds(height: int, width: int, d_in: int, d_out: int, t: float = 6, k: int = 3, stride: int = 1) -> int:
    """Multiply-adds of an inverted residual on a ``height`` x ``width`` input (MobileNetV2, section 3.3).

    At stride 1 the paper's h * w * d' * t * (d' + k^2 + d''); at stride 2 only the expansion sees the whole input.
    """
    expanded = int(round(d_in * t))
    out = ceil(height / stride) * ceil(width / stride)
    return height * width * d_in * expanded + out * expanded * (k * k + d_out)


@pytest.fixture(scope="module")
def v1():
    return cost.cost_of(create_model("MobileNetV1"))


@pytest.fixture(scope="module")
def v2():
    return cost.cost_of(create_model("MobileNetV2"))


def paddle_flops_rows(model, resolution: int, capsys) -> list[int]:
    """The counts that paddle.flops prints for convolutions and linear layers, in order."""
    if tuple(map(int, np.__version__.split(".")[:2])) >= (2, 4):
        pytest.skip("paddle.flops raises TypeError under numpy 2.4")
    capsys.readouterr()
    paddle.flops(model, [1, 3, resolution, resolution], print_detail=True)
    table = capsys.readouterr().out
    return [int(row) for row in re.findall(r"^\|\s*(?:conv2d|linear)_\d+\s*\|.*\|\s*(\d+)\s*\|$", table, re.M)]


@pytest.mark.parametrize("data_format", ["NCHW", "NHWC"])
def test_attention_says_what_it_multiplies(data_format):
    """Scores and mixing, by hand: four rows of 4 heads of 64 at stride 16, their keys at 32, and four at stride 32."""
    found = cost.cost_of(create_model("MobileNetV4_hybrid_medium", data_format=data_format), 96)
    assert found.products == 4 * 2 * 4 * 64 * 36 * 9 + 4 * 2 * 4 * 64 * 9 * 9
    rows = [row for row in found.to_dict()["by_kind"] if row["kind"] == "attention"]
    assert [(row["layers"], row["madds"], row["weights"]) for row in rows] == [(8, found.products, 0)]
    assert "829,440 of them attention's products" in cost_text({**found.to_dict(), "model": "a"})


@pytest.mark.filterwarnings("ignore:Conversion of an array:DeprecationWarning")  # paddle.flops: int() of its own counts
@pytest.mark.parametrize("name", ["MobileNetV1_x0_25", "MobileNetV1", "MobileNetV2_x0_25", "MobileNetV2"])
@pytest.mark.parametrize("resolution", [64, 97])
def test_each_row_is_what_paddle_flops_counts(name, resolution, capsys):
    model = create_model(name)
    mine = [layer.madds for layer in cost.cost_of(model, resolution).layers]
    assert mine == paddle_flops_rows(model, resolution, capsys)
    assert len(mine) == (28 if "V1" in name else 54)


def closed_v1(scale: float, resolution: int, classes: int = 1000) -> int:
    """The paper's sums over its Table 1, written out once more."""
    side = -(-resolution // 2)
    total = side * side * 27 * int(32 * scale)
    for _, c_in, c_out, stride in mobilenet_v1.BLOCKS:
        side = -(-side // stride)
        total += separable_madds(side, side, int(c_in * scale), int(c_out * scale))
    return total + int(1024 * scale) * classes


def closed_v2(scale: float, resolution: int, classes: int = 1000) -> int:
    side = -(-resolution // 2)
    width = int(32 * scale)
    total = side * side * 27 * width
    for t, c, n, s in mobilenet_v2.STAGES:
        for i in range(n):
            stride = s if i == 0 else 1
            total += bottleneck_madds(side, side, width, int(c * scale), t, stride=stride)
            side, width = -(-side // stride), int(c * scale)
    last = int(1280 * max(1, scale))
    return total + side * side * width * last + last * classes


@pytest.mark.parametrize("resolution", [32, 75, 128])
@pytest.mark.parametrize("scale", [0.25, 0.33, 0.75])
def test_totals_are_the_closed_formulas(scale, resolution):
    assert cost.cost_of(create_model("MobileNetV1", scale=scale), resolution).madds == closed_v1(scale, resolution)
    assert cost.cost_of(create_model("MobileNetV2", scale=scale), resolution).madds == closed_v2(scale, resolution)


def test_published_totals(v1, v2):
    assert v1.madds == closed_v1(1.0, 224) == 568_740_352  # paper: 569 million
    assert v2.madds == closed_v2(1.0, 224) == 313_619_328
    assert v2.paper_madds == 300_774_272  # paper: 300 million
    assert v1.paper_madds == v1.madds
    assert (v1.parameters, v2.parameters) == (4_231_976, 3_505_960)


@pytest.mark.parametrize("name", list_models("*x0*"))
def test_parameters_are_all_the_trainable_ones(name):
    model = create_model(name, class_num=17)
    trainable = sum(int(np.prod(p.shape)) for p in model.parameters() if not p.stop_gradient)
    assert cost.cost_of(model, 32).parameters == trainable


def test_mobilenet_v1_table_2(v1):
    """Its 3x3 row is printed as 1.19 %: the column sums to 100 with 1.91, which is 10.8 of 569 million."""
    rows = {row["kind"]: (round(row["madds_percent"], 2), round(row["weights_percent"], 2)) for row in v1.split()}
    assert rows == {
        "conv 1x1": (94.86, 74.59),
        "depthwise 3x3": (3.06, 1.06),
        "conv 3x3": (1.91, 0.02),
        "fc": (0.18, 24.33),
    }


def test_mobilenet_v2_table_3(v1, v2):
    def kilobytes_fp16(rows):
        return {r["height"]: (r["channels"], round(2 * r["values"] / 1000)) for r in rows}

    first = kilobytes_fp16(v1.memory_by_resolution())
    assert [first[s][0] for s in (112, 56, 28, 14, 7, 1)] == [64, 128, 256, 512, 1024, 1024]
    assert [first[s][1] for s in (112, 56, 28, 14)] == [1606, 803, 401, 201]  # paper: 1600, 800, 400, 200
    # only the bottlenecks are held; the paper's bounds are 16, 32, 64, 160 channels, and 400 KB the maximum
    second = kilobytes_fp16(v2.memory_by_resolution(split=10_000))
    assert [second[s][0] for s in (112, 56, 28, 14)] == [16, 24, 32, 96]
    assert second[112][1] == 401 == max(kb for _, kb in second.values())
    # unsplit, the expanded tensors are there too: 6 * 16 channels at 112
    assert kilobytes_fp16(v2.memory_by_resolution())[112][0] == 96


def test_peak_memory(v1, v2):
    side = 112 * 112
    assert v1.peak() == (side * (32 + 64), "blocks.0.pointwise_conv.conv")
    # 96 channels at 112 pixels in, 96 at 56 out
    assert v2.peak() == (side * 96 + 56 * 56 * 96, "conv3._first_block._bottleneck_conv._conv")
    peaks = [v2.peak(split)[0] for split in (1, 2, 3, 4, 5)]
    assert peaks == sorted(peaks, reverse=True) and peaks[-1] < peaks[0] / 2
    # nothing to split in V1
    assert v1.peak(4) == v1.peak()


def test_a_shortcut_is_held_while_its_unit_runs():
    layers = {layer.name: layer for layer in cost.cost_of(create_model("MobileNetV2"), 224).layers}
    inside = layers["conv3.conv3_2._bottleneck_conv._conv"]  # 144 channels in and out at 56, 24 held
    assert inside.live == 56 * 56 * (144 + 144 + 24)
    assert layers["conv3.conv3_2._expand_conv._conv"].live == 56 * 56 * (24 + 144)
    assert layers["conv4._first_block._bottleneck_conv._conv"].live == 56 * 56 * 144 + 28 * 28 * 144


def test_the_literature_s_worked_example():
    """56 x 56, 16 channels to 32, 3x3."""
    conv = paddle.nn.Conv2D
    block = paddle.nn.Sequential(conv(3, 16, 1), conv(16, 16, 3, padding=1, groups=16), conv(16, 32, 1))
    found = cost.cost_of(block, 56)
    assert found.layers[1].madds + found.layers[2].madds == separable_madds(56, 56, 16, 32) == 2_057_216
    assert found.separable()[0]["ratio"] == pytest.approx(2_057_216 / 14_450_688) == pytest.approx(1 / 32 + 1 / 9)


def test_formula_of_the_bottleneck():
    h, w, d_in, t, k, d_out = 28, 28, 32, 6, 3, 64
    assert bottleneck_madds(h, w, d_in, d_out, t, k) == h * w * d_in * t * (d_in + k * k + d_out)


def test_separable_ratio_of_every_block(v1, v2):
    widths = [c_out for _, _, c_out, _ in mobilenet_v1.BLOCKS]
    assert [row["ratio"] for row in v1.separable()] == pytest.approx([1 / n + 1 / 9 for n in widths])
    assert len(v2.separable()) == 17
    assert v2.separable()[0]["ratio"] == pytest.approx(1 / 16 + 1 / 9)


def test_nhwc_costs_the_same(v2):
    nhwc = cost.cost_of(create_model("MobileNetV2", data_format="NHWC"))
    assert nhwc.layers == v2.layers


def test_measuring_leaves_the_model_as_it_was():
    model = create_model("MobileNetV2_x0_25", class_num=3)
    before = {k: v.numpy() for k, v in model.state_dict().items()}
    model.train()
    cost.cost_of(model, 32)
    assert model.training and all(layer.training for layer in model.sublayers())
    assert not any(layer._forward_post_hooks or layer._forward_pre_hooks for layer in model.sublayers())
    assert all(np.array_equal(before[k], v.numpy()) for k, v in model.state_dict().items())


def test_dead_filters_are_counted_per_layer():
    model = create_model("MobileNetV1_x0_25", class_num=3)
    weight = model.blocks[2].depthwise_conv.conv.weight
    values = weight.numpy()
    values[[1, 5, 7]] = 0
    values[2, 0, 0, 0] = 0  # one zero does not kill a filter
    weight.set_value(values)
    found = cost.cost_of(model, 32).to_dict()["dead_filters"]
    assert found == {"blocks.2.depthwise_conv.conv": 3}


def test_sweep_has_the_published_accuracy():
    rows = cost.sweep("MobileNetV1", alphas=(0.25,), resolutions=(128, 224, 250), class_num=1000)
    assert [(r["resolution"], r["top1"]) for r in rows] == [(128, 41.5), (224, 51.4), (250, None)]
    assert rows[0]["rho"] == pytest.approx(128 / 224)
    # rho lowers the cost of the convolutions by its square; the classifier stays
    ratio = (rows[0]["madds"] - 256_000) / (rows[1]["madds"] - 256_000)
    assert ratio == pytest.approx((128 / 224) ** 2, rel=1e-6)
    with pytest.raises(UserError, match="MobileNetV1 or MobileNetV2"):
        cost.sweep("MobileNetV1_x0_5")


def test_published_rows_are_ours_to_look_up():
    assert published.latency("MobileNetV2", 1.0, 224, "fp32", "Snapdragon 855 armv8", 4) == 8.1
    assert published.latency("MobileNetV2", 1.0, 224, "fp32", "Pixel 1, TF Lite", 4) is None
    for row in published.accuracies():
        assert row.family in list_models() and 30 < row.top1 < row.top5 < 100
    keys = [row[:5] for row in published.accuracies()] + [row[:6] for row in published.latencies()]
    assert len(keys) == len(set(keys))


def test_figure_1_collapses_in_few_dimensions_only():
    pictures = {p["dimension"]: p for p in bottleneck.linear_bottleneck()}
    assert pictures[2]["lost"] > 0.1 and pictures[3]["lost"] > 0.1
    assert pictures[15]["lost"] == pictures[30]["lost"] == 0
    # in 30 dimensions the spiral comes back up to a bend; a straight line through the origin would not
    spiral, back = pictures[0]["points"], pictures[30]["points"]
    assert np.corrcoef(np.linalg.norm(spiral, axis=1), np.linalg.norm(back, axis=1))[0, 1] > 0.9


# -- the command -------------------------------------------------------------------------------------------------------


def test_command_prints_layers_totals_and_tables(capsys):
    assert main(["cost", "MobileNetV2", "--scale", "0.35", "--resolution", "96", "--split", "4"]) == 0
    out = capsys.readouterr().out
    assert "conv3.conv3_2._bottleneck_conv._conv" in out
    assert "MobileNetV2 at 96x96, 32-bit values" in out
    assert "inverted residuals in 4 slices" in out
    assert "without the 1x1 expansion" in out


def test_command_json_and_csv_hold_the_same(capsys, tmp_path):
    csv = tmp_path / "new" / "layers.csv"
    assert main(["cost", "MobileNetV1_x0_25", "--bits", "16", "--batch", "2", "--json", "--csv", str(csv)]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["parameters"] == 470_072
    assert data["peak_activation_bytes"] == 112 * 112 * (8 + 16) * 2 * 2
    lines = csv.read_text().splitlines()
    assert len(lines) == 1 + 28 and "3x224x224" in lines[1]
    assert sum(int(line.split(",")[lines[0].split(",").index("madds")]) for line in lines[1:]) == data["madds"]


def test_command_draws(capsys, tmp_path):
    sweep, figure = tmp_path / "sweep.svg", tmp_path / "figure.svg"
    assert main(["cost", "MobileNetV1", "--scale", "0.25", "--sweep", "--plot", str(sweep)]) == 0
    assert "51.4" in capsys.readouterr().out
    assert main(["cost", "--linear-bottleneck", str(figure)]) == 0
    for path in (sweep, figure):
        root = ElementTree.parse(path).getroot()
        assert root.tag.endswith("svg") and root.attrib["aria-label"]
    assert len(re.findall("<circle", sweep.read_text())) == 4 + 4


def test_command_counts_dead_filters_of_real_weights(shared, capsys):
    weights = shared / "weights" / "MobileNetV1_x0_25.npz"
    assert main(["cost", "MobileNetV1_x0_25", "--weights", str(weights)]) == 0
    arrays = np.load(weights)
    dead = sum(
        int((~arrays[k].reshape(len(arrays[k]), -1).any(axis=1)).sum()) for k in arrays if "depthwise_conv.conv" in k
    )
    total = sum(len(arrays[k]) for k in arrays if "depthwise_conv.conv" in k)
    assert f"{dead} of {total} depthwise filters are all zero" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words,message",
    [
        (["cost"], "which model?"),
        (["cost", "MobileNetV3"], "did you mean 'MobileNetV"),
        (["cost", "MobileNetV1_x0_5", "--scale", "2"], "fixes scale at 0.5"),
        (["cost", "MobileNetV1", "--resolution", "16"], "--resolution: '16'"),
        (["cost", "MobileNetV1_x0_5", "--sweep"], "no sweep of 'MobileNetV1_x0_5'"),
    ],
)
def test_command_says_what_is_wrong(words, message, capsys):
    assert main(words) == 2
    assert message in capsys.readouterr().err
