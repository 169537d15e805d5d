"""The outcome of a command, which the command line hands over."""

from __future__ import annotations

from typing import Any, NamedTuple


class Outcome(NamedTuple):
    """What a command gives back.

    Attributes:
        data: for ``--json``: dictionaries, lists, texts, numbers, paths, dataclasses.
        text: for people; nothing where the command has said everything on the way.
        exit_code: of the process.
    """

    data: Any
    text: str = ""
    exit_code: int = 0
