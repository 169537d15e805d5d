"""Each fused operator against the stock ones, both measured against float64."""

import numpy as np
import paddle
import pytest

from ppmobilenet.kernels import accelerate
from ppmobilenet.kernels.build import INSTRUCTION_SETS, Unavailable, load_library
from ppmobilenet.kernels.plan import plan
from ppmobilenet.models import layers, mobilenet_v1, mobilenet_v2, mobilenet_v3, mobilenet_v4
from ppmobilenet.zoo import create_model

try:
    BEST = load_library().ppm_instruction_set()
except Unavailable as reason:
    pytest.skip(f"no kernels here: {reason}", allow_module_level=True)


class Chain(paddle.nn.Layer):
    """Layers one after the other, as a network shows them to `accelerate`."""

    def __init__(self, *layers):
        super().__init__()
        self.layers = paddle.nn.LayerList(layers)

    def units(self):
        return list(self.layers)

    def head(self, x):
        return x

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


NAME = paddle.utils.unique_name.generate


def conv_norm(c_in, c_out, kernel=1, stride=1, activation="relu6", groups=1, padding=None):
    padding = kernel // 2 if padding is None else padding
    return layers.ConvBNLayer(*(c_in, kernel, c_out, stride, padding, groups), name=NAME("c"), activation=activation)


def depthwise(channels, stride, activation="relu6", kernel=3, padding=None):
    return conv_norm(channels, channels, kernel, stride, activation, channels, padding)


def inverted_residual(c_in, c_out, stride, t=6):
    return mobilenet_v2.InvertedResidualUnit(c_in, c_in * t, c_out, stride, name=NAME("u"))


def separable(c_in, c_out, stride):
    return mobilenet_v1.DepthwiseSeparable(c_in, c_out, stride, name=NAME("b"))


