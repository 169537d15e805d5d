"""What there is to answer, cut into parts: lists, folders, shards and Parquet.

A part says where its photos are and holds none of them, so a hundred million photos are some ten thousand short rows.
The worker that is given a part reads it.
"""

from __future__ import annotations

import codecs
import hashlib
import json
import os
import platform
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from ppmobilenet.errors import DataError, UserError
from ppmobilenet.field.answers import Failure
from ppmobilenet.files import whole_file
from ppmobilenet.photos.names import (
    here,
    instead_of_tars,
    is_hidden,
    lines_of,
    listed_photo,
    not_utf8,
    photo_suffixes,
    walk_photos,
)
from ppmobilenet.photos.shards import Shards, find_shards
from ppmobilenet.telling import log

# a part's photos: enough that a part is long beside its start and its file, few enough to be done again
SMALLEST, LARGEST = 64, 4096
PARTS_A_WORKER = 16  # where there are that many photos: the last workers end at about the same time
CHUNK = 2**24
LISTED = "_photos.jsonl"  # in the job's folder: the photos of a folder
# columns of a Parquet file that hold paths or name photos, in the order in which they are looked for
PATHS = ("path", "file_name", "image_path", "file", "image")
KEYS = ("file_name", "path", "image_path", "key", "__key__", "id")


@dataclass(frozen=True)
class Part:
    """Photos that one worker answers in one go.

    Attributes:
        number: of the part; its answers' file is named after it.
        path: the list, the shards or the Parquet file that it is read from.
        start, end: bytes of a list, places among the photos of shards, row groups of a Parquet file.
    """

    number: int
    path: str
    start: int
    end: int


@dataclass(frozen=True)
class Photos:
    """All that a job is to answer.

    Attributes:
        kind: key of READERS.
        root: the folder that a list's paths are relative to; empty where there is none.
        parts: in order.
        identity: what tells that another start means the same photos.
    """

    kind: str
    root: str
    parts: Sequence[Part]
    identity: str


def read(kind: str, root: str, part: Part) -> Iterator[tuple[str, object]]:
    """Yield (name, photo) of a part: the photo's path, its bytes, or a :class:`Failure` in place of one.

    Args:
        kind, root: of :class:`Photos`.
        part: of the same.

    Raises:
        UserError: the part is not where this process can see it.
    """
    if not os.path.exists(part.path) or root and not os.path.isdir(root):
        raise UserError(
            f"it is not there on the machine {platform.node()}",
            where=part.path if not os.path.exists(part.path) else root,
            hint="every machine of the cluster needs the photos under the same path",
        )
    return READERS[kind](root, part)


def find(source: str, infer_list: str | None, folder: Path, workers: int, anew: bool = False) -> Photos:
    """Look at what is to be answered, and cut it into parts.

    Args:
        source: a photo; a folder of photos, of shards or of Parquet files; a shard; a Parquet file.
        infer_list: a list of paths below ``source``.
        folder: of the job; a folder's photos are listed there once, so that another start means the same ones.
        workers: how many there will be.
        anew: no job was begun there, so a listing that is there may be of another folder.

    Raises:
        DataError: nothing is there, or it cannot be read.
    """
    if not os.path.exists(source):
        raise DataError(f"{source!r} does not exist", hint="give a photo, or a folder of photos, shards or Parquet")
    if infer_list:
        if not os.path.isfile(infer_list):
            raise DataError(f"the list file {os.fspath(infer_list)!r} does not exist", where="--infer-list")
        return _cut("list", os.path.abspath(source), os.path.abspath(infer_list), workers)
    if (shards := find_shards(os.path.abspath(source))) is not None:
        return _of_index(os.path.abspath(source), shards, workers)
    if tables := _tables(source):
        return _of_tables(tables)
    root, listed = os.path.abspath(source), folder / LISTED
    if not os.path.isdir(source):
        root = os.path.dirname(root)
    if anew or not listed.is_file():
        _list_folder(source, listed)
    return _cut("folder", root, str(listed), workers)


