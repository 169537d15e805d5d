"""A diagnosis as text, JSON, and a page of the photos to look at."""

from __future__ import annotations

import base64
import html
import os

import cv2

from ppmobilenet import files
from ppmobilenet.data.findings import KINDS, Diagnosis, Finding
from ppmobilenet.errors import DataError
from ppmobilenet.photos.decode import decode_image
from ppmobilenet.telling import counted

SHOWN = 5  # findings of a kind in the text
PICTURES = 200  # findings on the page
SIDE = 160  # pixels of a thumbnail
STYLE = (
    ":root{--page:#f6f7f9;--card:#fff;--ink:#1a202c;--rule:#dde1e8}"
    "@media(prefers-color-scheme:dark){:root{--page:#101317;--card:#181c22;--ink:#e6e8eb;--rule:#2d343e}}"
    "body{margin:0 auto;max-width:1120px;padding:0 16px;background:var(--page);color:var(--ink);"
    "font:15px/1.5 system-ui,sans-serif}h1{font-size:1.4rem}h2{font-size:1rem;margin:0 0 6px}"
    "main{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,340px),1fr));gap:14px}"
    "section{background:var(--card);border:1px solid var(--rule);border-radius:8px;padding:12px;min-width:0}"
    "img{margin:0 4px 4px 0;max-width:100%}p{overflow-wrap:anywhere;margin:6px 0 0}"
    "summary{padding:12px 0;cursor:pointer}pre{white-space:pre-wrap;overflow-wrap:anywhere}"
)


def text(diagnosis: Diagnosis) -> str:
    """Return the summary for a terminal."""
    lines = []
    for name, facts in diagnosis.facts.items():
        lines.append(
            f"{name}: {counted(facts['photos'], 'photo')}, {counted(facts['classes'], 'class')} of "
            f"{facts['smallest_class']} to {facts['largest_class']} ({facts['source']})"
        )
        if "mean" in facts:
            width, height = facts["median_size"]
            small, large = ("x".join(map(str, facts[key])) for key in ("smallest", "largest"))
            kinds = ", ".join(f"{key} {many}" for key, many in sorted(facts["kinds"].items(), key=lambda i: -i[1]))
            lines.append(f"  median {width}x{height}, from {small} to {large}; {kinds}")
            lines.append(f"  mean {facts['mean']}, std {facts['std']} of RGB values 0 to 1")
    for kind, (is_error, advice) in KINDS.items():
        many = diagnosis.counts.get(kind)
        if not many:
            continue
        lines.append(f"{'ERROR' if is_error else 'warning'}: {kind}, {counted(many, 'time')}; what to do: {advice}")
        found = [f for f in diagnosis.findings if f.kind == kind]
        lines += [f"  {f.where}: {_apart(f)}" for f in found[:SHOWN]]
        if many > SHOWN:
            lines.append(f"  and {many - SHOWN} more")
    lines.append(_verdict(diagnosis))
    return "\n".join(lines)


def _apart(finding: Finding) -> str:
    """Return what a finding says, without the place where that is said beside it."""
    return finding.message.removeprefix(f"{finding.where}: ")


def _verdict(diagnosis: Diagnosis) -> str:
    return f"{counted(diagnosis.errors, 'error')}, {counted(diagnosis.warnings, 'warning')}"


def to_dict(diagnosis: Diagnosis) -> dict:
    """Return everything for machines."""
    findings = [
        {"kind": f.kind, "error": f.is_error, "where": f.where, "message": f.message, "photos": list(f.photos)}
        for f in diagnosis.findings
    ]
    return {
        "errors": diagnosis.errors,
        "warnings": diagnosis.warnings,
        "counts": diagnosis.counts,
        "lists": diagnosis.facts,
        "findings": findings,
    }


def write_page(diagnosis: Diagnosis, path: str | os.PathLike) -> None:
    """Write the photos of the findings as one HTML file that needs nothing else."""
    with_photos = [f for f in diagnosis.findings if f.photos]
    rows = []
    for finding in with_photos[:PICTURES]:
        pictures = "".join(_thumbnail(photo) for photo in finding.photos)
        kind = ("error: " if finding.is_error else "") + finding.kind
        where, message = html.escape(finding.where), html.escape(_apart(finding))
        rows.append(f"<section><h2>{kind}</h2><div>{pictures}</div><p><b>{where}</b> {message}</p></section>")
    left = len(with_photos) - len(rows)
    more = f"<p>and {left} more, see the JSON</p>" if left else ""
    summary = html.escape(text(diagnosis))
    page = (
        f'<!DOCTYPE html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f'<meta name="color-scheme" content="light dark"><title>Data set</title><style>{STYLE}</style>'
        f"<h1>{_verdict(diagnosis)}</h1><main>{''.join(rows)}</main>{more}"
        f"<details{'' if rows else ' open'}><summary>All of it, as text</summary><pre>{summary}</pre></details>"
        "</html>\n"
    )
    files.write_text(path, page)


def _thumbnail(path: str) -> str:
    try:
        pixels = decode_image(path, to_rgb=False)
    except DataError:
        return "<i>cannot be decoded</i>"
    scale = SIDE / max(pixels.shape[:2])
    size = tuple(max(1, round(side * scale)) for side in pixels.shape[1::-1])
    _, data = cv2.imencode(".jpg", cv2.resize(pixels, size, interpolation=cv2.INTER_AREA))
    return f'<img alt="" src="data:image/jpeg;base64,{base64.b64encode(data.tobytes()).decode()}">'
