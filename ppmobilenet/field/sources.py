"""What a predictor takes for a photo, and the order of the channels in it."""

from __future__ import annotations

import os
from typing import BinaryIO, Union

import numpy as np
from PIL import Image, ImageOps

from ppmobilenet.errors import DataError, UserError, did_you_mean
from ppmobilenet.photos.decode import read_bytes

Source = Union[str, os.PathLike, bytes, np.ndarray, BinaryIO, Image.Image]
CHANNELS = ("RGB", "BGR")


def check_channels(channels: str | None) -> str | None:
    if channels is not None and channels not in CHANNELS:
        raise UserError(
            f"channels {channels!r}", allowed=", ".join(CHANNELS), hint=did_you_mean(str(channels).upper(), CHANNELS)
        )
    return channels


def read(source: Source, number: int) -> tuple[str, bytes | np.ndarray, str | None]:
    """Return what to call a source, its bytes or pixels, and the order of its channels where that is known."""
    if isinstance(source, np.ndarray):
        return f"array {number}", source, None
    if hasattr(source, "convert"):  # one of Pillow's, which knows its channels
        upright = ImageOps.exif_transpose(source).convert("RGB")
        return str(getattr(source, "filename", "") or f"image {number}"), np.asarray(upright), "RGB"
    if isinstance(source, (bytes, bytearray, memoryview)):
        return f"bytes {number}", bytes(source), None
    if hasattr(source, "read"):
        return str(getattr(source, "name", f"stream {number}")), source.read(), None
    if not isinstance(source, (str, os.PathLike)):
        raise DataError(
            f"a {type(source).__name__} is no photo",
            where=f"photo {number}",
            allowed="a path, bytes, an open binary file, a uint8 array [H, W, 3], Pillow's image; a list of these",
        )
    name = os.fspath(source)
    try:
        return name, read_bytes(name), None
    except DataError as error:
        if str(name).startswith("data:") or len(name) > 4096:
            hint = "a photo in base64 is no path: give its bytes, base64.b64decode(text)"
            raise DataError(error.message, where=name, hint=hint) from error
        raise
