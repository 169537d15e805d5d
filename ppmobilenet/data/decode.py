"""Bytes -> pixels, as PaddleClas's DecodeImage does it (``cv2.imdecode(data, 1)``), with every failure named.

What comes out is always uint8, three channels: grey is repeated, alpha is dropped, CMYK and palettes are converted,
16 bits become 8, EXIF orientation is applied, of an animation the first frame is taken. That is what OpenCV's
``IMREAD_COLOR`` gives, so training, evaluation and the board program see the same pixels.
"""

from __future__ import annotations

import os
import struct

import cv2
import numpy as np

from ppmobilenet.data.jpeg import read_header
from ppmobilenet.errors import DataError

# what OpenCV remarks on a photo would stand between our lines, without the photo's name
(getattr(cv2, "setLogLevel", None) or cv2.utils.logging.setLogLevel)(0)

CHUNK = 2**24
MAX_PIXELS = 200_000_000  # a decompression bomb, not a photo: 600 MB once decoded


def decode_image(source, *, to_rgb: bool = True, name: object | None = None) -> np.ndarray:
    """Decode one photo.

    Args:
        source: the file's bytes, its path, an open binary file, or an uint8 array that is returned as it is.
        to_rgb: RGB order; False keeps OpenCV's BGR.
        name: what to call the photo in an error; default the path.

    Returns:
        uint8 array [H, W, 3].

    Raises:
        DataError: the file is missing, empty, not a photo, truncated, or has more than 200 megapixels.
    """
    if isinstance(source, np.ndarray):
        return source
    if hasattr(source, "read"):
        name = name if name is not None else getattr(source, "name", "(a stream)")
        data = source.read()
    elif isinstance(source, (str, os.PathLike)):
        name = name if name is not None else source
        data = read_bytes(source, name)
    else:
        name = name if name is not None else "(bytes)"
        data = source
    if not data:
        raise DataError("the photo is empty (0 bytes)", where=name, hint="copy the photo again or remove it")
    size = pixel_size(data)
    check_size(size, name)
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise DataError(f"OpenCV cannot decode the photo: {error.err}", where=name) from error
    if pixels is None:
        raise DataError(_what_it_is(data, size), where=name, hint="replace the photo or remove its line")
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB) if to_rgb else pixels


def check_size(size: tuple[int, int] | None, name: object) -> None:
    """Refuse a header that announces more pixels than a photo has."""
    if size and size[0] * size[1] > MAX_PIXELS:
        raise DataError(
            f"the photo claims {size[0]}x{size[1]} pixels", where=name, allowed=f"at most {MAX_PIXELS} pixels"
        )


def read_bytes(path: str | os.PathLike, name: object | None = None) -> bytes:
    """Return a photo's bytes.

    Raises:
        DataError: what hinders it, naming the photo.
    """
    name = path if name is None else name
    try:
        # os.read, not Path.read_bytes: a third of the time, for small photos 2 % of the fast pipeline's
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        try:
            data = os.read(descriptor, os.fstat(descriptor).st_size + 1)
            while more := os.read(descriptor, CHUNK):
                data += more
            return data
        finally:
            os.close(descriptor)
    except FileNotFoundError as error:
        raise DataError("the photo does not exist", where=name, hint="check image_root and the list") from error
    except IsADirectoryError as error:
        raise DataError("this is a folder, not a photo", where=name) from error
    except (OSError, ValueError) as error:  # no permission, a symlink loop, a NUL in the name, a disk that fails
        raise DataError(f"the photo cannot be read: {getattr(error, 'strerror', None) or error}", where=name) from error


def _what_it_is(data: bytes, size: tuple[int, int] | None) -> str:
    start = data[:512].lstrip().lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<svg")):
        return "this is a web page or text, not a photo"
    if data[:4] == b"GIF8" and int(cv2.__version__.split(".")[0]) < 5:
        return f"the GIF is damaged, or this OpenCV ({cv2.__version__}) reads none: OpenCV 5 does"
    if size:
        return f"the photo is truncated or damaged ({len(data)} bytes, its header says {size[0]}x{size[1]} pixels)"
    return f"this is not a photo that OpenCV reads (it begins with {data[:8]!r})"


def pixel_size(data: bytes) -> tuple[int, int] | None:
    """Return (width, height) as the header of a JPEG, PNG, GIF, BMP, TIFF or WebP tells, or None."""
    try:
        if data[:8] == b"\x89PNG\r\n\x1a\n":
            return struct.unpack(">II", data[16:24])
        if data[:4] == b"GIF8":
            return struct.unpack("<HH", data[6:10])
        if data[:2] == b"BM":
            width, height = struct.unpack("<ii", data[18:26])
            return abs(width), abs(height)
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            return _webp_size(data)
        if data[:4] in (b"II*\0", b"MM\0*"):
            return _tiff_size(data)
        if data[:2] == b"\xff\xd8":
            header = read_header(data)
            return (header.width, header.height) if header else None
    except (struct.error, IndexError):
        pass
    return None


def _tiff_size(data: bytes) -> tuple[int, int] | None:
    order = "<" if data[:2] == b"II" else ">"
    (first,) = struct.unpack_from(order + "I", data, 4)
    (count,) = struct.unpack_from(order + "H", data, first)
    found = {}
    for entry in range(first + 2, first + 2 + 12 * count, 12):
        tag, kind = struct.unpack_from(order + "HH", data, entry)
        if tag in (256, 257):  # width, height: as 16 or 32 bits
            found[tag] = struct.unpack_from(order + ("H" if kind == 3 else "I"), data, entry + 8)[0]
    return (found[256], found[257]) if len(found) == 2 else None


def _webp_size(data: bytes) -> tuple[int, int] | None:
    kind = data[12:16]
    if kind == b"VP8X":
        return (
            1 + int.from_bytes(data[24:27], "little"),
            1 + int.from_bytes(data[27:30], "little"),
        )
    if kind == b"VP8 ":
        width, height = struct.unpack("<HH", data[26:30])
        return width & 0x3FFF, height & 0x3FFF
    if kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + ((bits >> 14) & 0x3FFF)
    return None
