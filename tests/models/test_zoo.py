"""Every variant by name: counts, keys, gradients, options, and what a wrong name or value is told."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest
from network_helpers import parameter_names, photos, randomise, size, trainable

from ppmobilenet.errors import UserError
from ppmobilenet.models import mobilenet_v1, mobilenet_v2
from ppmobilenet.models.family import classifier_of
from ppmobilenet.registry import MODELS
from ppmobilenet.zoo import create_model, list_models

# trainable parameters at 1000 classes
PARAMETERS = {
    "MobileNetV1_x0_25": 470_072,
    "MobileNetV1_x0_5": 1_331_592,
    "MobileNetV1_x0_75": 2_585_560,
    "MobileNetV1": 4_231_976,
    "MobileNetV2_x0_25": 1_517_392,
    "MobileNetV2_x0_5": 1_965_736,
    "MobileNetV2_x0_75": 2_628_592,
    "MobileNetV2": 3_505_960,
    "MobileNetV2_x1_5": 6_852_712,
    "MobileNetV2_x2_0": 11_262_312,
    "MobileNetV3_small_x0_35": 1_665_954,
    "MobileNetV3_small_x0_5": 1_902_536,
    "MobileNetV3_small_x0_75": 2_375_106,
    "MobileNetV3_small_x1_0": 2_939_958,
    "MobileNetV3_small_x1_25": 3_627_370,
    "MobileNetV3_small": 2_939_958,
    "MobileNetV3_large_x0_35": 2_104_328,
    "MobileNetV3_large_x0_5": 2_673_422,
    "MobileNetV3_large_x0_75": 3_912_248,
    "MobileNetV3_large_x1_0": 5_480_206,
    "MobileNetV3_large_x1_25": 7_443_308,
    "MobileNetV3_large": 5_480_206,
    "MobileNetV4_conv_small": 3_774_024,
    "MobileNetV4_conv_medium": 9_715_512,
    "MobileNetV4_conv_large": 32_590_864,
    "MobileNetV4_hybrid_medium": 11_074_648,
    "MobileNetV4_hybrid_large": 37_764_624,
}
# others' parameters are counted in tests/weights/test_catalog.py, their keys compared in test_parity.py
GRADIENTS = ("MobileNetV3_small_x0_35", "MobileNetV3_large", "MobileNetV4_conv_small", "MobileNetV4_hybrid_medium")
# of Python
STANDARD = {
    "__future__",
    "collections",
    "dataclasses",
    "functools",
    "importlib",
    "inspect",
    "math",
    "pkgutil",
    "typing",
}
SMALL = ["MobileNetV1_x0_25", "MobileNetV2_x0_25", "MobileNetV3_small_x0_35", "MobileNetV4_conv_small"]


def with_weights_of(source, name, **kwargs):
    """Another network with the same weights, in eval mode; keys it does not have are left out."""
    model = create_model(name, **kwargs)
    weights = {k: v.numpy() for k, v in source.state_dict().items() if k in model.state_dict()}
    missing, unexpected = model.set_state_dict(weights)
    assert not missing and not unexpected
    model.eval()
    return model


def test_the_variants_are_listed():
    assert list_models() == list(PARAMETERS)
    assert list_models("*V2_x?_5") == ["MobileNetV2_x0_5", "MobileNetV2_x1_5"]


@pytest.mark.parametrize("name", [n for n in PARAMETERS if n[:11] in ("MobileNetV1", "MobileNetV2") or n in GRADIENTS])
def test_counts_keys_and_a_gradient_for_every_parameter(name, golden):
    model = create_model(name)
    assert size(model) == PARAMETERS[name]
    names = parameter_names(model)
    if name in GRADIENTS:
        assert len(set(names)) == len(names) and all(n == n.lower() and "." not in n for n in names)
    else:
        assert list(zip(model.state_dict(), names)) == golden("v1" if "V1" in name else "v2")
    randomise(model)
    out = model(photos(4, 64))  # gates and attention that one value decides pass no gradient
    assert out.shape == [4, 1000]
    out.square().mean().backward()
    silent = [p.name for p in trainable(model) if p.grad is None or not np.any(p.grad.numpy())]
    assert not silent


def test_v2_names_are_those_of_the_static_release(shared):
    files = {p.name for p in (shared / "weights" / "MobileNetV2_fluid").iterdir()} - {"__model__"}
    assert set(parameter_names(create_model("MobileNetV2"))) - files == {"fc10_weights"}
    assert files <= set(parameter_names(create_model("MobileNetV2")))


def test_two_models_in_one_process_train_apart():
    first, second = (create_model("MobileNetV2_x0_25", class_num=4) for _ in range(2))
    assert parameter_names(first) == parameter_names(second)
    before = second.out.weight.numpy().copy()
    optimizer = paddle.optimizer.Momentum(0.1, parameters=first.parameters())
    first(photos(2)).square().mean().backward()
    optimizer.step()
    assert np.array_equal(second.out.weight.numpy(), before)
    assert second.out.weight.grad is None


@pytest.mark.parametrize("name", SMALL)
def test_nhwc_computes_the_same(name, small):
    nchw = small(name)
    nhwc = with_weights_of(nchw, name, class_num=10, data_format="NHWC")
    x = photos(2, 48, 33)
    np.testing.assert_allclose(nhwc(x).numpy(), nchw(x).numpy(), atol=2e-5)
    for mine, other in zip(nhwc.forward_features(x), nchw.forward_features(x)):
        np.testing.assert_allclose(mine.numpy(), other.numpy(), atol=2e-5)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("height,width", [(32, 32), (33, 47), (224, 65)])
def test_any_resolution_from_32(name, height, width, small):
    model = small(name)
    x = photos(1, height, width)
    assert model(x).shape == [1, 10]
    for stride, feature in zip(model.feature_strides, model.forward_features(x)):
        assert feature.shape[2:] == [-(-height // stride), -(-width // stride)]


@pytest.mark.parametrize("name", SMALL)
def test_pyramid(name, small):
    whole = small(name)
    maps = whole.forward_features(photos(1, 64))
    assert [m.shape[1] for m in maps] == list(whole.feature_channels)
    assert [64 // m.shape[2] for m in maps] == list(whole.feature_strides)
    assert sorted({*whole.feature_strides, 2}) == [2, 4, 8, 16, 32]
    part = with_weights_of(whole, name, features_only=True, out_indices=(1, 3))
    assert part.feature_strides == (whole.feature_strides[1], whole.feature_strides[3])
    assert part.feature_channels == (whole.feature_channels[1], whole.feature_channels[3])
    chosen = part(photos(1, 64))
    assert len(chosen) == 2
    for mine, level in zip(chosen, (1, 3)):
        assert np.array_equal(mine.numpy(), maps[level].numpy())
    # nothing is built that the maps do not need
    part.train()
    sum(m.sum() for m in part(photos(2, 64))).backward()
    assert all(p.grad is not None for p in trainable(part))


def test_published_pyramid_channels():
    assert create_model("MobileNetV1", features_only=True).feature_channels == (64, 128, 256, 512, 1024)
    assert create_model("MobileNetV2", features_only=True).feature_channels == (16, 24, 32, 96, 320)
    small, large = (create_model(f"MobileNetV3_{size}", features_only=True) for size in ("small", "large"))
    assert (small.feature_strides, small.feature_channels) == ((4, 8, 16, 32), (16, 24, 48, 96))
    assert (large.feature_strides, large.feature_channels) == ((2, 4, 8, 16, 32), (16, 24, 40, 112, 160))
    narrow = create_model("MobileNetV3_large_x0_35", features_only=True)  # PaddleClas gives it the rows of small's
    assert (narrow.feature_strides, narrow.feature_channels) == ((2, 4, 8, 16, 32), (8, 8, 16, 40, 56))
    for name, channels in (("conv_small", (32, 64, 96, 128, 960)), ("hybrid_medium", (48, 80, 160, 256, 960))):
        v4 = create_model(f"MobileNetV4_{name}", features_only=True)
        assert (v4.feature_strides, v4.feature_channels) == ((4, 8, 16, 32, 32), channels)
    assert len(create_model("MobileNetV4_conv_medium", features_only=True, out_indices=(0, 2)).blocks) == 11


@pytest.mark.parametrize("name", SMALL)
def test_class_num_0_gives_what_the_classifier_saw(name, small):
    whole = small(name)
    pooled = with_weights_of(whole, name, class_num=0)
    features = pooled(photos())
    assert features.shape == [2, pooled.num_features]
    classifier = getattr(whole, classifier_of(whole))
    assert np.array_equal(classifier(features).numpy(), whole(photos()).numpy())


@pytest.mark.parametrize("name", SMALL[:2])
def test_dropout_stands_before_the_classifier_and_only_in_training(name, small):
    plain = small(name)
    model = with_weights_of(plain, name, class_num=10, dropout=0.5)
    assert np.array_equal(model(photos()).numpy(), plain(photos()).numpy())
    classifier, seen = (model.fc if "V1" in name else model.out), []
    classifier.register_forward_pre_hook(lambda layer, args: seen.append(args[0].numpy()))
    model.dropout.train()
    model(photos(4))
    model.dropout.eval()
    model(photos(4))
    dropped, kept = seen
    zeroed = (dropped == 0) & (kept != 0)
    assert 0.4 < zeroed.sum() / (kept != 0).sum() < 0.6
    np.testing.assert_allclose(dropped[~zeroed], 2 * kept[~zeroed], rtol=1e-6)


@pytest.mark.parametrize("name", ["MobileNetV1", "MobileNetV2"])
def test_initialisation_kaiming_fan_out(name):
    paddle.seed(3)
    model = create_model(name, init="kaiming_fan_out")
    for layer_name, layer in model.named_sublayers():
        if isinstance(layer, paddle.nn.Conv2D):
            c_out, c_in, k, _ = layer.weight.shape
            expected = np.sqrt(2 / 9) if c_in == 1 else np.sqrt(2 / (c_out * k * k))
            weights = layer.weight.numpy()
            # the standard error of a standard deviation is 1 / sqrt(2 n): five of them
            assert weights.std() == pytest.approx(expected, rel=5 / np.sqrt(2 * weights.size)), layer_name
            assert abs(weights.mean()) < 5 * expected / np.sqrt(weights.size)
        elif isinstance(layer, paddle.nn.Linear):
            assert layer.weight.numpy().std() == pytest.approx(0.01, rel=0.01)
            assert not layer.bias.numpy().any()
        elif isinstance(layer, paddle.nn.BatchNorm2D):
            assert (layer.weight.numpy() == 1).all() and not layer.bias.numpy().any()


def test_initialisation_paddleclas():
    """Its V1 asks for He by fan-in, which counts groups; its V2 takes Paddle's default, which does not."""
    paddle.seed(3)
    v1, v2 = create_model("MobileNetV1"), create_model("MobileNetV2")
    for layer in v1.sublayers():
        if isinstance(layer, paddle.nn.Conv2D):
            weights = layer.weight.numpy()
            expected = np.sqrt(2 / np.prod(weights.shape[1:]))
            assert weights.std() == pytest.approx(expected, rel=5 / np.sqrt(2 * weights.size))
    depthwise = v2.conv2._first_block._bottleneck_conv._conv.weight.numpy()
    assert depthwise.std() == pytest.approx(np.sqrt(2 / (9 * 32)), rel=5 / np.sqrt(2 * depthwise.size))
    for fan_in, fan_out, weights in (
        (1024, 1000, v1.fc.weight.numpy()),
        (1280, 1000, v2.out.weight.numpy()),
    ):
        expected = np.sqrt(2 / fan_in) if fan_in == 1024 else np.sqrt(2 / (fan_in + fan_out))
        assert weights.std() == pytest.approx(expected, rel=0.01)


