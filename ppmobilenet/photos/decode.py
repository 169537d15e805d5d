"""Bytes -> pixels, as PaddleClas's DecodeImage does it (``cv2.imdecode(data, 1)``), with every failure named.

What comes out is always uint8, three channels: grey is repeated, alpha is dropped, CMYK and palettes are converted,
16 bits become 8, EXIF orientation is applied, of an animation the first frame is taken. That is what OpenCV's
``IMREAD_COLOR`` gives, so training, evaluation and the board program see the same pixels.
"""

from __future__ import annotations

import os
import re
import struct
from itertools import islice

import cv2
import numpy as np

from ppmobilenet.errors import DataError
from ppmobilenet.photos.jpeg import read_header
from ppmobilenet.photos.shards import Member, find_member

# what OpenCV remarks on a photo would stand between our lines, without the photo's name
(getattr(cv2, "setLogLevel", None) or cv2.utils.logging.setLogLevel)(0)

CHUNK = 2**24
HEAD = 2**16  # in which a netpbm's size stands: its comments are told from it by a search that holds up all threads
PARTS = 1000  # whose sizes an AVIF tells, at most: a photo of many tiles tells those of one of them
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
        raise DataError(what_it_is(data, size), where=name, hint="replace the photo or remove its line")
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB) if to_rgb else pixels


def check_size(size: tuple[int, int] | None, name: object) -> None:
    """Refuse a header that announces more pixels than a photo has."""
    if size and size[0] * size[1] > MAX_PIXELS:
        raise DataError(
            f"the photo claims {size[0]}x{size[1]} pixels", where=name, allowed=f"at most {MAX_PIXELS} pixels"
        )


def read_bytes(path: str | os.PathLike, name: object | None = None) -> bytes:
    """Return the bytes of a photo, which is a file or lies in a shard.

    Raises:
        DataError: what hinders it, naming the photo.
    """
    if isinstance(path, Member):
        return path.content()
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
        raise DataError("the photo does not exist", where=name, hint="a path in a list begins at image_root") from error
    except IsADirectoryError as error:
        raise DataError("this is a folder, not a photo", where=name) from error
    except NotADirectoryError as error:  # a path that goes on behind a file: behind a shard, perhaps
        member = find_member(os.fspath(path))
        if member is None:
            raise DataError(
                "the photo does not exist", where=name, hint="a path in a list begins at image_root"
            ) from error
        return member.content()
    except (OSError, ValueError) as error:  # no permission, a symlink loop, a NUL in the name, a disk that fails
        raise DataError(f"the photo cannot be read: {getattr(error, 'strerror', None) or error}", where=name) from error


# kinds that OpenCV does not read, or not everywhere: (where, what stands there, what it is)
KINDS = (
    (4, b"ftyphei", "a HEIC photo"),
    (4, b"ftyphev", "a HEIC photo"),
    (4, b"ftypmif1", "a HEIF photo"),
    (4, b"ftypavif", "an AVIF photo"),
    (4, b"ftyp", "a film or another file of that family"),
    (0, b"\0\0\0\x0cjP  ", "a JPEG 2000 photo"),
    (0, b"\0\0\0\x0cJXL ", "a JPEG XL photo"),
    (0, b"\xff\x0a", "a JPEG XL photo"),
    (0, b"8BPS", "a Photoshop document"),
    (0, b"%PDF", "a PDF document"),
    (0, b"PK\x03\x04", "a zip archive"),
    (0, b"II+\0", "a BigTIFF"),
    (0, b"MM\0+", "a BigTIFF"),
)


