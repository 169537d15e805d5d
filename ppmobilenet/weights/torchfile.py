"""PyTorch's ``.pth``/``.pth.tar``/``.pt`` in both formats, read without PyTorch and without running anything.

Legacy (before 1.6): three small pickles (magic number, protocol, system), the pickle of the value, the pickle of its
storages' keys, then each storage as an int64 count and its raw values. Since 1.6: a zip of ``data.pkl`` and one
stored member a storage, ``data/KEY``. In both, the value's pickle refers to storages by persistent ids and rebuilds
tensors as (storage, offset, size, stride).
"""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from ppmobilenet.errors import DamagedFileError, UserError
from ppmobilenet.weights import archives, pickles
from ppmobilenet.weights.pickle_values import MAX_DIMENSIONS, PADDLE_GLOBALS, Known, as_text, known

# the first pickle of a legacy file: protocol 2, the number 0x1950a86a20f9469cfc6c
MAGIC = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
LEGACY_PROTOCOL = 1001

STORAGES = {
    "HalfStorage": "<f2",
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "ShortStorage": "<i2",
    "IntStorage": "<i4",
    "LongStorage": "<i8",
    "BoolStorage": "?",
    "BFloat16Storage": "bfloat16",  # numpy has none: its bytes are the upper half of a float32's
}


class _Storage:
    """The flat values that tensors are views of; ``values`` is None while a legacy file's pickle is first scanned."""

    def __init__(self, kind: str, count: int, values: memoryview | None):
        self.kind, self.count = kind, count
        self.values = values
        if values is not None and len(values) != count * self.itemsize:
            raise ValueError(f"a storage of {len(values)} bytes where {count * self.itemsize} are needed")

    @property
    def itemsize(self) -> int:
        return 2 if self.kind == "bfloat16" else np.dtype(self.kind).itemsize

    def flat(self) -> np.ndarray:
        if self.kind != "bfloat16":
            return np.frombuffer(self.values, self.kind)
        return archives.from_bfloat16(np.frombuffer(self.values, "<u2"))


def _tensor(storage: object, offset: object, size: object, stride: object, *_: object) -> object:
    if not isinstance(storage, _Storage):
        raise ValueError("a tensor without a storage")
    numbers = [offset]
    for part in (size, stride):
        if not isinstance(part, tuple) or len(part) > MAX_DIMENSIONS:
            raise ValueError("a tensor whose size or stride is not numbers")
        numbers += part
    if any(type(n) is not int or not 0 <= n < 2**48 for n in numbers) or len(size) != len(stride):
        raise ValueError("a tensor whose size, stride or offset is not numbers")
    count, last = 1, offset
    for n, step in zip(size, stride):
        count *= n
        last += (n - 1) * step
    # a stride of 0 could make gigabytes of a few values: no weight is written so
    if count and (last >= storage.count or count > storage.count):
        raise ValueError(f"a tensor of size {size} that reaches past its storage of {storage.count} values")
    if storage.values is None:
        return None
    flat = storage.flat()
    if not count:
        return np.zeros(size, flat.dtype)
    array = np.lib.stride_tricks.as_strided(
        flat[offset:], size, [step * flat.itemsize for step in stride], writeable=False
    )
    return array


def _parameter(data: object, *_: object) -> object:
    return data


def _size(numbers: object = ()) -> tuple:
    if not isinstance(numbers, tuple):
        raise ValueError("a torch.Size of something that is not a tuple")
    return numbers


TORCH_GLOBALS: Mapping[tuple[str, str], Known] = {
    **PADDLE_GLOBALS,
    **known(
        ("torch._utils", "_rebuild_tensor_v2", _tensor),
        ("torch._utils", "_rebuild_tensor", _tensor),
        ("torch._utils", "_rebuild_parameter", _parameter),
        ("torch", "Size", _size),
        *(("torch", name, None) for name in STORAGES),
    ),
}
for _eval in (("builtins", "eval"), ("__builtin__", "eval")):  # Paddle's alone
    del TORCH_GLOBALS[_eval]


def is_legacy(data: memoryview) -> bool:
    """Whether the bytes begin as a file of PyTorch before 1.6 does."""
    return bytes(data[: len(MAGIC)]) == MAGIC