def test_scale_is_the_class_s_and_widths_are_never_rounded():
    model = create_model("MobileNetV2", scale=0.35, class_num=3)
    assert model.conv1._conv.weight.shape[0] == 11
    assert model.feature_channels == (5, 8, 11, 33, 112)
    assert model.num_features == 1280
    assert create_model("MobileNetV1", scale=0.3, class_num=3).feature_channels == (19, 38, 76, 153, 307)


def test_expansion_leaves_the_first_stage():
    model = create_model("MobileNetV2", scale=0.25, expansion=3, class_num=3)
    assert model.conv2._first_block._expand_conv._conv.weight.shape[:2] == [8, 8]
    assert model.conv3._first_block._expand_conv._conv.weight.shape[:2] == [12, 4]


def test_shortcut_only_at_stride_1_with_equal_shapes():
    def shortcuts(model):
        units = [u for u in model.sublayers() if isinstance(u, mobilenet_v2.InvertedResidualUnit)]
        return [u.shortcut for u in units]

    by_stage = [[False] + [True] * (n - 1) for _, _, n, _ in mobilenet_v2.STAGES]
    assert shortcuts(create_model("MobileNetV2", class_num=2)) == sum(by_stage, [])
    # rounding to 8 can make a stage's first unit one too, as in torchvision: 8 -> 8 channels
    assert shortcuts(create_model("MobileNetV2", scale=0.25, divisor=8, class_num=2))[0]


