"""Decoded photos in one memory-mapped file, for sets that fit on the disk: an epoch then decodes nothing.

A cache folder holds ``pixels.bin`` (uint8 RGB, one photo after the other) and ``index.npz``. An entry counts as long as
its photo has the same size and time of change (of the file's record, which no program can set back); where only the
time differs, the content decides. A damaged cache is made anew. Workers share the pages that the system keeps.
"""

from __future__ import annotations

import hashlib
import os
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ppmobilenet import files, telling
from ppmobilenet.errors import DataError
from ppmobilenet.photos.decode import decode_image, read_bytes
from ppmobilenet.telling import log

FIELDS = ("paths", "sizes", "times", "digests", "offsets", "shapes")


class DecodedCache:
    """Photos by path: ``cache.get(path)`` is an uint8 RGB array [H, W, 3] that must not be written to, or None."""

    def __init__(self, folder: str | os.PathLike):
        self.folder = Path(folder)
        self._entries: dict[str, tuple[int, tuple[int, int]]] = {}
        self._pixels = None
        index = _read_index(self.folder)
        if index and len(index["paths"]):
            shapes, offsets = index["shapes"].tolist(), index["offsets"].tolist()
            self._entries = {p: (o, tuple(s)) for p, o, s in zip(index["paths"].tolist(), offsets, shapes)}
            self._pixels = np.memmap(self.folder / "pixels.bin", np.uint8, "r")

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, path: str) -> bool:
        return path in self._entries

    def get(self, path: str) -> np.ndarray | None:
        entry = self._entries.get(path)
        if entry is None:
            return None
        start, (height, width) = entry
        return self._pixels[start : start + height * width * 3].reshape(height, width, 3)


def build_cache(folder: str | os.PathLike, paths: Sequence[str], max_bytes: int) -> DecodedCache:
    """Bring a cache up to date: keep what is still valid, decode the rest, stop at ``max_bytes``.

    Photos that cannot be decoded are left out: reading them later names them.

    Args:
        folder: made if it does not exist.
        paths: the photos.
        max_bytes: of pixels on the disk; the photos beyond it are decoded each time.

    Raises:
        UserError: the folder cannot be written.
    """
    folder, paths = Path(folder), list(dict.fromkeys(paths))
    index = _read_index(folder)
    old = _valid_entries(index, paths)
    left = set(index["left"].tolist()) if index and int(index["limit"]) == max_bytes else set()
    if index and int(index["limit"]) == max_bytes and all(path in old or _state(path) in left for path in paths):
        return DecodedCache(folder)
    place = {"where": "decoded_cache", "hint": "give another folder, or leave it out"}
    with files.whole_file(folder / "pixels.bin", **place) as out:
        kept_pixels = np.memmap(folder / "pixels.bin", np.uint8, "r") if old else None
        rows, left_out, full = _write_pixels(out, paths, old, kept_pixels, max_bytes)
        # the index goes first and comes last: a reader never sees one that does not fit the pixels
        (folder / "index.npz").unlink(missing_ok=True)
    columns = {name: np.array([row[i] for row in rows]) for i, name in enumerate(FIELDS)}
    with files.whole_file(folder / "index.npz", **place) as out:
        np.savez(out, **columns, left=np.array(left_out, str), limit=np.array(max_bytes))
    if full:
        log.warning("the cache of decoded photos is full: %d of %d photos stay out", full, len(paths))
    return DecodedCache(folder)


def _read_index(folder: Path) -> dict[str, np.ndarray] | None:
    """Return the index, or None where there is none that fits its pixels."""
    try:
        with np.load(folder / "index.npz", allow_pickle=False) as file:
            index = {name: file[name] for name in (*FIELDS, "left", "limit")}
        end = max((o + h * w * 3 for o, (h, w) in zip(index["offsets"].tolist(), index["shapes"].tolist())), default=0)
        return index if (folder / "pixels.bin").stat().st_size >= end else None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        return None


def _write_pixels(
    out: BinaryIO, paths: Sequence[str], old: Mapping, kept_pixels: np.ndarray | None, max_bytes: int
) -> tuple[list[tuple], list[str], int]:
    """Write the pixels of every photo, those of a still valid cache without decoding.

    Returns:
        A row of FIELDS for each photo that is in, the states of those left out, and how many of these for want of room.
    """
    rows: list[tuple] = []
    end, full, left_out = 0, 0, []
    with ThreadPoolExecutor(os.cpu_count()) as pool, telling.bar(what="decoding", total=len(paths)) as bar:
        for at in range(0, len(paths), 64):
            chunk = paths[at : at + 64]
            new = dict(zip(todo := [p for p in chunk if p not in old], pool.map(_decode, todo)))
            for path in chunk:
                if path in old:
                    size, time, digest, start, (height, width) = old[path]
                    pixels = kept_pixels[start : start + height * width * 3]
                elif new[path] is None:
                    left_out.append(_state(path))
                    continue
                else:
                    size, time, digest, pixels = new[path]
                    height, width = pixels.shape[:2]
                if end + pixels.size > max_bytes:
                    full += 1
                    left_out.append(_state(path))
                    continue
                pixels.tofile(out)
                rows.append((path, size, time, digest, end, (height, width)))
                end += pixels.size
            bar.update(len(chunk))
    return rows, left_out, full


def _state(path: str) -> str:
    """A photo as it was when it was left out: its path, size and time of change."""
    try:
        status = os.stat(path)
    except OSError:
        return path
    return f"{path}\n{status.st_size}\n{status.st_ctime_ns}"


def _valid_entries(index: dict[str, np.ndarray] | None, paths: list[str]) -> dict:
    if index is None:
        return {}
    rows = zip(*(index[name].tolist() for name in FIELDS))
    found = {path: (size, time, digest, start, tuple(shape)) for path, size, time, digest, start, shape in rows}
    valid = {}
    for path in paths:
        if path not in found:
            continue
        size, time, digest, *_ = found[path]
        try:
            status = os.stat(path)
            same = status.st_size == size and (status.st_ctime_ns == time or _digest(read_bytes(path)) == digest)
        except (OSError, DataError):
            continue
        if same:
            valid[path] = found[path]
    return valid


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def _decode(path: str) -> tuple[int, int, str, np.ndarray] | None:
    try:
        status = os.stat(path)
        data = read_bytes(path)
        return status.st_size, status.st_ctime_ns, _digest(data), decode_image(data, name=path)
    except (DataError, OSError):
        return None
