"""What a doctor wants to know of a photo, and which photos show the same picture."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from ppmobilenet.data.decode import decode_image, exif_orientation, read_bytes
from ppmobilenet.errors import DataError

# first bytes -> format, and the suffixes that mean it
FORMATS = {
    b"\xff\xd8": ("JPEG", (".jpg", ".jpeg", ".jfif")),
    b"\x89PNG": ("PNG", (".png",)),
    b"GIF8": ("GIF", (".gif",)),
    b"BM": ("BMP", (".bmp",)),
    b"RIFF": ("WebP", (".webp",)),
    b"II*\0": ("TIFF", (".tif", ".tiff")),
    b"MM\0*": ("TIFF", (".tif", ".tiff")),
}
PNG_MODES = {0: "grey", 2: "colour", 3: "palette", 4: "grey with alpha", 6: "alpha"}
JPEG_MODES = {1: "grey", 3: "colour", 4: "CMYK"}
NEAR = 3  # bits of 64 in which the hashes of near duplicates differ at most
ALIKE = 6.0  # grey levels by which their 32x32 thumbnails differ at most, on average


class Facts(NamedTuple):
    """One photo, read whole.

    Attributes:
        fault: why it cannot be used; then the rest is empty.
        size: (width, height) upright.
        kind: its format, from its content.
        mode: ``colour``, ``grey``, ``alpha``, ``palette``, ``CMYK``, ``16-bit``...
        orientation: EXIF's, 1 to 8.
        digest: of the file's bytes.
        picture: 64-bit perceptual hash.
        sums: of the RGB values and of their squares over a thumbnail, each 0 to 1: [2, 3].
        notes: what is odd about it.
    """

    fault: str | None = None
    size: tuple[int, int] = (0, 0)
    kind: str = ""
    mode: str = ""
    orientation: int = 1
    digest: bytes = b""
    picture: int = 0
    sums: np.ndarray | None = None
    notes: tuple[str, ...] = ()


def look(path: str) -> Facts:
    """Read and decode a photo, and return what is to be known of it."""
    try:
        data = read_bytes(path)
        pixels = decode_image(data, name=path)
    except DataError as error:
        return Facts(fault=error.message)
    height, width = pixels.shape[:2]
    kind, suffixes = next((known for magic, known in FORMATS.items() if data.startswith(magic)), ("unknown", ()))
    mode = _mode(data, kind)
    orientation = exif_orientation(data) if kind == "JPEG" else 1
    small = cv2.resize(pixels, (32, 32), interpolation=cv2.INTER_AREA).reshape(-1, 3) / np.float32(255)
    notes = []
    suffix = Path(path).suffix.lower()
    if suffixes and suffix not in suffixes:
        notes.append(f"named {suffix or 'without a suffix'}, but it is a {kind}")
    if min(width, height) < 32:
        notes.append(f"only {width}x{height} pixels")
    elif max(width, height) > 8 * min(width, height):
        notes.append(f"{width}x{height} pixels: a centre crop sees a small part of it")
    if small.std(axis=0).max() < 0.004:
        notes.append("one plain colour")
    if (kind == "GIF" and data.count(b"\x21\xf9\x04") > 1) or (kind == "WebP" and b"ANMF" in data[:4096]):
        notes.append("animated: only the first picture is used")
    return Facts(
        None,
        (width, height),
        kind,
        mode,
        orientation,
        hashlib.blake2b(data, digest_size=16).digest(),
        perceptual_hash(pixels),
        np.stack([small.mean(axis=0), np.square(small).mean(axis=0)]),
        tuple(notes),
    )


def _mode(data: bytes, kind: str) -> str:
    if kind == "PNG" and len(data) > 25:
        return "16-bit" if data[24] == 16 else PNG_MODES.get(data[25], "colour")
    if kind == "JPEG":
        at = 2
        while at + 9 < len(data) and data[at] == 0xFF:
            if data[at + 1] in (0xC0, 0xC1, 0xC2):
                return JPEG_MODES.get(data[at + 9], "colour")
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return "colour"


def perceptual_hash(pixels: np.ndarray) -> int:
    """Return 64 bits that change little when a photo is resized or compressed anew: signs of its low frequencies."""
    grey = cv2.cvtColor(cv2.resize(pixels, (32, 32), interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY)
    low = cv2.dct(grey.astype(np.float32))[:8, :8].ravel()
    return int.from_bytes(np.packbits(low > np.median(low[1:])).tobytes(), "big")


def look_at_all(paths: Sequence[str], workers: int, progress: Callable[[int, int], None] | None) -> Iterator[Facts]:
    """Yield the facts of every photo, in order; decoding lets threads run side by side."""
    with ThreadPoolExecutor(workers) as pool:
        for at in range(0, len(paths), 256):
            yield from pool.map(look, paths[at : at + 256])
            if progress:
                progress(min(at + 256, len(paths)), len(paths))


def near_pairs(hashes: Sequence[int], paths: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Yield the places of photos that show the same picture, though their files differ.

    Of hashes that differ in three bits at most, one of four quarters is equal; what meets there is compared, and
    thumbnails decide.
    """
    seen = set()
    for quarter in range(4):
        buckets: dict[int, list[int]] = {}
        for place, value in enumerate(hashes):
            buckets.setdefault((value >> (16 * quarter)) & 0xFFFF, []).append(place)
        for members in buckets.values():
            # of a very common quarter only neighbours in the order of their hashes are compared
            members.sort(key=lambda place: hashes[place])
            pairs = combinations(members, 2) if len(members) <= 200 else zip(members, members[1:])
            for one, other in pairs:
                if bin(hashes[one] ^ hashes[other]).count("1") <= NEAR and (one, other) not in seen:
                    seen.add((one, other))
                    if _alike(paths[one], paths[other]):
                        yield min(one, other), max(one, other)


def _alike(one: str, other: str) -> bool:
    try:
        thumbnails = [
            cv2.resize(decode_image(path), (32, 32), interpolation=cv2.INTER_AREA).astype(np.float32)
            for path in (one, other)
        ]
    except DataError:  # gone since
        return False
    return float(np.abs(thumbnails[0] - thumbnails[1]).mean()) <= ALIKE
