"""Accuracy and latency that others published for these networks: what the papers' multipliers cost and bring.

The figures are the families' (:mod:`ppmobilenet.weights.layouts`). TensorFlow rounds widths to multiples of 8, Paddle
does not; its accuracies stand for a width and a resolution, not for one file of weights.
"""

from __future__ import annotations

from typing import NamedTuple

from ppmobilenet.weights import catalog
from ppmobilenet.weights.layouts import LAYOUTS, PC, PS, TF


class Accuracy(NamedTuple):
    """ImageNet validation accuracy in percent; ``family`` is the name that takes any scale: MobileNetV3_small."""

    source: str
    family: str
    scale: float
    resolution: int
    precision: str
    top1: float
    top5: float


class Latency(NamedTuple):
    """Milliseconds for one image, batch 1, on 1, 2 and 4 threads; Paddle Lite unless the device says otherwise."""

    source: str
    family: str
    scale: float
    resolution: int
    precision: str
    device: str
    ms_1: float | None
    ms_2: float | None
    ms_4: float | None


# in tables Paddle's networks come first
_ORDER = {PC: 0, TF: 1, PS: 2}


def accuracies() -> list[Accuracy]:
    """Return every published accuracy."""
    rows = [
        Accuracy(PC, r.any_scale, r.scale, r.preprocessing.crop, "fp32 SSLD" if r.ssld else "fp32", r.top1, r.top5)
        for r in catalog.rows().values()
    ]
    rows += [
        Accuracy(source, *_network(family, which), resolution, precision, *tops)
        for family, layouts in LAYOUTS.items()
        for source, precision, which, by_resolution in layouts.accuracy
        for resolution, tops in by_resolution.items()
    ]
    return sorted(rows, key=lambda row: _ORDER.get(row.source, len(_ORDER)))


def latencies() -> list[Latency]:
    """Return every published latency."""
    rows = [
        Latency(source, *_network(family, which), resolution, precision, device, *(*ms, None, None)[:3])
        for family, layouts in LAYOUTS.items()
        for source, precision, which, device, by_resolution in layouts.latency
        for resolution, ms in by_resolution.items()
    ]
    return sorted(rows, key=lambda row: _ORDER.get(row.source, len(_ORDER)))


def _network(family: str, which: float | str) -> tuple[str, float]:
    """Return the name that takes any scale, and the scale, of a family's multiplier or of a published model."""
    row = catalog.rows()[which] if isinstance(which, str) else None
    return (row.any_scale, row.scale) if row else (family, which)


def devices() -> tuple[str, ...]:
    """Return the boards and phones with a published latency."""
    return tuple(dict.fromkeys(row.device for row in latencies()))


def accuracy(family: str, scale: float, resolution: int, precision: str = "fp32") -> list[Accuracy]:
    """Return the published rows for one network; ``precision`` is ``"fp32"``, ``"fp32 SSLD"``, ``"int8 PTQ"``, ..."""
    wanted = (family, scale, resolution, precision)
    return [row for row in accuracies() if row[1:5] == wanted]


def latency(family: str, scale: float, resolution: int, precision: str, device: str, threads: int) -> float | None:
    """Return the published milliseconds for one network on one device, or None."""
    wanted = (family, scale, resolution, precision, device)
    return next((getattr(row, f"ms_{threads}") for row in latencies() if row[1:6] == wanted), None)
