"""MobileNetV1 (Howard et al. 2017, https://arxiv.org/abs/1704.04861) for PaddlePaddle.

This file imports only paddle and can be copied alone. State-dict keys (``blocks.0.depthwise_conv.bn._mean``) are
those of PaddleClas's published files; parameter names (``conv2_1_dw_weights``) those of its static-graph release.
"""

from __future__ import annotations

import inspect
from functools import partial

import paddle
import paddle.nn.functional as F
from paddle import ParamAttr, nn
from paddle.nn.initializer import Constant, KaimingNormal, Normal

# Table 1 of the paper, one depthwise separable block a row:
# name in the static-graph release, channels in, channels out, stride
BLOCKS = (
    ("conv2_1", 32, 64, 1),
    ("conv2_2", 64, 128, 2),
    ("conv3_1", 128, 128, 1),
    ("conv3_2", 128, 256, 2),
    ("conv4_1", 256, 256, 1),
    ("conv4_2", 256, 512, 2),
    ("conv5_1", 512, 512, 1),
    ("conv5_2", 512, 512, 1),
    ("conv5_3", 512, 512, 1),
    ("conv5_4", 512, 512, 1),
    ("conv5_5", 512, 512, 1),
    ("conv5_6", 512, 1024, 2),
    ("conv6", 1024, 1024, 1),
)

# the blocks whose output is the last one at its stride: the feature pyramid at strides 2, 4, 8, 16, 32
PYRAMID = tuple(i for i in range(len(BLOCKS)) if i + 1 == len(BLOCKS) or BLOCKS[i + 1][3] == 2)

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
        activation: ``"relu"``, ``"relu6"``, or None for a linear layer.
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
        activation: str | None = "relu",
        data_format: str = "NCHW",
    ):
        super().__init__()
        self.conv = nn.Conv2D(
            num_channels,
            num_filters,
            filter_size,
            stride=stride,
            padding=padding,
            groups=num_groups,
            weight_attr=ParamAttr(name=f"{name}_weights", initializer=KaimingNormal()),
            bias_attr=False,
            data_format=data_format,
        )
        self.bn = nn.BatchNorm2D(
            num_filters,
            weight_attr=ParamAttr(name=f"{name}_bn_scale"),
            bias_attr=ParamAttr(name=f"{name}_bn_offset"),
            name=f"{name}_bn",
            data_format=data_format,
        )
        self._activation = ACTIVATIONS[activation] if activation else None

    def forward(self, x):
        """[N, C, H, W] -> [N, num_filters, H / stride, W / stride], sizes rounded up (NHWC likewise)."""
        x = self.bn(self.conv(x))
        return self._activation(x) if self._activation else x


class DepthwiseSeparable(nn.Layer):
    """A 3x3 depthwise and a 1x1 convolution, each with batch norm and activation (paper, section 3.1).

    Args:
        num_channels: channels in.
        num_filters: channels out.
        stride: of the depthwise convolution.
        name: start of the parameter names: ``{name}_dw_weights``, ``{name}_sep_bn_scale``, ...
        activation: ``"relu"`` or ``"relu6"``.
        data_format: ``"NCHW"`` or ``"NHWC"``.
    """

    def __init__(
        self,
        num_channels: int,
        num_filters: int,
        stride: int,
        *,
        name: str,
        activation: str = "relu",
        data_format: str = "NCHW",
    ):
        super().__init__()
        common = {"activation": activation, "data_format": data_format}
        self.depthwise_conv = ConvBNLayer(
            num_channels, 3, num_channels, stride, 1, num_groups=num_channels, name=f"{name}_dw", **common
        )
        self.pointwise_conv = ConvBNLayer(num_channels, 1, num_filters, 1, 0, name=f"{name}_sep", **common)

    def forward(self, x):
        """[N, C, H, W] -> [N, num_filters, H / stride, W / stride]."""
        return self.pointwise_conv(self.depthwise_conv(x))


