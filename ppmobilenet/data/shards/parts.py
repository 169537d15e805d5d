"""What is known of one shard when it is done, and the index that all of these make."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.lib.format import open_memmap

from ppmobilenet import files
from ppmobilenet.photos.shards import COLUMNS, FORMAT, HEAD, NAMES, NUMBERS, UNLABELLED, VERSION


class Fault(NamedTuple):
    """A photo that was left out: the place in the list or tar, why, and where it comes among the others."""

    place: str
    message: str
    number: int

    def __str__(self) -> str:
        return f"{self.place}: {self.message}"


class Part(NamedTuple):
    """One shard.

    Attributes:
        file: the tar's name.
        bytes: of the tar.
        sha256: of the tar.
        rows: a photo each: offset, size, label, sha256, name.
        faults: the photos that were left out.
    """

    file: str
    bytes: int
    sha256: str
    rows: Sequence[tuple[int, int, int, bytes, str]]
    faults: Sequence[Fault]

    def save(self, path: Path) -> None:
        """Write it as one file of plain arrays."""
        offsets, sizes, labels, digests, names = zip(*self.rows) if self.rows else ((),) * 5
        encoded = [name.encode() for name in names]
        head = {"file": self.file, "bytes": self.bytes, "sha256": self.sha256, "faults": self.faults}
        with files.whole_file(path) as file:
            np.savez(
                file,
                offsets=np.array(offsets, np.int64),
                sizes=np.array(sizes, np.uint32),
                labels=np.array(labels, np.int32),
                sha256=np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 32),
                name_ends=np.cumsum([len(name) for name in encoded], dtype=np.int64),
                names=np.frombuffer(b"".join(encoded), np.uint8),
                head=np.frombuffer(json.dumps(head).encode(), np.uint8),
            )


def read_part(path: Path) -> tuple[dict, dict[str, np.ndarray]] | None:
    """Return what :meth:`Part.save` wrote, head and arrays; None where there is nothing that is whole."""
    try:
        with np.load(path, allow_pickle=False) as file:
            columns = {name: file[name] for name in (*NUMBERS, "names")}
            return json.loads(file["head"].tobytes()), columns
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def write_index(folder: Path, parts: Sequence[Path], made_from: Mapping) -> dict:
    """Write the index of a folder of shards: the columns, and last of all the head, without which it is none.

    Args:
        folder: of the tars.
        parts: the file of each shard's :class:`Part`, in their order; one is in memory at a time.
        made_from: for the head: of what it was packed.

    Returns:
        The head.
    """
    (folder / HEAD).unlink(missing_ok=True)
    shards, counts = [], Counter()
    with files.whole_folder(folder / COLUMNS) as new:
        total = sum(len(read_part(part)[1]["offsets"]) for part in parts)
        columns = {
            name: open_memmap(new / f"{name}.npy", "w+", kind, (total,) if numbers == 1 else (total, numbers))
            for name, (kind, numbers) in NUMBERS.items()
        }
        at, names_end = 0, 0
        with open(new / NAMES, "wb") as names:
            for part in parts:
                head, arrays = read_part(part)
                count = len(arrays["offsets"])
                arrays["name_ends"] = arrays["name_ends"] + names_end
                for name, column in columns.items():
                    column[at : at + count] = arrays[name]
                names.write(arrays["names"].tobytes())
                at, names_end = at + count, names_end + len(arrays["names"])
                labels, present = np.unique(arrays["labels"], return_counts=True)
                counts.update(dict(zip(labels.tolist(), present.tolist())))
                shards.append({**{key: head[key] for key in ("file", "bytes", "sha256")}, "photos": count})
        for column in columns.values():
            column.flush()
        digests = {path.name: sha256_of(path) for path in sorted(new.iterdir())}
    unlabelled = counts.pop(UNLABELLED, 0)
    head = {
        "format": FORMAT,
        "version": VERSION,
        "photos": total,
        "labels": None if unlabelled else {str(label): counts[label] for label in sorted(counts)},
        "made_from": dict(made_from),
        "columns": digests,
        "shards": shards,
    }
    files.write_text(folder / HEAD, json.dumps(head, indent=0, ensure_ascii=False) + "\n")
    return head


def sha256_of(path: str | os.PathLike) -> str:
    """Return a file's sha256, in hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        while block := file.read(2**22):
            digest.update(block)
    return digest.hexdigest()