def test_units_have_a_linear_bottleneck_and_relu6():
    unit = mobilenet_v2.InvertedResidualUnit(4, 8, 6, 1, name="any")
    randomise(unit)
    unit.eval()
    x = photos(1, 8)[:, :1].tile([1, 4, 1, 1]) * 30
    assert float(unit._expand_conv(x).max()) == 6.0 and float(unit._expand_conv(x).min()) == 0.0
    assert float(unit(x).min()) < 0


def test_widths_rounded_as_torchvision_and_timm_do():
    torchvision = create_model("MobileNetV2", scale=0.5, divisor=8)
    assert torchvision.conv1._conv.weight.shape[0] == 16
    widths = [getattr(torchvision, f"conv{i}")._first_block._linear_conv._conv.weight.shape[0] for i in range(2, 9)]
    assert widths == [8, 16, 16, 32, 48, 80, 160]
    assert torchvision.num_features == 1280
    assert create_model("MobileNetV2", scale=1.4, divisor=8, class_num=0).num_features == 1792
    assert create_model("MobileNetV2", scale=0.5, divisor=8, last_channel=640, class_num=0).num_features == 640


def test_timm_s_110d_120d_140():
    """Stem and head fixed, more units in the middle; timm publishes 4.52, 5.83 and 6.11 million parameters."""
    without_expansion = 32 * 32 + 2 * 32  # of its first unit, which has no expansion there
    deep = {"divisor": 8, "fix_stem_head": True}
    for published, units, kwargs in (
        (4.52, [1, 3, 4, 5, 4, 4, 1], {"scale": 1.1, "depth": 1.2, **deep}),
        (5.83, [1, 3, 5, 6, 5, 5, 1], {"scale": 1.2, "depth": 1.4, **deep}),
        (6.11, [1, 2, 3, 4, 3, 3, 1], {"scale": 1.4, "divisor": 8}),
    ):
        model = create_model("MobileNetV2", **kwargs)
        assert [len(list(getattr(model, f"conv{i}").children())) for i in range(2, 9)] == units
        assert round((size(model) - without_expansion) / 1e6, 2) == published


