"""``ppmobilenet pack``: a list of photos -> tar shards with an index; or the index of tars that are there already."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tarfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple

from ppmobilenet import files, telling
from ppmobilenet.data.shards.dataset import CLASS_NAMES
from ppmobilenet.data.shards.parts import Fault, Part, read_part, write_index
from ppmobilenet.data.shards.plan import PLANNED, WORK, Line, Plan, Wanted, make_plan
from ppmobilenet.errors import DataError, UserError
from ppmobilenet.photos.decode import decode_image, read_bytes
from ppmobilenet.photos.facts import read_header
from ppmobilenet.photos.names import photo_suffixes
from ppmobilenet.photos.shards import BLOCK, HEAD, UNLABELLED

LEFT_OUT = "bad_photos.txt"
AHEAD = 32  # photos of a shard that are read and decoded while others are written
RECORD = 20 * BLOCK  # a tar ends with zeros up to a multiple of it
SHOWN = 10  # photos that were left out that are named


class Packed(NamedTuple):
    """What there is now.

    Attributes:
        folder: of the shards.
        photos: in them.
        shards: how many.
        bytes: of all shards.
        classes: labels that occur; None where nobody said what the photos show.
        bad: photos that were left out.
        faults: what the first of them lack; all stand in ``bad_photos.txt``.
        made: shards that this call wrote; the others were there.
    """

    folder: str
    photos: int
    shards: int
    bytes: int
    classes: int | None
    bad: int
    faults: list[str]
    made: int


class _Photo(NamedTuple):
    line: Line
    data: bytes = b""
    digest: bytes = b""
    suffix: str = ""
    fault: str = ""


def pack(wanted: Wanted, folder: Path, workers: int) -> Packed:
    """Pack a list's photos; a packing that was interrupted goes on, to the very same bytes.

    Photos that cannot be used are left out, named in ``bad_photos.txt`` and counted.

    Args:
        wanted: the list, and how to pack it.
        folder: made where it is missing; it may hold nothing but an interrupted packing of the same.
        workers: threads that read and decode, and at most so many shards at once; the shards do not depend on it.

    Raises:
        DataError: faults of the list, none of its photos can be used.
        UserError: the folder holds something else, or cannot be written.
    """
    work = folder / WORK
    if folder.is_dir():
        _finished(folder, wanted)  # what is not ours is refused before anything is written
    with _owned(folder):
        done = _finished(folder, wanted)
        if done:
            files.remove(work)
            return done
        plan = make_plan(work, wanted, workers)
        made = _write_shards(plan, folder, workers)
        return _finish(folder, [work / f"{number}.npz" for number in range(plan.shards)], made, wanted)


@contextmanager
def _owned(folder: Path) -> Iterator[None]:
    """Hold a folder against a second packing, which waits; say what cannot be written as a mistake."""
    with files.said(folder, where="OUT"):
        if folder.exists() and not folder.is_dir():
            raise UserError("this is a file, and a folder is needed", where=folder)
        strange = sorted(path.name for path in folder.glob("*.tar")) if folder.is_dir() else []
        if strange and not (folder / WORK / PLANNED).is_file() and not (folder / HEAD).is_file():
            raise UserError(
                f"the folder holds tars already: {strange[0]}" + (f" and {len(strange) - 1} more" * (len(strange) > 1)),
                where=folder,
                hint=f"give another folder; ppmobilenet pack {folder} indexes these",
            )
        (folder / WORK).mkdir(parents=True, exist_ok=True)
        lock = open(folder / WORK / "lock", "wb")
    with lock, files.locked(lock):
        (folder / WORK).mkdir(exist_ok=True)  # who had the lock before has removed it
        try:
            yield
        finally:
            if not (folder / WORK / PLANNED).is_file():  # nothing has begun
                files.remove(folder / WORK)
                with contextlib.suppress(OSError):
                    folder.rmdir()


def _finished(folder: Path, wanted: Wanted) -> Packed | None:
    """Return what a finished packing of the same list has left."""
    if not (folder / HEAD).is_file():
        return None
    try:
        head = json.loads((folder / HEAD).read_bytes())
        made_from = dict(head["made_from"])
        del made_from["left_out"]
        if made_from == wanted.identity():
            left_out = folder / LEFT_OUT
            return packed(folder, head, left_out.read_text("utf-8").splitlines() if left_out.is_file() else [], 0)
    except (ValueError, KeyError, TypeError, AttributeError):
        pass  # whatever it is, it is not ours to replace
    raise UserError(
        f"the folder holds a packing of something else, or one with other options: {HEAD}",
        where=folder,
        hint="give another folder, or remove this one",
    )


def packed(folder: Path, head: dict, faults: Sequence[str], made: int) -> Packed:
    """Return what a folder holds now, by the head of its index."""
    size, labels = sum(shard["bytes"] for shard in head["shards"]), head["labels"]
    classes, bad = None if labels is None else len(labels), head["made_from"]["left_out"]
    return Packed(str(folder), head["photos"], len(head["shards"]), size, classes, bad, list(faults[:SHOWN]), made)


def _finish(folder: Path, parts: Sequence[Path], made: int, wanted: Wanted) -> Packed:
    """Write index, names of what was left out, and names of the classes; remove what was needed on the way."""
    faults = [Fault(*fault) for part in parts for fault in read_part(part)[0]["faults"]]
    said = [str(fault) for fault in sorted(faults, key=lambda fault: fault.number)]
    good = sum(len(read_part(part)[1]["offsets"]) for part in parts)
    if not good:
        for number in range(len(parts)):
            (folder / _file(number)).unlink(missing_ok=True)
        files.remove(folder / WORK)  # the next start looks at the photos anew
        raise DataError(f"none of its {len(said)} photos can be used; the first: {said[0]}", where=wanted.source)
    write_faults(folder, said)
    names = wanted.source.parent / CLASS_NAMES
    if names.is_file():
        files.write_bytes(folder / CLASS_NAMES, names.read_bytes())
    head = write_index(folder, parts, {**wanted.identity(), "left_out": len(said)})
    files.remove(folder / WORK)
    return packed(folder, head, said, made)


def write_faults(folder: Path, faults: Sequence[str]) -> None:
    """Write which photos were left out, a line each; no file where none was."""
    if faults:
        files.write_text(folder / LEFT_OUT, "".join(f"{line}\n" for line in faults))
    else:
        (folder / LEFT_OUT).unlink(missing_ok=True)


def _write_shards(plan: Plan, folder: Path, workers: int) -> int:
    """Write the shards that are not there yet, some at once; return how many."""
    wanting = [number for number in range(plan.shards) if not _is_done(folder, number)]
    if len(wanting) < plan.shards:
        telling.tell(f"{plan.shards - len(wanting)} of {plan.shards} shards were packed before")
    bar = telling.bar(what="packing", total=plan.shards, initial=plan.shards - len(wanting), unit="shards")
    with bar, ThreadPoolExecutor(workers) as readers, ThreadPoolExecutor(min(workers, 8)) as writers:
        stop = threading.Event()
        futures = [writers.submit(_write_shard, plan, folder, number, readers, stop) for number in wanting]
        try:
            for future in futures:
                future.result()
                bar.update()
        except BaseException:
            stop.set()
            for future in futures:
                future.cancel()
            raise
    return len(wanting)


def _is_done(folder: Path, number: int) -> bool:
    part, tar = read_part(folder / WORK / f"{number}.npz"), folder / _file(number)
    return part is not None and tar.is_file() and tar.stat().st_size == part[0]["bytes"]


def _file(number: int) -> str:
    return f"shard-{number:06}.tar"


def _write_shard(plan: Plan, folder: Path, number: int, readers: ThreadPoolExecutor, stop: threading.Event) -> None:
    """Write one tar, then its part; unless another one failed, or the user stopped it all."""
    lines, rows, faults, used = list(plan.lines(number)), [], [], set()
    source = plan.wanted.source
    with files.whole_file(folder / _file(number), where="OUT", hint=f"{files.HINT}; the same command goes on") as file:
        tar = _Tar(file)
        for start in range(0, len(lines), AHEAD):
            if stop.is_set():
                raise KeyboardInterrupt
            some = lines[start : start + AHEAD]
            for photo in readers.map(_prepare(plan.wanted), some):
                if photo.fault:
                    faults.append(Fault(f"{source}:{photo.line.number}", photo.fault, photo.line.number))
                    continue
                key = photo.line.key
                while key in used:  # what a number behind it has made of it
                    key += "-"
                used.add(key)
                name = f"{key}{photo.suffix}"
                offset = tar.add(name, photo.data)
                label = UNLABELLED
                if photo.line.label is not None:
                    label = photo.line.label
                    tar.add(f"{key}.cls", str(label).encode())
                rows.append((offset, len(photo.data), label, photo.digest, name))
        tar.end()
    Part(_file(number), tar.position, tar.sha256.hexdigest(), rows, faults).save(folder / WORK / f"{number}.npz")


def _prepare(wanted: Wanted) -> Callable[[Line], _Photo]:
    def prepare(line: Line) -> _Photo:
        """Read a photo and see whether training could: it is decoded once, here, rather than found bad in an epoch."""
        path = str(wanted.root / line.name)
        try:
            data = read_bytes(path)
            decode_image(data, name=path)
        except DataError as error:
            _refuse_lost_storage(error, line, path)
            return _Photo(line, fault=f"{path}: {error.message}")
        suffix = PurePosixPath(line.name).suffix.lower()
        if suffix not in photo_suffixes():
            suffix = f".{read_header(data).kind.lower()}"
        return _Photo(line, data, hashlib.sha256(data).digest(), suffix)

    return prepare


def _refuse_lost_storage(error: DataError, line: Line, path: str) -> None:
    """Stop where it is the storage that fails, not the photo: else every photo from here on would be left out."""
    cause = error.__cause__
    own = isinstance(cause, (PermissionError, IsADirectoryError)) or not isinstance(cause, OSError)
    removed = isinstance(cause, FileNotFoundError) and os.path.isdir(os.path.dirname(path))
    if line.there and not own and not removed:
        raise DataError(
            f"{error.message}, and it was there when the packing began",
            where=path,
            hint="is the disk or network drive with the photos alive? Then the same command goes on",
        ) from cause


class _Tar:
    """A tar in the making whose bytes depend on names and contents alone: no times, no owners.

    Attributes:
        position: bytes written.
        sha256: of them.
    """

    def __init__(self, file: BinaryIO):
        self._file, self.position, self.sha256 = file, 0, hashlib.sha256()

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self.sha256.update(data)
        self.position += len(data)

    def add(self, name: str, data: bytes) -> int:
        """Write a file; return where its content begins."""
        member = tarfile.TarInfo(name)
        member.size = len(data)
        self._write(member.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape"))
        offset = self.position
        self._write(data)
        self._write(bytes(-len(data) % BLOCK))
        return offset

    def end(self) -> None:
        """Write the zeros at the end of a tar."""
        self._write(bytes(2 * BLOCK))
        self._write(bytes(-self.position % RECORD))