def is_listing(path: Path) -> bool:
    """Whether a file is the listing of a folder's photos that a job has written."""
    try:
        with open(path, encoding="ascii") as file:
            first = file.readline(2**16)
            return not first or isinstance(json.loads(first), str)
    except (OSError, ValueError):
        return False


def _tables(source: str) -> list[str]:
    if os.path.isdir(source):
        names = sorted(name for name in os.listdir(source) if name.endswith(".parquet") and not is_hidden(name))
        return [os.path.join(os.path.abspath(source), name) for name in names]
    return [os.path.abspath(source)] if source.endswith(".parquet") else []


def _list_folder(source: str, listed: Path) -> None:
    """Write a line of JSON for each photo of a folder: a name may hold what a line of text cannot."""
    left_out = Counter()
    names = walk_photos(source, left_out) if os.path.isdir(source) else [os.path.basename(source)]
    with whole_file(listed, "w", where="--save") as file:
        file.writelines(json.dumps(name) + "\n" for name in names)
    if left_out:
        log.warning("%s: left out %s", source, ", ".join(f"{n} {kind}" for kind, n in left_out.most_common(8)))
    if not listed.stat().st_size:
        listed.unlink()
        raise DataError(
            f"there is no photo below {source!r}, and no .parquet right in it",
            allowed="files ending in " + " ".join(photo_suffixes()),
            hint=instead_of_tars(source) if left_out[".tar"] else None,
        )


