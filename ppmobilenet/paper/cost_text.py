"""How a cost is shown: as text on a terminal, as SVG in a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ppmobilenet import plots
from ppmobilenet.tables import text_table


def amount(value: float, unit: str = "") -> str:
    """Return a number with three digits and K, M or G: ``amount(3505960) == "3.51M"``."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "K")):
        if abs(value) >= size:
            return f"{value / size:.3g}{letter}{unit}" if value < 999.5 * size else f"{value / size:.0f}{letter}{unit}"
    return f"{value:g}{unit}"


def cost_text(cost: Mapping, weights: str | None = None) -> str:
    """Return the page that ``ppmobilenet cost`` prints.

    Args:
        cost: of :meth:`ppmobilenet.paper.cost.Cost.to_dict`.
        weights: file that was loaded; without one nothing is said about dead filters.
    """
    height, width = cost["resolution"]
    images = "one image" if cost["batch"] == 1 else f"{cost['batch']} images"
    split = f", inverted residuals in {cost['split']} slices" if cost["split"] > 1 else ""
    ratios = [row["ratio"] for row in cost["separable"]]
    lines = [
        _layers(cost),
        "",
        f"{cost['model']} at {height}x{width}, {cost['bits']}-bit values",
        f"  parameters      {cost['parameters']:,} ({amount(cost['model_bytes'], 'B')})",
        f"  multiply-adds   {cost['madds']:,} an image",
    ]
    if cost["products"]:
        lines.append(
            f"                  {cost['products']:,} of them attention's products, which PaddleClas leaves out"
        )
    if cost["paper_madds"] != cost["madds"]:
        lines.append(f"                  {cost['paper_madds']:,} without the 1x1 expansion at t = 1, as papers count")
    if cost["peak_activation_bytes"] is not None:
        peak = f"{amount(cost['peak_activation_bytes'], 'B')} for {images} at {cost['peak_at']}{split}"
        lines.append(f"  peak memory     {peak} (activations)")
    lines += [f"  {what:<15} left out: {why}" for what, why in cost["left_out"].items()]
    if ratios:
        lines.append(
            f"  separable       depthwise + 1x1 cost {min(ratios):.3f} to {max(ratios):.3f} of a standard convolution "
            "(1/N + 1/k^2)"
        )
    if weights:
        dead, rows = cost["dead_filters"], [r for r in cost["layers"] if r["dead_filters"] is not None]
        total = sum(r["output_shape"][0] for r in rows)
        lines.append(f"  dead filters    {sum(dead.values())} of {total} depthwise filters are all zero in {weights}")
        lines += [f"                  {count} in {name}" for name, count in dead.items()]
    lines += ["", "by kind of layer (MobileNetV1, Table 2)", _kinds(cost)]
    lines += ["", f"largest tensor at each size (MobileNetV2, Table 3){split}", _sizes(cost)]
    return "\n".join(lines)


def _layers(cost: Mapping) -> str:
    columns = {
        "<layer": lambda r: r["name"],
        "<kind": lambda r: r["kind"],
        "in": lambda r: "x".join(map(str, r["input_shape"])),
        "out": lambda r: "x".join(map(str, r["output_shape"])),
        "parameters": lambda r: f"{r['parameters']:,}",
        "multiply-adds": lambda r: f"{r['madds']:,}",
        "%": lambda r: f"{100 * r['madds'] / cost['madds']:.2f}",
        "output memory": lambda r: amount(r["activation_bytes"], "B"),
    }
    return text_table(cost["layers"], columns)


def _kinds(cost: Mapping) -> str:
    columns = {
        "<kind": lambda r: r["kind"],
        "layers": lambda r: r["layers"],
        "multiply-adds": lambda r: f"{r['madds']:,}",
        "% ": lambda r: f"{r['madds_percent']:.2f}",
        "weights": lambda r: f"{r['weights']:,}",
        "%": lambda r: f"{r['weights_percent']:.2f}",
    }
    return text_table(cost["by_kind"], columns)


def _sizes(cost: Mapping) -> str:
    columns = {
        "size": lambda r: f"{r['height']}x{r['width']}",
        "channels": lambda r: r["channels"],
        "memory": lambda r: amount(r["bytes"], "B"),
        "<layer": lambda r: r["layer"],
    }
    return text_table(cost["by_resolution"], columns)


def sweep_text(rows: Sequence[Mapping]) -> str:
    """Return the table of :func:`ppmobilenet.paper.cost.sweep`."""
    return text_table(
        rows,
        {
            "<model": lambda r: r["model"],
            "alpha": lambda r: r["alpha"],
            "rho": lambda r: f"{r['rho']:.3f}",
            "px": lambda r: r["resolution"],
            "parameters": lambda r: amount(r["parameters"]),
            "multiply-adds": lambda r: amount(r["madds"]),
            "peak memory": lambda r: r["peak_activation_bytes"] and amount(r["peak_activation_bytes"], "B"),
            "top-1 %": lambda r: r["top1"],
            "<published by": lambda r: r["source"],
        },
    )


def draw_sweep(rows: Sequence[Mapping], path: str | Path) -> Path:
    """Draw a sweep: multiply-adds over the resolution, and published accuracy over multiply-adds."""
    by_alpha: dict[float, list[Mapping]] = {}
    for row in rows:
        by_alpha.setdefault(row["alpha"], []).append(row)
    family = rows[0]["model"]
    cost_lines = [
        plots.Line(f"alpha {alpha}", [(r["resolution"], r["madds"] / 1e6) for r in mine])
        for alpha, mine in by_alpha.items()
    ]
    accuracy_lines = []
    for alpha, mine in by_alpha.items():
        known = [r for r in mine if r["top1"] is not None]
        labels = [f"alpha {alpha}, {r['resolution']} px: {r['top1']} % ({r['source']})" for r in known]
        points = [(r["madds"] / 1e6, r["top1"]) for r in known]
        accuracy_lines.append(plots.Line(f"alpha {alpha}", points, labels))
    side, madds = plots.Axis("resolution, pixels"), plots.Axis("million multiply-adds")
    top1 = plots.Axis("ImageNet top-1, %")
    pictures = [
        plots.chart(cost_lines, f"{family}: cost", side, madds),
        plots.chart(accuracy_lines, f"{family}: published accuracy", madds._replace(log=True), top1),
    ]
    return plots.save(plots.stack(pictures, f"{family}: width and resolution multipliers"), path)
