"""The fast pipeline: the same crops from the same distribution, with fewer pixels decoded and moved.

- A JPEG whose crop (or resized whole) needs far less than a half, quarter or eighth of its pixels is decoded at that
  scale, in the DCT domain, and not below the crop. libjpeg-turbo does it through simplejpeg; without that package, and
  for what is no plain JPEG, OpenCV decodes.
- Batches stay uint8 between the processes; normalisation is a table look-up of 256 entries a channel, exact to the bit,
  when they arrive, or arithmetic on the device.
- A flip is done on the resized crop, never on the photo.

Pixels differ from the exact pipeline where a photo is reduced: averaging over the pixels that bilinear resizing would
skip leaves less aliasing. Evaluation uses the exact pipeline unless told otherwise.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import cv2
import numpy as np

from ppmobilenet.data.transforms import RandCropImage, RandFlipImage, build_transforms
from ppmobilenet.photos.decode import check_size, decode_image, read_bytes
from ppmobilenet.photos.jpeg import keep_rows, read_header
from ppmobilenet.photos.operators import Compose, NormalizeImage, ResizeImage

try:
    import simplejpeg
except ImportError:  # OpenCV's reduced decoding takes its place
    simplejpeg = None

REDUCTIONS = (8, 4, 2)
# A reduced photo keeps this many times the pixels a side that the result needs. With just enough, training photos come
# out smoother than evaluation's, whose bilinear resizing leaves aliasing; in three short runs (width 0.25, 128 pixels)
# that went with 1.5 points less accuracy.
SPARE = 2
OPENCV_REDUCED = {1: cv2.IMREAD_COLOR, 2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4}
OPENCV_REDUCED[8] = cv2.IMREAD_REDUCED_COLOR_8


class Turn(NamedTuple):
    """One EXIF orientation: what brings stored pixels upright, and where an upright box lies in what is stored."""

    upright: Callable[[np.ndarray], np.ndarray]
    swaps: bool
    mirrors_x: bool
    mirrors_y: bool


# mirrors: of the stored axes
TURNS = {
    1: Turn(lambda p: p, False, False, False),
    2: Turn(lambda p: cv2.flip(p, 1), False, True, False),
    3: Turn(lambda p: cv2.flip(p, -1), False, True, True),
    4: Turn(lambda p: cv2.flip(p, 0), False, False, True),
    5: Turn(lambda p: cv2.transpose(p), True, False, False),
    6: Turn(lambda p: cv2.rotate(p, cv2.ROTATE_90_CLOCKWISE), True, False, True),
    7: Turn(lambda p: cv2.flip(cv2.transpose(p), -1), True, True, True),
    8: Turn(lambda p: cv2.rotate(p, cv2.ROTATE_90_COUNTERCLOCKWISE), True, True, False),
}

_scratch = threading.local()


def decodes_parts() -> bool:
    """Whether simplejpeg is there, which decodes a JPEG no further than its crop."""
    return simplejpeg is not None


def _scratch_memory(length: int) -> bytearray:
    """Return this thread's memory for decoded pixels: touched pages are a quarter cheaper than fresh ones."""
    memory = getattr(_scratch, "memory", b"")
    if len(memory) < length:
        memory = _scratch.memory = bytearray(length)
    return memory


