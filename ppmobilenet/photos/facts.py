"""What a doctor wants to know of a photo, and which photos show the same picture."""

from __future__ import annotations

import hashlib
import io
import os
import warnings
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from ppmobilenet import telling
from ppmobilenet.errors import DataError
from ppmobilenet.photos.decode import decode_image, read_bytes

try:
    import simplejpeg
except ImportError:
    simplejpeg = None

ORIENTATION, BITS_PER_SAMPLE = 274, 258  # of TIFF and EXIF
# Pillow's modes by the names that people know
MODES = {"1": "grey", "L": "grey", "LA": "grey with alpha", "P": "palette", "RGBA": "alpha", "CMYK": "CMYK"}
NEAR = 4  # bits of 64 in which the hashes of near duplicates differ at most
BANDS = (13, 13, 13, 13, 12)  # bits of the hash that are compared at once, one band more than NEAR
ALIKE = 16.0  # levels of 255 by which their 4x4 pictures differ at most, on average
SAMPLED = 1_000_000  # pixels that tell a photo's mean and deviation: of more, every n-th row and column


# how large a photo may be is decided in ``decode``, before Pillow sees its header
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


class Header(NamedTuple):
    """What a photo's header tells; see :class:`Facts`. ``pictures``: how many the file holds."""

    kind: str = "unknown"
    mode: str = "colour"
    orientation: int = 1
    pictures: int = 1


class Facts(NamedTuple):
    """One photo, read whole.

    Attributes:
        fault: why it cannot be used; then the rest is empty.
        size: (width, height) upright.
        kind: its format, from its content.
        mode: ``colour``, ``grey``, ``grey with alpha``, ``alpha``, ``palette``, ``CMYK`` or ``16-bit``.
        orientation: EXIF's, 1 to 8.
        digest: of the file's bytes.
        picture: 64-bit perceptual hash; 0 for a plain colour.
        colours: uint8 [48], a 4x4 picture of it.
        sums: the means of the RGB values, 0 to 1, and of their squares: [2, 3].
        notes: what is odd about it.
    """

    fault: str | None = None
    size: tuple[int, int] = (0, 0)
    kind: str = ""
    mode: str = ""
    orientation: int = 1
    digest: bytes = b""
    picture: int = 0
    colours: np.ndarray | None = None
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
    kind, mode, orientation, pictures = read_header(data)
    step = max(1, int((height * width / SAMPLED) ** 0.5))
    mean, deviation = (v.ravel() / 255 for v in cv2.meanStdDev(np.ascontiguousarray(pixels[::step, ::step])))
    notes = []
    suffix = Path(path).suffix.lower()
    named = Image.registered_extensions().get(suffix)
    if kind != "unknown" and (named if named != "MPO" else "JPEG") != kind:
        notes.append(f"named {suffix or 'without a suffix'}, but it is a {kind}")
    if min(width, height) < 32:
        notes.append(f"only {width}x{height} pixels")
    elif max(width, height) > 8 * min(width, height):
        notes.append(f"{width}x{height} pixels: a centre crop sees a small part of it")
    if deviation.max() < 0.004:
        notes.append("one plain colour")
    if kind == "JPEG" and simplejpeg is not None:
        try:  # OpenCV decodes on where bytes are damaged, and says nothing
            simplejpeg.decode_jpeg(data, "GRAY", min_factor=8, min_height=1, min_width=1)
        except ValueError as error:
            if "orrupt" in str(error):
                notes.append(f"damaged inside, a part of it shows noise or grey ({error})")
    if pictures > 1:
        notes.append(f"{pictures} pictures in one {kind} file: only the first is used")
    return Facts(
        None,
        (width, height),
        kind,
        mode,
        orientation,
        hashlib.blake2b(data, digest_size=16).digest(),
        perceptual_hash(pixels),
        cv2.resize(pixels, (4, 4), interpolation=cv2.INTER_AREA).ravel(),
        np.stack([mean, deviation**2 + mean**2]),
        tuple(notes),
    )


