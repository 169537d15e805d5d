"""Tars that are there already -> their index; nothing in them is changed."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from ppmobilenet import files, telling
from ppmobilenet.data.lists import MAX_LABEL
from ppmobilenet.data.shards.pack import Packed, packed, write_faults
from ppmobilenet.data.shards.parts import Fault, Part, read_part, sha256_of, write_index
from ppmobilenet.data.shards.plan import PLANNED, WORK
from ppmobilenet.errors import DataError, UserError
from ppmobilenet.photos.decode import decode_image
from ppmobilenet.photos.names import is_hidden, photo_suffixes
from ppmobilenet.photos.shards import BLOCK, HEAD, UNLABELLED, as_text
from ppmobilenet.telling import log

KEY = re.compile(r"((?:.*/)?[^./][^./]*)(\.[^/]*)")  # WebDataset's: up to the first full stop of a name's last part
LABEL = ".cls"
COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
DAMAGED = "copy this tar again, or take it out of the folder"


class _Photo(NamedTuple):
    name: str
    offset: int
    data: bytes


def index_tars(folder: Path, workers: int) -> Packed:
    """Write the index of a folder's tars: WebDataset's, a photo and its ``.cls`` a key.

    Photos that cannot be used are left out of the index, named in ``bad_photos.txt`` and counted. Started again after
    an interruption it goes on.

    Args:
        folder: of tars.
        workers: tars that are read at once.

    Raises:
        DataError: a tar is damaged; two photos have one key; some have a label, and others have none.
        UserError: the folder cannot be written.
    """
    tars = sorted(path for path in folder.glob("*.tar") if not is_hidden(path.name))
    if not tars:
        raise DataError("there is no tar in this folder", where=folder, hint="ppmobilenet pack LIST OUT makes some")
    if (folder / WORK / PLANNED).is_file():
        raise UserError(
            "a list is being packed into this folder, or that was interrupted",
            where=folder,
            hint="the same command, ppmobilenet pack LIST OUT, goes on with it",
        )
    if _is_packing(folder):
        raise UserError(
            "these shards are a packing of a list, and have their index",
            where=folder,
            hint="ppmobilenet check-dataset looks through it; to have another one, pack the list into another folder",
        )
    gone = sorted(_known(folder) - {tar.name for tar in tars})
    if gone:
        log.warning("%s: gone since the last index was written: %s", folder, ", ".join(gone))
    work = folder / WORK
    with files.said(folder):
        work.mkdir(exist_ok=True)
    with ThreadPoolExecutor(workers) as pool, telling.bar(what="indexing", total=len(tars), unit="shards") as bar:
        made = 0
        for fresh in pool.map(lambda tar: _index_one(tar, work), tars):
            made += fresh
            bar.update()
    parts = [work / f"{tar.name}.npz" for tar in tars]
    faults = [Fault(*fault) for part in parts for fault in read_part(part)[0]["faults"]]
    labels = {bool((part[1]["labels"] == UNLABELLED).all()) for part in map(read_part, parts) if len(part[1]["labels"])}
    if not labels:
        said = f"; the first: {faults[0]}" if faults else ""
        raise DataError(f"no photo in these {len(tars)} tars can be used{said}", where=folder)
    if len(labels) > 1:
        raise DataError("some of its tars hold labels (.cls), and others none", where=folder)
    said = [str(fault) for fault in faults]
    write_faults(folder, said)
    head = write_index(folder, parts, {"left_out": len(said)})
    files.remove(work)
    return packed(folder, head, said, made)


def _known(folder: Path) -> set[str]:
    """Return the tars that an index knows, as far as there is one that can be read."""
    try:
        return {shard["file"] for shard in json.loads((folder / HEAD).read_bytes())["shards"]}
    except (OSError, ValueError, KeyError, TypeError):
        return set()


def _is_packing(folder: Path) -> bool:
    """Whether an index says that its shards were made of a list."""
    try:
        return bool(json.loads((folder / HEAD).read_bytes())["made_from"].keys() - {"left_out"})
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _index_one(tar: Path, work: Path) -> bool:
    """Read a tar through and write its part; False where that was done before."""
    path, state = work / f"{tar.name}.npz", os.stat(tar)
    before = read_part(path)
    # ctime, too: a copy may keep the time of the tar that it replaces, or bring an older one
    changed = max(state.st_mtime_ns, state.st_ctime_ns)
    if before and before[0]["bytes"] == state.st_size and path.stat().st_mtime_ns > changed:
        return False
    rows, faults = [], []
    for number, (sample, label) in enumerate(_samples(tar)):
        where = f"{tar}/{sample.name}"
        try:
            decode_image(sample.data, name=where)
        except DataError as error:
            faults.append(Fault(where, error.message, number))
            continue
        rows.append((sample.offset, len(sample.data), label, hashlib.sha256(sample.data).digest(), sample.name))
    labelled = {row[2] != UNLABELLED for row in rows}
    if len(labelled) > 1:
        bare = next(row[4] for row in rows if row[2] == UNLABELLED)
        raise DataError("some photos of this tar have a label (.cls), and this one has none", where=f"{tar}/{bare}")
    Part(tar.name, state.st_size, sha256_of(tar), rows, faults).save(path)
    return True


def _samples(tar: Path) -> Iterator[tuple[_Photo, int]]:
    """Yield each photo of a tar with its label; what has one key stands together."""
    seen: dict[str, str] = {}
    for key, contents in groupby(_contents(tar), lambda content: _key(content.name)[0]):
        photo, label = None, UNLABELLED
        for content in contents:
            suffix = _key(content.name)[1]
            if suffix == LABEL:
                label = _label(content.data, f"{tar}/{content.name}")
            elif suffix in photo_suffixes():
                if key in seen:
                    raise DataError(
                        f"two photos have the key {key!r}: {seen[key]} and {content.name}",
                        where=tar,
                        hint="a key is one photo: rename one of the two, or pack the photos anew: pack LIST OUT",
                    )
                seen[key], photo = content.name, content
        if photo:
            yield photo, label
        elif label != UNLABELLED:
            raise DataError(
                "this label has no photo beside it",
                where=f"{tar}/{content.name}",
                allowed="a photo and its .cls one behind the other, as WebDataset has them",
                hint="pack the photos anew: ppmobilenet pack LIST OUT",
            )


def _key(name: str) -> tuple[str, str]:
    """Return a name's key and what follows it, as WebDataset parts them."""
    match = KEY.fullmatch(name)
    return (match[1], match[2].lower()) if match else (name, "")


