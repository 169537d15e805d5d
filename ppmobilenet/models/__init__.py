"""The networks and the blocks they are made of, to build with.

| name | is |
|---|---|
| ``MobileNetV1`` ... ``MobileNetV4`` | the networks, of any ``class_num``, ``data_format``, up to V3 ``scale``, ... |
| ``MobileNetV1_x0_25`` ... ``MobileNetV4_hybrid_large`` | the published variants: ``MobileNetV2_x0_25(class_num=10)`` |
| ``DepthwiseSeparable`` | MobileNetV1's block |
| ``InvertedResidualUnit`` ``InvresiBlocks`` | MobileNetV2's block, and a stage of several |
| ``ResidualUnit`` | MobileNetV3's block, with squeeze-excitation or without |
| ``UniversalInvertedBottleneck`` ``FusedInvertedBottleneck`` ``MobileAttention`` | MobileNetV4's |
| ``ConvBNLayer`` | MobileNetV1's convolution: keys ``conv``, ``bn``; ReLU |
| ``mobilenet_v2.ConvBNLayer`` | MobileNetV2's: keys ``_conv``, ``_batch_norm``; ReLU6 |
| ``Family`` ``register`` | how the kit comes to know a family, also one of yours |

All are ``paddle.nn.Layer``: they go into ``paddle.Model``, a loop, an optimizer or another network as any layer does.
Names are imported at first use. The files import only paddle and each other: copy this folder to use them alone. A
family is one file, with the paper's table, its blocks and variants, and itself as a value; ``network``, ``layers`` and
``widths`` hold what families have in common. ``ppmobilenet.create_model`` builds the same networks by name, with
published weights.
"""

import importlib
import pkgutil

from .family import FAMILIES, Family, family_of, register

_OWN = {"Family": Family, "family_of": family_of, "register": register}


def _families() -> list:
    """Return the modules that hold a family, in the order of their names."""
    modules = [importlib.import_module(f"{__name__}.{file.name}") for file in pkgutil.iter_modules(__path__)]
    return [module for module in modules if hasattr(module, "FAMILY")]


def __getattr__(name: str):
    if name == "__all__":
        return __dir__()
    if not name[0].isupper() or not (found := [m for m in _families() if name in vars(m)]):
        raise AttributeError(f"module 'ppmobilenet.models' has no attribute {name!r}")
    thing = getattr(found[0], name)  # ConvBNLayer: MobileNetV1's
    globals()[name] = thing
    return thing


def __dir__() -> list[str]:
    """The public names: those of the families' files that begin with a capital, and what registers them."""
    own = {
        name
        for module in _families()
        for name, thing in vars(module).items()
        if name[0].isupper() and not name.isupper() and getattr(thing, "__module__", module.__name__) == module.__name__
    }
    variants = {name for family in FAMILIES.values() for name in family.variants}
    return sorted({*_OWN, *own, *variants})
