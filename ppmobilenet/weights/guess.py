"""Which network a file's shapes belong to: the name and arguments to build it with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from math import ceil

# the papers' tables, as in the models' files: widths and units of the stages
V1_WIDTHS = (64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)
V2_STAGES = ((16, 1), (24, 2), (32, 3), (64, 4), (96, 3), (160, 3), (320, 1))
PUBLISHED = {
    "MobileNetV1": {0.25: "_x0_25", 0.5: "_x0_5", 0.75: "_x0_75", 1.0: ""},
    "MobileNetV2": {0.25: "_x0_25", 0.5: "_x0_5", 0.75: "_x0_75", 1.0: "", 1.5: "_x1_5", 2.0: "_x2_0"},
}
SCALES = (0.1, 0.125, 0.25, 0.35, 0.5, 0.75, 1.0, 1.1, 1.2, 1.25, 1.3, 1.4, 1.5, 1.75, 2.0)
DEPTHS = (1.0, 1.2, 1.4, 2.0)  # 1.1 and 1.2 round to the same units, as do 1.4 and 1.5


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


def divisible(channels: int, scale: float, divisor: int | None) -> int:
    """Return the width of a layer, as ``models.mobilenet_v2.scaled_width`` defines it."""
    width = channels * scale
    if divisor is None:
        return int(width)
    rounded = max(divisor, int(width + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * width else rounded


def guess(shapes: Mapping[str, tuple[int, ...]], family: str) -> Architecture | None:
    """Find the network whose widths and depth a file's shapes are.

    Args:
        shapes: neutral name (see :mod:`.naming`) -> shape as Paddle keeps it.
        family: ``"MobileNetV1"`` or ``"MobileNetV2"``.

    Returns:
        The network with the fewest unusual arguments, or None if no scale, divisor and depth make these widths.
        The activation cannot be told from shapes; it is the family's own.
    """
    count = 1 + max((int(name.split(".")[1]) for name in shapes if name.startswith("block.")), default=-1)
    outs = [shapes.get(f"block.{i}.out.weight", (0,))[0] for i in range(count)]
    stem = shapes.get("stem.weight", (0,))[0]
    classes = shapes.get("head.bias", (1000,))[0]
    if not count or 0 in outs or not stem:
        return None
    found = _v1(stem, outs) if family == "MobileNetV1" else _v2(stem, outs, shapes)
    if found is None:
        return None
    scale = found.pop("scale")
    name = family + PUBLISHED[family].get(scale, "")
    if scale not in PUBLISHED[family]:
        found = {"scale": scale, **found}
    if classes != 1000:
        found["class_num"] = classes
    if "head.weight" not in shapes and "head.bias" not in shapes:
        found["class_num"] = 0
    return Architecture(name, found)


def _scales(width: int, channels: int) -> Iterator[float]:
    yield from SCALES
    yield round(width / channels, 4)


def _v1(stem: int, outs: list[int]) -> dict | None:
    for scale in _scales(outs[-1], V1_WIDTHS[-1]):
        if stem == int(32 * scale) and outs == [int(w * scale) for w in V1_WIDTHS]:
            return {"scale": scale}
    return None


def _v2(stem: int, outs: list[int], shapes: Mapping[str, tuple[int, ...]]) -> dict | None:
    last = shapes.get("last.weight", (None,))[0]
    expansion = round(shapes["block.1.dw.weight"][0] / outs[0], 3) if "block.1.dw.weight" in shapes else 6
    for divisor, fixed, depth, scale in product((None, 8, 4, 16), (False, True), DEPTHS, _scales(outs[-1], 320)):
        if fixed and (scale, depth) == (1.0, 1.0):
            continue
        if stem != (32 if fixed else divisible(32, scale, divisor)):
            continue
        expected = []
        for i, (channels, units) in enumerate(V2_STAGES):
            units = units if fixed and i in (0, len(V2_STAGES) - 1) else ceil(units * depth)
            expected += [divisible(channels, scale, divisor)] * units
        if outs != expected:
            continue
        usual = 1280 if fixed else divisible(1280, max(1.0, scale), divisor)
        found: dict = {"scale": scale}
        if expansion != 6:
            found["expansion"] = expansion
        if divisor is not None:
            found["divisor"] = divisor
        if depth != 1.0:
            found["depth"] = depth
        if fixed:
            found["fix_stem_head"] = True
        if last not in (None, usual):
            found["last_channel"] = last
        return found
    return None
