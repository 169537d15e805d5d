"""The sections of a report's page, each as HTML."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Mapping, Sequence
from html import escape
from math import floor
from pathlib import Path

import cv2
import numpy as np

from ppmobilenet import plots
from ppmobilenet.errors import DataError
from ppmobilenet.paper.cost_text import amount
from ppmobilenet.photos.decode import decode_image
from ppmobilenet.report import figures
from ppmobilenet.report.predictions import Predictions
from ppmobilenet.telling import counted

# classes up to which the confusion matrix is a table one can read; above it is a picture with a pointer
READABLE = 24
THUMBNAIL = 168
PHOTOS = 12
RIGHT = ("top", "acc", "_ma", "tpr", "f1", "hamming")  # in the names of columns that are shares of answers
SUSPECTS = 45
MISTAKES = 10

Picture = Callable[[str], "bytes | None"]  # path of a photo -> a small JPEG, or None where there is no photo any more


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


def percent(share: float) -> str:
    """``0.913`` -> ``"91.3 %"``."""
    return f"{100 * share:.1f} %"


def photo_row(table: Predictions, i: int) -> dict:
    """What the page and the JSON say of one photo."""
    return {
        "path": table.paths[i],
        "true": table.names[table.labels[i]],
        "predicted": table.names[table.classes[i, 0]],
        "score": float(table.scores[i, 0]),
        "true_score": float(table.true_scores[i]),
    }


def between(found: Mapping) -> str:
    """Return an accuracy's 95 % interval: ``82.2 to 89.5 %``."""
    low, high = found["interval"]
    return f"{100 * low:.1f} to {100 * high:.1f} %"


def scales(rows: Sequence[tuple[str, Mapping]]) -> str:
    """Return accuracies one below the other on a scale from 0 to 100 %, each with its 95 % interval.

    Args:
        rows: (what, of :func:`.figures.accuracy`).
    """
    lines = []
    for name, found in rows:
        low, high = (100 * bound for bound in found["interval"])
        band = f'<i style="left:{low:.1f}%;width:{high - low:.1f}%"></i><b style="left:{100 * found["top1"]:.1f}%"></b>'
        lines.append(
            f"<div><dt>{escape(name)}</dt><dd>{percent(found['top1'])} <span class=soft>({between(found)})</span>"
            f'<span class="scale" aria-hidden="true">{band}</span></dd></div>'
        )
    return f'<dl class="scales">{"".join(lines)}</dl>'


def advice(rows: Sequence[tuple[str, str | None]]) -> str:
    """Return what to do next, each a sentence and perhaps a command."""
    items = []
    for text, command in rows:
        shown = f"<pre>{escape(command)}</pre>" if command else ""
        items.append(f"<li>{escape(text)}{shown}</li>")
    return f'<ol class="advice">{"".join(items)}</ol>'


def suspects(rows: Sequence[Mapping], picture: Picture) -> str:
    """Return the photos whose labels look wrong, the likeliest first."""
    tiles = []
    for row in rows[:SUSPECTS]:
        name = "/".join(Path(row["path"]).parts[-2:])  # with its folder, where it is to be found
        text = (
            f"labelled <b>{escape(row['given'])}</b><br>looks like <b>{escape(row['likely'])}</b> "
            f'({percent(row["likely_score"])} sure)<br><span class="soft">{escape(name)}</span>'
        )
        tiles.append(tile(picture(row["path"]), f"{name}: labelled {row['given']}", text))
    more = f"<p>and {len(rows) - SUSPECTS} more, in suspects.json</p>" if len(rows) > SUSPECTS else ""
    said = (
        '<p class="soft">Training photos that a linear classifier, which had not seen them, would give another name. '
        "Not every one is wrong: look.</p>"
    )
    shown = f'{said}<ul class="photos">{"".join(tiles[:PHOTOS])}</ul>'
    if tiles[PHOTOS:]:
        rest = f'<ul class="photos">{"".join(tiles[PHOTOS:])}</ul>'
        shown += f"<details><summary>{len(tiles) - PHOTOS} more, less likely wrong</summary>{rest}{more}</details>"
    return shown


