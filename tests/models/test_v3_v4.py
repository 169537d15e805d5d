"""What MobileNetV3 and MobileNetV4 have and their predecessors have not."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from network_helpers import photos, randomise

from ppmobilenet.models.layers import ConvBNLayer, DropPath, gelu
from ppmobilenet.models.mobilenet_v4 import MQA, Form, MobileAttention
from ppmobilenet.weights.optimizer_names import from_automatic, to_automatic
from ppmobilenet.zoo import create_model


def of(source, name: str, **kwargs):
    """Another network with a network's weights, in eval mode."""
    model = create_model(name, **kwargs)
    missing, unexpected = model.set_state_dict({k: v.numpy() for k, v in source.state_dict().items()})
    assert not missing and not unexpected
    model.eval()
    return model


def test_v3_dropout_scales_evaluation_and_not_training(small):
    published = small("MobileNetV3_small_x0_35")
    plain = of(published, "MobileNetV3_small_x0_35", class_num=10, dropout_prob=None)
    features = (of_features(model) for model in (published, plain))
    np.testing.assert_allclose(next(features), 0.8 * next(features), rtol=1e-6)
    dropping = of(published, "MobileNetV3_small_x0_35", class_num=10)
    dropping.dropout.train()
    dropped, kept = of_features(dropping), of_features(plain)
    alive = dropped != 0
    assert 0.7 < alive[kept != 0].mean() < 0.9
    np.testing.assert_array_equal(dropped[alive], kept[alive])


def of_features(model) -> np.ndarray:
    seen = []
    hook = model.fc.register_forward_pre_hook(lambda layer, args: seen.append(args[0].numpy()))
    model(photos(2))
    hook.remove()
    return seen[0]


def test_v3_options_of_other_projects_and_any_scale():
    """Parameters of torchvision's two networks, and widths of a scale that nobody published."""
    common = {"expand_first": False, "se_divisor": 8, "last_conv_bias": True}
    count = {}
    for size, expand in (("large", 1280), ("small", 1024)):
        model = create_model(f"MobileNetV3_{size}", class_expand=expand, **common)
        count[size] = sum(p.size for p in model.parameters() if not p.stop_gradient)
    assert count == {"large": 5_483_032, "small": 2_542_856}
    model = create_model("MobileNetV3_small", scale=0.6, class_num=3)
    assert model.feature_channels == (16, 16, 32, 56) and model.conv.conv.weight.shape[0] == 16
    assert model.blocks[4].mid_se.conv1.weight.shape[:2] == [36, 144]
    assert not any("mid_se" in key for key in create_model("MobileNetV3_small", use_se=False, class_num=3).state_dict())


def test_v3_for_lines_of_text():
    """PaddleOCR's orientation classifier: heights halve, the last map is halved by maxima, no wide head."""
    strides = [[2, 1]] * 4
    model = create_model("MobileNetV3_small_x0_35", class_num=2, class_expand=0, strides=strides, max_pool=True)
    model.eval()
    assert model(photos(1, 48, 96)).shape == [1, 2] and model.fc.weight.shape == [200, 2]
    assert [tuple(m.shape[2:]) for m in model.forward_features(photos(1, 48, 96))] == [
        (12, 48),
        (6, 48),
        (3, 48),
        (2, 48),
    ]
    assert model.feature_strides == ((4, 2), (8, 2), (16, 2), (32, 2))