def test_relu_instead_of_relu6(small):
    relu = with_weights_of(small("MobileNetV2_x0_25"), "MobileNetV2_x0_25", class_num=10, activation="relu")
    assert float(relu.conv1(photos() * 100).max()) > 6
    assert not np.array_equal(relu(photos() * 9).numpy(), small("MobileNetV2_x0_25")(photos() * 9).numpy())


@pytest.mark.parametrize(
    "name,kwargs,words",
    [
        ("MobileNetV2_x0_55", {}, ["MobileNetV2_x0_55", "did you mean 'MobileNetV2_x0_5'"]),
        ("mobilenetv1", {}, ["did you mean 'MobileNetV1'"]),
        ("MobileNetV2_x0_25", {"scale": 0.5}, ["MobileNetV2_x0_25 fixes scale at 0.25", "MobileNetV2", "scale=0.5"]),
        ("MobileNetV1", {"clas_num": 5}, ["'clas_num'", "did you mean 'class_num'"]),
        ("MobileNetV1", {"expansion": 5}, ["'expansion'"]),
        ("MobileNetV2", {"scale": 0.01}, ["scale 0.01", "0.0625"]),
        ("MobileNetV2", {"scale": -1}, ["scale -1"]),
        ("MobileNetV1", {"scale": 0.0}, ["scale 0.0", "0.03125"]),
        ("MobileNetV1", {"class_num": -1}, ["class_num -1", "0 (pooled features)"]),
        ("MobileNetV2", {"data_format": "NWHC"}, ["'NWHC'", "NCHW, NHWC"]),
        ("MobileNetV2", {"activation": "swish"}, ["'swish'", "relu, relu6"]),
        ("MobileNetV2", {"init": "xavier"}, ["'xavier'", "kaiming_fan_out"]),
        ("MobileNetV2", {"dropout": 1.0}, ["dropout 1.0"]),
        ("MobileNetV2", {"features_only": True, "out_indices": (0, 5)}, ["out_indices (0, 5)", "0 to 4"]),
        ("MobileNetV1", {"features_only": True, "out_indices": ()}, ["out_indices ()"]),
        ("MobileNetV2", {"expansion": 0}, ["expansion 0"]),
        ("MobileNetV2", {"depth": 0}, ["depth 0"]),
        ("MobileNetV3_small_x0_5", {"size": "large"}, ["MobileNetV3_small_x0_5 fixes size at 'small'"]),
        ("MobileNetV3_small_x0_5", {"scale": 0.6}, ["fixes scale at 0.5", "MobileNetV3_small, which takes any"]),
        ("MobileNetV3_large", {"scale": 0}, ["scale 0", "above 0"]),
        ("MobileNetV3_large", {"class_squeeze": 960}, ["no argument 'class_squeeze'"]),
        ("MobileNetV3_large", {"se_slope": 0}, ["se_slope 0", "1/6"]),
        ("MobileNetV3_large", {"strides": [2, 2]}, ["strides [2, 2]", "[[2, 1], 2, 2, 2]"]),
        ("MobileNetV3_small", {"features_only": True, "out_indices": (4,)}, ["0 to 3 (strides 4, 8, 16, 32)"]),
        ("MobileNetV4_conv_small", {"scale": 0.5}, ["no argument 'scale'"]),
        ("MobileNetV4_conv_small", {"drop_path_rate": 1.0}, ["drop_path_rate 1.0"]),
        ("MobileNetV4_hybrid_medium", {"attention_scale": "google"}, ["'google'", "paddleclas, timm"]),
        ("MobileNetV4_hybrid_medium", {"layer_scale": -1}, ["layer_scale -1"]),
    ],
)
def test_a_wrong_word_says_what_is_right(name, kwargs, words):
    with pytest.raises(UserError) as error:
        create_model(name, **kwargs)
    for word in words:
        assert word in str(error.value)