def lines(rows: Sequence[str]) -> str:
    """Return lines of text, the first ones open."""
    items = [f"<li>{escape(row)}</li>" for row in rows]
    shown = f'<ul class="lines">{"".join(items[:PHOTOS])}</ul>'
    if items[PHOTOS:]:
        rest = f'<ul class="lines">{"".join(items[PHOTOS:])}</ul>'
        shown += f"<details><summary>{len(items) - PHOTOS} more</summary>{rest}</details>"
    return shown


def facts(pairs: Sequence[tuple[str, str]]) -> str:
    """What and how much, side by side."""
    cells = "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(str(v))}</dd></div>" for k, v in pairs)
    return f'<dl class="numbers">{cells}</dl>'


def curves(rows: Sequence[Mapping[str, float]], classes: int | None = None) -> str:
    """Return one chart for each kind of column: losses, accuracies, learning rate, speed.

    Args:
        rows: of a run's metrics file.
        classes: how many there are: to be among the best of them all is no achievement.
    """
    kinds = (
        ("Loss", "loss", 1, lambda name: "loss" in name),
        ("Right answers", "%", 100, lambda name: any(word in name for word in RIGHT)),
        ("Learning rate", "rate", 1, lambda name: name in ("lr", "learning_rate")),
        ("Speed", "images a second", 1, lambda name: "images" in name or "ips" in name),
    )
    columns = list(dict.fromkeys(key for row in rows for key in row if key != "epoch"))
    columns = [name for name in columns if classes is None or _best_of(name) < max(2, classes)]
    charts = []
    for title, unit, factor, wanted in kinds:
        lines = []
        for name in columns:
            if wanted(name.lower()):
                points = [(row.get("epoch", i + 1), factor * row[name]) for i, row in enumerate(rows) if name in row]
                lines.append(plots.Line(_column(name), points))
        if any(line.points for line in lines):
            charts.append(plots.chart(lines, title, plots.Axis("epoch", counts=True), plots.Axis(unit)))
    return f'<div class="grid">{"".join(f"<div>{chart}</div>" for chart in charts)}</div>'


def _best_of(column: str) -> int:
    """``eval_top5`` -> 5; 1 where a column says nothing of the kind."""
    found = re.search(r"top(\d+)$", column)
    return int(found[1]) if found else 1


def _column(name: str) -> str:
    """Return a metrics file's column in words: ``eval_top5`` -> "held out, among the best 5"."""
    side, _, what = name.partition("_")
    said = {"train": "training", "eval": "held out"}.get(side)
    if said is None:
        return {"lr": "rate", "images_per_second": "training"}.get(name, name.replace("_", " "))
    best = _best_of(what)
    return f"{said}, among the best {best}" if best > 1 else said


def _by_error(rows: Sequence[Mapping]) -> list[int]:
    """Classes, those with the lowest recall first; without photos last."""
    return [row["class"] for row in sorted(rows, key=lambda r: (not r["support"], r["recall"], -r["support"]))]


