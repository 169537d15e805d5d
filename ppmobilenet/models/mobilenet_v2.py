"""MobileNetV2 (Sandler et al. 2018, https://arxiv.org/abs/1801.04381) for PaddlePaddle.

This file imports only paddle and can be copied alone. State-dict keys
(``conv3.conv3_2._expand_conv._batch_norm._mean``) and parameter names (``conv3_2_expand_bn_mean``) are those of
PaddleClas's published files.
"""

from __future__ import annotations

import inspect
from functools import partial
from math import ceil

import paddle
import paddle.nn.functional as F
from paddle import ParamAttr, nn
from paddle.nn.initializer import Constant, Normal

# Table 2 of the paper: expansion t, channels out c, units n, stride s of the first unit
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)

# the stages whose output is the last one at its stride: the feature pyramid at strides 2, 4, 8, 16, 32
PYRAMID = tuple(i for i in range(len(STAGES)) if i + 1 == len(STAGES) or STAGES[i + 1][3] == 2)

ACTIVATIONS = {"relu": F.relu, "relu6": F.relu6}
INITS = ("paddleclas", "kaiming_fan_out")


class OwnNames(type):
    """Metaclass of networks whose parameters have fixed names (``conv1_weights``).

    Paddle refuses a name that was given before, in the whole process: a second network, or a notebook's cell run
    again, would fail. Two networks for one optimizer need different ``prefix_name`` all the same: an optimizer's
    state goes by names.
    """

    def __call__(cls, *args, **kwargs):
        with paddle.utils.unique_name.guard():
            return super().__call__(*args, **kwargs)

    @property
    def __signature__(cls) -> inspect.Signature:
        """That of the constructor, as without this metaclass."""
        return inspect.signature(cls.__init__.__get__(object()))


class ConvBNLayer(nn.Layer):
    """Convolution without bias, batch normalisation, activation.

    Args:
        num_channels: channels in.
        filter_size: height and width of the filter.
        num_filters: channels out.
        stride: of the convolution.
        padding: zeros added on each side.
        num_groups: ``num_channels`` makes it depthwise.
        name: start of the five parameter names: ``{name}_weights``, ``{name}_bn_scale``, ``_bn_offset``,
            ``_bn_mean``, ``_bn_variance``.
        activation: ``"relu6"``, ``"relu"``, or None for a linear layer.
        data_format: ``"NCHW"`` or ``"NHWC"``, of input and output.
    """

    def __init__(
        self,
        num_channels: int,
        filter_size: int,
        num_filters: int,
        stride: int,
        padding: int,
        num_groups: int = 1,
        *,
        name: str,
        activation: str | None = "relu6",
        data_format: str = "NCHW",
    ):
        super().__init__()
        self._conv = nn.Conv2D(
            num_channels,
            num_filters,
            filter_size,
            stride=stride,
            padding=padding,
            groups=num_groups,
            weight_attr=ParamAttr(name=f"{name}_weights"),
            bias_attr=False,
            data_format=data_format,
        )
        self._batch_norm = nn.BatchNorm2D(
            num_filters,
            weight_attr=ParamAttr(name=f"{name}_bn_scale"),
            bias_attr=ParamAttr(name=f"{name}_bn_offset"),
            name=f"{name}_bn",
            data_format=data_format,
        )
        self._activation = ACTIVATIONS[activation] if activation else None

    def forward(self, x):
        """[N, C, H, W] -> [N, num_filters, H / stride, W / stride], sizes rounded up (NHWC likewise)."""
        x = self._batch_norm(self._conv(x))
        return self._activation(x) if self._activation else x


