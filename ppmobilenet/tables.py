"""Rows of values as aligned text, CSV or Markdown."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ppmobilenet import files

# heading -> how to get the cell's text from a row; a heading that starts with "<" is aligned left
Columns = Mapping[str, Callable[[Mapping], object]]


def text_table(rows: Sequence[Mapping], columns: Columns) -> str:
    """Return an aligned table for a terminal."""
    heads = [head.lstrip("<") for head in columns]
    cells = [heads] + [[_text(get(row)) for get in columns.values()] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(heads))]
    left = [head.startswith("<") for head in columns]
    lines = []
    for line in cells:
        parts = [c.ljust(w) if lf else c.rjust(w) for c, w, lf in zip(line, widths, left)]
        lines.append("  ".join(parts).rstrip())
    lines.insert(1, "  ".join("-" * w for w in widths))
    return "\n".join(lines)


def markdown_table(rows: Sequence[Mapping], columns: Columns) -> str:
    """Return a table for a README."""
    heads = "| " + " | ".join(head.lstrip("<") for head in columns) + " |"
    rule = "|" + "|".join("---" if head.startswith("<") else "---:" for head in columns) + "|"
    body = ["| " + " | ".join(_text(get(row)) for get in columns.values()) + " |" for row in rows]
    return "\n".join([heads, rule, *body])


def csv_text(rows: Sequence[Mapping]) -> str:
    """Return rows of equal keys as CSV; tuples are joined by ``x``, as in a shape."""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({k: "x".join(map(str, v)) if isinstance(v, (tuple, list)) else v for k, v in row.items()})
    return out.getvalue()


def write_csv(rows: Sequence[Mapping], path: str | Path) -> Path:
    """Write :func:`csv_text` to a file, making its folder."""
    files.write_text(path, csv_text(rows))
    return Path(path)


def _text(value: object) -> str:
    return "-" if value is None else str(value)
