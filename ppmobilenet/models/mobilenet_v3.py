"""MobileNetV3 (Howard et al. 2019, https://arxiv.org/abs/1905.02244) for PaddlePaddle.

State-dict keys (``blocks.3.mid_se.conv1.weight``) are those of PaddleClas's published files, which name no parameter;
names (``conv5_se_1_weights``) are those of Paddle's static-graph release.

PaddleClas's network is not quite the paper's: the gates of squeeze-excitation have slope 0.2 (the paper: 1/6) and their
inner widths are not rounded, the first block keeps an expansion that the paper's has not, the convolution behind the
pooling has no bias and is 1280 wide in small, too (the paper: 1024), and evaluation multiplies the last features by 0.8
(dropout that does not rescale in training). Each is an argument here; the defaults are PaddleClas's.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from paddle import ParamAttr, nn

from . import layers
from .computes import Chain
from .family import Family, register
from .layers import ACTIVATIONS, SqueezeExcitation
from .network import Network
from .widths import scaled_width


class Row(NamedTuple):
    """One block: filter, expanded width, width out, squeeze-excitation, whether it ends in hard-swish, stride."""

    filter_size: int
    expanded: int
    out: int
    gated: bool
    swish: bool
    stride: int


# Tables 1 and 2 of the paper
SIZES = {
    "large": (
        Row(3, 16, 16, False, False, 1),
        Row(3, 64, 24, False, False, 2),
        Row(3, 72, 24, False, False, 1),
        Row(5, 72, 40, True, False, 2),
        Row(5, 120, 40, True, False, 1),
        Row(5, 120, 40, True, False, 1),
        Row(3, 240, 80, False, True, 2),
        Row(3, 200, 80, False, True, 1),
        Row(3, 184, 80, False, True, 1),
        Row(3, 184, 80, False, True, 1),
        Row(3, 480, 112, True, True, 1),
        Row(3, 672, 112, True, True, 1),
        Row(5, 672, 160, True, True, 2),
        Row(5, 960, 160, True, True, 1),
        Row(5, 960, 160, True, True, 1),
    ),
    "small": (
        Row(3, 16, 16, True, False, 2),
        Row(3, 72, 24, False, False, 2),
        Row(3, 88, 24, False, False, 1),
        Row(5, 96, 40, True, True, 2),
        Row(5, 240, 40, True, True, 1),
        Row(5, 240, 40, True, True, 1),
        Row(5, 120, 48, True, True, 1),
        Row(5, 144, 48, True, True, 1),
        Row(5, 288, 96, True, True, 2),
        Row(5, 576, 96, True, True, 1),
        Row(5, 576, 96, True, True, 1),
    ),
}


def rows_of(size: str, scale: float, strides: Sequence[int | Sequence[int]] | None = None) -> list[Row]:
    """Return a size's rows with scaled widths, and other strides for the four that have stride 2.

    Raises:
        ValueError: strides of another kind.
    """
    rows = [
        r._replace(expanded=scaled_width(r.expanded, scale, 8), out=scaled_width(r.out, scale, 8)) for r in SIZES[size]
    ]
    if strides is None:
        return rows
    pairs = [(s, s) if isinstance(s, int) else tuple(s) for s in strides]
    if len(pairs) != 4 or not all(len(pair) == 2 and {*pair} <= {1, 2} for pair in pairs):
        raise ValueError(
            f"strides {strides!r}; allowed: four of 1, 2 or [height, width], for example [[2, 1], 2, 2, 2]"
        )
    replaced = iter(down if down == across else (down, across) for down, across in pairs)
    return [row if row.stride == 1 else row._replace(stride=next(replaced)) for row in rows]


def check(size: str, scale: float, se_slope: float, class_expand: int) -> None:
    """Refuse what leaves no network.

    Raises:
        ValueError: one of them, with what is allowed.
    """
    for wrong, said in (
        (size not in SIZES, f"size {size!r}; allowed: {', '.join(SIZES)}"),
        (not scale > 0, f"scale {scale!r}; allowed: above 0 (published: 0.35 to 1.25)"),
        (not se_slope > 0, f"se_slope {se_slope!r}; allowed: above 0 (Paddle: 0.2, others: 1/6)"),
        (class_expand < 0, f"class_expand {class_expand!r}; allowed: 0 (none) and above (published: 1280)"),
    ):
        if wrong:
            raise ValueError(said)


class ConvBNLayer(layers.ConvBNLayer):
    __doc__ = layers.ConvBNLayer.__doc__
    DECAYS_NORM = False


class ResidualUnit(nn.Layer):
    """Expand 1x1, depthwise, squeeze-excitation, project 1x1 without activation; the shortcut where shapes allow it.

    Args:
        num_channels: channels in.
        num_expanded: channels between.
        num_filters: channels out.
        filter_size: of the depthwise convolution.
        stride: of the depthwise convolution, or (of height, of width).
        name: start of the parameter names: ``{name}_expand_weights``, ``{name}_depthwise_...``, ``{name}_se_1_...``.
        num_squeezed: channels within the squeeze-excitation; 0: there is none.
        slope: of its gates.
        activation: of the first two convolutions.
        expand: without it the depthwise convolution takes the input, whose channels must be ``num_expanded``.
        same_padding: pad as TensorFlow does where the stride is 2.
        data_format: ``"NCHW"`` or ``"NHWC"``.
    """

    computes = Chain("expand_conv", "bottleneck_conv", "mid_se", "linear_conv")

    def __init__(
        self,
        num_channels: int,
        num_expanded: int,
        num_filters: int,
        filter_size: int = 3,
        stride: int | tuple[int, int] = 1,
        *,
        name: str,
        num_squeezed: int = 0,
        slope: float = 0.2,
        activation: str = "hardswish",
        expand: bool = True,
        same_padding: bool = False,
        data_format: str = "NCHW",
    ):
        super().__init__()
        common = {"activation": activation, "data_format": data_format}
        self.shortcut = stride in (1, (1, 1)) and num_channels == num_filters
        self.expand_conv = (
            ConvBNLayer(num_channels, 1, num_expanded, 1, 0, name=f"{name}_expand", **common) if expand else None
        )
        padding = "SAME" if same_padding and stride not in (1, (1, 1)) else filter_size // 2
        self.bottleneck_conv = ConvBNLayer(
            *(num_expanded, filter_size, num_expanded, stride, padding),
            num_groups=num_expanded,
            name=f"{name}_depthwise",
            **common,
        )
        self.mid_se = (
            SqueezeExcitation(num_expanded, num_squeezed, name=f"{name}_se", slope=slope, data_format=data_format)
            if num_squeezed
            else None
        )
        self.linear_conv = ConvBNLayer(
            num_expanded, 1, num_filters, 1, 0, name=f"{name}_linear", activation=None, data_format=data_format
        )

    def forward(self, x):
        """[N, C, H, W] -> [N, num_filters, H / stride, W / stride]."""
        y = self.expand_conv(x) if self.expand_conv else x
        y = self.bottleneck_conv(y)
        if self.mid_se:
            y = self.mid_se(y)
        y = self.linear_conv(y)
        return x + y if self.shortcut else y


class MobileNetV3(Network):
    """MobileNetV3; as it stands, the published ``MobileNetV3_large_x1_0`` (5,480,206 parameters, top-1 75.3 %).

    Images are float32 [N, 3, H, W] in either data format, H and W from 32 up, odd sizes included.

    Args:
        size: ``"large"`` or ``"small"``.
        scale: the paper's width multiplier; widths are rounded to multiples of 8. What is multiplied is the table's
            expanded width, as in PaddleClas (TensorFlow and timm multiply the ratio by the rounded width of the input,
            so their networks of other widths than 1.0 are others).
        class_num: outputs of the classifier; 0 returns what the classifier would get [N, num_features].
        prefix_name: put before every parameter name, for two networks in one program.
        data_format: the layout the network computes in; inputs and outputs are NCHW either way.
        dropout_prob: probability in front of the classifier, in Paddle's mode ``downscale_in_infer``: evaluation
            multiplies by 1 - dropout_prob. None or 0: neither.
        activation: ``"hardswish"``, or ``"relu"`` in its place.
        init: ``"paddleclas"`` (Paddle's defaults) or ``"kaiming_fan_out"``, see :func:`.layers.kaiming_fan_out`.
        features_only: return the feature maps ``out_indices`` instead; what they do not need is not built.
        out_indices: of the pyramid at strides 2 (large alone), 4, 8, 16, 32; None: all. (PaddleClas gives
            large_x0_35 the rows of small's; here every large network has its own.)
        use_se: False: no squeeze-excitation (PaddleOCR's detectors).
        se_slope: of its gates: 0.2 in Paddle, 1/6 in the paper, torchvision, timm and TensorFlow.
        se_divisor: round its inner widths to a multiple of it: 8 in torchvision, timm and TensorFlow.
        expand_first: whether the first block has an expansion; False in torchvision, timm and TensorFlow.
        class_expand: width of the convolution behind the pooling; 1280, or the paper's 1024 in small. 0: there is
            none (PaddleOCR's classifiers).
        last_conv_bias: whether it has a bias; True in torchvision, timm and TensorFlow.
        same_padding: pad as TensorFlow does where the stride is 2, for weights that were trained so.
        strides: of the four blocks with stride 2, each a number or (of height, of width), for lines of text.
        max_pool: halve the last map by its maxima before the pooling (PaddleOCR).

    Attributes:
        num_features: width of the pooled features.
        feature_channels: channels of the pyramid's maps, by out_indices.
        feature_strides: their strides.

    Raises:
        ValueError: an argument that leaves no network, with what is allowed.
    """

    STEM, LAST, CLASSIFIER = "conv", "last_second_conv", "fc"
    ALLOWED = ("hardswish", "relu")

    def __init__(
        self,
        size: str = "large",
        scale: float = 1.0,
        class_num: int = 1000,
        prefix_name: str = "",
        data_format: str = "NCHW",
        dropout_prob: float | None = 0.2,
        activation: str = "hardswish",
        init: str = "paddleclas",
        features_only: bool = False,
        out_indices: tuple[int, ...] | None = None,
        use_se: bool = True,
        se_slope: float = 0.2,
        se_divisor: int | None = None,
        expand_first: bool = True,
        class_expand: int = 1280,
        last_conv_bias: bool = False,
        same_padding: bool = False,
        strides: Sequence[int | Sequence[int]] | None = None,
        max_pool: bool = False,
    ):
        check(size, scale, se_slope, class_expand)
        rows = rows_of(size, scale, strides)
        super().__init__(
            [row.out for row in rows],
            [row.stride for row in rows],
            class_num=class_num,
            data_format=data_format,
            dropout=dropout_prob or 0.0,
            activation=activation,
            init=init,
            features_only=features_only,
            out_indices=out_indices,
        )
        self.scale, self.se_slope = scale, se_slope
        self._unwritten = {"same_padding": float(same_padding), "strides": float(strides is not None)}
        self._unwritten["max_pool"] = float(max_pool)
        self._max_pool = nn.MaxPool2D(2, 2, data_format=data_format) if max_pool and not features_only else None
        self.head_takes_mean = not max_pool

        def squeezed(expanded: int) -> int:
            return scaled_width(expanded // 4, 1.0, se_divisor)

        common = {"activation": activation, "data_format": data_format}
        stem, last = scaled_width(16, scale, 8), scaled_width(SIZES[size][-1].expanded, scale, 8)
        padding = "SAME" if same_padding else 1
        self.conv = ConvBNLayer(3, 3, stem, 2, padding, name=f"{prefix_name}conv1", **common)
        inputs = [stem, *(row.out for row in rows)]
        self.blocks = nn.Sequential(
            *(
                ResidualUnit(
                    *(inputs[i], row.expanded if i or expand_first else stem, row.out, row.filter_size, row.stride),
                    name=f"{prefix_name}conv{i + 2}",
                    num_squeezed=squeezed(row.expanded) if row.gated and use_se else 0,
                    slope=se_slope,
                    activation=activation if row.swish else "relu",
                    expand=expand_first or i > 0,
                    same_padding=same_padding,
                    data_format=data_format,
                )
                for i, row in enumerate(rows[: self._depth])
            )
        )
        self.last_conv = None
        if not features_only:
            self.last_second_conv = ConvBNLayer(inputs[-1], 1, last, 1, 0, name=f"{prefix_name}conv_last", **common)
            self._build_last_conv(last, class_expand, last_conv_bias, prefix_name)
        self.build_head(f"{prefix_name}fc", dropout_mode="downscale_in_infer")
        self.initialise()

    def _build_last_conv(self, inputs: int, width: int, bias: bool, prefix_name: str) -> None:
        """Build the convolution behind the pooling; of width 0 there is none."""
        self.num_features = width or inputs
        if width:
            weights, offset = (ParamAttr(name=f"{prefix_name}last_1x1_conv_{part}") for part in ("weights", "offset"))
            self.last_conv = nn.Conv2D(
                *(inputs, width, 1),
                weight_attr=weights,
                bias_attr=offset if bias else False,
                data_format=self.data_format,
            )

    @property
    def computes(self) -> dict[str, float]:
        """What other projects' files assume otherwise: slope of the gates, and evaluation's factor of the features.

        And what has no place in them: arguments that change no array.
        """
        return {"se_slope": self.se_slope, "kept": 1.0 - self._dropout, **self._unwritten}

    def head(self, x):
        """[N, C, h, w] in the layout computed in -> logits, or what the classifier would get."""
        x = self.avg_pool(self._max_pool(x) if self._max_pool else x)
        if self.last_conv:
            x = ACTIVATIONS[self.activation](self.last_conv(x))
        x = self.dropout(x.flatten(1))
        return self.fc(x) if self.class_num else x


# the published variants, and of each size the one that takes any scale
MobileNetV3_small_x0_35 = partial(MobileNetV3, size="small", scale=0.35)
MobileNetV3_small_x0_5 = partial(MobileNetV3, size="small", scale=0.5)
MobileNetV3_small_x0_75 = partial(MobileNetV3, size="small", scale=0.75)
MobileNetV3_small_x1_0 = partial(MobileNetV3, size="small", scale=1.0)
MobileNetV3_small_x1_25 = partial(MobileNetV3, size="small", scale=1.25)
MobileNetV3_small = partial(MobileNetV3, size="small")
MobileNetV3_large_x0_35 = partial(MobileNetV3, size="large", scale=0.35)
MobileNetV3_large_x0_5 = partial(MobileNetV3, size="large", scale=0.5)
MobileNetV3_large_x0_75 = partial(MobileNetV3, size="large", scale=0.75)
MobileNetV3_large_x1_0 = partial(MobileNetV3, size="large", scale=1.0)
MobileNetV3_large_x1_25 = partial(MobileNetV3, size="large", scale=1.25)
MobileNetV3_large = partial(MobileNetV3, size="large")

FAMILY = register(
    Family(
        "MobileNetV3",
        MobileNetV3,
        {
            "MobileNetV3_small_x0_35": MobileNetV3_small_x0_35,
            "MobileNetV3_small_x0_5": MobileNetV3_small_x0_5,
            "MobileNetV3_small_x0_75": MobileNetV3_small_x0_75,
            "MobileNetV3_small_x1_0": MobileNetV3_small_x1_0,
            "MobileNetV3_small_x1_25": MobileNetV3_small_x1_25,
            "MobileNetV3_small": MobileNetV3_small,
            "MobileNetV3_large_x0_35": MobileNetV3_large_x0_35,
            "MobileNetV3_large_x0_5": MobileNetV3_large_x0_5,
            "MobileNetV3_large_x0_75": MobileNetV3_large_x0_75,
            "MobileNetV3_large_x1_0": MobileNetV3_large_x1_0,
            "MobileNetV3_large_x1_25": MobileNetV3_large_x1_25,
            "MobileNetV3_large": MobileNetV3_large,
        },
        paper="https://arxiv.org/abs/1905.02244",
        short="v3",
        automatic_names=True,
    )
)
