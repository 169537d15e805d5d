"""A list of photos -> which lines become which shard, settled before the first tar is written.

The plan lies on the disk (three numbers a photo, mapped), so memory stays flat, a packing that was killed goes on with
the very same one, and the shards do not depend on the number of workers.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from array import array
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from ppmobilenet import files, telling
from ppmobilenet.data.lists import read_line, reading, refuse_faults
from ppmobilenet.errors import DataError, UserError
from ppmobilenet.photos.names import here
from ppmobilenet.photos.shards import BLOCK

WORK = ".pack"  # inside of the shards' folder, while they are packed
PLANNED = "plan.json"  # in there: the plan is whole
CHUNK = 4096  # lines whose photos are asked for at once
LABELLED_EXTRA = 2 * BLOCK  # header and content of a label beside its photo


class Wanted(NamedTuple):
    """What is to be packed.

    Attributes:
        source: the list, ``path label`` a line.
        root: the folder that its paths start from.
        shard_bytes: of a tar, about.
        seed: of the order in which the photos are packed; None: that of the list.
        delimiter: between path and label.
        labelled: False: a path a line, nobody knows what it shows.
    """

    source: Path
    root: Path
    shard_bytes: int = 512 * 10**6
    seed: int | None = 0
    delimiter: str | None = None
    labelled: bool = True

    def identity(self) -> dict:
        """Return what two starts of one packing have in common: not where the photos lie, they may have moved."""
        digest = hashlib.sha256()
        with reading(self.source, self.root), open(self.source, "rb") as file:
            while block := file.read(2**20):
                digest.update(block)
        kept = {key: getattr(self, key) for key in ("shard_bytes", "seed", "delimiter", "labelled")}
        return {"list": self.source.name, "sha256": digest.hexdigest(), **kept}


class Line(NamedTuple):
    """One photo to pack.

    Attributes:
        number: its line in the list.
        name: its path below the root.
        label: None: nobody knows it.
        key: its name in the tar, without the suffix.
        there: there was such a file when the plan was made.
    """

    number: int
    name: str
    label: int | None
    key: str
    there: bool


class Plan:
    """Which lines become which shard.

    Attributes:
        wanted: what it was made for.
        shards: how many there will be.
    """

    def __init__(self, folder: Path, wanted: Wanted):
        self.wanted = wanted
        self._starts, self._numbers, self._repeated, self._there, self._order, self._cuts = (
            np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
            for name in ("starts", "numbers", "repeated", "there", "order", "cuts")
        )
        self.shards = len(self._cuts) - 1

    def __len__(self) -> int:
        return len(self._order)

    def lines(self, shard: int) -> Iterator[Line]:
        """Yield the photos of a shard in their order."""
        with open(self.wanted.source, "rb") as file:
            for place in self._order[self._cuts[shard] : self._cuts[shard + 1]].tolist():
                file.seek(int(self._starts[place]))
                text = _text(file.readline())
                name, label, _ = read_line(text, self.wanted.delimiter) if self.wanted.labelled else (text, None, None)
                number = int(self._numbers[place])
                key = f"{_key(name)}-{number}" if self._repeated[place] else _key(name)
                yield Line(number, here(self.wanted.root, name), label, key, bool(self._there[place]))


def make_plan(folder: Path, wanted: Wanted, workers: int) -> Plan:
    """Return the plan that lies in a folder, or make it there.

    Args:
        folder: for the plan's files, made now.
        wanted: what is to be packed.
        workers: threads that ask for the photos' sizes.

    Raises:
        DataError: faults of the list, with file and line; or none of its photos is there.
        UserError: another plan lies in the folder.
    """
    identity, head = wanted.identity(), folder / PLANNED
    if head.is_file():
        before = json.loads(head.read_bytes())
        other = [key for key in identity if before.get(key) != identity[key]]
        if other:
            said = ", ".join(f"{key} {before.get(key)}, now {identity[key]}" for key in other)
            raise UserError(
                f"a packing was begun here that differs from this one: {said}",
                where=folder.parent,
                hint="the same command as before goes on with it; or remove the folder, or give another one",
            )
        return Plan(folder, wanted)
    lines = _scan(wanted, workers)
    count = len(lines["starts"])
    order = np.arange(count) if wanted.seed is None else np.random.default_rng(wanted.seed).permutation(count)
    first = np.unique(lines.pop("keys"), return_index=True)[1]
    repeated = np.ones(count, bool)
    repeated[first] = False
    sizes = lines.pop("sizes")
    columns = {**lines, "repeated": repeated, "there": sizes > 0, "order": order, "cuts": _cuts(sizes[order], wanted)}
    for name, column in columns.items():
        with files.whole_file(folder / f"{name}.npy") as file:
            np.save(file, column)
    files.write_text(head, json.dumps(identity))  # last: without it there is no plan
    return Plan(folder, wanted)


def _cuts(sizes: np.ndarray, wanted: Wanted) -> np.ndarray:
    """Return int64 [shards + 1]: where each shard begins, so that none is much larger than wanted."""
    blocks = -(-sizes // BLOCK) * BLOCK + BLOCK + LABELLED_EXTRA * wanted.labelled
    ends, cuts = np.cumsum(blocks, dtype=np.int64), [0]
    while cuts[-1] < len(ends):
        before = int(ends[cuts[-1] - 1]) if cuts[-1] else 0
        upto = int(np.searchsorted(ends, before + wanted.shard_bytes, side="right"))
        cuts.append(max(upto, cuts[-1] + 1))  # a photo that is larger than a shard has one for itself
    return np.array(cuts, np.int64)


def _scan(wanted: Wanted, workers: int) -> dict[str, np.ndarray]:
    """Read the list through: where each line starts, its number, its photo's size (0: not there), its key as a hash."""
    starts, numbers, sizes, keys = array("q"), array("q"), array("q"), array("Q")
    faults: list[tuple[int, str]] = []
    names: list[str] = []
    first = None

    def size(name: str) -> int:
        try:
            return os.stat(os.path.join(wanted.root, here(wanted.root, name))).st_size
        except (OSError, ValueError):  # ValueError: a NUL in the name
            return 0

    with ThreadPoolExecutor(4 * workers) as pool:
        for start, number, line, fault in _lines(wanted.source, wanted.root):
            name = line
            if wanted.labelled and not fault:
                name, _, fault = read_line(line, wanted.delimiter)
            if fault:
                faults.append((number, fault))
                continue
            first = first or name
            starts.append(start)
            numbers.append(number)
            names.append(name)
            keys.append(int.from_bytes(hashlib.blake2b(_key(name).encode(), digest_size=8).digest(), "big"))
            if len(names) == CHUNK:
                sizes.extend(pool.map(size, names, chunksize=64))
                names.clear()
        sizes.extend(pool.map(size, names, chunksize=64))
    form = "path label" if wanted.labelled else "path"
    refuse_faults(wanted.source, faults, None if wanted.labelled else "save the list as UTF-8", form)
    if not starts:
        raise DataError("the list holds no photo", where=wanted.source, allowed=f"one photo a line: {form}")
    if not any(sizes):
        raise DataError(
            f"none of its {len(starts)} photos is there: the first is {os.path.join(wanted.root, first)}",
            where=wanted.source,
            hint="--root DIR says where the paths of the list start",
        )
    columns = {"starts": starts, "numbers": numbers, "sizes": sizes, "keys": keys}
    return {name: np.frombuffer(column, column.typecode) for name, column in columns.items()}


def _lines(path: Path, root: Path) -> Iterator[tuple[int, int, str, str | None]]:
    """Yield where each line of a list starts, its number, its text, and what is wrong in its bytes; no blank ones."""
    at = 0
    with reading(path, root), open(path, "rb") as file:
        for number, raw in enumerate(telling.bar(file, "reading the list", unit="lines"), 1):
            start, at = at, at + len(raw)
            try:
                line, fault = _text(raw), None
            except UnicodeDecodeError as error:
                line, fault = "", f"byte {raw[error.start]:#x} is not UTF-8"
            if line or fault:
                yield start, number, line, fault


def _text(raw: bytes) -> str:
    return raw.decode("utf-8-sig").strip()


def _key(name: str) -> str:
    """Return a photo's key in its tar, as WebDataset has it: its path without the suffix.

    In the last part of a key there is no full stop: WebDataset would read what follows as a kind of content.
    """
    *folders, base = [part for part in re.split(r"[/\\]", name) if part not in ("", ".", "..")] or ["photo"]
    key = "/".join([*folders, PurePosixPath(base).stem.replace(".", "_") or "photo"])
    return re.sub(r"[\x00-\x1f\x7f]", "_", key)
