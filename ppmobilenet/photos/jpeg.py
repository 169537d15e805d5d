"""What a JPEG file says before its pixels begin, and how to decode only its upper part (ITU-T T.81, annex B)."""

from __future__ import annotations

import re
import struct
from typing import NamedTuple

# what begins a segment: no byte of fill, no stuffed FF, no marker that stands alone
MARKER = re.compile(rb"\xff[^\x00\x01\xff\xd0-\xd9]")
SEGMENTS = 10_000  # in front of the pixels, at most: a large colour profile takes 255
PIECE = 2**16  # of a header is searched at once: until a search ends, no other thread of Python's runs


class JpegHeader(NamedTuple):
    """A JPEG's header.

    Attributes:
        width, height: as stored, in pixels.
        orientation: EXIF's, 1 to 8; 1 where there is none.
        height_at: where the two bytes of the height stand in the file.
        rows: the pixel rows that are coded together (8 or more).
        sequential: the pixels come from top to bottom, all colours in one scan: what is above a row can be decoded
            without what is below it.
    """

    width: int
    height: int
    orientation: int
    height_at: int
    rows: int
    sequential: bool


def read_header(data: bytes) -> JpegHeader | None:
    """Read the segments up to the first scan; None if they name no size.

    Args:
        data: the file, which begins with FF D8.
    """
    at, orientation, frame, sequential = 2, 1, None, False
    for _ in range(SEGMENTS):
        at = _next_segment(data, at)
        if at + 9 >= len(data):
            break
        marker = data[at + 1]
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == 0xE1 and orientation == 1 and data[at + 4 : at + 10] == b"Exif\0\0":
            orientation = _tiff_orientation(data[at + 10 : at + 2 + length])
        elif frame is None and 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            frame, frame_at = data[at : at + 2 + length], at
        elif marker == 0xDA:
            # a sequential frame may still come in one scan a colour
            sequential = frame is not None and frame[1] in (0xC0, 0xC1) and data[at + 4] == frame[9:10][0]
            break
        at += 2 + length
    if frame is None or len(frame) < 10:
        return None
    height, width = struct.unpack(">HH", frame[5:9])
    rows = 8 * max([factors & 15 for factors in frame[11::3]] or [1])
    return JpegHeader(width, height, orientation, frame_at + 5, rows, sequential and rows > 0)


def _next_segment(data: bytes, at: int) -> int:
    """Return where the next segment begins, at ``at`` or behind it; the end of the file if there is none."""
    while at < len(data):
        found = MARKER.search(data, at, at + PIECE + 1)  # a marker is two bytes, and may begin with a piece's last
        if found is not None:
            return found.start()
        at += PIECE
    return len(data)


def keep_rows(data: bytes, header: JpegHeader, bottom: int) -> bytes:
    """Return the file with a smaller height in its header, so that a decoder stops there.

    The rows above are decoded to the same bits: no row of a sequential JPEG depends on one below it, as long as chroma
    is not interpolated across rows (libjpeg's fast upsampling). A decoder warns of the data that is left over.

    Args:
        data: the file.
        header: what :func:`read_header` says of it.
        bottom: the first row that is not needed.

    Returns:
        The file itself where nothing would be saved or the end of the file is missing, which decoding shall find.
    """
    bottom = -(-bottom // header.rows) * header.rows
    complete = data.find(b"\xff\xd9", max(0, len(data) - 64)) >= 0
    if not header.sequential or not complete or bottom + 2 * header.rows > header.height:
        return data
    return b"".join((data[: header.height_at], bottom.to_bytes(2, "big"), data[header.height_at + 2 :]))


def _tiff_orientation(tiff: bytes) -> int:
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    try:
        (first,) = struct.unpack_from(order + "I", tiff, 4)
        (count,) = struct.unpack_from(order + "H", tiff, first)
        for entry in range(first + 2, first + 2 + 12 * count, 12):
            tag, _, _, value = struct.unpack_from(order + "HHIH", tiff, entry)
            if tag == 0x0112:
                return value if 1 <= value <= 8 else 1
    except (struct.error, TypeError):  # cut off, or no TIFF at all
        pass
    return 1
