"""The model zoo as a Markdown table, generated from the catalogue of published weights."""

from __future__ import annotations

from pathlib import Path

from ppmobilenet import files, tables
from ppmobilenet.errors import UserError
from ppmobilenet.paper import published
from ppmobilenet.weights import catalog

START, END = "<!-- zoo: written by tools/make_docs.py -->", "<!-- /zoo -->"
# file -> headings of the columns
HEADINGS = {
    "docs/models.md": ("model", "parameters", "multiply-adds", "top-1 %", "top-5 %", "SD855 ms", "weights"),
    "docs/ch/models.md": ("模型", "参数量", "乘加次数", "top-1 %", "top-5 %", "骁龙855 毫秒", "权重"),
}


def zoo_table(page: str = "docs/models.md") -> str:
    """Return one row a published file: size, cost, accuracy, latency on one core of a Snapdragon 855, its state."""
    headings, up = HEADINGS[page], "../" * page.count("/")
    cells = (
        lambda r: f"[{r.name}]({up}{r.recipe})",
        lambda r: f"{r.parameters / 1e6:.2f} M",
        lambda r: f"{r.madds / 1e6:.0f} M",
        lambda r: f"{r.top1:.2f}" + ("" if r.preprocessing.crop == 224 else f" at {r.preprocessing.crop} px"),
        lambda r: f"{r.top5:.2f}",
        _latency,
        lambda r: f"[{'SSLD' if r.ssld else 'pdparams'}]({r.url}), {r.status}",
    )
    names = (f"<{headings[0]}", *headings[1:-1], f"<{headings[-1]}")
    return tables.markdown_table(list(catalog.rows().values()), dict(zip(names, cells)))


def update(root: str | Path, write: bool = True) -> int:
    """Put the table between the marks of each page.

    Returns:
        How many files changed, or would.

    Raises:
        UserError: a page has a first mark without the second.
    """
    changed = 0
    for name in HEADINGS:
        path = Path(root) / name
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        before, mark, rest = text.partition(START)
        if not mark:
            continue
        _, mark, after = rest.partition(END)
        if not mark:
            raise UserError(f"{START} without {END}", where=path)
        new = f"{before}{START}\n{zoo_table(name)}\n{END}{after}"
        if new != text:
            changed += 1
            if write:
                files.write_text(path, new)
    return changed


def _latency(row: catalog.Published) -> str | None:
    device, precision = "Snapdragon 855 armv8", "fp32"
    found = published.latency(row.any_scale, row.scale, row.preprocessing.crop, precision, device, 1)
    return None if found is None else f"{found:.1f}"