def _reference(identity: object, find: Callable[[str, str, int], _Storage]) -> _Storage:
    """Resolve ("storage", class, key, device, count[, view])."""
    if not isinstance(identity, tuple) or len(identity) not in (5, 6) or as_text(identity[0]) != "storage":
        raise ValueError("a reference that is no storage's")
    _, kind, key, _, count = identity[:5]
    key = as_text(key)
    if not (isinstance(kind, Known) and kind.text.rpartition(".")[2] in STORAGES):
        raise ValueError("a storage of an unknown class")
    if len(identity) == 6 and identity[5] is not None:
        raise ValueError("a storage that is a view of another (PyTorch before 0.4)")
    if not isinstance(key, str) or type(count) is not int or not 0 <= count < 2**48:
        raise ValueError("a storage whose key or size is of the wrong kind")
    return find(STORAGES[kind.text.rpartition(".")[2]], key, count)


def read_legacy(data: memoryview, path: Path) -> object:
    """Read a file of PyTorch before 1.6.

    Raises:
        DamagedFileError: damage, or a global that no weight file needs.
    """
    protocol, position = pickles.load(data, path, position=len(MAGIC))
    if protocol != LEGACY_PROTOCOL:
        raise DamagedFileError("a PyTorch file of an unknown protocol", where=path)
    system, position = pickles.load(data, path, position=position)
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise DamagedFileError("a PyTorch file of a big-endian machine", where=path)

    # where the storages lie is known only after the value's pickle: it is read twice, first for their sizes
    storages: dict[str, _Storage] = {}

    def note(kind: str, key: str, count: int) -> _Storage:
        storage = storages.setdefault(key, _Storage(kind, count, None))
        if (storage.kind, storage.count) != (kind, count):
            raise ValueError("two storages with one key")
        return storage

    def read(find: Callable) -> tuple[object, int]:
        return pickles.load(
            data, path, position=position, table=TORCH_GLOBALS, persistent=lambda i: _reference(i, find)
        )

    _, end = read(note)
    keys, end = pickles.load(data, path, position=end)
    if not isinstance(keys, list) or sorted(map(str, keys)) != sorted(storages):
        raise DamagedFileError("a PyTorch file whose list of storages is not that of its tensors", where=path)
    for key in keys:
        storage = storages[str(key)]
        size = storage.count * storage.itemsize
        if end + 8 + size > len(data):
            raise DamagedFileError(
                f"ends {end + 8 + size - len(data)} bytes before its storage {key} does",
                where=path,
                hint="copy or download it again",
            )
        if struct.unpack_from("<q", data, end)[0] != storage.count:
            raise DamagedFileError(f"storage {key} does not have the size that it claims", where=path)
        storage.values = data[end + 8 : end + 8 + size]
        end += 8 + size
    if end != len(data):
        raise DamagedFileError(f"{len(data) - end} bytes follow after the end of its content", where=path)
    return read(note)[0]


def is_torch_zip(archive: zipfile.ZipFile) -> bool:
    """Whether a zip archive is PyTorch's."""
    return any(name.count("/") == 1 and name.endswith("/data.pkl") for name in archive.namelist())


def read_zip(archive: zipfile.ZipFile, data: memoryview, path: Path) -> object:
    """Read a file of PyTorch 1.6 and later; ``data`` are the bytes that ``archive`` reads.

    Raises:
        DamagedFileError: damage, or a global that no weight file needs.
        UserError: a TorchScript program.
    """
    members = {info.filename: info for info in archive.infolist()}
    root = next(name for name in members if name.count("/") == 1 and name.endswith("/data.pkl"))[: -len("data.pkl")]
    if f"{root}constants.pkl" in members or any(name.startswith(f"{root}code/") for name in members):
        raise UserError(
            "is a TorchScript program, not weights",
            where=path,
            hint="in PyTorch: torch.save(torch.jit.load(FILE).state_dict(), 'weights.pth')",
        )
    if f"{root}byteorder" in members:
        if bytes(archives.member(archive, members[f"{root}byteorder"], data)) != b"little":
            raise DamagedFileError("a PyTorch file of a big-endian machine", where=path)
    storages: dict[str, _Storage] = {}

    def find(kind: str, key: str, count: int) -> _Storage:
        if key not in storages:
            name = f"{root}data/{key}"
            if name not in members:
                raise ValueError(f"storage {key[:40]!r} is not in the archive")
            storages[key] = _Storage(kind, count, memoryview(archives.member(archive, members[name], data)))
        if (storages[key].kind, storages[key].count) != (kind, count):
            raise ValueError("two storages with one key")
        return storages[key]

    content = memoryview(archives.member(archive, members[f"{root}data.pkl"], data))
    value, end = pickles.load(content, path, table=TORCH_GLOBALS, persistent=lambda i: _reference(i, find))
    if end != len(content):
        raise DamagedFileError(f"{len(content) - end} bytes follow after the end of its pickle", where=path)
    return value
