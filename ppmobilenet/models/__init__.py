"""The networks and the blocks they are made of, to build with.

| name | is |
|---|---|
| ``MobileNetV1`` ``MobileNetV2`` | the networks, of any ``scale``, ``class_num``, ``data_format``, ... |
| ``MobileNetV1_x0_25`` ... ``MobileNetV2_x2_0`` | the published variants: ``MobileNetV2_x0_25(class_num=10)`` |
| ``DepthwiseSeparable`` | MobileNetV1's block |
| ``InvertedResidualUnit`` ``InvresiBlocks`` | MobileNetV2's block, and a stage of several |
| ``ConvBNLayer`` | MobileNetV1's convolution: keys ``conv``, ``bn``; ReLU |
| ``mobilenet_v2.ConvBNLayer`` | MobileNetV2's: keys ``_conv``, ``_batch_norm``; ReLU6 |
| ``create_model`` ``list_models`` | the same networks by name, with published weights (``pretrained=True``) |

All are ``paddle.nn.Layer``: they go into ``paddle.Model``, a loop, an optimizer or another network as any layer does.
Names are imported at first use. Each family's file imports only paddle and its neighbours, and can be copied.
"""

import importlib

# the file that holds it -> names
_PUBLIC = {
    "mobilenet_v1": (
        "ConvBNLayer",
        "DepthwiseSeparable",
        "MobileNetV1_x0_25",
        "MobileNetV1_x0_5",
        "MobileNetV1_x0_75",
        "MobileNetV1",
    ),
    "mobilenet_v2": (
        "InvertedResidualUnit",
        "InvresiBlocks",
        "MobileNetV2_x0_25",
        "MobileNetV2_x0_5",
        "MobileNetV2_x0_75",
        "MobileNetV2",
        "MobileNetV2_x1_5",
        "MobileNetV2_x2_0",
    ),
    "zoo": ("create_model", "list_models"),
}
_FILES = {name: file for file, names in _PUBLIC.items() for name in names}

__all__ = [*_FILES]


def __getattr__(name: str):
    if name not in _FILES:
        raise AttributeError(f"module 'ppmobilenet.models' has no attribute {name!r}")
    thing = getattr(importlib.import_module(f"{__name__}.{_FILES[name]}"), name)
    globals()[name] = thing
    return thing


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