def _cut(kind: str, root: str, path: str, workers: int) -> Photos:
    """Cut a file of lines into parts of as many lines each."""
    places, lines, digest = _places(path)
    if not lines:
        raise DataError("the list is empty", where=path)
    starts = places[:: _size(lines, workers) // SMALLEST].tolist()
    ends = [*starts[1:], os.path.getsize(path)]
    parts = [Part(number, path, start, end) for number, (start, end) in enumerate(zip(starts, ends))]
    return Photos(kind, root, parts, f"{path}: {digest}")


def _size(photos: int, workers: int) -> int:
    """Return how many photos a part has."""
    return min(max(photos // (workers * PARTS_A_WORKER), SMALLEST), LARGEST) // SMALLEST * SMALLEST


def _places(path: str) -> tuple[np.ndarray, int, str]:
    """Return the byte at which every 64th line of a text begins, the number of lines, and the text's SHA-256.

    There are no lines where all of them are blank.

    Raises:
        DataError: it is not UTF-8.
    """
    places, lines, done, blank = [np.zeros(1, np.int64)], 0, 0, True
    digest, decoder = hashlib.sha256(), codecs.getincrementaldecoder("utf-8-sig")()
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            text = _decoded(decoder, chunk, path, lines)
            blank = blank and not text.strip()
            ends = np.flatnonzero(np.frombuffer(chunk, np.uint8) == 10) + 1  # where the next line begins
            places.append(done + ends[SMALLEST - 1 - lines % SMALLEST :: SMALLEST])
            lines, done, last = lines + len(ends), done + len(chunk), chunk[-1]
    _decoded(decoder, b"", path, lines)  # it may end inside of a letter
    if done and last != 10:
        lines += 1
    found = np.concatenate(places)
    return found[found < done], 0 if blank else lines, digest.hexdigest()


def _decoded(decoder: codecs.IncrementalDecoder, chunk: bytes, path: str, lines: int) -> str:
    """Return the next piece of a text; none is its end."""
    try:
        return decoder.decode(chunk, final=not chunk)
    except UnicodeDecodeError as error:
        raise not_utf8(path, error, lines) from error


def _of_index(source: str, shards: Shards, workers: int) -> Photos:
    size = _size(len(shards), workers)
    starts = range(0, len(shards), size)
    parts = [Part(number, source, start, min(start + size, len(shards))) for number, start in enumerate(starts)]
    told = hashlib.sha256(json.dumps([source, shards.head, len(shards)], sort_keys=True).encode()).hexdigest()
    return Photos("shards", "", parts, f"{source}: {told}")


def _of_tables(paths: Sequence[str]) -> Photos:
    import pyarrow.parquet as pq

    parts: list[Part] = []
    for path in paths:
        try:
            file = pq.ParquetFile(path)
        except (OSError, ValueError) as error:
            raise DataError(f"this is no Parquet file: {error}", where=path) from error
        _columns(file.schema_arrow, path)  # what it lacks is said before a cluster works
        parts += [Part(len(parts) + i, path, i, i + 1) for i in range(file.metadata.num_row_groups)]
    if not parts:
        raise DataError("there is no row", where=paths[0])
    stats = [(path, os.stat(path)) for path in paths]  # to read a hundred gigabytes for their sum would take long
    told = hashlib.sha256(json.dumps([[p, s.st_size, s.st_mtime_ns] for p, s in stats]).encode()).hexdigest()
    return Photos("parquet", "", parts, f"{len(paths)} files: {told}")


def _lines(part: Part) -> Iterator[str]:
    with open(part.path, "rb") as file:
        file.seek(part.start)
        text = file.read(part.end - part.start).decode("utf-8-sig" if part.start == 0 else "utf-8")
    yield from filter(None, (line.strip() for line in lines_of(text)))


def _of_list(root: str, part: Part) -> Iterator[tuple[str, str]]:
    for line in _lines(part):
        path = listed_photo(root, line)
        yield path, path


def _of_folder(root: str, part: Part) -> Iterator[tuple[str, str]]:
    for line in _lines(part):
        path = os.path.join(root, here(root, json.loads(line)))
        yield path, path


@lru_cache(1)
def _opened(source: str) -> Shards:
    return find_shards(source)


def _of_shards(root: str, part: Part) -> Iterator[tuple[str, str]]:
    for member in _opened(part.path)[part.start : part.end]:
        yield member, member  # a path that knows where its bytes are


def _of_parquet(root: str, part: Part) -> Iterator[tuple[str, object]]:
    import pyarrow.parquet as pq

    file = pq.ParquetFile(part.path)
    photo, key = _columns(file.schema_arrow, part.path)
    row = sum(file.metadata.row_group(i).num_rows for i in range(part.start))
    beside = partial(os.path.join, os.path.dirname(part.path))
    groups, columns = list(range(part.start, part.end)), [photo] if key in (None, photo) else [photo, key]
    for batch in file.iter_batches(batch_size=SMALLEST, row_groups=groups, columns=columns):
        for found in batch.to_pylist():
            value, name = found[photo], found[key] if key else None
            if isinstance(value, dict):  # Hugging Face's image: {"bytes": ..., "path": ...}, either may be missing
                path = value.get("path")
                name, value = name or path, value["bytes"] if value["bytes"] is not None else path and beside(path)
            elif isinstance(value, str):
                name, value = value, beside(value)
            name = f"{part.path}#{row}" if name is None else str(name)
            yield name, Failure(name, DataError("the row holds no photo", where=name)) if value is None else value
            row += 1


def _columns(schema, path: str) -> tuple[str, str | None]:
    """Return the column that holds the photos, and the one that names them.

    Raises:
        DataError: there is no such column, or several.
    """
    import pyarrow.types as t

    def is_bytes(kind) -> bool:
        return t.is_binary(kind) or t.is_large_binary(kind)

    def holds_photos(kind) -> bool:
        return is_bytes(kind) or (t.is_struct(kind) and any(f.name == "bytes" and is_bytes(f.type) for f in kind))

    found = [field.name for field in schema if holds_photos(field.type)]
    texts = [field.name for field in schema if t.is_string(field.type) or t.is_large_string(field.type)]
    found = found or [name for name in PATHS if name in texts][:1]
    if len(found) != 1:
        said = f"several columns could be the photos: {', '.join(found)}" if found else "no column holds photos"
        raise DataError(
            f"{said} (columns: {', '.join(schema.names)})",
            where=path,
            allowed=f"one column of bytes, or of Hugging Face's images; or paths in a column {', '.join(PATHS)}",
        )
    return found[0], next((name for name in KEYS if name in schema.names and name not in found), None)


READERS: dict[str, Callable[[str, Part], Iterator[tuple[str, object]]]] = {
    "list": _of_list,
    "folder": _of_folder,
    "shards": _of_shards,
    "parquet": _of_parquet,
}
