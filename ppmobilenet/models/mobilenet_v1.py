"""MobileNetV1 (Howard et al. 2017, https://arxiv.org/abs/1704.04861) for PaddlePaddle.

State-dict keys (``blocks.0.depthwise_conv.bn._mean``) are those of PaddleClas's published files; parameter names
(``conv2_1_dw_weights``) those of its static-graph release.
"""

from __future__ import annotations

from functools import partial

from paddle import nn
from paddle.nn.initializer import KaimingNormal

from . import layers
from .computes import Chain
from .family import Family, register
from .network import Network

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


class ConvBNLayer(layers.ConvBNLayer):
    __doc__ = layers.ConvBNLayer.__doc__
    INITIALIZER = KaimingNormal


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

    computes = Chain("depthwise_conv", "pointwise_conv")

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


class MobileNetV1(Network):
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
            :func:`.layers.kaiming_fan_out`.
        features_only: return the feature maps ``out_indices`` instead; what they do not need is not built.
        out_indices: of the pyramid at strides 2, 4, 8, 16, 32.

    Attributes:
        num_features: width of the pooled features.
        feature_channels: channels of the pyramid's maps, by out_indices.
        feature_strides: their strides.

    Raises:
        ValueError: an argument that leaves no network, with what is allowed.
    """

    ALLOWED = ("relu", "relu6")

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
        if not int(32 * scale) >= 1:
            raise ValueError(f"scale {scale!r} leaves no channels; allowed: 0.03125 and above (published: 0.25 to 1.0)")
        super().__init__(
            [int(c_out * scale) for _, _, c_out, _ in BLOCKS],
            [stride for *_, stride in BLOCKS],
            class_num=class_num,
            data_format=data_format,
            dropout=dropout,
            activation=activation,
            init=init,
            features_only=features_only,
            out_indices=out_indices,
        )
        self.scale = scale
        common = {"activation": activation, "data_format": data_format}
        self.conv = ConvBNLayer(3, 3, int(32 * scale), 2, 1, name=f"{prefix_name}conv1", **common)
        self.blocks = nn.Sequential(
            *(
                DepthwiseSeparable(int(c_in * scale), int(c_out * scale), stride, name=f"{prefix_name}{name}", **common)
                for name, c_in, c_out, stride in BLOCKS[: self._depth]
            )
        )
        self.build_head(f"{prefix_name}fc7", KaimingNormal())
        self.initialise()


# the published variants; the class is its own x1.0 variant, and the one that takes any other scale
MobileNetV1_x0_25 = partial(MobileNetV1, scale=0.25)
MobileNetV1_x0_5 = partial(MobileNetV1, scale=0.5)
MobileNetV1_x0_75 = partial(MobileNetV1, scale=0.75)

FAMILY = register(
    Family(
        "MobileNetV1",
        MobileNetV1,
        {
            "MobileNetV1_x0_25": MobileNetV1_x0_25,
            "MobileNetV1_x0_5": MobileNetV1_x0_5,
            "MobileNetV1_x0_75": MobileNetV1_x0_75,
            "MobileNetV1": MobileNetV1,
        },
        paper="https://arxiv.org/abs/1704.04861",
        short="v1",
        automatic_names=True,
    )
)