def gated(c_in, mid, c_out, **options):
    options = {"filter_size": 5, "num_squeezed": max(1, mid // 4), **options}
    return mobilenet_v3.ResidualUnit(c_in, mid, c_out, name=NAME("g"), **options)


def universal(c_in, c_out, mid, start, middle, stride=1, **form):
    row = mobilenet_v4.UIB(c_out, mid, start, middle, stride)
    return mobilenet_v4.UniversalInvertedBottleneck(c_in, row, name=NAME("u"), form=mobilenet_v4.Form(**form))


def fused(c_in, c_out, mid, kernel, stride):
    row = mobilenet_v4.Fused(c_out, mid, kernel, stride)
    return mobilenet_v4.FusedInvertedBottleneck(c_in, row, name=NAME("f"))


def randomise(layer, seed=0):
    """Weights of the size that training has, statistics far from where they start."""
    rng = np.random.default_rng(seed)
    for name, p in layer.named_parameters():
        shape = p.shape
        if len(shape) > 1:
            value = rng.normal(size=shape) * (2 / np.prod(shape[1:])) ** 0.5
        elif name.endswith(("weight", "_variance", "gamma")):
            value = rng.uniform(0.5, 1.5, shape)
        else:
            value = rng.normal(size=shape) * 0.5
        p.set_value(value.astype("float32"))
    return layer


def passes(
    make, shape, kind, *, seed=0, threads=2, instruction_set=BEST, offset=0.0, input_gradient=True, training=True
):
    """Output, every gradient and the statistics after one step, of the stock, fused or float64 layers."""
    with paddle.utils.unique_name.guard():
        model = randomise(Chain(*make()), seed)
    rng = np.random.default_rng(seed + 1)
    x = paddle.to_tensor((rng.normal(size=shape) + offset).astype("float32"))
    if kind == "double":
        model.to(dtype="float64")
        x = x.astype("float64")
    if kind == "fused":
        assert accelerate(model, "on", threads=threads).accelerated
        model._cpu_kernels.instruction_set = instruction_set
    (model.train if training else model.eval)()
    paddle.seed(5)
    x.stop_gradient = not input_gradient
    out = model(x)
    (out * paddle.to_tensor(rng.normal(size=out.shape).astype("float32")).astype(out.dtype)).sum().backward()
    result = {"out": out.numpy()}
    if input_gradient:
        result["x"] = x.grad.numpy()
    for name, p in model.named_parameters():
        result[name] = (p if p.stop_gradient else p.grad).numpy()
    return result


def compare(make, shape, **options):
    """The fused error is at most twice the stock one's, besides the rounding of the result itself.

    Whose roundings happen to cancel is luck, and differs between processors: of tensors where one draw of weights is
    not enough, the root mean square over many counts.
    """
    doubtful = _compare([_errors(make, shape, 0, **options)])
    if doubtful:
        doubtful = _compare([_errors(make, shape, seed, **options) for seed in range(DRAWS)])
    assert not doubtful, "\n".join(doubtful)


DRAWS = 12


def _errors(make, shape, seed, **options):
    """Tensor -> the fused and the stock root mean square error, and the result's own rounding."""
    common = {k: v for k, v in options.items() if k in ("offset", "input_gradient")}
    double, stock = (passes(make, shape, kind, seed=seed, **common) for kind in ("double", "stock"))
    fused = passes(make, shape, "fused", seed=seed, **options)
    assert fused.keys() == double.keys()
    assert all(fused[name].shape == exact.shape for name, exact in double.items())
    assert np.abs(double["out"]).max() > 0.1  # not a comparison of zeros
    return {
        name: [
            *(np.sqrt(np.mean((result[name] - exact) ** 2)) for result in (fused, stock)),
            # of fewer than 32 values stock's error may be nearly zero: a few units in the last place are allowed
            (6e-8 if exact.size >= 32 else 3e-7) * np.abs(exact).max(),
        ]
        for name, exact in double.items()
    }


def _compare(draws):
    """What is less exact than it may be."""
    found = []
    for name in draws[0]:
        ours, theirs, rounding = np.sqrt(np.mean(np.square([draw[name] for draw in draws]), axis=0))
        if not ours <= 2 * theirs + rounding:  # no number is not less, either
            found.append(f"{name}: {ours:.3g} against {theirs:.3g}, rounding {rounding:.3g}, {len(draws)} draws")
    return found


POINTWISE_CHANNELS = sorted(
    # (in, out) of the networks' 1x1 convolutions at some scales, and counts that no block divides
    {(32, 16), (16, 96), (24, 144), (144, 32), (192, 64), (96, 576), (576, 160), (320, 1280), (3, 5), (8, 1), (17, 33)}
    | {(32, 64), (128, 256), (1024, 1024), (12, 47)}
)


@pytest.mark.parametrize("channels", POINTWISE_CHANNELS, ids=str)
def test_pointwise(channels):
    size = 7 if max(channels) > 500 else 12
    compare(lambda: [conv_norm(*channels)], (2, channels[0], size, size + 1))


@pytest.mark.parametrize("kernel", (3, 5))
@pytest.mark.parametrize("stride", (1, 2))
@pytest.mark.parametrize("channels", (2, 16, 33))
@pytest.mark.parametrize("size", ((14, 14), (7, 9), (2, 3), (1, 4)), ids=str)
def test_depthwise(channels, stride, kernel, size):
    compare(lambda: [depthwise(channels, stride, kernel=kernel)], (2, channels, *size))


@pytest.mark.parametrize("kernel", (3, 5))
@pytest.mark.parametrize("size", ((8, 8), (7, 10), (2, 3), (1, 4)), ids=str)
def test_same_padding(kernel, size):
    compare(lambda: [depthwise(20, 2, kernel=kernel, padding="SAME")], (2, 20, *size))
    compare(lambda: [conv_norm(18, 5, kernel, 2, padding="SAME")], (2, 18, *size))
    compare(lambda: [conv_norm(3, 5, kernel, 2, padding="SAME")], (2, 3, *size), input_gradient=False)


@pytest.mark.parametrize("kernel", (3, 5))
@pytest.mark.parametrize("stride", (1, 2))
@pytest.mark.parametrize("channels", ((3, 20), (17, 33), (32, 16)), ids=str)
@pytest.mark.parametrize("size", ((9, 12), (4, 1)), ids=str)
def test_dense(channels, stride, kernel, size):
    compare(lambda: [conv_norm(*channels, kernel, stride)], (2, channels[0], *size))
    compare(lambda: [conv_norm(5, channels[0]), conv_norm(*channels, kernel, stride)], (2, 5, *size))


@pytest.mark.parametrize("activation", ("relu", "relu6", "hardswish", None))
@pytest.mark.parametrize("kernel", (1, 3))
def test_activations(kernel, activation):
    compare(lambda: [conv_norm(24, 24, kernel, 1, activation, groups=24 if kernel == 3 else 1)], (3, 24, 10, 11))


@pytest.mark.parametrize("stride", (1, 2))
@pytest.mark.parametrize("size", ((32, 32), (33, 47), (5, 1)), ids=str)
@pytest.mark.parametrize("channels", (3, 1))
def test_first_convolution(size, stride, channels):
    compare(lambda: [conv_norm(channels, 20, 3, stride)], (2, channels, *size), input_gradient=False)


BLOCKS = {  # channels in, units
    "residual": (16, lambda: [inverted_residual(16, 16, 1)]),
    "two residuals": (24, lambda: [inverted_residual(24, 24, 1), inverted_residual(24, 24, 1)]),
    "no expansion": (3, lambda: [conv_norm(3, 8, 3, 2), inverted_residual(8, 4, 1, t=1), inverted_residual(4, 6, 2)]),
    "residual of an activation": (9, lambda: [conv_norm(9, 16), inverted_residual(16, 16, 1), conv_norm(16, 40)]),
    "V1": (8, lambda: [separable(8, 16, 1), separable(16, 24, 2)]),
    "depthwise of a sum": (6, lambda: [inverted_residual(6, 6, 1), depthwise(6, 2), conv_norm(6, 9)]),
    "gate": (10, lambda: [gated(10, 33, 8, slope=1 / 6), gated(8, 16, 8, activation="relu"), conv_norm(8, 9)]),
    "gate, SAME": (10, lambda: [gated(10, 33, 8, stride=2, same_padding=True, filter_size=3, num_squeezed=2)]),
    "no expansion, gated": (7, lambda: [gated(7, 7, 9, expand=False), gated(9, 20, 9)]),
    "both filters": (10, lambda: [universal(10, 10, 24, 5, 3), universal(10, 12, 24, 3, 5, 2)]),
    "one filter": (9, lambda: [universal(9, 9, 33, 5, 0), universal(9, 9, 20, 0, 0), universal(9, 9, 20, 0, 5)]),
    "layer scale": (
        9,
        lambda: [universal(9, 9, 20, 3, 0, layer_scale=0.3), universal(9, 7, 20, 0, 0, layer_scale=0.3)],
    ),
    "fused": (3, lambda: [conv_norm(3, 18, 3, 2), fused(18, 9, 20, 3, 2), universal(9, 9, 20, 3, 0)]),
    "fused with a sum": (9, lambda: [conv_norm(9, 18), fused(18, 18, 20, 3, 1)]),
}


@pytest.mark.parametrize("units", BLOCKS)
@pytest.mark.parametrize("batch", (1, 3))
def test_blocks(units, batch):
    channels, make = BLOCKS[units]
    compare(make, (batch, channels, 13, 11), input_gradient=channels != 3)


def test_drop_path():
    """The factors are those that stock operators draw from the same seed."""

    def make():
        form = {"drop_path_rate": 0.4}
        conv = mobilenet_v4.ConvUnit(9, mobilenet_v4.Conv(8, 3, 2), name=NAME("d"), form=mobilenet_v4.Form(**form))
        return [conv, universal(8, 8, 20, 3, 3, **form), universal(8, 8, 20, 0, 3, layer_scale=0.5, **form)]

    compare(make, (6, 9, 9, 8))


@pytest.mark.parametrize("threads", (1, 2, 3, 7))
@pytest.mark.parametrize("which", range(BEST + 1), ids=lambda i: INSTRUCTION_SETS[i][0])
def test_every_instruction_set_and_thread_count(which, threads):
    def make():
        first = [conv_norm(3, 24, 3, 2), inverted_residual(24, 24, 1), fused(24, 20, 40, 3, 2)]
        return [*first, universal(20, 20, 50, 5, 5, layer_scale=0.5), gated(20, 40, 20), conv_norm(20, 50)]

    compare(make, (2, 3, 21, 18), input_gradient=False, threads=threads, instruction_set=which)


def test_large_mean_costs_no_digits():
    compare(lambda: [conv_norm(32, 48)], (4, 32, 12, 12), offset=30.0)
    compare(lambda: [depthwise(32, 1)], (4, 32, 12, 12), offset=30.0)


def test_same_bits_every_time():
    def make():
        return [conv_norm(3, 16, 3, 2), inverted_residual(16, 16, 1), conv_norm(16, 40)]

    once, again = (passes(make, (4, 3, 32, 32), "fused", input_gradient=False) for _ in range(2))
    for name, value in once.items():
        assert np.array_equal(value, again[name]), name


def test_not_a_number_stays_visible():
    with paddle.utils.unique_name.guard():
        model = randomise(Chain(conv_norm(3, 16, 3, 2), inverted_residual(16, 16, 1)))
    accelerate(model, "on")
    x = np.zeros((2, 3, 16, 16), "float32")
    x[1, 2, 5, 5] = np.nan
    assert np.isnan(model(paddle.to_tensor(x)).numpy()).all()


@pytest.mark.slow
@pytest.mark.parametrize("size", (224, 160, 97))
@pytest.mark.parametrize(
    "name",
    (
        *("MobileNetV1", "MobileNetV1_x0_25", "MobileNetV2", "MobileNetV2_x0_75"),
        *("MobileNetV3_large_x1_0", "MobileNetV3_small_x1_0", "MobileNetV3_small_x0_35"),
        *("MobileNetV4_conv_small", "MobileNetV4_conv_medium", "MobileNetV4_conv_large", "MobileNetV4_hybrid_medium"),
    ),
)
def test_every_layer_of_the_networks(name, size):
    """Every distinct layer at the size the network has it for images of ``size``."""
    model = create_model(name, class_num=2)
    seen = set()
    height = width = size
    for step in (step for part in plan(model.units()) for step in part.steps):
        key = (step.c_in, step.c_out, step.kernel, step.stride, step.conv._groups, height)
        if key not in seen:
            seen.add(key)
            activation = {0: None, 1: "relu", 2: "relu6", 3: "hardswish"}[step.activation]

            def make(step=step, activation=activation):
                return [conv_norm(step.c_in, step.c_out, step.kernel, step.stride, activation, step.conv._groups)]

            compare(make, (1, step.c_in, height, width), input_gradient=len(seen) > 1)
        height, width = -(-height // step.stride), -(-width // step.stride)
    assert len(seen) > 10
