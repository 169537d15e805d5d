"""A run as one page to look at: a single HTML file that needs no network, and the same figures as JSON and CSV."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

import numpy as np

from ppmobilenet import __version__, files, plots, tables
from ppmobilenet.report import figures, label_sections, sections, several
from ppmobilenet.report.predictions import Predictions
from ppmobilenet.report.several import LabelPredictions
from ppmobilenet.telling import counted


@dataclass
class Content:
    """What is known of a run or a package; whatever is missing leaves its section out.

    Attributes:
        title: first line of the page.
        predictions: the evaluation.
        labels: the evaluation of several labels a photo, in place of it.
        linear: what a linear classifier on the frozen trunk answered, for comparison.
        suspects: photos whose labels look wrong: ``path``, ``given``, ``likely``, ``given_score``, ``likely_score``.
        unused: files among the photos that nothing was learned from, each with the reason.
        advice: what to do next: (sentence, command or None).
        curves: rows of the run's metrics file, one an epoch.
        config: the effective configuration as text.
        cost: of :meth:`ppmobilenet.paper.cost.Cost.to_dict`, with ``model``.
        data: (what, how much) about the photos.
        times: (what, how much) about the run.
        forms: exported forms: ``name``, ``precision``, ``bytes``, ``max_difference``.
        latencies: rows ``backend``, ``threads``, ``median_ms``.
        activations: class activation maps: ``path``, ``overlay`` (RGB picture), ``text``.
        certainty: (what, how much) about a package's temperature and threshold.
        left_out: what could not be computed for this network -> why.
    """

    title: str
    predictions: Predictions | None = None
    labels: LabelPredictions | None = None
    linear: Predictions | None = None
    suspects: Sequence[Mapping] = ()
    unused: Sequence[str] = ()
    advice: Sequence[tuple[str, str | None]] = ()
    curves: Sequence[Mapping[str, float]] = ()
    config: str | None = None
    cost: Mapping | None = None
    data: Sequence[tuple[str, str]] = ()
    times: Sequence[tuple[str, str]] = ()
    forms: Sequence[Mapping] = ()
    latencies: Sequence[Mapping] = ()
    activations: Sequence[Mapping] = field(default_factory=tuple)
    certainty: Sequence[tuple[str, str]] = ()
    left_out: dict[str, str] = field(default_factory=dict)


def write(content: Content, folder: str | Path, photos_root: str | Path | None = None) -> Path:
    """Write ``report.html``, ``report.json``, ``per_class.csv`` and ``confusion.csv``.

    Args:
        content: what to show.
        folder: where; it is made.
        photos_root: relative paths of photos start here.

    Returns:
        The path of ``report.html``.
    """
    folder = Path(folder)
    page = render(content, lambda path: sections.thumbnail(Path(photos_root or ".") / path))
    found = numbers(content)
    files.write_text(folder / "report.json", json.dumps(found, indent=1, ensure_ascii=False))
    if content.predictions is not None:
        names = content.predictions.names
        tables.write_csv(found["per_class"], folder / "per_class.csv")
        pairs = [{"true": names[t], "predicted": names[p], "photos": n} for t, p, n in found["confusion"]]
        tables.write_csv(pairs, folder / "confusion.csv")
    if content.labels is not None:
        tables.write_csv(found["per_label"], folder / "per_label.csv")
    path = folder / "report.html"
    files.write_text(path, page)
    return path


def numbers(content: Content) -> dict:
    """Return every figure of the page as plain values."""
    found: dict = {"title": content.title, "version": __version__}
    table = content.predictions
    if table is not None:
        found["summary"] = {**figures.summary(table), **figures.accuracy(table)}
        found["per_class"] = figures.per_class(table)
        found["confusion"] = [list(cell) for cell in figures.confusion(table)]
        found["calibration"] = figures.calibration(table)
        found["most_wrong"] = [sections.photo_row(table, i) for i in figures.most_wrong(table, sections.PHOTOS)]
        found["least_certain"] = [sections.photo_row(table, i) for i in figures.least_certain(table, sections.PHOTOS)]
    if content.labels is not None:
        found["summary"] = several.summary(content.labels)
        found["per_label"] = several.per_label(content.labels)
        found["thresholds"] = several.threshold_curve(content.labels)
        found["most_wrong"] = several.most_wrong(content.labels, sections.PHOTOS)
    if content.linear is not None:
        found["linear"] = figures.accuracy(content.linear)
    if content.advice:
        found["advice"] = [list(row) for row in content.advice]
    for name in ("suspects", "curves", "forms", "latencies"):
        if getattr(content, name):
            found[name] = [dict(row) for row in getattr(content, name)]
    for name in ("data", "times", "certainty"):
        if getattr(content, name):
            found[name] = dict(getattr(content, name))
    if content.unused:
        found["unused"] = list(content.unused)
    if content.left_out:
        found["left_out"] = content.left_out
    if content.cost:
        found["cost"] = {k: v for k, v in content.cost.items() if k not in ("layers", "separable")}
    return found


def render(content: Content, picture: sections.Picture) -> str:
    """Return the page.

    Args:
        content: what to show.
        picture: path of a photo -> a small JPEG, or None where there is no photo any more.
    """
    first, folded = _for_makers(content, picture), _for_engineers(content)
    opened = not first  # where there is nothing for makers, what is for engineers is not folded away
    behind = "\n".join(map(_section, folded))
    if first and folded:
        behind = f'<details id="more"><summary>For engineers: {_named(folded)}</summary>{behind}</details>'
    parts = {
        "title": escape(content.title),
        "result": _result(content),
        "nav": "".join(f'<li><a href="#{key}">{heading}</a></li>' for key, heading, _ in (folded if opened else first)),
        "sections": "\n".join([*map(_section, first), behind]),
        "files": ", ".join(
            [
                "report.json",
                *(["per_class.csv", "confusion.csv"] if content.predictions is not None else []),
                *(["per_label.csv"] if content.labels is not None else []),
            ]
        ),
        "version": __version__,
        "date": datetime.datetime.now().strftime("%Y-%m-%d %H:%M"),
        "night": plots.night_colours(),
        "data": sections.script_data(content.predictions),
    }
    page = (Path(__file__).parent / "report.html").read_text(encoding="utf-8")
    pieces = page.split("@@")
    return "".join(piece if i % 2 == 0 else parts[piece] for i, piece in enumerate(pieces))


def _section(section: tuple[str, str, str]) -> str:
    key, heading, body = section
    return f'<section id="{key}" aria-labelledby="{key}-h"><h2 id="{key}-h">{heading}</h2>{body}</section>'


def _named(found: Sequence[tuple[str, str, str]]) -> str:
    return ", ".join(heading.lower() for _, heading, _ in found)


def _for_makers(content: Content, picture: sections.Picture) -> list[tuple[str, str, str]]:
    """Return (id, heading, HTML) of what somebody asks who wants it to work."""
    table, found = content.predictions, []
    if table is not None:
        rows, plain = [("this network", figures.accuracy(table))], "linear classifier, nothing fine-tuned"
        if content.linear is not None and np.array_equal(content.linear.classes, table.classes):
            rows = [(f"this network: a {plain}", figures.accuracy(table))]
        elif content.linear is not None:
            rows.append((plain, figures.accuracy(content.linear)))
        found.append(("verdict", "How good is it?", sections.scales(rows)))
    if content.advice:
        found.append(("next", "What to do next", sections.advice(content.advice)))
    if content.suspects:
        found.append(("suspects", "Labels to check", sections.suspects(content.suspects, picture)))
    if content.unused:
        found.append(("unused", "Files that were not used", sections.lines(content.unused)))
    if table is not None:
        found.append(("confusion", "Confusion", sections.confusion(table)))
        found.append(("photos", "Photos", sections.photos(table, picture)))
    if content.labels is not None:
        found.append(("labels", "Labels", label_sections.labels(content.labels)))
        found.append(("photos", "Photos", label_sections.photos(content.labels, picture)))
    if content.activations:
        found.append(("activations", "Where it looked", sections.activations(content.activations)))
    return found


def _for_engineers(content: Content) -> list[tuple[str, str, str]]:
    """Return the same of what somebody asks who wants to know why."""
    table, found = content.predictions, []
    if content.curves:
        classes = len(table.names) if table is not None else None
        found.append(("curves", "Learning curves", sections.curves(content.curves, classes)))
    if table is not None:
        found.append(("classes", "Classes", sections.classes(table)))
        found.append(("calibration", "Calibration", sections.calibration(table)))
    data = [*(sections.data(table) if table is not None else ()), *content.data]
    if content.labels is not None:
        data = [("photos", f"{len(content.labels):,}"), ("labels", str(len(content.labels.names))), *data]
    for key, heading, facts in (("data", "Data", data), ("time", "Time", content.times)):
        if facts:
            found.append((key, heading, sections.facts(facts)))
    if content.cost:
        found.append(("cost", "Cost", sections.cost(content.cost)))
    if content.forms:
        found.append(("package", "Package", sections.package(content.forms, content.latencies)))
    if content.certainty:
        found.append(("certainty", "Sure or unsure", sections.facts(content.certainty)))
    left_out = {**content.left_out, **(content.cost or {}).get("left_out", {})}
    if left_out:
        found.append(("left-out", "Left out", sections.facts(list(left_out.items()))))
    if content.config:
        text = f"<details><summary>The effective configuration</summary><pre>{escape(content.config)}</pre></details>"
        found.append(("config", "Configuration", text))
    return found


def _result(content: Content) -> str:
    table = content.predictions
    if content.labels is not None:
        return label_sections.result(content.labels)
    if table is None:
        if content.curves:
            return f"{len(content.curves)} epochs trained; not evaluated."
        return _package_result(content) if content.forms else "Nothing was evaluated."
    found = figures.accuracy(table)
    seen = [row for row in figures.per_class(table) if row["support"]]
    weakest, best = min(seen, key=lambda row: row["recall"]), table.classes.shape[1]
    among = f"; {sections.percent(figures.summary(table)['top5'])} among the best {best}"
    weak = f"weakest class <strong>{escape(weakest['name'])}</strong> ({weakest['correct']} of {weakest['support']})"
    return (
        f"<strong>{sections.percent(found['top1'])}</strong> of {found['photos']:,} photos right, so "
        f"{sections.between(found)} of photos like these (95 % sure){among if 2 * best < len(seen) else ''}; "
        f"{weak if weakest['recall'] < 1 else 'no class had a mistake'}."
    )


def _package_result(content: Content) -> str:
    """What a package is worth, in one line: how true, how quick."""
    said = [counted(len(content.forms), "form")]
    departures = [
        f["max_difference"] for f in content.forms if f.get("precision") == "fp32" and f.get("max_difference")
    ]
    if departures:
        said.append(f"the float ones depart from the trained model by at most <strong>{max(departures):.1e}</strong>")
    if content.latencies:
        best = min(content.latencies, key=lambda row: row["median_ms"])
        said.append(f"quickest here: {escape(best['backend'])}, <strong>{best['median_ms']:.2f} ms</strong> a photo")
    return "; ".join(said) + "."
