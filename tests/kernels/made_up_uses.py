"""Made-up networks and inputs: a case is its number."""

from __future__ import annotations

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import nn

from ppmobilenet.models import mobilenet_v1, mobilenet_v2, mobilenet_v3, mobilenet_v4

NAME = paddle.utils.unique_name.generate


class Chain(nn.Layer):
    """Units one after the other, pooling, a classifier: a network as `accelerate` knows it."""

    def __init__(self, units):
        super().__init__()
        self.layers = nn.LayerList(units)
        self.fc = nn.Linear(widths(self)[-1], 3)

    def units(self):
        return list(self.layers)

    def head(self, x):
        return self.fc(paddle.flatten(F.adaptive_avg_pool2d(x, 1), 1))

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


class OwnForward(Chain):
    def forward(self, x):
        return super().forward(x)[:, :2]


class OwnHead(Chain):
    def head(self, x):
        return super().head(x) * 2


class OwnUnits(Chain):
    def units(self):
        return super().units()[:1]


class NoisyUnit(mobilenet_v1.ConvBNLayer):
    def forward(self, x):
        return super().forward(x) * (0.5 if self.training else 1.0)


def convs(model):
    return [layer for layer in model.sublayers() if isinstance(layer, nn.Conv2D)]


def norms(model):
    return [layer for layer in model.sublayers() if isinstance(layer, nn.BatchNorm2D)]


def widths(model):
    return [conv._out_channels for conv in convs(model)]


def _conv(rng, c_in, first=False, kind=mobilenet_v1.ConvBNLayer):
    activation = rng.choice(["relu", "relu6", "hardswish", None])
    size, stride = int(rng.choice([3, 3, 5])), int(rng.integers(1, 3))
    padding = "SAME" if rng.random() < 0.15 else size // 2
    if rng.random() < (0.6 if first else 0.1):
        return kind(c_in, size, int(rng.integers(1, 20)), stride, padding, name=NAME("f"), activation=activation)
    if rng.random() < 0.5:
        return kind(c_in, size, c_in, stride, padding, c_in, name=NAME("d"), activation=activation)
    return kind(c_in, 1, int(rng.integers(1, 40)), 1, 0, name=NAME("p"), activation=activation)


def _v3_unit(rng, c_in, c_out, wide, stride):
    expand = rng.random() < 0.9
    options = {
        "filter_size": int(rng.choice([3, 5])),
        "num_squeezed": int(rng.integers(0, 7)),
        "slope": float(rng.choice([0.2, 1 / 6])),
        "activation": str(rng.choice(["relu", "hardswish"])),
        "same_padding": rng.random() < 0.2,
        "stride": stride if rng.random() < 0.9 else (2, 1),
        "expand": expand,
    }
    return mobilenet_v3.ResidualUnit(c_in, wide if expand else c_in, c_out, name=NAME("g"), **options)


def _v4_unit(rng, c_in, c_out, wide, stride):
    form = mobilenet_v4.Form(
        activation=str(rng.choice(["relu", "relu", "gelu"])),
        layer_scale=0.5 * (rng.random() < 0.3),
        drop_path_rate=0.4 * (rng.random() < 0.3),
    )
    mid = int(rng.choice([0, 3, 5]))
    row = {
        0: mobilenet_v4.UIB(c_out, wide, int(rng.choice([0, 3, 5])), mid, stride if mid else 1),
        1: mobilenet_v4.Fused(c_out, wide, 3, stride),
        2: mobilenet_v4.Conv(c_out, int(rng.choice([1, 3])), 1),
        3: mobilenet_v4.MQA(c_in, 2, 4, int(rng.integers(1, 3))),
    }[int(rng.choice(4, p=[0.6, 0.2, 0.1, 0.1]))]
    return mobilenet_v4.UNITS[type(row)](c_in, row, name=NAME("u"), form=form)


def _unit(rng, c_in, first):
    which = rng.random()
    if which < 0.35 or first:
        return _conv(rng, c_in, first)
    stride = int(rng.integers(1, 3))
    if which < 0.5:
        return mobilenet_v1.DepthwiseSeparable(c_in, int(rng.integers(1, 33)), stride, name=NAME("s"))
    c_out = c_in if rng.random() < 0.5 else int(rng.integers(1, 24))
    wide = c_in * int(rng.integers(1, 5))
    if which < 0.65:
        return mobilenet_v2.InvertedResidualUnit(c_in, wide, c_out, stride, name=NAME("i"))
    return (_v3_unit if which < 0.82 else _v4_unit)(rng, c_in, c_out, wide, stride)


