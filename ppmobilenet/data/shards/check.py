"""Whether shards still are what they were when their index was written: every byte, by sha256."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from ppmobilenet import telling
from ppmobilenet.data.shards.parts import sha256_of
from ppmobilenet.errors import DataError
from ppmobilenet.photos.shards import COLUMNS, Shards


def check_bytes(shards: Shards, workers: int | None = None) -> Iterator[tuple[str, str]]:
    """Yield (place, what is wrong) of a part of the index or a shard that was changed, and of the photos in it.

    Args:
        shards: all of a folder.
        workers: shards that are read at once; default one a core.
    """
    for file, digest in sorted(shards.head.get("columns", {}).items()):
        path = shards.folder / COLUMNS / os.path.basename(file)
        if sha256_of(path) != digest:
            yield str(path), "this part of the index was changed since it was written"
    numbers = range(len(shards.shards))
    with ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
        digests = pool.map(lambda number: sha256_of(shards.folder / shards.shards[number].file), numbers)
        for number, digest in zip(telling.bar(numbers, "sha256 of shards", unit="shards"), digests):
            if digest != shards.shards[number].sha256:
                yield from _changed(shards, number)


def same_photos(one: Shards, other: Shards) -> list[tuple[int, int]]:
    """Return the places of photos that are the same file in both, by their sha256; of equal ones the first."""
    (first, first_at), (second, second_at) = (
        np.unique(np.ascontiguousarray(shards.sha256).view("V32").ravel(), return_index=True) for shards in (one, other)
    )
    _, ours, theirs = np.intersect1d(first, second, assume_unique=True, return_indices=True)
    return list(zip(first_at[ours].tolist(), second_at[theirs].tolist()))


def _changed(shards: Shards, number: int) -> Iterator[tuple[str, str]]:
    """Yield what was changed in a shard: photos by name, or that it was something between them."""
    found = 0
    for place in shards.of_shard(number):
        member = shards.member(place)
        try:
            fault = "its bytes were changed" if _digest(member.content()) != bytes(shards.sha256[place]) else ""
        except DataError as error:
            fault = error.message
        if fault:
            found += 1
            yield str(member), fault
    if not found:
        yield str(shards.folder / shards.shards[number].file), "it was changed: not in a photo, in a header or a label"


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()