class Photo:
    """A photo that is not decoded yet: its upright size is known, a box of it comes at the scale that is asked for.

    What ``box`` returns is valid until the next photo is decoded. A fault below the box of a JPEG is not seen, except
    that the end of the file is missing; evaluation and the doctor decode everything.
    """

    def __init__(self, source, to_rgb: bool):
        self._rgb, self._pixels, self._header = to_rgb, None, None
        self._name = source if isinstance(source, (str, os.PathLike)) else "(bytes)"
        if isinstance(source, np.ndarray):
            self._pixels = source
        else:
            self._data = source if isinstance(source, bytes) else read_bytes(source)
            self._header = read_header(self._data) if self._data[:2] == b"\xff\xd8" else None
            if self._header is None or 0 in self._header[:2]:
                self._pixels = decode_image(self._data, to_rgb=to_rgb, name=self._name)
        if self._pixels is not None:
            self.height, self.width = self._pixels.shape[:2]
        else:
            size = self._header[:2]
            check_size(size, self._name)
            self.width, self.height = size[::-1] if self._header.orientation > 4 else size

    def box(self, left: int, top: int, width: int, height: int, reduction: int) -> np.ndarray:
        """Return a box of the upright photo at 1/``reduction`` of its size, its edges to the nearest reduced pixel."""
        if self._pixels is not None:
            return self._pixels[top : top + height, left : left + width]
        stored = self._stored_box(left, top, width, height, reduction) if simplejpeg is not None else None
        if stored is not None:
            return stored
        pixels = cv2.imdecode(np.frombuffer(self._data, np.uint8), OPENCV_REDUCED[reduction])
        if pixels is None:
            pixels = decode_image(self._data, to_rgb=False, name=self._name)  # says what is wrong
        across, down = pixels.shape[1] / self.width, pixels.shape[0] / self.height
        rows, columns = _span(top, height, down), _span(left, width, across)
        return cv2.cvtColor(pixels[rows, columns], cv2.COLOR_BGR2RGB) if self._rgb else pixels[rows, columns]

    def _stored_box(self, left: int, top: int, width: int, height: int, reduction: int) -> np.ndarray | None:
        """Decode with simplejpeg down to the box's last row; None if it cannot (CMYK, or a flaw)."""
        turn = TURNS[self._header.orientation]
        if turn.swaps:
            left, top, width, height = top, left, height, width
        if turn.mirrors_x:
            left = self._header.width - left - width
        if turn.mirrors_y:
            top = self._header.height - top - height
        data = keep_rows(self._data, self._header, top + height)
        high = int.from_bytes(data[self._header.height_at : self._header.height_at + 2], "big")
        full = tuple(-(-side // reduction) for side in (self._header.width, self._header.height))
        wide, high = full[0], -(-high // reduction)
        try:
            pixels = simplejpeg.decode_jpeg(
                data,
                "RGB" if self._rgb else "BGR",
                fastupsample=True,
                min_height=high if reduction > 1 else 0,
                min_width=wide if reduction > 1 else 0,
                min_factor=reduction,
                buffer=_scratch_memory(3 * (wide + 16) * (high + 16)),
                strict=data is self._data,  # a file that was cut has data left over, of which the decoder warns
            )
        except ValueError:
            return None
        rows = _span(top, height, full[1] / self._header.height)
        columns = _span(left, width, full[0] / self._header.width)
        return turn.upright(pixels[rows, columns])


def _span(start: int, length: int, scale: float) -> slice:
    return slice(round(start * scale), round((start + length) * scale))


def reduction_for(have: tuple[int, int], need: tuple[int, int]) -> int:
    """Return the largest of 8, 4, 2, 1 that leaves twice the pixels that are needed, both as (width, height)."""
    for reduction in REDUCTIONS:
        if have[0] >= SPARE * need[0] * reduction and have[1] >= SPARE * need[1] * reduction:
            return reduction
    return 1


class DecodeCrop:
    """DecodeImage and RandCropImage in one: decodes at the scale that the crop needs."""

    def __init__(self, decode, crop: RandCropImage):
        self.decode, self.crop = decode, crop

    def __call__(self, source, rng: np.random.Generator) -> np.ndarray:
        photo = Photo(source, self.decode.to_rgb)
        left, top, width, height = self.crop.box(photo.width, photo.height, rng)
        by = reduction_for((width, height), self.crop.size)
        return self.crop.resize(photo.box(left, top, width, height, by), self.crop.size, rng)


class DecodeResize:
    """DecodeImage and ResizeImage in one: decodes at the scale that the result needs."""

    def __init__(self, decode, resize: ResizeImage):
        self.decode, self.resize = decode, resize

    def __call__(self, source, rng=None) -> np.ndarray:
        photo = Photo(source, self.decode.to_rgb)
        size = self.resize.target(photo.width, photo.height)
        whole = (photo.width, photo.height)
        return self.resize.resize(photo.box(0, 0, *whole, reduction_for(whole, size)), size, rng)


class Normalization:
    """What NormalizeImage and ToCHWImage do, for uint8 batches [N, H, W, 3].

    Attributes:
        scale, mean, std: see NormalizeImage.
    """

    def __init__(self, normalize: NormalizeImage):
        self.scale, self.mean, self.std = normalize.scale, normalize.mean.ravel(), normalize.std.ravel()
        self._tables = [np.ascontiguousarray(normalize.table[0, :, c]) for c in range(3)]

    def __call__(self, images: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Return float32 [N, 3, H, W], to the bit what NormalizeImage gives."""
        count, height, width, _ = images.shape
        out = np.empty((count, 3, height, width), np.float32) if out is None else out
        for image, planes in zip(images, out):
            for channel, table, plane in zip(cv2.split(image), self._tables, planes):
                cv2.LUT(channel, table, dst=plane)
        return out


def build_fast(ops: Sequence[Mapping]) -> tuple[Compose, Normalization | None]:
    """Build the fast form of a list of transforms.

    Returns:
        Transforms from a path or bytes; and what is left to do to a uint8 batch, None if they do all.
    """
    built = build_transforms(ops).transforms
    names = [type(t) for t in built]
    # a flip commutes with the random crop, which draws its place evenly
    for at in range(1, len(built) - 1):
        if names[at : at + 2] == [RandFlipImage, RandCropImage]:
            built[at], built[at + 1] = built[at + 1], built[at]
    first = built[0] if built else None
    if len(built) > 1 and getattr(first, "backend", "") == "cv2" and not getattr(first, "channel_first", True):
        joint = {RandCropImage: DecodeCrop, ResizeImage: DecodeResize}.get(type(built[1]))
        if joint:
            built[:2] = [joint(first, built[1])]
    tail = [type(t).__name__ for t in built]
    if tail[-1:] == ["ToCHWImage"]:
        tail.pop()
    last = built[len(tail) - 1] if tail else None
    if isinstance(last, NormalizeImage) and last.table is not None:
        return Compose(built[: len(tail) - 1]), Normalization(last)
    return Compose(built), None
