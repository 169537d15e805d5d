"""Which network a file's shapes belong to: the name and arguments to build it with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ppmobilenet.weights.layouts import LAYOUTS


@dataclass
class Architecture:
    """A network: ``create_model(name, **arguments)``.

    Attributes:
        name: a name that ``create_model`` knows.
        arguments: what differs from that name's published network.
    """

    name: str
    arguments: dict = field(default_factory=dict)

    def __str__(self) -> str:
        return self.name + (f" with {self.arguments_text}" if self.arguments else "")

    @property
    def arguments_text(self) -> str:
        """``scale=0.5, divisor=8``."""
        return ", ".join(f"{key}={value!r}" for key, value in self.arguments.items())


def guess(shapes: Mapping[str, tuple[int, ...]], family: str) -> Architecture | None:
    """Find the network whose widths and depth a file's shapes are.

    Args:
        shapes: neutral name (see :mod:`.naming`) -> shape as Paddle keeps it.
        family: one of :data:`.layouts.LAYOUTS`.

    Returns:
        The network with the fewest unusual arguments, or None if no scale, divisor and depth make these widths.
        The activation cannot be told from shapes; it is the family's own.
    """
    stem, outs = _widths(shapes)
    found = LAYOUTS[family].guess(stem, outs, shapes) if stem and outs else None
    if found is None:
        return None
    named = ((row[0], row[1]) for row in LAYOUTS[family].published if row[1].items() <= found.items())
    name, fixed = next(named, (family, {}))
    arguments = {key: value for key, value in found.items() if key not in fixed}
    classes = shapes.get("head.bias", (1000,))[0]
    if classes != 1000:
        arguments["class_num"] = classes
    if "head.weight" not in shapes and "head.bias" not in shapes:
        arguments["class_num"] = 0
    return Architecture(name, arguments)


def refusal(shapes: Mapping[str, tuple[int, ...]], family: str) -> str | None:
    """Say what a file's shapes are, where they are the family's and of no network here; else None."""
    stem, outs = _widths(shapes)
    return LAYOUTS[family].refusal(stem, outs, shapes) if stem and outs else None


def _widths(shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, list[int]]:
    """Return the channels of the first convolution and of each block's output; none where a block has none."""
    count = 1 + max((int(name.split(".")[1]) for name in shapes if name.startswith("block.")), default=-1)
    outs = [shapes.get(f"block.{i}.out.weight", (0,))[0] for i in range(count)]
    return shapes.get("stem.weight", (0,))[0], [] if 0 in outs else outs
