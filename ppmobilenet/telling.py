"""The one way to speak: the logger ``ppmobilenet``, and progress bars.

Functions say what they do with ``log.info`` and what is odd with ``log.warning``. A job that people wait for - a
training, an export, a benchmark - runs inside :func:`aloud`, so that its lines are seen as plain lines: the outermost
one decides where. Whoever attaches a handler of his own to the logger gets the lines instead.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

log = logging.getLogger("ppmobilenet")

Item = TypeVar("Item")
NOWHERE = ""


def counted(number: int, noun: str) -> str:
    """``1, "photo"`` -> ``"1 photo"``; ``2000, "class"`` -> ``"2,000 classes"``."""
    many = noun if number == 1 else f"{noun}{'es' if noun.endswith('s') else 's'}"
    return f"{number:,} {many}"


class _Lines(logging.Handler):
    """Plain lines: infos to one of the standard streams, warnings to the error stream.

    Attributes:
        to: ``"stdout"``, ``"stderr"`` or NOWHERE for infos; None while nobody has decided.
    """

    to: str | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line so that it does not tear a progress bar."""
        name = "stderr" if record.levelno >= logging.WARNING else self.to
        stream = getattr(sys, name) if name else None  # looked up now: --json and tests exchange it
        if stream is None:
            return
        line = self.format(record)
        if "tqdm" in sys.modules:
            sys.modules["tqdm"].tqdm.write(line, file=stream)
        else:
            print(line, file=stream)
        stream.flush()


_lines = _Lines()


@contextmanager
def aloud(to: str | None = "stdout", file: Path | None = None, show: bool = True) -> Iterator[None]:
    """Let people see what the package says inside the block; also a decorator.

    Args:
        to: where infos go, ``"stdout"``, ``"stderr"`` or NOWHERE; an outer block's word counts. None decides nothing:
            only warnings are seen.
        file: lines are also added to it, with the time.
        show: False in processes that say nothing.
    """
    before = log.level, log.propagate, log.handlers, _lines.to
    handlers = list(log.handlers)
    if not show:
        handlers = [logging.NullHandler()]
    elif not handlers:
        handlers = [_lines]
    kept = None
    if file is not None:
        kept = logging.FileHandler(file, encoding="utf-8", errors="backslashreplace")
        kept.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%d %H:%M:%S"))
        handlers.append(kept)
    log.handlers = handlers
    if to is not None:
        _lines.to = to if _lines.to is None else _lines.to
        log.setLevel(min(log.getEffectiveLevel(), logging.INFO))
    if _lines in handlers or not show:
        log.propagate = False  # Paddle gives the root logger a handler of its own
    try:
        yield
    finally:
        log.setLevel(before[0])
        log.propagate, log.handlers, _lines.to = before[1:]
        if kept is not None:
            kept.close()


def tell(line: str) -> None:
    """Say one line beside a result: on the error stream, where nobody has decided otherwise."""
    with aloud("stderr"):
        log.info("%s", line)


def bar(items: Iterable[Item] | None = None, what: str | None = None, total: int | None = None, **about):
    """Return ``items`` under a progress bar, or a bar to be moved by ``update``; shown on a terminal only.

    Args:
        items: what to go through.
        what: the bar's title.
        total: how many there are, where ``items`` cannot say it.
        **about: of ``tqdm``: ``unit``, ``initial``, ``disable``.
    """
    from tqdm import tqdm  # no command's --help waits for it

    return tqdm(items, what, total, **{"disable": None, "leave": False, "dynamic_ncols": True, **about})


def duration(seconds: float) -> str:
    """``75`` -> ``"1:15"``."""
    hours, rest = divmod(int(round(seconds)), 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}" if hours else f"{rest // 60}:{rest % 60:02}"
