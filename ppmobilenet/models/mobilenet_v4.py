"""MobileNetV4 (Qin et al. 2024, https://arxiv.org/abs/2404.10518) for PaddlePaddle.

State-dict keys (``blocks.3.dw_start.conv.weight``) are those of PaddleClas's published files; parameter names are our
own (PaddleClas names none).

Attention has two scales: PaddleClas's class multiplies the scores by ``(heads * dim) ** -0.5``, the default here, so
that both compute the same. timm, and the paper's mathematics, take ``dim ** -0.5``; so does PaddleClas with
``use_fused_attn``. Google published no weights and timm's accuracies are what PaddleClas's documents quote, so the
published hybrids most likely came from timm's: try ``attention_scale="timm"`` with them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import paddle.nn.functional as F
from paddle import ParamAttr, nn

from . import layers
from .computes import Chain, ConvNorm
from .family import Family, register
from .layers import DropPath, LayerScale, batch_norm
from .network import Network, strides_after


class Conv(NamedTuple):
    """A row that is one convolution."""

    out: int
    filter_size: int
    stride: int = 1


class Fused(NamedTuple):
    """A fused inverted bottleneck: a dense convolution expands, a 1x1 projects."""

    out: int
    expanded: int
    filter_size: int
    stride: int


class UIB(NamedTuple):
    """A universal inverted bottleneck: depthwise filters in front of the expansion and behind it, 0 for none."""

    out: int
    expanded: int
    start: int
    mid: int
    stride: int = 1


class MQA(NamedTuple):
    """Mobile multi-query attention: keys and values from a map smaller by ``shrink``, one head of both for all."""

    out: int
    heads: int
    dim: int
    shrink: int
    stride: int = 1


def _interleaved(attention: MQA, *blocks: UIB) -> tuple:
    return tuple(row for block in blocks for row in (attention, block))


# Tables 11 to 15 of the paper; the first convolution has 32 channels, in the large ones 24
_WIDE = (
    *(Fused(48, 96, 3, 2), UIB(96, 192, 3, 5, 2), UIB(96, 384, 3, 3)),
    *(UIB(192, 384, 3, 5, 2), *[UIB(192, 768, 3, 3)] * 3, UIB(192, 768, 3, 5)),
)
_DEEP = (
    *(UIB(512, 768, 5, 5, 2), *[UIB(512, 2048, 5, 5)] * 3, UIB(512, 2048, 5, 0), UIB(512, 2048, 5, 3)),
    *(*[UIB(512, 2048, 5, 0)] * 2, UIB(512, 2048, 5, 3), UIB(512, 2048, 5, 5)),
)
SIZES = {
    "conv_small": (
        *(Conv(32, 3, 2), Conv(32, 1), Conv(96, 3, 2), Conv(64, 1)),
        *(UIB(96, 192, 5, 5, 2), *[UIB(96, 192, 0, 3)] * 4, UIB(96, 384, 3, 0)),
        *(UIB(128, 576, 3, 3, 2), UIB(128, 512, 5, 5), UIB(128, 512, 0, 5), UIB(128, 384, 0, 5)),
        *([UIB(128, 512, 0, 3)] * 2),
        Conv(960, 1),
    ),
    "conv_medium": (
        *(Fused(48, 128, 3, 2), UIB(80, 192, 3, 5, 2), UIB(80, 160, 3, 3)),
        *(UIB(160, 480, 3, 5, 2), *[UIB(160, 640, 3, 3)] * 2, UIB(160, 640, 3, 5), UIB(160, 640, 3, 3)),
        *(UIB(160, 640, 3, 0), UIB(160, 320, 0, 0), UIB(160, 640, 3, 0)),
        *(UIB(256, 960, 5, 5, 2), UIB(256, 1024, 5, 5), *[UIB(256, 1024, 3, 5)] * 2, UIB(256, 1024, 0, 0)),
        *(UIB(256, 1024, 3, 0), UIB(256, 512, 3, 5), UIB(256, 1024, 5, 5), *[UIB(256, 1024, 0, 0)] * 2),
        UIB(256, 512, 5, 0),
        Conv(960, 1),
    ),
    "conv_large": (
        *(*_WIDE, *[UIB(192, 768, 5, 3)] * 5, UIB(192, 768, 3, 0)),
        *(*_DEEP, *[UIB(512, 2048, 5, 0)] * 3),
        Conv(960, 1),
    ),
    "hybrid_medium": (
        *(Fused(48, 128, 3, 2), UIB(80, 192, 3, 5, 2), UIB(80, 160, 3, 3)),
        *(UIB(160, 480, 3, 5, 2), UIB(160, 320, 0, 0), UIB(160, 640, 3, 3), UIB(160, 640, 3, 5)),
        *_interleaved(MQA(160, 4, 64, 2), *[UIB(160, 640, 3, 3), UIB(160, 640, 3, 0)] * 2),
        *(UIB(256, 960, 5, 5, 2), UIB(256, 1024, 5, 5), *[UIB(256, 1024, 3, 5)] * 2, UIB(256, 512, 0, 0)),
        *(UIB(256, 512, 3, 5), UIB(256, 512, 0, 0), UIB(256, 1024, 0, 0)),
        *_interleaved(MQA(256, 4, 64, 1), UIB(256, 1024, 3, 0), UIB(256, 1024, 5, 5), *[UIB(256, 1024, 5, 0)] * 2),
        Conv(960, 1),
    ),
    "hybrid_large": (
        *(*_WIDE, *[UIB(192, 768, 5, 3)] * 2),
        *_interleaved(MQA(192, 8, 48, 2), *[UIB(192, 768, 5, 3)] * 3, UIB(192, 768, 3, 0)),
        *(*_DEEP, *_interleaved(MQA(512, 8, 64, 1), *[UIB(512, 2048, 5, 0)] * 4)),
        Conv(960, 1),
    ),
}
# the queries' factor: whose networks compute with it
SCALES = ("paddleclas", "timm")


class ConvBNLayer(layers.ConvBNLayer):
    __doc__ = layers.ConvBNLayer.__doc__
    DECAYS_NORM = False


class Form(NamedTuple):
    """What the units of a network have in common."""

    activation: str = "relu"
    data_format: str = "NCHW"
    layer_scale: float = 0.0
    drop_path_rate: float = 0.0
    attention_scale: str = "paddleclas"

    def layer(self, *args, linear: bool = False, **kwargs) -> ConvBNLayer:
        """Build a convolution of this form, without activation if ``linear``."""
        activation = None if linear else self.activation
        return ConvBNLayer(*args, activation=activation, data_format=self.data_format, **kwargs)


PLAIN = Form()


class ConvUnit(ConvBNLayer):
    """One convolution; where paths are dropped, its whole map is, as in PaddleClas: it has no shortcut."""

    computes = ConvNorm(then=("drop_path",))

    def __init__(self, num_channels: int, row: Conv, *, name: str, form: Form = PLAIN):
        super().__init__(
            *(num_channels, row.filter_size, row.out, row.stride, row.filter_size // 2),
            name=name,
            activation=form.activation,
            data_format=form.data_format,
        )
        self.drop_path = DropPath(form.drop_path_rate) if form.drop_path_rate else None

    def forward(self, x):
        """[N, C, H, W] -> [N, row.out, H / stride, W / stride]."""
        x = super().forward(x)
        return self.drop_path(x) if self.drop_path else x


class _Residual(nn.Layer):
    """A unit that adds its input where shapes allow it, with layer scale and drop path in front of the sum."""

    def __init__(self, num_channels: int, row: Fused | UIB | MQA):
        super().__init__()
        self.shortcut = row.stride == 1 and num_channels == row.out

    def _build_end(self, channels: int, name: str, form: Form) -> None:
        scaled = form.layer_scale > 0
        self.layer_scale = (
            LayerScale(channels, form.layer_scale, name=name, data_format=form.data_format) if scaled else None
        )
        self.drop_path = DropPath(form.drop_path_rate) if form.drop_path_rate and self.shortcut else None

    def _end(self, x, y):
        y = self.layer_scale(y) if self.layer_scale else y
        if not self.shortcut:
            return y
        return x + (self.drop_path(y) if self.drop_path else y)


class FusedInvertedBottleneck(_Residual):
    """A dense convolution expands and strides, a 1x1 convolution without activation projects."""

    computes = Chain("conv_exp", "conv_pwl", "layer_scale", "drop_path")

    def __init__(self, num_channels: int, row: Fused, *, name: str, form: Form = PLAIN):
        super().__init__(num_channels, row)
        k = row.filter_size
        self.conv_exp = form.layer(num_channels, k, row.expanded, row.stride, k // 2, name=f"{name}_expand")
        self.conv_pwl = form.layer(row.expanded, 1, row.out, 1, 0, name=f"{name}_project", linear=True)
        self._build_end(row.out, name, form._replace(layer_scale=0.0))

    def forward(self, x):
        """[N, C, H, W] -> [N, row.out, H / stride, W / stride]."""
        return self._end(x, self.conv_pwl(self.conv_exp(x)))


class UniversalInvertedBottleneck(_Residual):
    """The paper's Figure 4: an optional depthwise filter, expand 1x1, an optional depthwise filter, project 1x1.

    With the second filter alone it is an inverted residual, with the first alone ConvNext-like, with both the paper's
    ExtraDW, with neither a feed-forward network. The stride is the second filter's.

    Args:
        num_channels: channels in.
        row: its widths and filters.
        name: start of the parameter names.
        form: what the network's units have in common.
    """

    computes = Chain("dw_start", "pw_exp", "dw_mid", "pw_proj", "layer_scale", "drop_path")

    def __init__(self, num_channels: int, row: UIB, *, name: str, form: Form = PLAIN):
        super().__init__(num_channels, row)

        def depthwise(channels: int, k: int, stride: int, part: str, linear: bool) -> ConvBNLayer | None:
            options = {"num_groups": channels, "name": f"{name}_{part}", "linear": linear}
            return form.layer(channels, k, channels, stride, k // 2, **options) if k else None

        self.dw_start = depthwise(num_channels, row.start, 1, "start", True)
        self.pw_exp = form.layer(num_channels, 1, row.expanded, 1, 0, name=f"{name}_expand")
        self.dw_mid = depthwise(row.expanded, row.mid, row.stride, "mid", False)
        self.pw_proj = form.layer(row.expanded, 1, row.out, 1, 0, name=f"{name}_project", linear=True)
        self._build_end(row.out, name, form)

    def forward(self, x):
        """[N, C, H, W] -> [N, row.out, H / stride, W / stride]."""
        y = self.pw_exp(self.dw_start(x) if self.dw_start else x)
        return self._end(x, self.pw_proj(self.dw_mid(y) if self.dw_mid else y))


class MobileAttention(_Residual):
    """Mobile multi-query attention (the paper's section 4.2): many queries, one head of keys and values.

    Any size of map: there are as many keys as the smaller map has points. (PaddleClas computes their number, and
    raises where an odd side is halved.)

    Args:
        num_channels: channels in.
        row: heads, width of each, and by how much keys and values come from a smaller map.
        name: start of the parameter names.
        form: what the network's units have in common.
    """

    def __init__(self, num_channels: int, row: MQA, *, name: str, form: Form = PLAIN):
        super().__init__(num_channels, row)
        self._heads, self._dim, self._shrink = row.heads, row.dim, row.shrink
        self._data_format, self._channels_last = form.data_format, form.data_format == "NHWC"
        queries = row.heads * row.dim
        self._scale = (row.dim if form.attention_scale == "timm" else queries) ** -0.5

        def project(c_in: int, c_out: int, part: str) -> nn.Conv2D:
            attribute = ParamAttr(name=f"{name}_{part}_weights")
            return nn.Conv2D(c_in, c_out, 1, weight_attr=attribute, bias_attr=False, data_format=form.data_format)

        def smaller(part: str) -> ConvBNLayer | None:
            options = {"num_groups": num_channels, "name": f"{name}_{part}_down", "linear": True}
            return form.layer(num_channels, 3, num_channels, row.shrink, 1, **options) if row.shrink > 1 else None

        self.norm = batch_norm(num_channels, name, form.data_format, decays=False)
        self.query_proj = project(num_channels, queries, "query")
        self.key_down_proj, self.value_down_proj = smaller("key"), smaller("value")
        self.key_proj, self.value_proj = project(num_channels, row.dim, "key"), project(num_channels, row.dim, "value")
        self.proj = project(queries, row.out, "out")
        self._build_end(row.out, name, form)

    def forward(self, x):
        """[N, C, H, W] -> [N, row.out, H, W]."""
        y = self.norm(x)
        keys = self.key_proj(self.key_down_proj(y) if self.key_down_proj else y)
        values = self.value_proj(self.value_down_proj(y) if self.value_down_proj else y)
        queries = self._columns(self.query_proj(y), self._heads).transpose([0, 1, 3, 2]) * self._scale
        weights = F.softmax(queries @ self._columns(keys, 1), -1)
        mixed = weights @ self._columns(values, 1).transpose([0, 1, 3, 2])  # [N, heads, points, dim]
        return self._end(x, self.proj(self._map(mixed, y)))

    def products(self, shape: Sequence[int]) -> int:
        """Return the multiply-adds of scores and of mixing for a map (channels, height, width); see paper.cost."""
        height, width = shape[1:]
        points = -(-height // self._shrink) * -(-width // self._shrink)
        return 2 * self._heads * self._dim * height * width * points

    def _columns(self, x, heads: int):
        """A map of heads * dim channels -> [N, heads, dim, points]."""
        if self._channels_last:
            return x.reshape([0, -1, heads, self._dim]).transpose([0, 2, 3, 1])
        return x.reshape([0, heads, self._dim, -1])

    def _map(self, x, like):
        """[N, heads, points, dim] -> a map of heads * dim channels, as high and wide as ``like``."""
        channels = self._heads * self._dim
        if self._channels_last:
            return x.transpose([0, 2, 1, 3]).reshape([0, like.shape[1], like.shape[2], channels])
        return x.transpose([0, 1, 3, 2]).reshape([0, channels, like.shape[2], like.shape[3]])


UNITS = {
    Conv: ConvUnit,
    Fused: FusedInvertedBottleneck,
    UIB: UniversalInvertedBottleneck,
    MQA: MobileAttention,
}


class MobileNetV4(Network):
    """MobileNetV4; as it stands, the published ``MobileNetV4_conv_small`` (3,774,024 parameters, top-1 74.6 % at 256).

    Images are float32 [N, 3, H, W] in either data format, H and W from 32 up, odd sizes included.

    Args:
        size: ``"conv_small"``, ``"conv_medium"``, ``"conv_large"``, ``"hybrid_medium"`` or ``"hybrid_large"``; each
            has widths of its own, there is no multiplier.
        class_num: outputs of the classifier; 0 returns what the classifier would get [N, 1280].
        prefix_name: put before every parameter name, for two networks in one program.
        data_format: the layout the network computes in; inputs and outputs are NCHW either way.
        drop_rate: probability of dropout in front of the classifier. (PaddleClas takes it and never applies it, so the
            values in its recipes do nothing there.)
        drop_path_rate: probability of dropping the last row's path for a photo, in training; less in earlier rows. As
            in PaddleClas a row that is one convolution then loses its whole map.
        layer_scale: initial factor of each channel in front of the sums; None: 1e-5 in the hybrids, 0 (none) else.
        attention_scale: ``"paddleclas"``: scores times ``(heads * dim) ** -0.5``; ``"timm"``: ``dim ** -0.5``.
        use_fused_attn: PaddleClas's name for an operator that scales as timm does: True is ``attention_scale="timm"``.
        activation: ``"relu"`` or ``"gelu"``; None: gelu in hybrid_large, relu else.
        init: ``"paddleclas"`` (Paddle's defaults) or ``"kaiming_fan_out"``, see :func:`.layers.kaiming_fan_out`.
        features_only: return the feature maps ``out_indices`` instead; what they do not need is not built.
        out_indices: of the pyramid at strides 4, 8, 16, 32, and 32 behind the last 1x1 convolution; None: all.

    Attributes:
        num_features: width of the pooled features.
        feature_channels: channels of the pyramid's maps, by out_indices.
        feature_strides: their strides.

    Raises:
        ValueError: an argument that leaves no network, with what is allowed.
    """

    STEM, CLASSIFIER = "conv_stem", "classifier"
    ALLOWED = ("relu", "gelu")

    def __init__(
        self,
        size: str = "conv_small",
        class_num: int = 1000,
        prefix_name: str = "",
        data_format: str = "NCHW",
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        layer_scale: float | None = None,
        attention_scale: str = "paddleclas",
        use_fused_attn: bool = False,
        activation: str | None = None,
        init: str = "paddleclas",
        features_only: bool = False,
        out_indices: tuple[int, ...] | None = None,
    ):
        for name, value, allowed in (("size", size, SIZES), ("attention_scale", attention_scale, SCALES)):
            if value not in allowed:
                raise ValueError(f"{name} {value!r}; allowed: {', '.join(allowed)}")
        if not 0 <= drop_path_rate < 1:
            raise ValueError(f"drop_path_rate {drop_path_rate!r}; allowed: 0 <= drop_path_rate < 1")
        rows, hybrid = SIZES[size], size.startswith("hybrid")
        layer_scale = (1e-5 if hybrid else 0.0) if layer_scale is None else layer_scale
        if layer_scale < 0:
            raise ValueError(f"layer_scale {layer_scale!r}; allowed: 0 (none) and above (published: 1e-5)")
        activation = activation or ("gelu" if size == "hybrid_large" else "relu")
        after = strides_after([row.stride for row in rows])
        super().__init__(
            [row.out for row in rows],
            [row.stride for row in rows],
            class_num=class_num,
            data_format=data_format,
            dropout=drop_rate,
            activation=activation,
            init=init,
            features_only=features_only,
            out_indices=out_indices,
            # the last map at each stride, and the one in front of the last 1x1 convolution
            pyramid=[i for i, stride in enumerate(after) if after[i + 1 : i + 2] != [stride] or i + 2 == len(rows)],
        )
        self.size, self.attention_scale = size, "timm" if use_fused_attn else attention_scale
        form = Form(activation, data_format, layer_scale, attention_scale=self.attention_scale)
        c_in = 24 if size.endswith("large") else 32
        self.conv_stem = form.layer(3, 3, c_in, 2, 1, name=f"{prefix_name}conv_stem")
        blocks = []
        for i, row in enumerate(rows[: self._depth]):
            dropping = form._replace(drop_path_rate=drop_path_rate * i / len(rows))
            blocks.append(UNITS[type(row)](c_in, row, name=f"{prefix_name}block{i}", form=dropping))
            c_in = row.out
        self.blocks = nn.Sequential(*blocks)
        if not features_only:
            self.num_features = 1280
            self.conv_head = form.layer(c_in, 1, self.num_features, 1, 0, name=f"{prefix_name}conv_head")
        self.build_head(f"{prefix_name}classifier")
        self.initialise()

    @property
    def computes(self) -> dict[str, float]:
        """What other projects' files assume otherwise: p, where scores are times ``heads ** p * dim ** -0.5``."""
        return {"query_power": 0.0 if self.attention_scale == "timm" else -0.5}

    def head(self, x):
        """[N, 960, h, w] in the layout computed in -> logits, or what the classifier would get."""
        x = self.dropout(self.conv_head(self.avg_pool(x)).flatten(1))
        return self.classifier(x) if self.class_num else x


# the published variants
MobileNetV4_conv_small = partial(MobileNetV4, size="conv_small")
MobileNetV4_conv_medium = partial(MobileNetV4, size="conv_medium")
MobileNetV4_conv_large = partial(MobileNetV4, size="conv_large")
MobileNetV4_hybrid_medium = partial(MobileNetV4, size="hybrid_medium")
MobileNetV4_hybrid_large = partial(MobileNetV4, size="hybrid_large")

FAMILY = register(
    Family(
        "MobileNetV4",
        MobileNetV4,
        {
            "MobileNetV4_conv_small": MobileNetV4_conv_small,
            "MobileNetV4_conv_medium": MobileNetV4_conv_medium,
            "MobileNetV4_conv_large": MobileNetV4_conv_large,
            "MobileNetV4_hybrid_medium": MobileNetV4_hybrid_medium,
            "MobileNetV4_hybrid_large": MobileNetV4_hybrid_large,
        },
        paper="https://arxiv.org/abs/2404.10518",
        short="v4",
        automatic_names=True,
    )
)
