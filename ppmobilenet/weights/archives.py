"""Weights in zip archives: numpy's ``.npz``."""

from __future__ import annotations

import io
import math
import zipfile
import zlib
from pathlib import Path

import numpy as np
from numpy.lib import format as npy

from ppmobilenet.errors import DamagedFileError

# deflate cannot shrink trained weights by more than a tenth; a member that claims to grow past this is a bomb
MAX_GROWTH = 50
SMALL = 1 << 20


def is_zip(data: memoryview) -> bool:
    """Whether the bytes begin as a zip archive does."""
    return bytes(data[:4]) == b"PK\x03\x04"


class MemoryFile(io.RawIOBase):
    """A read-only file over bytes that are not copied."""

    def __init__(self, data: memoryview):
        self._data, self._position = data, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = 0) -> int:
        base = (0, self._position, len(self._data))[whence]
        if base + offset < 0:
            raise ValueError("a position before the file's beginning")
        self._position = base + offset
        return self._position

    def readinto(self, buffer) -> int:
        piece = self._data[self._position : self._position + len(buffer)]
        buffer[: len(piece)] = piece
        self._position += len(piece)
        return len(piece)


# what the standard library's zip reader is known to raise on damaged archives
ZIP_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    ValueError,
    EOFError,
    OSError,
    NotImplementedError,
    RuntimeError,
    OverflowError,
    KeyError,
    IndexError,
)


def member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, size: int) -> bytes:
    """Return a member's content, which may not be larger than it says nor than its archive can honestly hold."""
    if info.flag_bits & 1:
        raise ValueError(f"{info.filename!r} is encrypted")
    if info.file_size > max(SMALL, MAX_GROWTH * size):
        raise ValueError(f"{info.filename!r} claims {info.file_size} bytes in an archive of {size}")
    with archive.open(info) as file:
        content = file.read(info.file_size + 1)
    if len(content) != info.file_size:
        raise ValueError(f"{info.filename!r} does not have the size that it claims")
    return content


def read_npz(data: memoryview, path: Path) -> dict[str, np.ndarray]:
    """Read the arrays of an ``.npz`` (never a pickled one).

    Raises:
        DamagedFileError: damage, an object array, a zip bomb.
    """
    arrays = {}
    left = max(SMALL, MAX_GROWTH * len(data))
    try:
        with zipfile.ZipFile(MemoryFile(data)) as archive:
            for info in archive.infolist():
                if not info.filename.endswith(".npy"):
                    raise ValueError(f"{info.filename!r} is no array of numpy's")
                left -= info.file_size
                if left < 0:
                    raise ValueError("its arrays claim far more bytes than it can hold")
                arrays[info.filename[: -len(".npy")]] = _npy(member(archive, info, len(data)))
    except ZIP_ERRORS as error:
        raise DamagedFileError(
            f"is damaged: {error or type(error).__name__}", where=path, hint="copy or download it again"
        ) from None
    if not arrays:
        raise DamagedFileError("the archive is empty", where=path)
    return arrays


def _npy(content: bytes) -> np.ndarray:
    file = io.BytesIO(content)
    version = npy.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"numpy format {version}")
    read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, fortran, dtype = read_header(file)
    if dtype.hasobject or dtype.kind not in "fiub":
        raise ValueError(f"an array of {dtype}, which is not numbers")
    if len(content) - file.tell() != math.prod(shape) * dtype.itemsize or len(shape) > 8:
        raise ValueError("an array with more or fewer bytes than its shape needs")
    array = np.frombuffer(content, dtype, offset=file.tell()).reshape(shape, order="F" if fortran else "C")
    return array
