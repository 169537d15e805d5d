"""MobileNetV2 (Sandler et al. 2018, https://arxiv.org/abs/1801.04381) for PaddlePaddle.

State-dict keys (``conv3.conv3_2._expand_conv._batch_norm._mean``) and parameter names (``conv3_2_expand_bn_mean``)
are those of PaddleClas's published files.
"""

from __future__ import annotations

from functools import partial
from math import ceil

from paddle import nn

from . import layers
from .computes import Chain
from .family import Family, register
from .network import Network
from .widths import scaled_width

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


class ConvBNLayer(layers.ConvBNLayer):
    __doc__ = layers.ConvBNLayer.__doc__
    CONV, NORM = "_conv", "_batch_norm"

    def __init__(self, *args, activation: str | None = "relu6", **kwargs):
        super().__init__(*args, activation=activation, **kwargs)


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

    computes = Chain("_expand_conv", "_bottleneck_conv", "_linear_conv")

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


class MobileNetV2(Network):
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
            ``"kaiming_fan_out"``, see :func:`.layers.kaiming_fan_out`.
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

    STEM, LAST, CLASSIFIER = "conv1", "conv9", "out"
    ALLOWED = ("relu", "relu6")

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
        if not scale > 0 or scaled_width(16, scale, divisor) < 1:
            raise ValueError(f"scale {scale!r} leaves no channels; allowed: 0.0625 and above (published: 0.25 to 2.0)")
        if expansion < 1:
            raise ValueError(f"expansion {expansion!r}; allowed: 1 and above (published: 6)")
        if not depth > 0:
            raise ValueError(f"depth {depth!r}; allowed: above 0 (published: 1.0)")
        widths = [scaled_width(c, scale, divisor) for _, c, _, _ in STAGES]
        super().__init__(
            widths,
            [stride for *_, stride in STAGES],
            class_num=class_num,
            data_format=data_format,
            dropout=dropout,
            activation=activation,
            init=init,
            features_only=features_only,
            out_indices=out_indices,
        )
        self.scale = scale
        self.num_features = last_channel or (1280 if fix_stem_head else scaled_width(1280, max(1.0, scale), divisor))
        common = {"activation": activation, "data_format": data_format}
        in_c = 32 if fix_stem_head else scaled_width(32, scale, divisor)
        self.conv1 = ConvBNLayer(3, 3, in_c, 2, 1, name=f"{prefix_name}conv1_1", **common)
        self._stages = [f"{prefix_name}conv{i + 2}" for i in range(self._depth)]
        for i, name in enumerate(self._stages):
            t, _, n, s = STAGES[i]
            if not (fix_stem_head and i in (0, len(STAGES) - 1)):
                n = ceil(n * depth)
            self.add_sublayer(name, InvresiBlocks(in_c, t if t == 1 else expansion, widths[i], n, s, name, **common))
            in_c = widths[i]
        if not features_only:
            self.conv9 = ConvBNLayer(in_c, 1, self.num_features, 1, 0, name=f"{prefix_name}conv9", **common)
        self.build_head(f"{prefix_name}fc10")
        self.initialise()

    def stages(self) -> list[nn.Layer]:
        """The rows of the paper's table."""
        return [getattr(self, name) for name in self._stages]

    def units(self) -> list[nn.Layer]:
        """The layers in front of the head, in order: the first convolution, the inverted residuals, the last one."""
        inner = [getattr(stage, unit) for stage in self.stages() for unit in stage._units]
        return [self.conv1, *inner] if self.features_only else [self.conv1, *inner, self.conv9]


# the published variants; the class is its own x1.0 variant, and the one that takes any other scale
MobileNetV2_x0_25 = partial(MobileNetV2, scale=0.25)
MobileNetV2_x0_5 = partial(MobileNetV2, scale=0.5)
MobileNetV2_x0_75 = partial(MobileNetV2, scale=0.75)
MobileNetV2_x1_5 = partial(MobileNetV2, scale=1.5)
MobileNetV2_x2_0 = partial(MobileNetV2, scale=2.0)

FAMILY = register(
    Family(
        "MobileNetV2",
        MobileNetV2,
        {
            "MobileNetV2_x0_25": MobileNetV2_x0_25,
            "MobileNetV2_x0_5": MobileNetV2_x0_5,
            "MobileNetV2_x0_75": MobileNetV2_x0_75,
            "MobileNetV2": MobileNetV2,
            "MobileNetV2_x1_5": MobileNetV2_x1_5,
            "MobileNetV2_x2_0": MobileNetV2_x2_0,
        },
        paper="https://arxiv.org/abs/1801.04381",
        short="v2",
    )
)
