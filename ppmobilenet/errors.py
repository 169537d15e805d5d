"""What a user did wrong, said so that the next try is right.

Every error that a user can cause is a :class:`UserError`: the command line prints its message without a traceback
and leaves with its exit code. A message says what was found and where, what is allowed, and what to do.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

EXIT_OK = 0
EXIT_USER = 2
EXIT_DATA = 3
EXIT_DAMAGED_FILE = 4
EXIT_NUMERICS = 5
EXIT_LOST = 6
EXIT_SIGINT = 130
EXIT_SIGTERM = 143

# package that may be missing -> the extra of ours that brings it
EXTRAS = {
    "paddle": "cpu",
    "onnxruntime": "onnx",
    "onnx": "export",
    "paddle2onnx": "export",
    "visualdl": "visualdl",
    "tensorboardX": "tensorboard",
    "paddlelite": "lite",
    "sklearn": "fit",
    "cleanlab": "fit",
    "fastapi": "serve",
    "uvicorn": "serve",
    "python_multipart": "serve",
    "ray": "ray",
    "pyarrow": "ray",
}


# What a user typed stands in messages as it was found, and it may be a whole photo in base64: a word and a text keep
# their beginning and their end. Paths and lists of names are shorter.
LONGEST_WORD = 500
LONGEST_TEXT = 4000


def bounded(text: object) -> str:
    """Return a text for people: long words and long texts without their middle, control characters spelled out."""
    shown = re.sub(rf"\S{{{LONGEST_WORD + 1},}}", lambda word: _without_middle(word[0], LONGEST_WORD), str(text))
    shown = _without_middle(shown, LONGEST_TEXT)
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f]", lambda found: f"\\x{ord(found[0]):02x}", shown)


def _without_middle(text: str, longest: int) -> str:
    if len(text) <= longest:
        return text
    head, tail = longest * 3 // 5, longest * 3 // 10
    return f"{text[:head]}...({len(text) - head - tail} characters)...{text[-tail:]}"


class UserError(Exception):
    """The user's input cannot be used (exit code 2).

    Args:
        message: what was found, in the user's own spelling.
        where: the place it stands, for example ``"train_list.txt:17"`` or ``"configs/a.yaml:12"``.
        allowed: what would have been accepted there.
        hint: what to do now.
    """

    exit_code = EXIT_USER
    label = "error"

    def __init__(
        self, message: str, *, where: object | None = None, allowed: str | None = None, hint: str | None = None
    ):
        self.message, self.where = bounded(message), where
        self.allowed, self.hint = allowed and bounded(allowed), hint and bounded(hint)
        text = f"{bounded(where)}: {self.message}" if where is not None else self.message
        if allowed:
            text += f"\n  allowed: {self.allowed}"
        if hint:
            text += f"\n  what to do: {self.hint}"
        super().__init__(text)


class DataError(UserError):
    """A list file or an image cannot be used (exit code 3)."""

    exit_code = EXIT_DATA


class DamagedFileError(UserError):
    """A weight file, checkpoint or package is truncated, altered or of another kind (exit code 4)."""

    exit_code = EXIT_DAMAGED_FILE


class NumericsError(UserError):
    """A loss or a weight is not finite, or an exported model departs from its source (exit code 5)."""

    exit_code = EXIT_NUMERICS


class Stopped(UserError):
    """The user or the system asked the run to stop, and it did in good order (exit code 130 or 143)."""

    label = "stopped"

    def __init__(self, message: str, *, hint: str | None = None, exit_code: int = EXIT_SIGTERM):
        super().__init__(message, hint=hint)
        self.exit_code = exit_code


class LostProcess(UserError):
    """Another process of the run is gone, so this one stopped too, in good order (exit code 6).

    Args:
        message: which, and how it went.
        done: what was saved here.
    """

    exit_code = EXIT_LOST
    label = "stopped"

    def __init__(self, message: str, done: str = "its last save stands"):
        super().__init__(
            f"{message}; {done}",
            hint="start all processes with the same command and -o Global.checkpoints=auto: it goes on exactly there",
        )
        self.lost = message


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that ``name`` was most likely meant to be, or None."""
    known = [str(k) for k in known]
    by_lower = {k.lower(): k for k in known}
    found = difflib.get_close_matches(str(name).lower(), by_lower, n=1, cutoff=0.6)
    return by_lower[found[0]] if found else None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return the hint for a wrong name: ``did you mean 'epochs'?``, or the list of known names."""
    known = sorted(str(k) for k in known)
    match = nearest(name, known)
    if match:
        return f"did you mean {match!r}?"
    return "known: " + ", ".join(known)


def missing_package(error: ModuleNotFoundError) -> UserError | None:
    """Turn the failed import of an optional package into the command that installs it; None for any other module."""
    extra = EXTRAS.get((error.name or "").split(".")[0])
    if extra is None:
        return None
    also = " (or ppmobilenet[gpu] on a machine with an NVIDIA GPU)" if extra == "cpu" else ""
    return UserError(
        f"this needs the Python package {error.name!r}, which is not installed",
        hint=f"pip install 'ppmobilenet[{extra}]'{also}",
    )