class Case:
    """One number's network, input and use."""

    def __init__(self, number: int, draw: int, uses, weights):
        self.number, self.draw = number, draw
        rng = self.rng()
        self.kind = rng.choice(["chain", "v1", "v2", "v3"], p=[0.9, 0.03, 0.03, 0.04])
        self.use = str(rng.choice(uses, p=weights))
        self.channels = 3 if self.kind != "chain" else int(rng.choice([1, 3, 3, 8, 17]))
        self.mode = str(rng.choice(["train", "eval", "mixed"], p=[0.7, 0.2, 0.1]))
        self.frozen = float(rng.choice([0, 0, 0.3, 1]))
        self.no_grad = rng.random() < 0.1
        self.threads = int(rng.integers(1, 4))
        self.set = int(rng.integers(0, 3))
        low = 32 if self.kind != "chain" else 1
        odd = rng.random() < 0.15
        channels = int(rng.choice([1, 2, 4, 5])) if odd else self.channels
        self.shape = [int(rng.integers(1, 4)), channels, *(int(s) for s in rng.integers(low, low + 14, 2))]
        if odd and rng.random() < 0.4:
            self.shape = (
                list(self.shape[: int(rng.integers(1, 5))])
                if rng.random() < 0.5
                else [*self.shape[:1], *self.shape[2:], 3]
            )
        self.dtype = str(
            rng.choice(["float32", "float64", "float16", "int32", "bfloat16"], p=[0.92, 0.04, 0.02, 0.01, 0.01])
        )
        self.layout = str(
            rng.choice(["dense", "transposed", "sliced", "offset", "expanded"], p=[0.6, 0.1, 0.1, 0.1, 0.1])
        )
        self.pixels = rng.random() < 0.15

    def rng(self, salt: int = 0):
        return np.random.default_rng([self.number, salt])

    def numbers(self, salt: int):
        return np.random.default_rng([self.number, salt, self.draw])

    def model(self) -> nn.Layer:
        rng = self.rng(1)
        kinds = {"own_forward": OwnForward, "own_head": OwnHead, "own_units": OwnUnits}
        with paddle.utils.unique_name.guard():
            if self.kind == "v1":
                model = mobilenet_v1.MobileNetV1(scale=0.05, class_num=3)
            elif self.kind == "v2":
                model = mobilenet_v2.MobileNetV2(scale=0.07, class_num=3, last_channel=20)
            elif self.kind == "v3":
                model = mobilenet_v3.MobileNetV3("small", scale=0.05, class_num=3, class_expand=20)
            else:
                units, channels = [], self.channels
                for i in range(int(rng.integers(1, 5))):
                    units.append(_unit(rng, channels, i == 0))
                    channels = widths(units[-1])[-1] if units[-1].sublayers() else channels
                if self.use == "own_unit":
                    units.append(_conv(rng, channels, kind=NoisyUnit))
                model = kinds.get(self.use, Chain)(units)
        numbers = self.numbers(2)
        for name, p in model.named_parameters():
            if len(p.shape) > 1:
                value = numbers.normal(size=p.shape) * (2 / np.prod(p.shape[1:])) ** 0.5
            elif name.endswith(("weight", "_variance")):
                value = numbers.uniform(0.5, 1.5, p.shape)
            else:
                value = numbers.normal(size=p.shape) * 0.5
            p.set_value(value.astype("float32"))
            if not p.stop_gradient and rng.random() < self.frozen:
                p.stop_gradient = True
        (model.eval if self.mode == "eval" else model.train)()
        for norm in norms(model):
            if self.mode == "mixed" and rng.random() < 0.5:
                norm.eval()
            if rng.random() < 0.03:
                norm._use_global_stats = bool(rng.random() < 0.5)
        return model

    def input(self) -> paddle.Tensor:
        shape = list(self.shape)
        stored = {
            "dense": shape,
            "sliced": [*shape[:-1], 2 * shape[-1]],
            "offset": [shape[0] + 2, *shape[1:]],
            "transposed": shape[::-1],
            "expanded": [1, *shape[1:]],
        }[self.layout]
        x = paddle.to_tensor(self.numbers(3).normal(size=stored).astype("float32"))
        if self.layout == "sliced":
            x = x[..., ::2]
        elif self.layout == "offset":
            x = x[1:-1]
        elif self.layout == "transposed":
            x = x.transpose(list(range(len(shape)))[::-1])
        elif self.layout == "expanded":
            x = x.expand(shape)
        if self.dtype != "float32":
            x = x.astype(self.dtype)
        x.stop_gradient = not self.pixels
        return x

    def loss(self, out):
        weight = paddle.to_tensor(self.numbers(4).normal(size=out.shape).astype("float32")).astype(out.dtype)
        return (out * weight).sum()