@pytest.mark.parametrize("data_format", ["NCHW", "NHWC"])
@pytest.mark.parametrize("k", [3, 5])
def test_same_padding_is_tensorflow_s(k, data_format):
    """By hand: an even map gets the smaller half before it, an odd one as much before as behind."""
    with paddle.utils.unique_name.guard():
        layer = ConvBNLayer(2, k, 2, 2, "SAME", num_groups=2, name="same", activation=None, data_format=data_format)
    randomise(layer)
    layer.eval()
    weight, norm = layer.conv.weight.numpy(), layer.bn
    for height, width in ((8, 8), (7, 8)):
        x = photos(1, height, width).numpy()[:, :2]
        pads = [max((-(-side // 2) - 1) * 2 + k - side, 0) for side in (height, width)]
        padded = np.pad(x, [(0, 0), (0, 0), *((pad // 2, pad - pad // 2) for pad in pads)])
        rows, columns = -(-height // 2), -(-width // 2)
        expected = np.zeros((1, 2, rows, columns))
        for i in range(rows):
            for j in range(columns):
                expected[0, :, i, j] = (padded[0, :, 2 * i : 2 * i + k, 2 * j : 2 * j + k] * weight[:, 0]).sum((1, 2))
        parts = (v.numpy()[:, None, None] for v in (norm._mean, norm._variance, norm.weight, norm.bias))
        mean, variance, scale, offset = parts
        expected = (expected - mean) / np.sqrt(variance + 1e-5) * scale + offset
        given = paddle.to_tensor(x.transpose(0, 2, 3, 1) if data_format == "NHWC" else x)
        found = layer(given).numpy()
        found = found.transpose(0, 3, 1, 2) if data_format == "NHWC" else found
        np.testing.assert_allclose(found, expected, atol=1e-5)


def attention(data_format: str = "NCHW", shrink: int = 2, scale: str = "timm") -> MobileAttention:
    form = Form(data_format=data_format, attention_scale=scale, layer_scale=1e-5)
    with paddle.utils.unique_name.guard():
        layer = MobileAttention(16, MQA(16, 2, 8, shrink), name="attention", form=form)
    randomise(layer)
    layer.eval()
    return layer


@pytest.mark.parametrize("scale,factor", [("timm", 8**-0.5), ("paddleclas", 16**-0.5)])
def test_attention_by_hand_on_an_odd_map(scale, factor):
    """PaddleClas raises on a 5x3 map whose keys are halved; there are as many keys as points of the smaller map."""
    layer = attention(scale=scale)
    x = np.random.default_rng(0).normal(size=(2, 16, 5, 3)).astype("float32")
    y = layer.norm(paddle.to_tensor(x))
    queries, keys, values = (
        tensor.numpy().reshape(2, -1, tensor.shape[2] * tensor.shape[3])
        for tensor in (
            layer.query_proj(y),
            layer.key_proj(layer.key_down_proj(y)),
            layer.value_proj(layer.value_down_proj(y)),
        )
    )
    assert keys.shape == (2, 8, 6)
    heads = []
    for head in (queries[:, :8], queries[:, 8:]):
        scores = np.exp(np.einsum("ncp,ncq->npq", head, keys) * factor)
        heads.append(np.einsum("npq,ncq->ncp", scores / scores.sum(-1, keepdims=True), values))
    mixed = np.concatenate(heads, 1).reshape(2, 16, 5, 3).astype("float32")
    gamma = layer.layer_scale.gamma.numpy()[:, None, None]
    expected = x + layer.proj(paddle.to_tensor(mixed)).numpy() * gamma
    np.testing.assert_allclose(layer(paddle.to_tensor(x)).numpy(), expected, atol=2e-5)


@pytest.mark.parametrize("shrink", [1, 2])
def test_attention_in_nhwc(shrink):
    first, second = attention(shrink=shrink), attention("NHWC", shrink)
    second.set_state_dict(first.state_dict())
    x = paddle.to_tensor(np.random.default_rng(0).normal(size=(2, 16, 5, 4)).astype("float32"))
    found = second(x.transpose([0, 2, 3, 1])).transpose([0, 3, 1, 2])
    np.testing.assert_allclose(found.numpy(), first(x).numpy(), atol=2e-5)


def test_hybrid_at_odd_sizes_and_with_either_scale(small):
    """33 and 48 pixels raise in PaddleClas. use_fused_attn is its name for timm's scale."""
    name = "MobileNetV4_hybrid_medium"
    model = small(name)
    for height, width in ((33, 48), (208, 33)):
        assert model(photos(1, height, width)).shape == [1, 10]
    fused, timm = (of(model, name, class_num=10, **o) for o in ({"use_fused_attn": True}, {"attention_scale": "timm"}))
    outputs = [m(photos(1, 64)).numpy() for m in (fused, timm, model)]
    assert np.array_equal(outputs[0], outputs[1]) and not np.allclose(outputs[1], outputs[2], rtol=1e-4)


def test_paths_are_dropped_for_whole_photos_and_in_training_only():
    layer, x = DropPath(0.4), paddle.ones([200, 3, 2, 2])
    paddle.seed(1)
    kept = layer(x).numpy()
    assert (kept == kept[:, :1, :1, :1]).all() and {*np.unique(kept.round(4))} == {0, np.float32(1.6667)}
    assert 0.5 < (kept[:, 0, 0, 0] > 0).mean() < 0.7
    layer.eval()
    assert np.array_equal(layer(x).numpy(), x.numpy())
    rates = [
        b.drop_path and b.drop_path._rate for b in create_model("MobileNetV4_conv_small", drop_path_rate=0.17).blocks
    ]
    assert rates[0] is None and rates[1] == pytest.approx(0.01) and rates[16] == pytest.approx(0.16)
    assert rates[4] is None, "a row of stride 2 has no shortcut"


def test_gelu_exported_is_gelu():
    x = paddle.linspace(-6, 6, 1001)
    program = paddle.jit.to_static(gelu, input_spec=[paddle.static.InputSpec([None], "float32")], full_graph=True)
    np.testing.assert_allclose(program(x).numpy(), gelu(x).numpy(), atol=1e-6)


@pytest.mark.parametrize("name", ["MobileNetV3_small_x0_35", "MobileNetV4_hybrid_medium"])
def test_optimizer_state_under_paddle_s_numbers_and_back(name):
    model = create_model(name, class_num=3)
    optimizer = paddle.optimizer.Momentum(0.1, parameters=model.parameters())
    model(photos(2, 64)).square().mean().backward()
    with paddle.utils.unique_name.guard():
        optimizer.step()
    state = {k: v.numpy() for k, v in optimizer.state_dict().items() if isinstance(v, paddle.Tensor)}
    automatic = to_automatic(state, model)
    assert {key.rsplit("_", 2)[0].split(".")[0].rstrip("0123456789") for key in automatic} <= {
        *("conv2d_", "batch_norm_", "linear_", "create_parameter_")
    }
    back = from_automatic(automatic, model)
    assert back.keys() == state.keys() and all(np.array_equal(back[key], state[key]) for key in state)


def test_l2_leaves_batch_norm_alone():
    """As PaddleClas's L2Decay(0): with no gradient but decay, filters shrink and scales stay."""
    model = create_model("MobileNetV3_small_x0_35", class_num=3)
    optimizer = paddle.optimizer.Momentum(
        0.5, parameters=model.parameters(), weight_decay=paddle.regularizer.L2Decay(0.1)
    )
    before = {k: v.numpy() for k, v in model.state_dict().items()}
    (model(photos(2)).sum() * 0).backward()
    optimizer.step()
    for key, value in model.state_dict().items():
        if key.endswith(("conv.weight", "fc.weight")):
            np.testing.assert_allclose(value.numpy(), before[key] * 0.95, rtol=1e-5)
        elif "bn.weight" in key:
            assert np.array_equal(value.numpy(), before[key]), key