def _contents(tar: Path) -> Iterator[_Photo]:
    """Yield each file in a tar; a tar that ends too early is an error."""
    try:
        with tarfile.open(tar, "r:", encoding="utf-8") as opened:  # whatever the language of the machine is
            end = 0
            for member in opened:
                if member.isfile():
                    name, data = as_text(member.name), opened.extractfile(member).read()
                    if len(data) < member.size:
                        raise tarfile.ReadError(f"{name} is cut off")
                    yield _Photo(name, member.offset_data, data)
                opened.members = []  # flat memory
                end = member.offset_data + -(-member.size // BLOCK) * BLOCK
        with open(tar, "rb") as file:
            file.seek(end)
            if file.read(BLOCK) != bytes(BLOCK):
                raise tarfile.ReadError("its end is missing")
    except (tarfile.TarError, OSError, EOFError) as error:
        with open(tar, "rb") as file:
            packed_as = next((kind for mark, kind in COMPRESSED.items() if file.peek(6).startswith(mark)), None)
        if packed_as:
            raise DataError(f"this tar is compressed ({packed_as})", where=tar, hint="unpack it first") from error
        raise DataError(f"the tar is truncated or damaged: {error}", where=tar, hint=DAMAGED) from error


def _label(data: bytes, where: str) -> int:
    text = data.decode("ascii", "replace").strip()
    if not re.fullmatch("[0-9]{1,10}", text) or int(text) > MAX_LABEL:
        raise DataError(f"the label is {text[:40]!r}", where=where, allowed=f"a whole number, 0 to {MAX_LABEL}")
    return int(text)