class InvertedResidualUnit(nn.Layer):
    """Expand 1x1, depthwise 3x3, project 1x1 without activation; the shortcut only where shapes allow it.

    The bottleneck residual block of the paper's Table 1. Unlike torchvision's, a unit with t = 1 keeps its
    expansion, as Paddle's published weights have it.

    Args:
        num_channels: channels in.
        num_expanded: channels between, t times as many.
        num_filters: channels out.
        stride: of the depthwise convolution.
        name: start of the parameter names: ``{name}_expand_weights``, ``{name}_dwise_...``, ``{name}_linear_...``.
        activation: of the first two convolutions.
        data_format: ``"NCHW"`` or ``"NHWC"``.
    """

    def __init__(
        self,
        num_channels: int,
        num_expanded: int,
        num_filters: int,
        stride: int,
        *,
        name: str,
        activation: str = "relu6",
        data_format: str = "NCHW",
    ):
        super().__init__()
        common = {"activation": activation, "data_format": data_format}
        self.shortcut = stride == 1 and num_channels == num_filters
        self._expand_conv = ConvBNLayer(num_channels, 1, num_expanded, 1, 0, name=f"{name}_expand", **common)
        self._bottleneck_conv = ConvBNLayer(
            num_expanded, 3, num_expanded, stride, 1, num_groups=num_expanded, name=f"{name}_dwise", **common
        )
        self._linear_conv = ConvBNLayer(
            num_expanded, 1, num_filters, 1, 0, name=f"{name}_linear", activation=None, data_format=data_format
        )

    def forward(self, x):
        """[N, C, H, W] -> [N, num_filters, H / stride, W / stride]."""
        y = self._linear_conv(self._bottleneck_conv(self._expand_conv(x)))
        return x + y if self.shortcut else y


class InvresiBlocks(nn.Layer):
    """One row of the paper's table: n units, the first with stride s, the others with stride 1.

    Args:
        in_c: channels in.
        t: expansion of every unit.
        c: channels out of every unit.
        n: number of units.
        s: stride of the first.
        name: start of the parameter names; also the key of each unit after the first: ``{name}_2``, ...
        activation: ``"relu6"`` or ``"relu"``.
        data_format: ``"NCHW"`` or ``"NHWC"``.
    """

    def __init__(
        self,
        in_c: int,
        t: float,
        c: int,
        n: int,
        s: int,
        name: str,
        activation: str = "relu6",
        data_format: str = "NCHW",
    ):
        super().__init__()
        self._units = ["_first_block", *(f"{name}_{i}" for i in range(2, n + 1))]
        for i, unit in enumerate(self._units):
            first = i == 0
            num_channels = in_c if first else c
            layer = InvertedResidualUnit(
                num_channels,
                int(round(num_channels * t)),
                c,
                s if first else 1,
                name=f"{name}_{i + 1}",
                activation=activation,
                data_format=data_format,
            )
            self.add_sublayer(unit, layer)

    def forward(self, x):
        """[N, C, H, W] -> [N, c, H / s, W / s]."""
        for unit in self._units:
            x = getattr(self, unit)(x)
        return x


