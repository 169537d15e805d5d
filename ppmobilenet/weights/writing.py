"""Writing weight files."""

from __future__ import annotations

import os
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ppmobilenet import files
from ppmobilenet.errors import UserError
from ppmobilenet.weights.archives import safetensors_bytes

# paddle.save's note of which parameter name belongs to which key
PADDLE_NAMES = "StructuredToParameterName@@"


def write_weights(
    arrays: Mapping[str, np.ndarray], path: str | os.PathLike, parameter_names: Mapping[str, str] | None = None
) -> Path:
    """Write named arrays; the extension chooses the kind.

    Args:
        arrays: key -> array.
        path: ends in ``.pdparams`` (what ``paddle.load`` and PaddleClas open, under numpy 1 and 2), ``.npz`` or
            ``.safetensors``. Its folder is made if need be.
        parameter_names: for ``.pdparams``: key -> ParamAttr name, as ``paddle.save`` records it.

    Returns:
        The path.

    Raises:
        UserError: another extension, or a place that cannot be written.
    """
    path = Path(path)
    if path.suffix not in WRITERS:
        raise UserError(f"cannot write weights as {path.name!r}", allowed="a name ending in " + ", ".join(WRITERS))
    arrays = {key: np.asarray(array, order="C") for key, array in arrays.items()}

    with files.whole_file(path) as file:
        if path.suffix == ".pdparams":
            _pdparams(file, arrays, parameter_names or {})
        else:
            WRITERS[path.suffix](file, arrays)
    return path


def write_pickle(value: object, file: BinaryIO) -> None:
    """Write what ``paddle.load`` and :func:`ppmobilenet.weights.files.read_pickle` read back.

    Args:
        value: dicts, lists, tuples, text, numbers, None and arrays. Paddle reads a pair (name, array) as a tensor.
        file: anything with ``write``.
    """
    out = _PickleWriter(file)
    out.value(value)
    out.write(b".")


class _PickleWriter:
    """Just enough of pickle protocol 4 for plain values and arrays.

    Python's own pickler would write this machine's numpy's private module names (``numpy._core`` under numpy 2,
    which numpy before 1.26 cannot open); the old names open everywhere.
    """

    def __init__(self, file: BinaryIO):
        self.write = file.write
        self.memo: dict[str, int] = {}
        self.write(b"\x80\x04")

    def text(self, value: str) -> None:
        data = value.encode()
        self.write(b"X" + struct.pack("<I", len(data)) + data)

    def number(self, value: int) -> None:
        self.write(b"\x8a\x08" + struct.pack("<q", value))

    def value(self, value: object) -> None:
        if value is None:
            self.write(b"N")
        elif isinstance(value, (bool, np.bool_)):
            self.write(b"\x88" if value else b"\x89")
        elif isinstance(value, (int, np.integer)):
            data = int(value).to_bytes(int(value).bit_length() // 8 + 1, "little", signed=True)
            self.write(b"\x8a" + bytes([len(data)]) + data)
        elif isinstance(value, (float, np.floating)):
            self.write(b"G" + struct.pack(">d", value))
        elif isinstance(value, str):
            self.text(value)
        elif isinstance(value, np.ndarray):
            self.array(value)
        elif isinstance(value, Mapping):
            self.write(b"}(")
            for key, inner in value.items():
                self.value(key)
                self.value(inner)
            self.write(b"u")
        elif isinstance(value, (list, tuple)):
            self.write(b"](" if isinstance(value, list) else b"(")
            for inner in value:
                self.value(inner)
            self.write(b"e" if isinstance(value, list) else b"t")
        else:
            raise TypeError(f"a {type(value).__name__} is no plain value")

    def once(self, name: str, write: Callable[[], None]) -> None:
        """Write a shared thing the first time, and a reference to it after that."""
        if name in self.memo:
            self.write(b"h" + bytes([self.memo[name]]))
        else:
            write()
            self.memo[name] = len(self.memo)
            self.write(b"q" + bytes([self.memo[name]]))

    def named(self, module: str, name: str) -> None:
        self.once(f"{module}.{name}", lambda: self.write(f"c{module}\n{name}\n".encode()))

    def dtype(self, dtype: np.dtype) -> None:
        self.named("numpy", "dtype")
        self.text(dtype.str[1:])
        self.write(b"\x89\x88\x87R(K\x03")  # (code, False, True) -> dtype; its state begins
        self.text("<" if dtype.itemsize > 1 else "|")
        self.write(b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb")

    def array(self, array: np.ndarray) -> None:
        dtype = array.dtype.newbyteorder("<")
        self.named("numpy.core.multiarray", "_reconstruct")
        self.named("numpy", "ndarray")
        self.write(b"K\x00\x85C\x01b\x87R(K\x01(")
        for size in array.shape:
            self.number(size)
        self.write(b"t")
        self.once(f"dtype {dtype.str}", lambda: self.dtype(dtype))
        self.write(b"\x89\x8e" + struct.pack("<Q", array.nbytes))
        self.write(np.ascontiguousarray(array, dtype).data.cast("B") if array.nbytes else b"")
        self.write(b"tb")


def _pdparams(file: BinaryIO, arrays: Mapping[str, np.ndarray], parameter_names: Mapping[str, str]) -> None:
    out = _PickleWriter(file)
    out.write(b"}(")
    for key, array in arrays.items():
        out.text(key)
        out.array(array)
    out.text(PADDLE_NAMES)
    out.write(b"}(")
    for key in arrays:
        out.text(key)
        out.text(parameter_names.get(key, key))
    out.write(b"uu.")


def _npz(file: BinaryIO, arrays: Mapping[str, np.ndarray]) -> None:
    # stored, not deflated: weights do not shrink, and stored ones can be read without a copy
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for key, array in arrays.items():
            with archive.open(zipfile.ZipInfo(f"{key}.npy"), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def _safetensors(file: BinaryIO, arrays: Mapping[str, np.ndarray]) -> None:
    start, values = safetensors_bytes(arrays)
    file.write(start)
    for array in values:
        file.write(array.tobytes())


WRITERS: dict[str, Callable] = {".pdparams": _pdparams, ".npz": _npz, ".safetensors": _safetensors}
