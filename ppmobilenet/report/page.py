"""A run as one page to look at: a single HTML file that needs no network, and the same figures as JSON and CSV."""

from __future__ import annotations

import base64
import csv
import datetime
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

import cv2
import numpy as np

from ppmobilenet import __version__, files, plots, tables
from ppmobilenet.errors import DataError
from ppmobilenet.paper.cost_text import amount
from ppmobilenet.photos.decode import decode_image
from ppmobilenet.report import figures, several
from ppmobilenet.report.predictions import Predictions
from ppmobilenet.report.several import LabelPredictions

# classes up to which the confusion matrix is a table one can read; above it is a picture with a pointer
READABLE = 24
THUMBNAIL = 168
PHOTOS = 12
RIGHT = ("top", "acc", "_ma", "tpr", "f1", "hamming")  # in the names of columns that are shares of answers


@dataclass
class Content:
    """What is known of a run or a package; whatever is missing leaves its section out.

    Attributes:
        title: first line of the page.
        predictions: the evaluation.
        labels: the evaluation of several labels a photo, in place of it.
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
    page = render(content, lambda path: thumbnail(Path(photos_root or ".") / path))
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
        found["summary"] = figures.summary(table)
        found["per_class"] = figures.per_class(table)
        found["confusion"] = [list(cell) for cell in figures.confusion(table)]
        found["calibration"] = figures.calibration(table)
        found["most_wrong"] = [_row(table, i) for i in figures.most_wrong(table, PHOTOS)]
        found["least_certain"] = [_row(table, i) for i in figures.least_certain(table, PHOTOS)]
    if content.labels is not None:
        found["summary"] = several.summary(content.labels)
        found["per_label"] = several.per_label(content.labels)
        found["thresholds"] = several.threshold_curve(content.labels)
        found["most_wrong"] = several.most_wrong(content.labels, PHOTOS)
    for name in ("curves", "forms", "latencies"):
        if getattr(content, name):
            found[name] = [dict(row) for row in getattr(content, name)]
    for name in ("data", "times", "certainty"):
        if getattr(content, name):
            found[name] = dict(getattr(content, name))
    if content.left_out:
        found["left_out"] = content.left_out
    if content.cost:
        found["cost"] = {k: v for k, v in content.cost.items() if k not in ("layers", "separable")}
    return found


def render(content: Content, picture: Callable[[str], bytes | None]) -> str:
    """Return the page.

    Args:
        content: what to show.
        picture: path of a photo -> a small JPEG, or None where there is no photo any more.
    """
    table = content.predictions
    sections = []  # (id, heading, HTML)
    if content.curves:
        sections.append(("curves", "Learning curves", _curves(content.curves)))
    if table is not None:
        sections.append(("confusion", "Confusion", _confusion(table)))
        sections.append(("classes", "Classes", _classes(table)))
        sections.append(("calibration", "Calibration", _calibration(table)))
        sections.append(("photos", "Photos", _photos(table, picture)))
    if content.labels is not None:
        sections.append(("labels", "Labels", _labels(content.labels)))
        sections.append(("photos", "Photos", _label_photos(content.labels, picture)))
    if content.activations:
        sections.append(("activations", "Where it looked", _activations(content.activations)))
    data = list(content.data)
    if content.labels is not None:
        data = [("photos", f"{len(content.labels):,}"), ("labels", str(len(content.labels.names))), *data]
    if table is not None:
        data = [*_data(table), *data]
    for key, heading, facts in (("data", "Data", data), ("time", "Time", content.times)):
        if facts:
            sections.append((key, heading, _facts(facts)))
    if content.cost:
        sections.append(("cost", "Cost", _cost(content.cost)))
    if content.forms:
        sections.append(("package", "Package", _package(content.forms, content.latencies)))
    if content.certainty:
        sections.append(("certainty", "Sure or unsure", _facts(content.certainty)))
    left_out = {**content.left_out, **(content.cost or {}).get("left_out", {})}
    if left_out:
        sections.append(("left-out", "Left out", _facts(list(left_out.items()))))
    if content.config:
        text = f"<details><summary>The effective configuration</summary><pre>{escape(content.config)}</pre></details>"
        sections.append(("config", "Configuration", text))
    parts = {
        "title": escape(content.title),
        "result": _result(content),
        "nav": "".join(f'<li><a href="#{key}">{heading}</a></li>' for key, heading, _ in sections),
        "sections": "\n".join(
            f'<section id="{key}" aria-labelledby="{key}-h"><h2 id="{key}-h">{heading}</h2>{body}</section>'
            for key, heading, body in sections
        ),
        "files": ", ".join(
            [
                "report.json",
                *(["per_class.csv", "confusion.csv"] if table is not None else []),
                *(["per_label.csv"] if content.labels is not None else []),
            ]
        ),
        "version": __version__,
        "date": datetime.datetime.now().strftime("%Y-%m-%d %H:%M"),
        "night": plots.night_colours(),
        "data": _script_data(table),
    }
    page = (Path(__file__).parent / "report.html").read_text(encoding="utf-8")
    pieces = page.split("@@")
    return "".join(piece if i % 2 == 0 else parts[piece] for i, piece in enumerate(pieces))


def thumbnail(path: Path) -> bytes | None:
    """Return a photo as a small JPEG, or None if it cannot be read any more."""
    try:
        photo = decode_image(path)
    except (DataError, OSError):
        return None
    return jpeg(photo)


def jpeg(photo: np.ndarray) -> bytes:
    """Return an RGB picture as a JPEG whose longer side is at most 168 pixels."""
    height, width = photo.shape[:2]
    share = min(1.0, THUMBNAIL / max(height, width))
    size = max(1, round(width * share)), max(1, round(height * share))
    small = cv2.resize(photo, size, interpolation=cv2.INTER_AREA)
    return cv2.imencode(".jpg", small[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 80])[1].tobytes()


def read_curves(path: str | Path) -> list[dict[str, float]]:
    """Return the rows of a metrics CSV, cells that are no numbers left out."""
    rows = []
    with open(path, newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            values = {}
            for key, text in row.items():
                try:
                    values[key] = float(text)
                except (TypeError, ValueError):
                    continue
            rows.append(values)
    return rows


# -- sections ----------------------------------------------------------------------------------------------------------


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _row(table: Predictions, i: int) -> dict:
    return {
        "path": table.paths[i],
        "true": table.names[table.labels[i]],
        "predicted": table.names[table.classes[i, 0]],
        "score": float(table.scores[i, 0]),
        "true_score": float(table.true_scores[i]),
    }


def _result(content: Content) -> str:
    table = content.predictions
    if content.labels is not None:
        return _labels_result(content.labels)
    if table is None:
        if content.curves:
            return f"{len(content.curves)} epochs trained; not evaluated."
        return _package_result(content) if content.forms else "Nothing was evaluated."
    found = figures.summary(table)
    seen = [row for row in figures.per_class(table) if row["support"]]
    weakest = min(seen, key=lambda row: row["recall"])
    k = table.classes.shape[1]
    return (
        f"<strong>{_percent(found['top1'])}</strong> of {found['photos']:,} photos right, "
        f"{_percent(found['top5'])} within the best {k}; weakest class "
        f"<strong>{escape(weakest['name'])}</strong> ({weakest['correct']} of {weakest['support']}); "
        f"calibration error {_percent(found['ece'])}."
    )


def _package_result(content: Content) -> str:
    """What a package is worth, in one line: how true, how quick."""
    said = [f"{len(content.forms)} forms"]
    departures = [
        f["max_difference"] for f in content.forms if f.get("precision") == "fp32" and f.get("max_difference")
    ]
    if departures:
        said.append(f"the float ones depart from the trained model by at most <strong>{max(departures):.1e}</strong>")
    if content.latencies:
        best = min(content.latencies, key=lambda row: row["median_ms"])
        said.append(f"quickest here: {escape(best['backend'])}, <strong>{best['median_ms']:.2f} ms</strong> a photo")
    return "; ".join(said) + "."


def _facts(facts: Sequence[tuple[str, str]]) -> str:
    cells = "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(str(v))}</dd></div>" for k, v in facts)
    return f'<dl class="numbers">{cells}</dl>'


def _curves(rows: Sequence[Mapping[str, float]]) -> str:
    """One chart for each kind of column: losses, accuracies, learning rate, speed."""
    kinds = (
        ("Loss", "loss", lambda name: "loss" in name),
        ("Accuracy", "share", lambda name: any(word in name for word in RIGHT)),
        ("Learning rate", "rate", lambda name: name in ("lr", "learning_rate")),
        ("Speed", "images a second", lambda name: "images" in name or "ips" in name),
    )
    columns = list(dict.fromkeys(key for row in rows for key in row if key != "epoch"))
    charts = []
    for title, unit, wanted in kinds:
        lines = [
            plots.Line(name, [(row.get("epoch", i + 1), row[name]) for i, row in enumerate(rows) if name in row])
            for name in columns
            if wanted(name.lower())
        ]
        if any(line.points for line in lines):
            charts.append(plots.chart(lines, title, plots.Axis("epoch", whole=True), plots.Axis(unit)))
    return f'<div class="grid">{"".join(f"<div>{chart}</div>" for chart in charts)}</div>'


def _by_error(rows: Sequence[Mapping]) -> list[int]:
    """Classes, those with the lowest recall first; without photos last."""
    return [row["class"] for row in sorted(rows, key=lambda r: (not r["support"], r["recall"], -r["support"]))]


def _confusion(table: Predictions) -> str:
    rows, cells, names = figures.per_class(table), figures.confusion(table), table.names
    order = _by_error(rows)
    if len(names) <= READABLE:
        count = {(t, p): n for t, p, n in cells}
        head = "".join(f'<th scope="col"><span>{escape(names[p])}</span></th>' for p in order)
        body = []
        for t in order:
            line = []
            for p in order:
                n = count.get((t, p), 0)
                share = n / max(1, rows[t]["support"])
                text = f"{n} of {rows[t]['support']} photos of {names[t]} were called {names[p]}"
                ink = f' style="background:rgba(var(--heat),{0.08 + 0.6 * share:.2f})"' if n else ""
                hit = ' class="hit"' if t == p else ""
                line.append(f'<td{hit}{ink} title="{escape(text)}">{n or ""}</td>')
            body.append(f'<tr><th scope="row">{escape(names[t])}</th>{"".join(line)}</tr>')
        matrix = (
            '<p class="soft">Rows: the true class, the most often mistaken first. Columns: the answer.</p>'
            + _table("Confusion matrix", f"<td></td>{head}", "".join(body), "matrix")
        )
    else:
        matrix = (
            '<p><label>Order of the classes <select id="matrix-order"><option value="error">most often mistaken first'
            '</option><option value="list">as in the list</option></select></label></p>'
            f'<canvas id="matrix" width="{len(names)}" height="{len(names)}" tabindex="0" role="img" '
            'aria-label="Confusion matrix, rows true class, columns answer; move with the arrow keys" '
            'aria-describedby="matrix-says"></canvas><output id="matrix-says" aria-live="polite">Point at a cell, or '
            "move with the arrow keys.</output>"
        )
    mistakes = [(t, p, n) for t, p, n in cells if t != p][:50]
    if not mistakes:
        return matrix + "<p>No photo was mistaken.</p>"
    lines = "".join(
        f'<tr><td>{escape(names[t])}</td><td class="left">{escape(names[p])}</td><td>{n}</td>'
        f'<td data-value="{n / max(1, rows[t]["support"]):.4f}">{_percent(n / max(1, rows[t]["support"]))}</td></tr>'
        for t, p, n in mistakes
    )
    heads = _heads(("true class", "answer", "photos", "of the class"), left=2)
    return matrix + "<h3>Most frequent mistakes</h3>" + _table("Most frequent mistakes", heads, lines)


def _table(label: str, heads: str, lines: str, kind: str = "sortable") -> str:
    """A table that scrolls in its own frame, also by keyboard."""
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{label}"><table class="{kind}">'
        f"<thead><tr>{heads}</tr></thead><tbody>{lines}</tbody></table></div>"
    )


def _heads(names: Sequence[str], left: int = 1) -> str:
    return "".join(
        f'<th scope="col"{" class=left" if i < left else ""}><button type="button">{name}</button></th>'
        for i, name in enumerate(names)
    )


def _classes(table: Predictions) -> str:
    rows = figures.per_class(table)
    lines = []
    for c in _by_error(rows):
        row = rows[c]
        shares = "".join(
            f'<td data-value="{row[key]:.4f}">{_percent(row[key])}</td>' for key in ("precision", "recall", "f1")
        )
        lines.append(
            f"<tr><td>{escape(row['name'])}</td>{shares}<td>{row['support']}</td><td>{row['predicted']}</td></tr>"
        )
    heads = _heads(("class", "precision", "recall", "F1", "photos", "answers"))
    return _table("Classes", heads, "".join(lines))


def _labels_result(table: LabelPredictions) -> str:
    found, rows = several.summary(table), several.per_label(table)
    weakest = min((row for row in rows if row["support"]), key=lambda row: row["f1"], default=rows[0])
    return (
        f"<strong>{_percent(found['right'])}</strong> of the labels of {found['photos']:,} photos right, all labels of "
        f"{_percent(found['all_right'])}; mean average precision {_percent(found['mAP'])}; weakest label "
        f"<strong>{escape(weakest['name'])}</strong> (F1 {_percent(weakest['f1'])})."
    )


def _labels(table: LabelPredictions) -> str:
    curve, lines = several.threshold_curve(table), []
    for row in sorted(several.per_label(table), key=lambda row: row["f1"]):
        shares = [row[key] for key in ("precision", "recall", "f1", "average_precision", "best_f1")]
        cells = "".join(
            f'<td data-value="{share or 0:.4f}">{"" if share is None else _percent(share)}</td>' for share in shares
        )
        lines.append(
            f"<tr><td>{escape(row['name'])}</td>{cells}<td>{row['best_threshold']:.2f}</td>"
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
    note = (
        "<p>The best F1 and its threshold are of these photos themselves: choose thresholds on photos that are not "
        "those that judge.</p>"
    )
    return f'<div class="grid"><div>{drawn}</div></div>{note}{_table("Labels", _heads(heads), "".join(lines))}'


def _label_photos(table: LabelPredictions, picture: Callable[[str], bytes | None]) -> str:
    tiles = "".join(
        _tile(
            picture(row["path"]),
            row["path"],
            f"{escape(row['label'])} {_percent(row['score'])}<br>true: {'yes' if row['true'] else 'no'}<br>"
            f'<span class="soft">{escape(Path(row["path"]).name)}</span>',
        )
        for row in several.most_wrong(table, PHOTOS)
    )
    return f'<h3>Furthest from a label</h3><ul class="photos">{tiles}</ul>'


def _calibration(table: Predictions) -> str:
    found = figures.calibration(table)
    filled = [b for b in found["bins"] if b["photos"]]
    lines = [
        plots.Line("perfect", [(0, 0), (100, 100)], dashed=True),
        plots.Line(
            "this model",
            [(100 * b["confidence"], 100 * b["accuracy"]) for b in filled],
            [
                f"{b['photos']} photos: sure to {_percent(b['confidence'])}, right {_percent(b['accuracy'])}"
                for b in filled
            ],
        ),
    ]
    axes = [plots.Axis(label, reach=(0, 100)) for label in ("confidence, %", "right answers, %")]
    diagram = plots.chart(lines, "Reliability", *axes)
    histogram = plots.bars(
        [(f"{100 * b['low']:.0f}-{100 * b['high']:.0f} %", b["photos"]) for b in found["bins"]],
        "Confidence of the best answer",
        "photos",
    )
    mean = figures.summary(table)["mean_confidence"]
    verdict = "over" if mean > table.correct.mean() else "under"
    text = (
        f"<p>Expected calibration error {_percent(found['ece'])} ({figures.BINS} bins): the model is on average "
        f"{_percent(mean)} sure and {_percent(table.correct.mean())} right, so {verdict}confident.</p>"
    )
    return f'{text}<div class="grid"><div>{diagram}</div><div>{histogram}</div></div>'


def _tile(data: bytes | None, alt: str, text: str) -> str:
    if data is None:
        return f'<li><div class="none">photo not found</div><p>{text}</p></li>'
    code = base64.b64encode(data).decode()
    return f'<li><img src="data:image/jpeg;base64,{code}" alt="{escape(alt)}"><p>{text}</p></li>'


def _photos(table: Predictions, picture: Callable[[str], bytes | None]) -> str:
    parts = []
    for heading, rows in (
        ("Most wrong", figures.most_wrong(table, PHOTOS)),
        ("Least certain", figures.least_certain(table, PHOTOS)),
    ):
        tiles = []
        for i in rows:
            row = _row(table, i)
            kind = "right" if table.correct[i] else "wrong"
            text = (
                f'<span class="{kind}">{escape(row["predicted"])} {_percent(row["score"])}</span><br>'
                f"true: {escape(row['true'])} ({_percent(row['true_score'])})<br>"
                f'<span class="soft">{escape(Path(row["path"]).name)}</span>'
            )
            alt = f"{Path(row['path']).name}: {row['true']}, called {row['predicted']}"
            tiles.append(_tile(picture(row["path"]), alt, text))
        shown = f'<ul class="photos">{"".join(tiles)}</ul>' if tiles else "<p>None.</p>"
        parts.append(f"<h3>{heading}</h3>{shown}")
    return "".join(parts)


def _activations(rows: Sequence[Mapping]) -> str:
    tiles = [
        _tile(
            jpeg(row["overlay"]),
            f"class activation map of {Path(row['path']).name}",
            f'{escape(row["text"])}<br><span class="soft">{escape(Path(row["path"]).name)}</span>',
        )
        for row in rows
    ]
    note = '<p class="soft">Class activation maps (Zhou et al. 2016): what spoke for the answer, red the most.</p>'
    return f'{note}<ul class="photos">{"".join(tiles)}</ul>'


def _data(table: Predictions) -> list[tuple[str, str]]:
    support = np.bincount(table.labels, minlength=len(table.names))
    facts = [("evaluated photos", f"{len(table):,}"), ("classes", f"{len(table.names):,}")]
    facts.append(("photos a class", f"{support.min()} to {support.max()}"))
    if (support == 0).any():
        facts.append(("classes without photos", str(int((support == 0).sum()))))
    return facts


def _cost(cost: Mapping) -> str:
    height, width = cost["resolution"]
    facts = [
        ("network", str(cost.get("model", ""))),
        *((("published", cost["paper"]),) if cost.get("paper") else ()),
        ("image", f"{height}x{width}"),
        ("parameters", amount(cost["parameters"])),
        ("multiply-adds", amount(cost["madds"])),
        ("weights", amount(cost["model_bytes"], "B")),
    ]
    if cost["peak_activation_bytes"] is not None:
        facts.append(("peak activations", amount(cost["peak_activation_bytes"], "B")))
    bars = plots.bars(
        [(row["kind"], round(row["madds_percent"], 2)) for row in cost["by_kind"]],
        "Multiply-adds by kind of layer",
        "%",
    )
    return _facts(facts) + bars


def _package(forms: Sequence[Mapping], latencies: Sequence[Mapping]) -> str:
    lines = []
    for form in forms:
        difference = form.get("max_difference")
        shown = "not compared" if difference is None else f"{difference:.2g}"
        size = form.get("bytes")
        mega = "" if size is None else f"{size / 1e6:.2f} MB"
        cells = f"<td>{escape(form['name'])}</td><td>{escape(form.get('precision', ''))}</td><td>{mega}</td>"
        lines.append(f"<tr>{cells}<td>{shown}</td></tr>")
    heads = "".join(
        f'<th scope="col">{h}</th>' for h in ("form", "precision", "size", "largest difference to the model")
    )
    text = _table("Forms", heads, "".join(lines), "")
    if latencies:
        bars = [(f"{row['backend']}, {row['threads']} threads", round(row["median_ms"], 2)) for row in latencies]
        text += plots.bars(bars, "Latency on this machine, batch 1, median", "ms")
    return text


def _script_data(table: Predictions | None) -> str:
    if table is None or len(table.names) <= READABLE:
        return "{}"
    rows = figures.per_class(table)
    data = {
        "names": table.names,
        "cells": figures.confusion(table),
        "support": [row["support"] for row in rows],
        "by_error": _by_error(rows),
    }
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
