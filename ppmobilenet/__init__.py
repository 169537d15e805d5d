"""ppmobilenet: MobileNets for PaddlePaddle, from photos to a model that gives the same answers on an ARM board.

The public names are imported at first use, so that ``import ppmobilenet`` is cheap and prediction from an exported
package never imports what it does not need.
"""

from __future__ import annotations

import importlib

__version__ = "0.2.0"

# public name -> the module it lives in
_PUBLIC = {
    "UserError": "ppmobilenet.errors",
    "load_config": "ppmobilenet.config",
    "MobileNetV1": "ppmobilenet.models",
    "MobileNetV2": "ppmobilenet.models",
    "MobileNetV3": "ppmobilenet.models",
    "MobileNetV4": "ppmobilenet.models",
    "create_model": "ppmobilenet.zoo",
    "list_models": "ppmobilenet.zoo",
    "load_weights": "ppmobilenet.weights.loading",
    "train": "ppmobilenet.training.trainer",
    "evaluate": "ppmobilenet.training.evaluator",
    "export": "ppmobilenet.workshop.export",
    "Predictor": "ppmobilenet.field.predictor",
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str):
    if name not in _PUBLIC:
        raise AttributeError(f"module 'ppmobilenet' has no attribute {name!r}")
    thing = getattr(importlib.import_module(_PUBLIC[name]), name)
    globals()[name] = thing
    return thing


def __dir__() -> list[str]:
    return sorted(__all__)
