"""Where each published layout of MobileNetV1 and V2 keeps its tensors: one row a layout.

Rows are read by :mod:`.naming`, which explains the neutral spelling (``stem``, ``block.N.dw``, ``last``, ``head``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

# neutral role <- the end of the key, for a convolution, a batch norm and the classifier
DOTTED = {
    "conv": {".weight": "weight", ".bias": "bias"},
    "norm": {
        ".weight": "scale",
        ".bias": "offset",
        "._mean": "mean",
        "._variance": "variance",
        ".running_mean": "mean",
        ".running_var": "variance",
        ".num_batches_tracked": "steps",
    },
    "head": {".weight": "weight", ".bias": "bias"},
}
PARAM_ATTR = {
    "conv": {"_weights": "weight"},
    "norm": {"_bn_scale": "scale", "_bn_offset": "offset", "_bn_mean": "mean", "_bn_variance": "variance"},
    "head": {"_weights": "weight", "_offset": "bias"},
}
DIMENSIONS = {"conv": {"weight": 4}, "norm": {"steps": 0}, "head": {"weight": 2}}  # all others: 1

# <s> stage and <i> unit order the blocks; <b> is V1's "2_1" ... "5_6", "6"; <u> PaddleClas V2's unit; <p> any prefix
PLACES = {
    "<s>": r"(?P<s>\d+)",
    "<i>": r"(?P<i>\d+)",
    "<b>": r"(?P<s>[2-6])(?:_(?P<i>\d+))?",
    "<u>": r"(?:_first_block|\w*?conv\d+_(?P<i>\d+))",
    "<p>": r"\w*?",
    "<x>": r"\d+",
}


@dataclass(frozen=True)
class Scheme:
    """Where one layout keeps its tensors.

    Attributes:
        name: as reports show it and ``--scheme`` takes it.
        text: whose layout it is.
        family: ``"MobileNetV1"`` or ``"MobileNetV2"``.
        layers: (neutral unit, convolution's key, batch norm's key); the first row that matches a key wins.
        heads: the classifier's key, or several.
        torch: PyTorch's: classifier weights are [out, in], batch norm statistics ``running_mean``.
        ends: how keys end.
    """

    name: str
    text: str
    family: str
    layers: tuple[tuple[str, str, str], ...]
    heads: tuple[str, ...]
    torch: bool = False
    ends: Mapping = field(default_factory=lambda: DOTTED)


def _v1(name: str, text: str, stem: tuple, block: str, dw: tuple, out: tuple, head: str, **more) -> Scheme:
    layers = (
        ("stem", *stem),
        ("dw", f"{block}{dw[0]}", f"{block}{dw[1]}"),
        ("out", f"{block}{out[0]}", f"{block}{out[1]}"),
    )
    return Scheme(name, text, "MobileNetV1", layers, (head,), **more)


_TORCHVISION = (
    ("stem", "features.0.0", "features.0.1"),
    ("dw", "features.1.conv.0.0", "features.1.conv.0.1"),
    ("out", "features.1.conv.1", "features.1.conv.2"),
    ("expand", "features.<i>.conv.0.0", "features.<i>.conv.0.1"),
    ("dw", "features.<i>.conv.1.0", "features.<i>.conv.1.1"),
    ("out", "features.<i>.conv.2", "features.<i>.conv.3"),
    ("last", "features.<x>.0", "features.<x>.1"),
)

SCHEMES = (
    _v1(
        "paddleclas-v1",
        "PaddleClas MobileNetV1 (also this project's)",
        ("conv.conv", "conv.bn"),
        "blocks.<i>.",
        ("depthwise_conv.conv", "depthwise_conv.bn"),
        ("pointwise_conv.conv", "pointwise_conv.bn"),
        "fc",
    ),
    _v1(
        "paddleclas-v1-first",
        "PaddleClas MobileNetV1 of 2020 (also PaddleDetection's trunk)",
        ("conv1._conv", "conv1._batch_norm"),
        "conv<b>.",
        ("_depthwise_conv._conv", "_depthwise_conv._batch_norm"),
        ("_pointwise_conv._conv", "_pointwise_conv._batch_norm"),
        "out",
    ),
    _v1(
        "paddle-vision-v1",
        "paddle.vision MobileNetV1",
        ("conv1.0", "conv1.1"),
        "conv<b>.",
        ("_depthwise_conv.0", "_depthwise_conv.1"),
        ("_pointwise_conv.0", "_pointwise_conv.1"),
        "fc",
    ),
    _v1(
        "paddle-vision-v1-first",
        "paddle.vision MobileNetV1 of Paddle 2.0",
        ("conv1._conv", "conv1._norm_layer"),
        "conv<b>.",
        ("_depthwise_conv._conv", "_depthwise_conv._norm_layer"),
        ("_pointwise_conv._conv", "_pointwise_conv._norm_layer"),
        "fc",
    ),
    _v1(
        "param-attr-v1",
        "Paddle static graph MobileNetV1 (ParamAttr names)",
        ("conv1", "conv1"),
        "conv<b>",
        ("_dw", "_dw"),
        ("_sep", "_sep"),
        "fc7",
        ends=PARAM_ATTR,
    ),
    _v1(
        "timm-v1",
        "timm mobilenetv1",
        ("conv_stem", "bn1"),
        "blocks.<s>.<i>.",
        ("conv_dw", "bn1"),
        ("conv_pw", "bn2"),
        "classifier",
        torch=True,
    ),
    Scheme(
        "pytorch-v1-stages",
        "PyTorch MobileNetV1 in three stages (RetinaFace)",
        "MobileNetV1",
        (
            ("stem", "stage1.0.0", "stage1.0.1"),
            ("dw", "stage<s>.<i>.0", "stage<s>.<i>.1"),
            ("out", "stage<s>.<i>.3", "stage<s>.<i>.4"),
        ),
        ("fc",),
        torch=True,
    ),
    Scheme(
        "pytorch-v1-sequence",
        "PyTorch MobileNetV1 as one sequence (model.N.M)",
        "MobileNetV1",
        (
            ("stem", "model.0.0", "model.0.1"),
            ("dw", "model.<i>.0", "model.<i>.1"),
            ("out", "model.<i>.3", "model.<i>.4"),
        ),
        ("fc",),
        torch=True,
    ),
    Scheme(
        "paddleclas-v2",
        "PaddleClas MobileNetV2 (also this project's)",
        "MobileNetV2",
        (
            ("stem", "conv1._conv", "conv1._batch_norm"),
            ("expand", "<p>conv<s>.<u>._expand_conv._conv", "<p>conv<s>.<u>._expand_conv._batch_norm"),
            ("dw", "<p>conv<s>.<u>._bottleneck_conv._conv", "<p>conv<s>.<u>._bottleneck_conv._batch_norm"),
            ("out", "<p>conv<s>.<u>._linear_conv._conv", "<p>conv<s>.<u>._linear_conv._batch_norm"),
            ("last", "conv9._conv", "conv9._batch_norm"),
        ),
        ("out",),
    ),
    Scheme(
        "param-attr-v2",
        "Paddle static graph MobileNetV2 (ParamAttr names)",
        "MobileNetV2",
        (
            ("stem", "conv1_1", "conv1_1"),
            ("expand", "conv<s>_<i>_expand", "conv<s>_<i>_expand"),
            ("dw", "conv<s>_<i>_dwise", "conv<s>_<i>_dwise"),
            ("out", "conv<s>_<i>_linear", "conv<s>_<i>_linear"),
            ("last", "conv9", "conv9"),
        ),
        ("fc10",),
        ends=PARAM_ATTR,
    ),
    Scheme("torchvision-v2", "torchvision MobileNetV2", "MobileNetV2", _TORCHVISION, ("classifier.1",), torch=True),
    Scheme("paddle-vision-v2", "paddle.vision MobileNetV2", "MobileNetV2", _TORCHVISION, ("classifier.1",)),
    Scheme(
        "timm-v2",
        "timm mobilenetv2",
        "MobileNetV2",
        (
            ("stem", "conv_stem", "bn1"),
            ("dw", "blocks.0.<i>.conv_dw", "blocks.0.<i>.bn1"),
            ("out", "blocks.0.<i>.conv_pw", "blocks.0.<i>.bn2"),
            ("expand", "blocks.<s>.<i>.conv_pw", "blocks.<s>.<i>.bn1"),
            ("dw", "blocks.<s>.<i>.conv_dw", "blocks.<s>.<i>.bn2"),
            ("out", "blocks.<s>.<i>.conv_pwl", "blocks.<s>.<i>.bn3"),
            ("last", "conv_head", "bn2"),
        ),
        ("classifier",),
        torch=True,
    ),
    Scheme(
        "pytorch-v2-tutorial",
        "the plain PyTorch MobileNetV2 of tutorials (features.N.conv.M)",
        "MobileNetV2",
        (
            ("stem", "features.0.0", "features.0.1"),
            ("dw", "features.1.conv.0", "features.1.conv.1"),
            ("out", "features.1.conv.3", "features.1.conv.4"),
            ("expand", "features.<i>.conv.0", "features.<i>.conv.1"),
            ("dw", "features.<i>.conv.3", "features.<i>.conv.4"),
            ("out", "features.<i>.conv.6", "features.<i>.conv.7"),
            ("last", "features.<x>.0", "features.<x>.1"),
            ("last", "conv.0", "conv.1"),
        ),
        ("classifier.1", "classifier"),
        torch=True,
    ),
)
AUTOMATIC = "paddle-automatic"
# MobileNetV1s whose author used ReLU6, as TensorFlow's release; Paddle's use ReLU
RELU6_SCHEMES = ("timm-v1",)
SCHEME_NAMES = tuple(s.name for s in SCHEMES) + (AUTOMATIC,)
