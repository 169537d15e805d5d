"""Weights in zip archives (numpy's ``.npz``; PyTorch's since 1.6 are in :mod:`.torchfile`) and ``.safetensors``."""

from __future__ import annotations

import io
import json
import re
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np

from ppmobilenet.errors import DamagedFileError
from ppmobilenet.weights.pickle_values import view

# deflate cannot shrink trained weights by more than a tenth; a member that claims to grow past this is a bomb
MAX_GROWTH = 50
SMALL = 1 << 20

# the kinds that https://huggingface.co/docs/safetensors defines and that weights use
SAFETENSORS_DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U8": "u1",
    "BOOL": "?",
}
SAFETENSORS_HEADER = 16 << 20


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


# what the standard library's zip reader raises on damaged archives
ZIP_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    ValueError,
    EOFError,
    OSError,
    NotImplementedError,
    RuntimeError,
    OverflowError,
    IndexError,
    struct.error,
)


def is_zip(data: memoryview) -> bool:
    """Whether the bytes begin as a zip archive does."""
    return bytes(data[:4]) == b"PK\x03\x04"


def open_zip(data: memoryview) -> zipfile.ZipFile:
    """Open an archive, refusing one whose members together claim far more than it can hold.

    Raises:
        One of :data:`ZIP_ERRORS`.
    """
    archive = zipfile.ZipFile(MemoryFile(data))
    if sum(info.file_size for info in archive.infolist()) > max(SMALL, MAX_GROWTH * len(data)):
        raise ValueError("its members claim far more bytes than it can hold: a zip bomb?")
    return archive


def member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, data: memoryview) -> memoryview | bytes:
    """Return a member's content, checked against its checksum: a view of ``data`` where it is stored as it is.

    Raises:
        One of :data:`ZIP_ERRORS`.
    """
    if info.flag_bits & 1:
        raise ValueError(f"{info.filename!r} is encrypted")
    if info.compress_type != zipfile.ZIP_STORED:
        with archive.open(info) as file:
            content = file.read(info.file_size + 1)
        if len(content) != info.file_size:
            raise ValueError(f"{info.filename!r} does not have the size that it claims")
        return content
    name, extra = struct.unpack_from("<HH", data, info.header_offset + 26)
    start = info.header_offset + 30 + name + extra
    content = data[start : start + info.file_size]
    if len(content) != info.file_size or zlib.crc32(content) != info.CRC:
        raise ValueError(f"{info.filename!r} is altered or cut: its checksum is wrong")
    return content


def read_npz(archive: zipfile.ZipFile, data: memoryview, path: Path) -> dict[str, np.ndarray]:
    """Read the arrays of an ``.npz`` (never pickled ones); ``data`` are the bytes that ``archive`` reads.

    Raises:
        DamagedFileError: no arrays in it.
        One of :data:`ZIP_ERRORS`: damage, an object array.
    """
    arrays = {}
    for info in archive.infolist():
        if not info.filename.endswith(".npy"):
            raise ValueError(f"{info.filename[:80]!r} is no array of numpy's")
        arrays[info.filename[: -len(".npy")]] = _npy(memoryview(member(archive, info, data)))
    if not arrays:
        raise DamagedFileError("the archive is empty", where=path)
    return arrays


# numpy's format writes exactly this; its own reader parses it as Python, of which a damaged header can be any
_NPY_HEADER = re.compile(
    rb"\{'descr': '(?P<descr>[<>|=]?[fiub?][0-9]{0,2})', 'fortran_order': (?P<fortran>True|False), "
    rb"'shape': \((?P<shape>[0-9, L]{0,200})\), ?\} *\n"
)


def _npy(content: memoryview) -> np.ndarray:
    version = bytes(content[:8])
    if version not in (b"\x93NUMPY\x01\x00", b"\x93NUMPY\x02\x00"):
        raise ValueError("a member that is no array of numpy's")
    form = "<H" if version[6] == 1 else "<I"
    start = 8 + struct.calcsize(form)
    end = start + struct.unpack_from(form, content, 8)[0]
    header = _NPY_HEADER.fullmatch(bytes(content[start : min(end, start + 4096)]))
    if header is None:
        raise ValueError("an array whose header numpy does not write, or that does not hold numbers")
    dtype = np.dtype(header["descr"].decode())
    shape = tuple(int(n) for n in header["shape"].replace(b"L", b"").split(b",") if n.strip())
    return view(content[end:], dtype, shape, "F" if header["fortran"] == b"True" else "C")


def is_safetensors(data: memoryview) -> bool:
    """Whether the bytes begin as ``.safetensors`` does: the header's length, then JSON."""
    return len(data) > 9 and data[8] == ord("{") and struct.unpack_from("<Q", data)[0] <= len(data) - 8


def read_safetensors(data: memoryview, path: Path) -> dict[str, np.ndarray]:
    """Read ``.safetensors``; bfloat16 becomes float32.

    Raises:
        DamagedFileError: a header that does not describe the file.
    """
    try:
        size = struct.unpack_from("<Q", data)[0]
        if size > SAFETENSORS_HEADER:
            raise ValueError(f"a header of {size} bytes")
        header = json.loads(bytes(data[8 : 8 + size]))
        if not isinstance(header, dict):
            raise ValueError("a header that is no table")
        values, end = data[8 + size :], 0
        arrays = {}
        header.pop("__metadata__", None)
        for name, entry in header.items():
            dtype = np.dtype(SAFETENSORS_DTYPES[entry["dtype"]])
            begin, stop = entry["data_offsets"]
            if not (type(begin) is int and type(stop) is int and 0 <= begin <= stop <= len(values)):
                raise ValueError(f"{name[:80]!r} lies outside the file")
            array = view(values[begin:stop], dtype, tuple(entry["shape"]))
            arrays[name] = from_bfloat16(array) if entry["dtype"] == "BF16" else array
            end = max(end, stop)
        if end != len(values):
            raise ValueError(f"{len(values) - end} bytes that belong to no tensor")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedFileError(
            f"is damaged: its header does not describe the file: {str(error)[:200]}",
            where=path,
            hint="copy or download it again",
        ) from None
    return arrays


def from_bfloat16(bits: np.ndarray) -> np.ndarray:
    """Return the float32 values of bfloat16 bits kept as uint16."""
    return (bits.astype("<u4") << 16).view("<f4")


def safetensors_bytes(arrays: dict[str, np.ndarray]) -> tuple[bytes, list[np.ndarray]]:
    """Return the beginning of a ``.safetensors`` file and the arrays that follow it, in order.

    Raises:
        ValueError: an array that is not numbers.
    """
    codes = {np.dtype(code): name for name, code in SAFETENSORS_DTYPES.items() if name != "BF16"}
    header, position = {}, 0
    for name, array in arrays.items():
        if array.dtype not in codes:
            raise ValueError(f"{name!r} is an array of {array.dtype}")
        header[name] = {
            "dtype": codes[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [position, position + array.nbytes],
        }
        position += array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that the values are aligned
    return struct.pack("<Q", len(text)) + text, list(arrays.values())
