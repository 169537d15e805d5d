"""What a file of the package imports, read from its source."""

from __future__ import annotations

import ast
from pathlib import Path

import ppmobilenet

ROOT = Path(ppmobilenet.__file__).parent


def imported(path: Path) -> set[str]:
    """Every module that a file imports, at its top and inside of functions, by its whole name."""
    package = ["ppmobilenet", *path.relative_to(ROOT).parent.parts]
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) + 1 - node.level] if node.level else []
            names |= {".".join([*start, *filter(None, [node.module]), alias.name]) for alias in node.names}
    return names