def read_header(data: bytes) -> Header:
    """Return what a photo's header tells, read by Pillow; nothing is decoded."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            deep = image.mode.startswith("I") or max(_bits_per_sample(image, data)) == 16
            mode = "16-bit" if deep else MODES.get(image.mode, "colour")
            # of a PNG without the chunk, Pillow would decode all pixels to look for one behind them
            exif = image.getexif() if image.format != "PNG" or "exif" in image.info else {}
            orientation = exif.get(ORIENTATION, 1)
            # a telephone's MPO is a JPEG with a depth map or the like behind it
            kind, pictures = ("JPEG", 1) if image.format == "MPO" else (image.format, getattr(image, "n_frames", 1))
            return Header(kind, mode, orientation if orientation in range(1, 9) else 1, pictures)
    except Exception:  # OpenCV decoded it, so it is of use; damaged metadata raises almost anything here
        return Header()


def _bits_per_sample(image: Image.Image, data: bytes) -> tuple[int, ...]:
    if image.format == "PNG":
        return (data[24],)
    return image.tag_v2.get(BITS_PER_SAMPLE, (8,)) if image.format == "TIFF" else (8,)


def perceptual_hash(pixels: np.ndarray) -> int:
    """Return 64 bits that change little when a photo is resized or compressed anew: signs of its low frequencies."""
    grey = cv2.cvtColor(cv2.resize(pixels, (32, 32), interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY)
    if grey.std() < 1:
        return 0  # the signs would be noise
    low = cv2.dct(grey.astype(np.float32))[:8, :8].ravel()
    return int.from_bytes(np.packbits(low > np.median(low[1:])).tobytes(), "big")


def look_at_all(paths: Iterable[str], total: int, workers: int | None) -> Iterator[Facts]:
    """Yield the facts of every photo, in order and a few at a time; decoding lets threads run side by side."""
    paths = iter(paths)
    with ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool, telling.bar(total=total, unit="photos") as bar:
        while some := list(islice(paths, 256)):
            yield from pool.map(look, some)
            bar.update(len(some))


def groups(digests: np.ndarray, pictures: np.ndarray, colours: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find photos that are the same file, and photos that show nearly the same.

    Hashes that differ in four bits agree in at least one of five bands of them, so what meets in a band is compared
    and nothing is missed, without comparing each with each.

    Args:
        digests: [N], of the files' bytes.
        pictures: uint64 [N], perceptual hashes; 0 is like no other.
        colours: uint8 [N, 48].

    Returns:
        int64 [N] twice: the first photo that is the same file, and the first of those that show nearly the same
        (which the same file does).
    """
    _, first, inverse = np.unique(digests, return_index=True, return_inverse=True)
    same = first[inverse.ravel()]
    parent = same.copy()

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    candidates = first[pictures[first] != 0]
    shift = 0
    for width in BANDS:
        keys = (pictures[candidates] >> np.uint64(shift)) & np.uint64((1 << width) - 1)
        shift += width
        by_key = np.argsort(keys, kind="stable")
        order, keys = candidates[by_key], keys[by_key]
        # neighbours in the order of the keys, then the next but one, and so on while keys are equal
        active, distance = np.arange(len(order)), 0
        while len(active):
            distance += 1
            active = active[active + distance < len(order)]
            active = active[keys[active] == keys[active + distance]]
            one, other = order[active], order[active + distance]
            close = _bits(pictures[one] ^ pictures[other]) <= NEAR
            one, other = one[close], other[close]
            alike = np.abs(colours[one].astype(np.int16) - colours[other]).mean(axis=1) <= ALIKE
            for i, j in zip(one[alike].tolist(), other[alike].tolist()):
                i, j = root(i), root(j)
                parent[max(i, j)] = min(i, j)
    return same, np.fromiter((root(i) for i in range(len(same))), np.int64, len(same))


def _bits(words: np.ndarray) -> np.ndarray:
    """Return how many bits of each uint64 are set."""
    return np.unpackbits(np.ascontiguousarray(words).view(np.uint8).reshape(-1, 8), axis=1).sum(axis=1)