def test_the_registry_tells_a_config_what_a_variant_takes():
    assert "scale" in MODELS.parameters("MobileNetV2")
    assert "scale" not in MODELS.parameters("MobileNetV2_x0_25")
    assert "class_num" in MODELS.parameters("MobileNetV2_x0_25")


def test_the_folder_of_networks_can_be_copied_alone(tmp_path):
    source = Path(mobilenet_v1.__file__).parent
    (tmp_path / "nets").mkdir()
    for file in source.glob("*.py"):
        text = file.read_text()
        imports = [node for node in ast.walk(ast.parse(text)) if isinstance(node, (ast.Import, ast.ImportFrom))]
        names = {
            getattr(node, "module", None) or node.names[0].name for node in imports if not getattr(node, "level", 0)
        }
        assert {name.split(".")[0] for name in names} <= {*STANDARD, "paddle"}, file.name
        (tmp_path / "nets" / file.name).write_text(text)
    code = (
        "import paddle, sys; from nets.mobilenet_v1 import MobileNetV1; from nets.mobilenet_v2 import MobileNetV2; "
        "print([net(0.25)(paddle.zeros([1, 3, 32, 32])).shape for net in (MobileNetV1, MobileNetV2)], "
        "'ppmobilenet' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.stdout.count("[1, 1000]") == 2 and "False" in done.stdout, done.stderr


@pytest.mark.parametrize(
    "kwargs", [{}, {"class_num": 0}, {"class_num": 7}, {"features_only": True, "out_indices": (0, 2)}]
)
@pytest.mark.parametrize("name", SMALL)
def test_pretrained_from_a_file(name, kwargs, tmp_path, small):
    """The trunk is the file's whatever the head; a classifier of another size starts anew."""
    source = small(name)
    np.savez(tmp_path / "weights.npz", **{k: v.numpy() for k, v in source.state_dict().items()})
    model = create_model(name, pretrained=tmp_path / "weights.npz", **{"class_num": 10, **kwargs})
    model.eval()
    for key, value in model.state_dict().items():
        if key.split(".")[0] != classifier_of(source):
            assert np.array_equal(value.numpy(), source.state_dict()[key].numpy()), key
    if not kwargs:
        assert np.array_equal(model(photos()).numpy(), source(photos()).numpy())


def test_pretrained_is_strict(tmp_path, small):
    np.savez(tmp_path / "weights.npz", **{k: v.numpy() for k, v in small("MobileNetV1_x0_25").state_dict().items()})
    with pytest.raises(UserError, match="MobileNetV1"):
        create_model("MobileNetV2_x0_25", pretrained=str(tmp_path / "weights.npz"))
    with pytest.raises(UserError, match="nowhere.npz"):
        create_model("MobileNetV2_x0_25", pretrained=str(tmp_path / "nowhere.npz"))