def what_it_is(data: bytes, size: tuple[int, int] | None) -> str:
    """Return what bytes are that OpenCV does not decode, in words; ``size``: what their header says."""
    start = data[:512].lstrip().lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<svg")):
        return "this is a web page or text, not a photo"
    if data[:4] == b"GIF8" and int(cv2.__version__.split(".")[0]) < 5:
        return f"the GIF is damaged, or this OpenCV ({cv2.__version__}) reads none: OpenCV 5 does"
    tiff = _tiff_kind(data)
    if tiff:
        return f"this is {tiff}, which OpenCV does not read as a photo: convert it to 8 bits a channel"
    for at, mark, kind in KINDS:
        if data[at : at + len(mark)] == mark:
            return (
                f"this is {kind}; it is damaged, or OpenCV {cv2.__version__} here does not read it: convert it to JPEG"
            )
    if size:
        return f"the photo is truncated or damaged ({len(data)} bytes, its header says {size[0]}x{size[1]} pixels)"
    return f"this is not a photo that OpenCV reads (it begins with {repr(data[:8])[1:]})"


def pixel_size(data: bytes) -> tuple[int, int] | None:
    """Return (width, height) as the header of a photo tells, or None where it is of no kind that is known here."""
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
        if data[4:8] == b"jP  ":
            return struct.unpack_from(">II", data, data.index(b"ihdr") + 4)[::-1]
        if data[:4] == b"\xff\x4f\xff\x51":  # JPEG 2000 without boxes
            return struct.unpack_from(">II", data, 8)
        if data[4:8] == b"ftyp":  # AVIF: the whole and its parts tell their sizes
            marks = islice(re.finditer(b"ispe", data[:CHUNK]), PARTS + 1)
            found = [struct.unpack_from(">II", data, mark.end() + 4) for mark in marks]
            return max(found, key=lambda size: size[0] * size[1], default=None) if len(found) <= PARTS else None
        # a comment ends with its line: without (?=\n) a row of # signs would be read in exponentially many ways
        netpbm = re.match(rb"P[1-6](?:\s+#[^\n]*(?=\n))*\s+(\d{1,9})\s+(\d{1,9})\s", data[:HEAD])
        if netpbm:
            return int(netpbm[1]), int(netpbm[2])
    except (struct.error, IndexError, ValueError):
        pass
    return None


WIDTH, HEIGHT, BITS, COMPRESSION, CHANNELS, SAMPLE_FORMAT = 256, 257, 258, 259, 277, 339  # tags of TIFF


def _tiff_tags(data: bytes) -> dict[int, int]:
    """Return the first value of each tag in a TIFF's first directory that is a number of 16 or 32 bits."""
    order = "<" if data[:2] == b"II" else ">"
    (first,) = struct.unpack_from(order + "I", data, 4)
    (count,) = struct.unpack_from(order + "H", data, first)
    found = {}
    for entry in range(first + 2, first + 2 + 12 * count, 12):
        tag, kind, many = struct.unpack_from(order + "HHI", data, entry)
        if kind not in (3, 4) or not many:
            continue
        at = entry + 8
        if many * (2 if kind == 3 else 4) > 4:  # no room here: this is where they stand
            (at,) = struct.unpack_from(order + "I", data, at)
        if at + 4 <= len(data):
            found[tag] = struct.unpack_from(order + ("H" if kind == 3 else "I"), data, at)[0]
    return found


def _tiff_size(data: bytes) -> tuple[int, int] | None:
    tags = _tiff_tags(data)
    return (tags[WIDTH], tags[HEIGHT]) if WIDTH in tags and HEIGHT in tags else None


def _tiff_kind(data: bytes) -> str | None:
    """Name what is unusual about a TIFF's pixels; None if nothing is, or it is no TIFF."""
    if data[:4] not in (b"II*\0", b"MM\0*"):
        return None
    try:
        tags = _tiff_tags(data)
    except struct.error:
        return None
    bits, channels = tags.get(BITS, 1), tags.get(CHANNELS, 1)
    number = {1: "whole numbers", 2: "signed numbers", 3: "floating-point numbers"}.get(tags.get(SAMPLE_FORMAT, 1))
    if tags.get(SAMPLE_FORMAT, 1) != 1 or bits > 16:
        return f"a TIFF of {bits}-bit {number or 'values'}"
    if channels not in (1, 3, 4):
        return f"a TIFF of {channels} channels"
    return None


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
