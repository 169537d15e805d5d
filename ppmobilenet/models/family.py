"""A family of networks as a value: all that training, export, cost and reports ask of a kind of network.

A network's file ends with ``FAMILY = register(Family(...))``; so does a file outside of the package. What a network is
asked for while it runs (``units()``, ``head(x)``, ``num_features``, a unit's ``shortcut``) is its own: see
:class:`.network.Network`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    """One kind of network.

    Attributes:
        name: ``"MobileNetV2"``.
        network: its class; what a model is an instance of decides which family it belongs to.
        variants: what can be built by name, in the order of tables: the class, or ``functools.partial`` of it with
            what the name fixes: ``{"MobileNetV2_x0_5": partial(MobileNetV2, scale=0.5), "MobileNetV2": MobileNetV2}``.
        paper: where the network was published.
        short: what benchmarks call its x1.0 variant: ``"v2"``.
        automatic_names: PaddleClas names no parameter of it, so the optimizer states that it writes have Paddle's
            numbered names (``conv2d_0.w_0``), and those written here get them too.
    """

    name: str
    network: type
    variants: Mapping[str, Callable]
    paper: str = ""
    short: str = ""
    automatic_names: bool = False

    def fixed(self, variant: str) -> dict:
        """Return the arguments that a variant's name fixes: ``{"scale": 0.5}``."""
        return dict(getattr(self.variants[variant], "keywords", {}))

    @property
    def classifier(self) -> str:
        """The name of the classifier's layer, as the network's ``CLASSIFIER`` says."""
        return getattr(self.network, "CLASSIFIER", "fc")

    def scales(self, variant: str) -> tuple[float, ...]:
        """Return the width multipliers that have names, of the variants that differ from this one in nothing else."""

        def split(name: str) -> tuple[float, dict]:
            fixed = self.fixed(name)
            return fixed.pop("scale", 1.0), fixed

        mine = split(variant)[1]
        return tuple(sorted(scale for scale, fixed in map(split, self.variants) if fixed == mine))


FAMILIES: dict[str, Family] = {}
# what create_model and Arch.name know
VARIANTS: dict[str, Callable] = {}


def register(family: Family) -> Family:
    """Make a family's variants known everywhere: ``create_model``, ``Arch.name``, the commands.

    Returns:
        The family.

    Raises:
        ValueError: its name or a variant's is taken.
    """
    for name in (family.name, *family.variants):
        if name in FAMILIES or name in VARIANTS:
            raise ValueError(f"model {name!r} is registered twice")
    FAMILIES[family.name] = family
    VARIANTS.update(family.variants)
    return family


def family_of(model: object) -> Family | None:
    """Return the family of a network, or of a variant's name; None for a network that no family was registered for."""
    if isinstance(model, str):
        return next((family for family in FAMILIES.values() if model in family.variants), None)
    return next((family for family in FAMILIES.values() if isinstance(model, family.network)), None)


def classifier_of(model: object) -> str:
    """Return the name of a network's classifier layer: its family's, else that of its last linear layer."""
    family = family_of(model)
    if family is not None:
        return family.classifier
    linear = [name for name, layer in model.named_sublayers() if type(layer).__name__ == "Linear"]
    return linear[-1] if linear else ""