def confusion(table: Predictions) -> str:
    """The confusion matrix, and the most frequent mistakes."""
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
                text = f"{n} of {rows[t]['support']} photos of {names[t]} were taken for {names[p]}"
                ink = f' style="background:rgba(var(--heat),{0.08 + 0.6 * share:.2f})"' if n else ""
                hit = ' class="hit"' if t == p else ""
                line.append(f'<td{hit}{ink} title="{escape(text)}">{n or ""}</td>')
            body.append(f'<tr><th scope="row">{escape(names[t])}</th>{"".join(line)}</tr>')
        matrix = (
            '<p class="soft">Rows: the true class, the most often mistaken first. Columns: the answer.</p>'
            + table_of("Confusion matrix", f"<td></td>{head}", "".join(body), "matrix")
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
    mistakes = [(t, p, n) for t, p, n in cells if t != p][:MISTAKES]
    if not mistakes:
        return matrix + "<p>No photo was mistaken.</p>"
    body = "".join(
        f'<tr><td>{escape(names[t])}</td><td class="left">{escape(names[p])}</td><td>{n}</td>'
        f'<td data-value="{n / max(1, rows[t]["support"]):.4f}">{percent(n / max(1, rows[t]["support"]))}</td></tr>'
        for t, p, n in mistakes
    )
    heads = heads_of(("true class", "answer", "photos", "of the class"), left=2)
    return matrix + "<h3>Most frequent mistakes</h3>" + table_of("Most frequent mistakes", heads, body)


def table_of(label: str, heads: str, lines: str, kind: str = "sortable") -> str:
    """A table that scrolls in its own frame, also by keyboard."""
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{label}"><table class="{kind}">'
        f"<thead><tr>{heads}</tr></thead><tbody>{lines}</tbody></table></div>"
    )


def heads_of(names: Sequence[str], left: int = 1) -> str:
    return "".join(
        f'<th scope="col"{" class=left" if i < left else ""}><button type="button">{name}</button></th>'
        for i, name in enumerate(names)
    )


def classes(table: Predictions) -> str:
    """Return the table of classes, the weakest first."""
    rows = figures.per_class(table)
    lines = []
    for c in _by_error(rows):
        row = rows[c]
        shares = "".join(
            f'<td data-value="{row[key]:.4f}">{percent(row[key])}</td>' for key in ("precision", "recall", "f1")
        )
        low, high = figures.interval(row["correct"], row["support"])
        sure = f"{100 * low:.0f} to {100 * high:.0f} %" if row["support"] else ""
        lines.append(
            f'<tr><td>{escape(row["name"])}</td>{shares}<td data-value="{low:.4f}">{sure}</td>'
            f"<td>{row['support']}</td><td>{row['predicted']}</td></tr>"
        )
    heads = heads_of(("class", "precision", "recall", "F1", "recall is, 95 % sure", "photos", "answers"))
    return table_of("Classes", heads, "".join(lines))


def calibration(table: Predictions) -> str:
    """Return how sure and how right the answers are."""
    found = figures.calibration(table)
    filled = [b for b in found["bins"] if b["photos"]]
    low = floor(10 * min([1.0, *(min(b["confidence"], b["accuracy"]) for b in filled)])) * 10
    lines = [
        plots.Line("perfect", [(low, low), (100, 100)], dashed=True),
        plots.Line(
            "this model",
            [(100 * b["confidence"], 100 * b["accuracy"]) for b in filled],
            [
                f"{counted(b['photos'], 'photo')}: sure to {percent(b['confidence'])}, right {percent(b['accuracy'])}"
                for b in filled
            ],
        ),
    ]
    axes = [plots.Axis(label, reach=(min(low, 90), 100)) for label in ("confidence, %", "right answers, %")]
    diagram = plots.chart(lines, "Reliability", *axes)
    histogram = plots.bars(
        [(f"{100 * b['low']:.0f}-{100 * b['high']:.0f} %", b["photos"]) for b in filled],
        "Confidence of the best answer",
        "photos",
    )
    mean = figures.summary(table)["mean_confidence"]
    verdict = "over" if mean > table.correct.mean() else "under"
    text = (
        f"<p>Expected calibration error {percent(found['ece'])} ({figures.BINS} bins): the model is on average "
        f"{percent(mean)} sure and {percent(table.correct.mean())} right, so {verdict}confident.</p>"
    )
    return f'{text}<div class="grid"><div>{diagram}</div><div>{histogram}</div></div>'