class MobileNetV2(nn.Layer, metaclass=OwnNames):
    """MobileNetV2; as it stands, the published ``MobileNetV2`` (3,505,960 parameters, PaddleClas: top-1 72.15 %).

    Images are float32 [N, 3, H, W] in either data format, H and W from 32 up, odd sizes included.

    Args:
        scale: the paper's width multiplier; each width is ``int(channels * scale)``, never rounded, and the last
            convolution does not shrink below 1280.
        class_num: outputs of the classifier; 0 returns the pooled features [N, num_features].
        prefix_name: put before every parameter name and, as in PaddleClas, before the stages' keys.
        expansion: t of the stages that expand (all but the first).
        data_format: the layout the network computes in; inputs and outputs are NCHW either way.
        dropout: probability in front of the classifier; 0 as published.
        activation: ``"relu6"`` (the paper and PaddleClas) or ``"relu"`` (Paddle's exports of 2019).
        init: ``"paddleclas"`` (Paddle's defaults, which ignore groups: depthwise filters start small) or
            ``"kaiming_fan_out"``, see :func:`kaiming_fan_out`.
        features_only: return the feature maps ``out_indices`` instead; what they do not need is not built.
        out_indices: of the pyramid at strides 2, 4, 8, 16, 32.
        divisor: round widths to a multiple of it, as torchvision and timm do with 8; None as published.
        depth: multiplies the units of each stage, rounded up (timm's 110d, 120d).
        fix_stem_head: neither ``scale`` nor ``depth`` touches the first and last convolution, and ``depth`` not the
            first and last stage (timm's 110d, 120d).
        last_channel: width of the last convolution, for layouts that scale it below 1.0 too.

    Attributes:
        num_features: width of the pooled features.
        feature_channels: channels of the pyramid's maps, by out_indices.
        feature_strides: their strides.

    Raises:
        ValueError: an argument that leaves no network, with what is allowed.
    """

    def __init__(
        self,
        scale: float = 1.0,
        class_num: int = 1000,
        prefix_name: str = "",
        expansion: float = 6,
        data_format: str = "NCHW",
        dropout: float = 0.0,
        activation: str = "relu6",
        init: str = "paddleclas",
        features_only: bool = False,
        out_indices: tuple[int, ...] = (0, 1, 2, 3, 4),
        divisor: int | None = None,
        depth: float = 1.0,
        fix_stem_head: bool = False,
        last_channel: int | None = None,
    ):
        super().__init__()
        _check(scale, class_num, expansion, data_format, dropout, activation, init, out_indices, divisor, depth)
        self.scale, self.data_format, self.activation = scale, data_format, activation
        self.class_num = 0 if features_only else class_num
        self.features_only, self.out_indices = features_only, tuple(out_indices)
        stem = 32 if fix_stem_head else scaled_width(32, scale, divisor)
        widths = [scaled_width(c, scale, divisor) for _, c, _, _ in STAGES]
        self.num_features = last_channel or (1280 if fix_stem_head else scaled_width(1280, max(1.0, scale), divisor))
        self.feature_channels = tuple(widths[PYRAMID[i]] for i in self.out_indices)
        self.feature_strides = tuple(2 ** (i + 1) for i in self.out_indices)
        common = {"activation": activation, "data_format": data_format}

        self.conv1 = ConvBNLayer(3, 3, stem, 2, 1, name=f"{prefix_name}conv1_1", **common)
        in_c = stem
        self._stages = []
        for i in range(PYRAMID[max(self.out_indices)] + 1 if features_only else len(STAGES)):
            t, _, n, s = STAGES[i]
            if not (fix_stem_head and i in (0, len(STAGES) - 1)):
                n = ceil(n * depth)
            name = f"{prefix_name}conv{i + 2}"
            self.add_sublayer(name, InvresiBlocks(in_c, t if t == 1 else expansion, widths[i], n, s, name, **common))
            self._stages.append(name)
            in_c = widths[i]
        if not features_only:
            self.conv9 = ConvBNLayer(in_c, 1, self.num_features, 1, 0, name=f"{prefix_name}conv9", **common)
            self.pool2d_avg = nn.AdaptiveAvgPool2D(1, data_format=data_format)
            self.dropout = nn.Dropout(dropout)
        if self.class_num:
            self.out = nn.Linear(
                self.num_features,
                class_num,
                weight_attr=ParamAttr(name=f"{prefix_name}fc10_weights"),
                bias_attr=ParamAttr(name=f"{prefix_name}fc10_offset"),
            )
        if init == "kaiming_fan_out":
            kaiming_fan_out(self)

    def _pyramid(self, x) -> list:
        """The maps at strides 2, 4, 8, 16, 32, in the layout computed in."""
        if self.data_format == "NHWC":
            x = paddle.transpose(x, [0, 2, 3, 1])
        x = self.conv1(x)
        maps = []
        for i, stage in enumerate(self._stages):
            x = getattr(self, stage)(x)
            if i in PYRAMID:
                maps.append(x)
        return maps

    def forward_features(self, x) -> list:
        """[N, 3, H, W] -> the maps [N, C, H / stride, W / stride] at strides 2, 4, 8, 16, 32, sizes rounded up.

        The last map is the last stage's (320 channels at scale 1), in front of the 1x1 convolution to 1280.
        """
        maps = self._pyramid(x)
        return [paddle.transpose(m, [0, 3, 1, 2]) for m in maps] if self.data_format == "NHWC" else maps

    def forward(self, x):
        """[N, 3, H, W] -> logits [N, class_num]; or pooled features, or the maps of ``out_indices``."""
        if self.features_only:
            maps = self.forward_features(x)
            return [maps[i] for i in self.out_indices]
        return self.head(self.conv9(self._pyramid(x)[-1]))

    def head(self, x):
        """[N, num_features, h, w] in the layout computed in -> what forward returns: pooling, dropout, classifier."""
        x = self.dropout(paddle.flatten(self.pool2d_avg(x), 1))
        return self.out(x) if self.class_num else x

    def units(self) -> list[nn.Layer]:
        """The layers in front of the head, in order: the first convolution, the inverted residuals, the last one."""
        stages = [getattr(self, stage) for stage in self._stages]
        inner = [getattr(stage, unit) for stage in stages for unit in stage._units]
        return [self.conv1, *inner] if self.features_only else [self.conv1, *inner, self.conv9]


