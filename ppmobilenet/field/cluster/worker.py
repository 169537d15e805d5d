"""What a worker does: it opens the package once and answers part after part, each into its file."""

from __future__ import annotations

import hashlib
import json
import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ppmobilenet.errors import DataError, UserError
from ppmobilenet.field.answers import Failure, Prediction
from ppmobilenet.field.cluster import answers, parts
from ppmobilenet.field.cluster.parts import Part
from ppmobilenet.field.package import Package
from ppmobilenet.field.package import sha256 as sha256_of
from ppmobilenet.field.predictor import Predictor
from ppmobilenet.field.sources import read

# a worker that died this often in a part goes on in it photo by photo: one of the photos may be what kills it
DEATHS = 2


@dataclass(frozen=True)
class Orders:
    """What every worker of a job is told.

    Attributes:
        kind, root: of the :class:`.parts.Photos`.
        folder: of the job.
        predictor: arguments of :class:`Predictor`.
        batch_size: photos a run of the model.
        package: :func:`identity` of the package that the job began with.
    """

    kind: str
    root: str
    folder: Path
    predictor: dict
    batch_size: int
    package: str


class Worker:
    """One of the processes that answer; Ray calls it with a part at a time."""

    def __init__(self, orders: Orders):
        self.orders, self._predictor = orders, None

    def __call__(self, row: dict) -> dict:
        """Answer one part, if its answers are not there.

        Args:
            row: the fields of a :class:`Part`.

        Returns:
            number, photos, failed, ``before`` (it was answered by an earlier start), began and ended (seconds since
            1970), and as ``fault`` what the user has to mend, or an empty text.
        """
        began, part = time.time(), Part(**row)
        found, fault = answers.count(self.orders.folder, part.number), ""
        before = found is not None
        if not before:
            try:
                found = self._answer(part)
            except UserError as error:  # as a text: it goes to the first process, which says it and ends the job
                found, fault = answers.Counts(0, 0), f"{error}\n  part {part.number}, on {platform.node()}"
        times = {"began": began, "ended": time.time()}
        counts = {"photos": found.photos, "failed": found.failed}
        return {"number": part.number, **counts, "before": before, **times, "fault": fault}

    def _answer(self, part: Part) -> answers.Counts:
        photos = parts.read(self.orders.kind, self.orders.root, part)
        if self._predictor is None:
            self._predictor = self._open()
        with Tries(self.orders.folder / "_work" / f"{part.number:06d}.tries") as tries:
            if tries.deaths < DEATHS:
                found = self._predictor.stream((_Photo(*photo) for photo in photos), self.orders.batch_size)
            else:
                found = self._one_by_one(photos, tries)
            return answers.write(self.orders.folder, part.number, found)

    def _open(self) -> Predictor:
        """Open the package: at the start, or hours later in the place of a worker that was killed.

        Raises:
            UserError: it was replaced meanwhile; one result would hold two models' answers.
        """
        opened = Predictor(**self.orders.predictor)
        found = identity(opened.package)
        if found != self.orders.package:
            raise UserError(
                f"the package is not the one that the job began with: sha256 {found}, was {self.orders.package}",
                where=self.orders.predictor["package"],
                hint="bring that one back, or answer everything anew into another --save",
            )
        return opened

    def _one_by_one(self, photos: Iterator[tuple[str, object]], tries: Tries) -> Iterator[Prediction | Failure]:
        for place, (name, photo) in enumerate(photos):
            if place in tries.fatal:
                told = DataError("the process was killed while it answered this photo", where=name)
                yield Failure(name, told)
                continue
            tries.note(place)
            yield from self._predictor.stream([_Photo(name, photo)], workers=1)


def identity(package: Package) -> str:
    """Return the sha256 that tells a package from every other one; of PaddleClas's, that of all that is used of it."""
    if sha256 := package.meta.get("sha256"):
        return sha256
    names = {"inference.yml", *(name for form in package.meta["forms"] for name in form["files"])}
    digests = [(name, sha256_of(package.folder / name)) for name in sorted(names)]
    return hashlib.sha256(json.dumps(digests).encode()).hexdigest()


class _Photo:
    """A photo as an open file: what it is called goes with it."""

    def __init__(self, name: str, photo: object):
        self.name, self._photo = name, photo

    def read(self) -> bytes:
        if isinstance(self._photo, Failure):
            raise self._photo.error
        try:
            return read(self._photo, 0)[1]
        except DataError as error:
            raise DataError(error.message, where=self.name, hint=error.hint) from error


class Tries:
    """A file that remembers how often a part was begun, and in the end, with which photo.

    A photo that crashes the decoder kills its worker, and the worker that is given the part then, and the next. So the
    third goes through the part photo by photo and notes each; the photo at which it is killed is passed over by the
    fourth.

    Attributes:
        deaths: workers that were killed in this part.
        fatal: places in the part of photos at which they were.
    """

    def __init__(self, path: Path):
        self._path, self.deaths, self.fatal = path, 0, set()

    def __enter__(self) -> Tries:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        earlier = self._path.read_text().split("begun\n")[1:] if self._path.exists() else []
        self.deaths = len(earlier)
        self.fatal = {int(noted.split()[-1]) for noted in earlier if noted.split()}
        self._file = open(self._path, "a")
        self._write("begun")
        return self

    def note(self, place: int) -> None:
        """Remember the photo that is answered now."""
        self._write(str(place))

    def _write(self, line: str) -> None:
        self._file.write(line + "\n")
        self._file.flush()

    def __exit__(self, kind, error, trace) -> None:
        self._file.close()  # this process lives: whatever happened, no photo killed it
        self._path.unlink(missing_ok=True)
