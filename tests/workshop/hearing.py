"""What the package says while a block runs, for tests."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def heard() -> Iterator[list[str]]:
    """Give a list that receives each line."""
    lines: list[str] = []
    handler, log = logging.Handler(), logging.getLogger("ppmobilenet")
    handler.emit = lambda record: lines.append(record.getMessage())
    before = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield lines
    finally:
        log.removeHandler(handler)
        log.setLevel(before)
