"""The layers that MobileNets are made of, and how they may be initialised."""

from __future__ import annotations

import paddle
import paddle.nn.functional as F
from paddle import ParamAttr, nn
from paddle.nn.initializer import Constant, Normal
from paddle.regularizer import L2Decay

from .computes import ChannelScale, ConvNorm, Gate, PathDrop


def gelu(x):
    """The exact one. Exported as the error function that it is: the old program format lacks the operator."""
    return F.gelu(x) if paddle.in_dynamic_mode() else x * 0.5 * (1.0 + paddle.erf(x * 0.7071067811865476))


ACTIVATIONS = {"relu": F.relu, "relu6": F.relu6, "hardswish": F.hardswish, "gelu": gelu}
INITS = ("paddleclas", "kaiming_fan_out")


def batch_norm(num_channels: int, name: str, data_format: str, *, decays: bool = True) -> nn.BatchNorm2D:
    """Return a batch norm whose four parameters begin with ``{name}_bn_``; ``decays``: an optimizer's L2 takes it."""
    regularizer = None if decays else L2Decay(0.0)
    return nn.BatchNorm2D(
        num_channels,
        weight_attr=ParamAttr(name=f"{name}_bn_scale", regularizer=regularizer),
        bias_attr=ParamAttr(name=f"{name}_bn_offset", regularizer=regularizer),
        name=f"{name}_bn",
        data_format=data_format,
    )


class ConvBNLayer(nn.Layer):
    """Convolution without bias, batch normalisation, activation.

    A family derives from it where its published files have other names, or its paper another activation.

    Args:
        num_channels: channels in.
        filter_size: height and width of the filter.
        num_filters: channels out.
        stride: of the convolution, or (of height, of width).
        padding: zeros added on each side; or ``"SAME"``, TensorFlow's, which depends on the size: at stride 2 an even
            map gets one less before it than behind.
        num_groups: ``num_channels`` makes it depthwise.
        name: start of the five parameter names: ``{name}_weights``, ``{name}_bn_scale``, ``_bn_offset``,
            ``_bn_mean``, ``_bn_variance``.
        activation: one of :data:`ACTIVATIONS`, or None for a linear layer.
        data_format: ``"NCHW"`` or ``"NHWC"``, of input and output.
    """

    # names of the two layers; the filter's initialiser (None: Paddle's); whether an optimizer's L2 takes the batch norm
    CONV, NORM, INITIALIZER, DECAYS_NORM = "conv", "bn", None, True
    computes = ConvNorm()

    def __init__(
        self,
        num_channels: int,
        filter_size: int,
        num_filters: int,
        stride: int | tuple[int, int],
        padding: int | str,
        num_groups: int = 1,
        *,
        name: str,
        activation: str | None = "relu",
        data_format: str = "NCHW",
    ):
        super().__init__()
        conv = nn.Conv2D(
            num_channels,
            num_filters,
            filter_size,
            stride=stride,
            padding=padding,
            groups=num_groups,
            weight_attr=ParamAttr(name=f"{name}_weights", initializer=self.INITIALIZER and self.INITIALIZER()),
            bias_attr=False,
            data_format=data_format,
        )
        norm = batch_norm(num_filters, name, data_format, decays=self.DECAYS_NORM)
        self.add_sublayer(self.CONV, conv)
        self.add_sublayer(self.NORM, norm)
        self._activation = ACTIVATIONS[activation] if activation else None

    def forward(self, x):
        """[N, C, H, W] -> [N, num_filters, H / stride, W / stride], sizes rounded up (NHWC likewise)."""
        x = getattr(self, self.NORM)(getattr(self, self.CONV)(x))
        return self._activation(x) if self._activation else x


class SqueezeExcitation(nn.Layer):
    """A gate for each channel, from the means of all (Hu et al. 2018, https://arxiv.org/abs/1709.01507).

    Args:
        num_channels: of the map.
        num_squeezed: channels between.
        name: start of the four parameter names: ``{name}_1_weights``, ``{name}_1_offset``, ``{name}_2_...``.
        slope: of the gate, a piecewise linear sigmoid around 0.5: 1/6 in the MobileNetV3 paper, 0.2 in Paddle.
        data_format: ``"NCHW"`` or ``"NHWC"``.
    """

    computes = Gate()

    def __init__(
        self, num_channels: int, num_squeezed: int, *, name: str, slope: float = 1 / 6, data_format: str = "NCHW"
    ):
        super().__init__()
        self.gates = True  # the map in is held until the gate is known; see paper.cost
        self._slope = slope
        self.avg_pool = nn.AdaptiveAvgPool2D(1, data_format=data_format)
        for number, c_in, c_out in ((1, num_channels, num_squeezed), (2, num_squeezed, num_channels)):
            attributes = {
                "weight_attr": ParamAttr(name=f"{name}_{number}_weights"),
                "bias_attr": ParamAttr(name=f"{name}_{number}_offset"),
            }
            self.add_sublayer(f"conv{number}", nn.Conv2D(c_in, c_out, 1, data_format=data_format, **attributes))

    def forward(self, x):
        """[N, C, H, W] -> the same shape."""
        gate = self.conv2(F.relu(self.conv1(self.avg_pool(x))))
        return x * F.hardsigmoid(gate, slope=self._slope)  # as an operator: the old format lacks paddle.multiply


class DropPath(nn.Layer):
    """Drop a photo's whole map with probability ``rate``, in training (Huang et al. 2016, arXiv 1603.09382)."""

    computes = PathDrop()

    def __init__(self, rate: float):
        super().__init__()
        self._rate = rate

    def forward(self, x):
        """Any shape, the photos in front -> the same, what is kept divided by 1 - rate."""
        if not self.training:
            return x
        kept = paddle.full([], 1 - self._rate, x.dtype)
        return x / kept * paddle.floor(kept + paddle.rand([x.shape[0]] + [1] * (x.ndim - 1)).astype(x.dtype))

    def factors(self, photos: int):
        """Draw what the next training forward would multiply by: float32 [photos, 1, 1, 1]."""
        return self(paddle.ones([photos, 1, 1, 1], "float32"))


class LayerScale(nn.Layer):
    """A factor ``gamma`` for each channel, small at first (Touvron et al. 2021, arXiv 2103.17239)."""

    computes = ChannelScale()

    def __init__(self, num_channels: int, initial: float, *, name: str, data_format: str = "NCHW"):
        super().__init__()
        attribute = ParamAttr(name=f"{name}_gamma", initializer=Constant(initial))
        self.gamma = self.create_parameter([num_channels], attr=attribute)
        self._shape = [1, -1, 1, 1] if data_format == "NCHW" else [1, 1, 1, -1]

    def forward(self, x):
        """[N, C, H, W] -> the same shape."""
        return x * self.gamma.reshape(self._shape)


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
