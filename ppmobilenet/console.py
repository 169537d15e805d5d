"""Standard output and the error stream, made so that to print never ends a run: the one place is the program's door."""

from __future__ import annotations

import codecs
import os
import sys
from typing import TextIO


def open_door() -> None:
    """Let both streams show what their encoding has no letters for as escapes, and be there even where they are closed.

    ``PYTHONIOENCODING=cp1252``, the C locale and a Windows console cannot show every label.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by the shell (`>&-`), or a program without a console
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))
        elif getattr(stream, "errors", None) == "strict" and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def is_utf8(stream: TextIO) -> bool:
    """Whether every text can be written to the stream as it is."""
    try:
        return codecs.lookup(getattr(stream, "encoding", None) or "utf-8").name == "utf-8"
    except LookupError:
        return False


def give_up(stream: TextIO) -> None:
    """Send to nowhere what is still to be written to a stream that cannot be written any more."""
    try:
        number = stream.fileno()
    except (OSError, ValueError):  # no file: nothing is left in it either
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, number)
    os.close(nowhere)
