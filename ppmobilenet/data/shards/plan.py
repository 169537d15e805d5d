"""A list of photos -> which lines become which shard, settled before the first tar is written.

The plan lies on the disk (three numbers a photo, mapped), so memory stays flat, a packing that was killed goes on with
the very same one, and the shards do not depend on the number of workers.
"""

from __future__ import annotations

import hashlib
import json
import os
from array import array
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ppmobilenet import files, telling
from ppmobilenet.data.lists import read_line, reading, refuse_faults
from ppmobilenet.errors import DataError, UserError
from ppmobilenet.photos.names import here
from ppmobilenet.photos.shards import BLOCK

WORK = ".pack"  # inside of the shards' folder, while they are packed
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
    """One photo to pack: its line in the list, its path below the root, its label (None: nobody knows it)."""

    number: int
    name: str
    label: int | None


class Plan:
    """Which lines become which shard.

    Attributes:
        wanted: what it was made for.
        shards: how many there will be.
    """

    def __init__(self, folder: Path, wanted: Wanted):
        self.wanted = wanted
        self._starts, self._numbers, self._order, self._cuts = (
            np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
            for name in ("starts", "numbers", "order", "cuts")
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
                yield Line(int(self._numbers[place]), here(self.wanted.root, name), label)


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
    identity, head = wanted.identity(), folder / "plan.json"
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
    starts, numbers, sizes = _scan(wanted, workers)
    rng = np.random.default_rng(wanted.seed)
    order = np.arange(len(starts)) if wanted.seed is None else rng.permutation(len(starts))
    columns = {"starts": starts, "numbers": numbers, "order": order}
    columns["cuts"] = _cuts(sizes[order], wanted)
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


def _scan(wanted: Wanted, workers: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Read the list through: where each line begins, its number, and the size of its photo (0: not there)."""
    starts, numbers, sizes, faults = array("q"), array("q"), array("q"), []
    absent = None

    def size(name: str) -> int:
        try:
            return os.stat(os.path.join(wanted.root, here(wanted.root, name))).st_size
        except (OSError, ValueError):  # ValueError: a NUL in the name
            return 0

    def ask(pool: ThreadPoolExecutor) -> None:
        sizes.extend(pool.map(size, names, chunksize=64))
        names.clear()

    names: list[str] = []
    listed = reading(wanted.source, wanted.root)
    with listed, open(wanted.source, "rb") as file, ThreadPoolExecutor(4 * workers) as pool:
        at = 0
        for number, raw in enumerate(telling.bar(file, "reading the list", unit="lines"), 1):
            start, at = at, at + len(raw)
            try:
                line = _text(raw)
            except UnicodeDecodeError as error:
                faults.append((number, f"byte {raw[error.start]:#x} is not UTF-8"))
                continue
            if not line:
                continue
            name, _, fault = read_line(line, wanted.delimiter) if wanted.labelled else (line, None, None)
            if fault:
                faults.append((number, fault))
                continue
            starts.append(start)
            numbers.append(number)
            names.append(name)
            absent = absent or name
            if len(names) == CHUNK:
                ask(pool)
        ask(pool)
    form = "path label" if wanted.labelled else "path"
    advice = None if wanted.labelled else "save the list as UTF-8"
    refuse_faults(wanted.source, faults, advice, form)
    if not starts:
        raise DataError("the list holds no photo", where=wanted.source, allowed=f"one photo a line: {form}")
    found = np.frombuffer(sizes, np.int64)
    if not found.any():
        raise DataError(
            f"none of its {len(starts)} photos is there: the first is {os.path.join(wanted.root, absent)}",
            where=wanted.source,
            hint="--root DIR says where the paths of the list start",
        )
    return np.frombuffer(starts, np.int64), np.frombuffer(numbers, np.int64), found


def _text(raw: bytes) -> str:
    return raw.decode("utf-8-sig").strip()
