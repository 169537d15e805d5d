"""The variants by name: ``create_model("MobileNetV2_x0_5", class_num=10)``, ``list_models("*V1*")``."""

from __future__ import annotations

import importlib
import pkgutil
from fnmatch import fnmatchcase
from pathlib import Path

import paddle
from paddle import nn

from ppmobilenet import models
from ppmobilenet.errors import UserError, did_you_mean
from ppmobilenet.models.family import FAMILIES, VARIANTS
from ppmobilenet.registry import MODELS
from ppmobilenet.weights.download import published_file
from ppmobilenet.weights.loading import load_weights

# a family is one file of that folder, which registers it
for _file in pkgutil.iter_modules(models.__path__):
    importlib.import_module(f"{models.__name__}.{_file.name}")
MODELS.show(VARIANTS)


def list_models(pattern: str = "*") -> list[str]:
    """Return the names that :func:`create_model` knows and that match ``pattern`` (``"*V2*"``), family by family."""
    families = sorted(FAMILIES.values(), key=lambda family: family.name)
    return [name for family in families for name in family.variants if fnmatchcase(name, pattern)]


def create_model(name: str, pretrained: bool | str | Path = False, use_ssld: bool = False, **kwargs) -> nn.Layer:
    """Build a network, with weights if asked.

    Any number of models of one process may be built with this: each gets parameter names of its own scope.

    Args:
        name: one of :func:`list_models`.
        pretrained: True downloads the published ImageNet weights; a path reads them from there. Either is strict;
            the classifier alone may differ, where ``class_num`` does.
        use_ssld: with ``pretrained=True``, the weights trained by PaddleClas's SSLD distillation.
        **kwargs: of the class, for example ``class_num``, ``scale``, ``dropout``, ``features_only``.

    Raises:
        UserError: an unknown name or keyword, a keyword that the variant fixes, or a value out of range.
    """
    name = MODELS.own_name(name)
    build = MODELS.resolve(name)
    fixed = getattr(build, "keywords", {})
    known = MODELS.parameters(name)
    for key in kwargs:
        if key in fixed:
            freer = MODELS.freer(name, key)
            other = f", or use {freer}, which takes any: create_model({freer!r}, {key}={kwargs[key]!r})"
            raise UserError(f"{name} fixes {key} at {fixed[key]!r}", hint=f"leave {key} out{other if freer else ''}")
        if key not in known:
            raise UserError(f"{name} has no argument {key!r}", hint=did_you_mean(key, known))
    try:
        with paddle.utils.unique_name.guard():
            model = build(**kwargs)
    except ValueError as error:
        raise UserError(f"{name}: {error}") from error
    if pretrained:
        load_weights(model, published_file(name, use_ssld=use_ssld) if pretrained is True else pretrained)
    return model