def scaled_width(channels: int, scale: float, divisor: int | None = None) -> int:
    """Return a layer's width: ``int(channels * scale)``, or its nearest multiple of ``divisor``.

    The rounding is that of TensorFlow's release (``make_divisible``): at least one multiple, and one more where
    rounding down would lose over 10 %.
    """
    width = channels * scale
    if divisor is None:
        return int(width)
    rounded = max(divisor, int(width + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * width else rounded


def kaiming_fan_out(model: nn.Layer) -> None:
    """Initialise as the PyTorch references do: He's normal by fan-out, classifier N(0, 0.01), offsets 0.

    The fan-out of a grouped convolution is that of one group, so a 3x3 depthwise filter gets sqrt(2 / 9) = 0.47:
    what He et al. derive and timm does. (torchvision's own call forgets the groups there.)
    """
    for layer in model.sublayers():
        if isinstance(layer, nn.Conv2D):
            c_out, _, height, width = layer.weight.shape
            Normal(0.0, (2.0 * layer._groups / (c_out * height * width)) ** 0.5)(layer.weight)
        elif isinstance(layer, nn.Linear):
            Normal(0.0, 0.01)(layer.weight)
            Constant(0.0)(layer.bias)


def _check(scale, class_num, expansion, data_format, dropout, activation, init, out_indices, divisor, depth) -> None:
    if not scale > 0 or scaled_width(16, scale, divisor) < 1:
        raise ValueError(f"scale {scale!r} leaves no channels; allowed: 0.0625 and above (published: 0.25 to 2.0)")
    if class_num < 0:
        raise ValueError(f"class_num {class_num!r}; allowed: 0 (pooled features) and above")
    if expansion < 1:
        raise ValueError(f"expansion {expansion!r}; allowed: 1 and above (published: 6)")
    if not depth > 0:
        raise ValueError(f"depth {depth!r}; allowed: above 0 (published: 1.0)")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout {dropout!r}; allowed: 0 <= dropout < 1")
    for name, value, allowed in (
        ("data_format", data_format, ("NCHW", "NHWC")),
        ("activation", activation, tuple(ACTIVATIONS)),
        ("init", init, INITS),
    ):
        if value not in allowed:
            raise ValueError(f"{name} {value!r}; allowed: {', '.join(allowed)}")
    if not out_indices or not all(i in range(len(PYRAMID)) for i in out_indices):
        raise ValueError(f"out_indices {out_indices!r}; allowed: some of 0 to 4 (strides 2, 4, 8, 16, 32)")


# the published variants; the class is its own x1.0 variant, and the one that takes any other scale
MobileNetV2_x0_25 = partial(MobileNetV2, scale=0.25)
MobileNetV2_x0_5 = partial(MobileNetV2, scale=0.5)
MobileNetV2_x0_75 = partial(MobileNetV2, scale=0.75)
MobileNetV2_x1_5 = partial(MobileNetV2, scale=1.5)
MobileNetV2_x2_0 = partial(MobileNetV2, scale=2.0)
VARIANTS = (
    "MobileNetV2_x0_25",
    "MobileNetV2_x0_5",
    "MobileNetV2_x0_75",
    "MobileNetV2",
    "MobileNetV2_x1_5",
    "MobileNetV2_x2_0",
)