def tile(data: bytes | None, alt: str, text: str) -> str:
    if data is None:
        return f'<li><div class="none">photo not found</div><p>{text}</p></li>'
    code = base64.b64encode(data).decode()
    return f'<li><img src="data:image/jpeg;base64,{code}" alt="{escape(alt)}"><p>{text}</p></li>'


def photos(table: Predictions, picture: Picture) -> str:
    """The photos it was most wrong and least certain about."""
    parts = []
    for heading, rows in (
        ("Most wrong", figures.most_wrong(table, PHOTOS)),
        ("Least certain", figures.least_certain(table, PHOTOS)),
    ):
        tiles = []
        for i in rows:
            row = photo_row(table, i)
            kind = "right" if table.correct[i] else "wrong"
            text = (
                f'<span class="{kind}">{escape(row["predicted"])} {percent(row["score"])}</span><br>'
                f"true: {escape(row['true'])} ({percent(row['true_score'])})<br>"
                f'<span class="soft">{escape(Path(row["path"]).name)}</span>'
            )
            alt = f"{Path(row['path']).name}: {row['true']}, taken for {row['predicted']}"
            tiles.append(tile(picture(row["path"]), alt, text))
        shown = f'<ul class="photos">{"".join(tiles)}</ul>' if tiles else "<p>None.</p>"
        parts.append(f"<h3>{heading}</h3>{shown}")
    return "".join(parts)


def activations(rows: Sequence[Mapping]) -> str:
    """Class activation maps laid over their photos."""
    tiles = [
        tile(
            jpeg(row["overlay"]),
            f"class activation map of {Path(row['path']).name}",
            f'{escape(row["text"])}<br><span class="soft">{escape(Path(row["path"]).name)}</span>',
        )
        for row in rows
    ]
    note = '<p class="soft">Class activation maps (Zhou et al. 2016): what spoke for the answer, red the most.</p>'
    return f'{note}<ul class="photos">{"".join(tiles)}</ul>'


def data(table: Predictions) -> list[tuple[str, str]]:
    """(what, how much) about the evaluated photos."""
    support = np.bincount(table.labels, minlength=len(table.names))
    pairs = [("evaluated photos", f"{len(table):,}"), ("classes", f"{len(table.names):,}")]
    least, most = int(support.min()), int(support.max())
    pairs.append(("photos a class", f"{least} to {most}" if least < most else str(most)))
    if (support == 0).any():
        pairs.append(("classes without photos", str(int((support == 0).sum()))))
    return pairs


def cost(counted: Mapping) -> str:
    """Parameters, multiply-adds and memory."""
    height, width = counted["resolution"]
    pairs = [
        ("network", str(counted.get("model", ""))),
        *((("published", counted["paper"]),) if counted.get("paper") else ()),
        ("image", f"{height}x{width}"),
        ("parameters", amount(counted["parameters"])),
        ("multiply-adds", amount(counted["madds"])),
        ("weights", amount(counted["model_bytes"], "B")),
    ]
    if counted["peak_activation_bytes"] is not None:
        pairs.append(("peak activations", amount(counted["peak_activation_bytes"], "B")))
    bars = plots.bars(
        [(row["kind"], round(row["madds_percent"], 2)) for row in counted["by_kind"]],
        "Multiply-adds by kind of layer",
        "%",
    )
    return facts(pairs) + bars


def package(forms: Sequence[Mapping], latencies: Sequence[Mapping]) -> str:
    """The exported forms and their latencies."""
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
    text = table_of("Forms", heads, "".join(lines), "")
    if latencies:
        bars = [
            (f"{row['backend']}, {counted(row['threads'], 'thread')}", round(row["median_ms"], 2)) for row in latencies
        ]
        text += plots.bars(bars, "Latency on this machine, batch 1, median", "ms")
    return text


def script_data(table: Predictions | None) -> str:
    """What the page's script draws a large confusion matrix from, safe inside of a page."""
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