class MobileNetV1(nn.Layer, metaclass=OwnNames):
    """MobileNetV1; as it stands, the published ``MobileNetV1`` (4,231,976 parameters, PaddleClas: top-1 70.99 %).

    Images are float32 [N, 3, H, W] in either data format, H and W from 32 up, odd sizes included.

    Args:
        scale: the paper's width multiplier alpha; each width is ``int(channels * scale)``, never rounded to 8.
        class_num: outputs of the classifier; 0 returns the pooled features [N, num_features].
        prefix_name: put before every parameter name, for two networks in one program.
        data_format: the layout the network computes in; inputs and outputs are NCHW either way.
        dropout: probability in front of the classifier; 0 as published.
        activation: ``"relu"`` (as published) or ``"relu6"`` (as TensorFlow's release and its ports).
        init: ``"paddleclas"`` (He by fan-in, which counts groups) or ``"kaiming_fan_out"``, see
            :func:`kaiming_fan_out`.
        features_only: return the feature maps ``out_indices`` instead; what they do not need is not built.
        out_indices: of the pyramid at strides 2, 4, 8, 16, 32.

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
        data_format: str = "NCHW",
        dropout: float = 0.0,
        activation: str = "relu",
        init: str = "paddleclas",
        features_only: bool = False,
        out_indices: tuple[int, ...] = (0, 1, 2, 3, 4),
    ):
        super().__init__()
        _check(scale, class_num, data_format, dropout, activation, init, out_indices)
        self.scale, self.data_format, self.activation = scale, data_format, activation
        self.class_num = 0 if features_only else class_num
        self.features_only, self.out_indices = features_only, tuple(out_indices)
        widths = [int(c_out * scale) for _, _, c_out, _ in BLOCKS]
        self.num_features = widths[-1]
        self.feature_channels = tuple(widths[PYRAMID[i]] for i in self.out_indices)
        self.feature_strides = tuple(2 ** (i + 1) for i in self.out_indices)
        common = {"activation": activation, "data_format": data_format}

        self.conv = ConvBNLayer(3, 3, int(32 * scale), 2, 1, name=f"{prefix_name}conv1", **common)
        built = BLOCKS[: PYRAMID[max(self.out_indices)] + 1] if features_only else BLOCKS
        self.blocks = nn.Sequential(
            *(
                DepthwiseSeparable(int(c_in * scale), int(c_out * scale), stride, name=f"{prefix_name}{name}", **common)
                for name, c_in, c_out, stride in built
            )
        )
        if not features_only:
            self.avg_pool = nn.AdaptiveAvgPool2D(1, data_format=data_format)
            self.dropout = nn.Dropout(dropout)
        if self.class_num:
            self.fc = nn.Linear(
                self.num_features,
                class_num,
                weight_attr=ParamAttr(name=f"{prefix_name}fc7_weights", initializer=KaimingNormal()),
                bias_attr=ParamAttr(name=f"{prefix_name}fc7_offset"),
            )
        if init == "kaiming_fan_out":
            kaiming_fan_out(self)

    def _pyramid(self, x) -> list:
        """The maps at strides 2, 4, 8, 16, 32, in the layout computed in."""
        if self.data_format == "NHWC":
            x = paddle.transpose(x, [0, 2, 3, 1])
        x = self.conv(x)
        maps = []
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i in PYRAMID:
                maps.append(x)
        return maps

    def forward_features(self, x) -> list:
        """[N, 3, H, W] -> the maps [N, C, H / stride, W / stride] at strides 2, 4, 8, 16, 32, sizes rounded up."""
        maps = self._pyramid(x)
        return [paddle.transpose(m, [0, 3, 1, 2]) for m in maps] if self.data_format == "NHWC" else maps

    def forward(self, x):
        """[N, 3, H, W] -> logits [N, class_num]; or pooled features, or the maps of ``out_indices``."""
        if self.features_only:
            maps = self.forward_features(x)
            return [maps[i] for i in self.out_indices]
        return self.head(self._pyramid(x)[-1])

    def head(self, x):
        """[N, num_features, h, w] in the layout computed in -> what forward returns: pooling, dropout, classifier."""
        x = self.dropout(paddle.flatten(self.avg_pool(x), 1))
        return self.fc(x) if self.class_num else x

    def units(self) -> list[nn.Layer]:
        """The layers in front of the head, in order: the first convolution and the depthwise separable blocks."""
        return [self.conv, *self.blocks]


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


def _check(scale, class_num, data_format, dropout, activation, init, out_indices) -> None:
    if not int(32 * scale) >= 1:
        raise ValueError(f"scale {scale!r} leaves no channels; allowed: 0.03125 and above (published: 0.25 to 1.0)")
    if class_num < 0:
        raise ValueError(f"class_num {class_num!r}; allowed: 0 (pooled features) and above")
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
MobileNetV1_x0_25 = partial(MobileNetV1, scale=0.25)
MobileNetV1_x0_5 = partial(MobileNetV1, scale=0.5)
MobileNetV1_x0_75 = partial(MobileNetV1, scale=0.75)
VARIANTS = ("MobileNetV1_x0_25", "MobileNetV1_x0_5", "MobileNetV1_x0_75", "MobileNetV1")
