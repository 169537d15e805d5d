"""Which network fits a budget: published accuracy and board latency beside size and cost counted here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path

from ppmobilenet import plots
from ppmobilenet.errors import UserError, did_you_mean
from ppmobilenet.paper import published
from ppmobilenet.paper.cost import Cost, cost_of
from ppmobilenet.paper.cost_text import amount
from ppmobilenet.registry import MODELS
from ppmobilenet.tables import text_table
from ppmobilenet.zoo import create_model

# what can stand against accuracy, and how it is written
AXES = {
    "latency": ("latency_ms", "milliseconds"),
    "madds": ("madds", "million multiply-adds"),
    "size": ("size_bytes", "megabytes"),
}


@dataclass(frozen=True)
class Candidate:
    """One network at one resolution and precision.

    Attributes:
        model: family name; ``scale`` is its width multiplier.
        precision: ``"fp32"``, ``"fp32 SSLD"`` (distilled), ``"int8 QAT"``, ``"int8 PTQ"``.
        top1: published ImageNet accuracy in percent, and who published it.
        size_bytes: of its weights, batch norm folded: 4 bytes each; int8: 1 byte each and 4 for offsets.
        madds: multiply-adds of one image.
        published_ms: on the chosen board, None where nobody published it.
        measured_ms: on this machine, None where nobody measured.
        pareto: nothing in the list is both more accurate and cheaper.
    """

    model: str
    scale: float
    resolution: int
    precision: str
    top1: float
    source: str
    parameters: int
    size_bytes: int
    madds: int
    published_ms: float | None = None
    measured_ms: float | None = None
    pareto: bool = False

    @property
    def latency_ms(self) -> float | None:
        """What counts as its latency: measured here if it was, else published."""
        return self.published_ms if self.measured_ms is None else self.measured_ms

    @property
    def name(self) -> str:
        return f"{self.model} x{self.scale:g} {self.resolution} px {self.precision}"


def candidates(device: str = "Snapdragon 855 armv8", threads: int = 1) -> list[Candidate]:
    """Return every network with a published accuracy; where Paddle and TensorFlow both published, Paddle's.

    Args:
        device: whose published latency to show, one of ``published.devices()``.
        threads: 1, 2 or 4.
    """
    devices = published.devices()
    if device not in devices:
        hint = did_you_mean(device, devices)
        raise UserError(f"no published latency on {device!r}", allowed=", ".join(devices), hint=hint)
    rows: dict[tuple, published.Accuracy] = {}
    for row in published.accuracies():
        held = rows.get(row[1:5])
        if held is None or held.source == published.TF:
            rows[row[1:5]] = row
    found = []
    for row in rows.values():
        cost = _cost(row.family, row.scale)
        runs_as = row.precision.replace(" SSLD", "")
        found.append(
            Candidate(
                row.family,
                row.scale,
                row.resolution,
                row.precision,
                row.top1,
                row.source,
                cost.parameters,
                _size(cost, row.precision),
                _madds(row.family, row.scale, row.resolution),
                published.latency(row.family, row.scale, row.resolution, runs_as, device, threads),
            )
        )
    return found


def choose(
    found: Sequence[Candidate],
    *,
    max_latency_ms: float | None = None,
    max_size_mb: float | None = None,
    max_madds_m: float | None = None,
    min_top1: float | None = None,
    by: str = "madds",
) -> list[Candidate]:
    """Return those within the budget, the most accurate first, the Pareto front marked.

    A candidate whose latency nobody knows is not within a latency budget.

    Args:
        found: of :func:`candidates`, measured or not.
        max_latency_ms: measured where it was, else published.
        max_size_mb: of the weights, million bytes.
        max_madds_m: million multiply-adds.
        min_top1: percent.
        by: what the Pareto front sets against accuracy: ``"madds"``, ``"size"`` or ``"latency"``.
    """
    fits = [
        c
        for c in found
        if (max_latency_ms is None or c.latency_ms is not None and c.latency_ms <= max_latency_ms)
        and (max_size_mb is None or c.size_bytes <= max_size_mb * 1e6)
        and (max_madds_m is None or c.madds <= max_madds_m * 1e6)
        and (min_top1 is None or c.top1 >= min_top1)
    ]
    front = pareto([(getattr(c, AXES[by][0]), c.top1) for c in fits])
    marked = [replace(c, pareto=on_front) for c, on_front in zip(fits, front)]
    return sorted(marked, key=lambda c: (-c.top1, c.madds))


def pareto(points: Sequence[tuple[float | None, float]]) -> list[bool]:
    """Tell for each (cost, gain) whether no other costs at most as much and gains at least as much, and differs."""
    return [
        cost is not None
        and not any(
            other is not None and other <= cost and more >= gain and (other, more) != (cost, gain)
            for other, more in points
        )
        for cost, gain in points
    ]


def choice_text(chosen: Sequence[Candidate], device: str, threads: int) -> str:
    """Return the list as a table; ``*`` marks the Pareto front."""
    columns = {
        "<": lambda c: "*" if c.pareto else "",
        "<model": lambda c: c.model,
        "scale": lambda c: f"{c.scale:g}",
        "px": lambda c: c.resolution,
        "<precision": lambda c: c.precision,
        "top-1 %": lambda c: f"{c.top1:.1f}",
        "size": lambda c: amount(c.size_bytes, "B"),
        "multiply-adds": lambda c: amount(c.madds),
        "published ms": lambda c: None if c.published_ms is None else f"{c.published_ms:.1f}",
    }
    if any(c.measured_ms is not None for c in chosen):
        columns["ms here"] = lambda c: None if c.measured_ms is None else f"{c.measured_ms:.1f}"
    columns["<accuracy published by"] = lambda c: c.source
    note = f"published ms: {device}, {threads} thread{'s' if threads > 1 else ''}; * Pareto front"
    return text_table(chosen, columns) + "\n" + note


def to_rows(chosen: Sequence[Candidate]) -> list[dict]:
    """Return plain values for JSON and CSV."""
    return [asdict(c) for c in chosen]


def draw(chosen: Sequence[Candidate], path: str | Path, by: str = "madds") -> Path:
    """Draw accuracy over ``by`` with the Pareto front as a line."""
    attribute, label = AXES[by]
    scale = 1 if by == "latency" else 1e6

    def points(wanted: Callable[[Candidate], bool]) -> tuple[list, list]:
        mine = sorted(
            (c for c in chosen if wanted(c) and getattr(c, attribute) is not None), key=lambda c: getattr(c, attribute)
        )
        return [(getattr(c, attribute) / scale, c.top1) for c in mine], [c.name for c in mine]

    lines = [plots.Line("Pareto front", *points(lambda c: c.pareto), dashed=True)]
    for family in dict.fromkeys(c.model for c in chosen):
        for kind in ("fp32", "int8"):
            wanted = points(lambda c, f=family, k=kind: c.model == f and c.precision.startswith(k))
            lines.append(plots.Line(f"{family} {kind}", *wanted, joined=False))
    axes = plots.Axis(label, log=True), plots.Axis("ImageNet top-1, %")
    return plots.save(plots.chart(lines, "Networks within the budget", *axes), path)


def build_scaled(family: str, scale: float):
    """Build a family's network; a family of several networks of one width each has no scale to set."""
    return create_model(family, **({"scale": scale} if "scale" in MODELS.parameters(family) else {}))


@cache
def _cost(family: str, scale: float) -> Cost:
    return cost_of(build_scaled(family, scale), 64)


def _madds(family: str, scale: float, resolution: int) -> int:
    """Multiply-adds at a multiple of 32 pixels.

    Exactly: those of maps grow with the area, of attention with its square; those of pooled features do not.
    """
    total = 0
    for row in _cost(family, scale).layers:
        power = 0 if row.output_shape[1:] in ((), (1, 1)) else 4 if row.kind == "attention" else 2
        total += row.madds * resolution**power // 64**power
    return total


def _size(cost: Cost, precision: str) -> int:
    weights = sum(layer.weights for layer in cost.layers)
    offsets = sum(layer.output_shape[0] for layer in cost.layers if layer.weights)
    return weights + 4 * offsets if precision.startswith("int8") else 4 * (weights + offsets)
