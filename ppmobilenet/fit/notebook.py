"""What a fit has found out so far, so that the next start of the same fit goes on from there."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ppmobilenet import files
from ppmobilenet.errors import DamagedFileError, UserError

FILE_NAME = "fit.json"
OWN = ("config.yaml", "lists", "networks", "trial", "package", "report")  # what a fit writes into its folder
FORMAT = 3  # goes up where what an entry holds, or how it is found, changes
_ELSEWHERE = "--output another folder; --from {} keeps what was learned there, numbers of classes and what was held out"


class Notebook:
    """The file ``fit.json`` of a folder: what was asked, and one entry a step.

    Args:
        folder: of the fit.
        asked: what every step depends on, plain values.

    Attributes:
        entries: step -> what it found.

    Raises:
        UserError: the folder holds the fit of something else, or that of another version of this software.
        DamagedFileError: its file cannot be read.
    """

    def __init__(self, folder: Path, asked: Mapping[str, Any]):
        self._path, self._began = folder / FILE_NAME, time.monotonic()
        self.asked, self.entries = dict(asked), {}
        self._before = 0.0  # seconds that earlier starts have spent
        self.look()

    def look(self) -> None:
        """Read what is in the folder; once more when nobody else can write there any longer."""
        folder = self._path.parent
        if not self._path.exists():
            theirs = next((name for name in OWN if (folder / name).exists()), None)
            if theirs:
                raise UserError(
                    f"this folder holds {theirs} already, which is of no fit and would be replaced",
                    where=folder,
                    hint="--output another folder",
                )
            return
        told = read(folder)
        if told["format"] != FORMAT:
            raise UserError(
                f"another version of ppmobilenet has begun this fit (its notes have format {told['format']}, "
                f"this version's {FORMAT})",
                where=folder,
                hint=_ELSEWHERE.format(folder),
            )
        if not told["entries"]:  # nothing was found out: it may as well be another question
            return
        changed = [key for key in self.asked if told["asked"].get(key) != self.asked[key]]
        if changed:
            old = {key: told["asked"].get(key) for key in changed}
            said = ", ".join("the photos" if key == "fingerprint" else f"{key} was {old[key]!r}" for key in changed)
            raise UserError(
                f"this folder holds a fit of something else ({said} then)",
                where=folder,
                hint=f"asked as it was then it goes on; {_ELSEWHERE.format(folder)}",
            )
        self.entries, self._before = told["entries"], told["seconds"]

    @property
    def seconds(self) -> float:
        """What was spent, earlier starts included."""
        return self._before + time.monotonic() - self._began

    def once(self, step: str, work: Callable[[], Any]) -> Any:
        """Return what a step found; it is done only if it has not been. Plain values."""
        if step not in self.entries:
            if not self._path.exists():  # from here on what is in the folder is the fit's
                self._save()
            self.entries[step] = work()
            self._save()
        return self.entries[step]

    def _save(self) -> None:
        found = {"format": FORMAT, "asked": self.asked, "seconds": round(self.seconds, 1), "entries": self.entries}
        found["sha256"] = _digest(found)
        files.write_text(self._path, json.dumps(found, indent=1, ensure_ascii=False))


def _digest(told: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def read(folder: Path) -> dict:
    """Return what a fit's folder tells: ``format``, ``asked``, ``seconds`` and ``entries``.

    Raises:
        UserError: there was no fit.
        DamagedFileError: its file cannot be read.
    """
    path = folder / FILE_NAME
    if not path.is_file():
        raise UserError("there is no fit in this folder", where=folder, hint="give the --output of an earlier fit")
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        found = {key: kind(told[key]) for key, kind in (("asked", dict), ("seconds", float), ("entries", dict))}
        given, found["format"] = told.pop("sha256", None), int(told.get("format", 1))
        if given != _digest(told) and found["format"] == FORMAT:
            raise ValueError("it was changed after it was written")
        return found
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DamagedFileError(
            f"not the notes of a fit: {error!r}", where=path, hint="fit anew into another folder"
        ) from error
