"""The sections of a report's page on photos with several labels, each as HTML."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from pathlib import Path

from ppmobilenet import plots
from ppmobilenet.report import sections, several
from ppmobilenet.report.several import LabelPredictions

NOTE = (
    "<p>The best F1 and its threshold are of these photos themselves: choose thresholds on photos that are not those "
    "that judge.</p>"
)


def result(table: LabelPredictions) -> str:
    """What the network is worth, in one line."""
    found, rows = several.summary(table), several.per_label(table)
    weakest = min((row for row in rows if row["support"]), key=lambda row: row["f1"], default=rows[0])
    percent = sections.percent
    return (
        f"<strong>{percent(found['right'])}</strong> of the labels of {found['photos']:,} photos right, all labels of "
        f"{percent(found['all_right'])}; mean average precision {percent(found['mAP'])}; weakest label "
        f"<strong>{escape(weakest['name'])}</strong> (F1 {percent(weakest['f1'])})."
    )


def labels(table: LabelPredictions) -> str:
    """Precision, recall and F1 by one threshold for all; a row a label, the weakest first, those of no photo last."""
    curve, lines = several.threshold_curve(table), []
    for row in sorted(several.per_label(table), key=lambda row: (not row["support"], row["f1"])):
        shares = [row[key] for key in ("precision", "recall", "f1", "average_precision", "best_f1")]
        best = f"{row['best_threshold']:.2f}"
        if not row["support"]:  # there is nothing to find
            shares, best = [row["precision"] if row["predicted"] else None, *[None] * 4], ""
        cells = "".join(
            f'<td data-value="{share or 0:.4f}">{"" if share is None else sections.percent(share)}</td>'
            for share in shares
        )
        lines.append(
            f"<tr><td>{escape(row['name'])}</td>{cells}<td>{best}</td>"
            f"<td>{row['threshold']:.2f}</td><td>{row['support']}</td><td>{row['predicted']}</td></tr>"
        )
    heads = (
        *("label", "precision", "recall", "F1", "average precision", "best F1", "at threshold", "threshold"),
        *("photos", "answers"),
    )
    points = {key: [(row["threshold"], row[key]) for row in curve] for key in ("precision", "recall", "f1")}
    drawn = plots.chart(
        [plots.Line(key, values) for key, values in points.items()],
        "All labels, one threshold",
        plots.Axis("threshold"),
        plots.Axis("share"),
    )
    table_of_labels = sections.table_of("Labels", sections.heads_of(heads), "".join(lines))
    return f'<div class="grid"><div>{drawn}</div></div>{NOTE}{table_of_labels}'


def photos(table: LabelPredictions, picture: Callable[[str], bytes | None]) -> str:
    """The photos whose answer is furthest from a label."""
    tiles = "".join(
        sections.tile(
            picture(row["path"]),
            row["path"],
            f"{escape(row['label'])} {sections.percent(row['score'])}<br>true: {'yes' if row['true'] else 'no'}<br>"
            f'<span class="soft">{escape(Path(row["path"]).name)}</span>',
        )
        for row in several.most_wrong(table, sections.PHOTOS)
    )
    return f'<h3>Furthest from a label</h3><ul class="photos">{tiles}</ul>'
