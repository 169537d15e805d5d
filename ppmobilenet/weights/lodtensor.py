"""Paddle's static-graph parameter files (LoDTensor): one file a parameter, or all in one.

Layout, little endian: uint32 version 0; uint64 number of LoD levels, each a uint64 byte count and its bytes; uint32
tensor version 0; int32 length of a protobuf (field 1: data type, field 2: dimensions); then the raw values.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from ppmobilenet.errors import DamagedFileError, UserError
from ppmobilenet.weights.pickle_values import view

# VarType.Type of Paddle's framework.proto
DTYPES = {
    0: np.dtype("?"),
    1: np.dtype("<i2"),
    2: np.dtype("<i4"),
    3: np.dtype("<i8"),
    4: np.dtype("<f2"),
    5: np.dtype("<f4"),
    6: np.dtype("<f8"),
    20: np.dtype("u1"),
    21: np.dtype("i1"),
}
LOD_TENSOR = 7
VERSION = bytes(4)  # how a saved parameter begins
# files of a saved program that hold no parameter
PROGRAMS = ("__model__",)


def varint(data: memoryview, position: int) -> tuple[int, int]:
    """Return a protobuf varint and the position after it."""
    value = 0
    for i in range(10):
        if position + i >= len(data):
            break
        byte = data[position + i]
        value |= (byte & 0x7F) << (7 * i)
        if byte < 0x80:
            return value & (2**64 - 1), position + i + 1
    raise ValueError("a damaged number")


def fields(data: memoryview) -> list[tuple[int, int | memoryview]]:
    """Return the fields of one protobuf message: number and value (an int, or the bytes of a nested field)."""
    found, position = [], 0
    while position < len(data):
        tag, position = varint(data, position)
        number, kind = tag >> 3, tag & 7
        if kind == 0:
            value, position = varint(data, position)
        elif kind in (1, 2, 5):
            size = 8 if kind == 1 else 4
            if kind == 2:
                size, position = varint(data, position)
            if position + size > len(data):
                raise ValueError("a field longer than the message")
            value = data[position : position + size]
            position += size
        else:
            raise ValueError(f"a protobuf field of kind {kind}")
        found.append((number, value))
    return found


def _tensor(data: memoryview, position: int) -> tuple[np.ndarray, int]:
    def number(form: str) -> int:
        nonlocal position
        size = struct.calcsize(form)
        if position + size > len(data):
            raise ValueError("it ends inside a tensor's header")
        position += size
        return struct.unpack_from(form, data, position - size)[0]

    if number("<I") != 0:
        raise ValueError("no Paddle parameter: the version is not 0")
    levels = number("<Q")
    if levels > 8:
        raise ValueError(f"no Paddle parameter: {levels} LoD levels")
    for _ in range(levels):
        position += number("<Q")
    if number("<I") != 0:
        raise ValueError("no Paddle parameter: the tensor version is not 0")
    size = number("<i")
    if not 0 < size <= 256 or position + size > len(data):
        raise ValueError("no Paddle parameter: its description does not fit")
    kind, shape = None, []
    for field, value in fields(data[position : position + size]):
        if field == 1:
            kind = value
        elif field == 2 and isinstance(value, int):
            shape.append(value)
        elif field == 2:
            at = 0
            while at < len(value):
                n, at = varint(value, at)
                shape.append(n)
    position += size
    if not isinstance(kind, int) or kind not in DTYPES:
        raise ValueError(f"data type {kind if isinstance(kind, int) else '?'}; allowed: {sorted(DTYPES)}")
    dtype, count = DTYPES[kind], 1
    for n in shape:
        count *= n
    end = position + count * dtype.itemsize
    if end > len(data):
        raise ValueError(f"it ends {end - len(data)} bytes before its tensor of shape {tuple(shape)[:8]} does")
    return view(data[position:end], dtype, tuple(shape)), end


def read_tensors(data: memoryview, names: Sequence[str], path: Path) -> dict[str, np.ndarray]:
    """Read the tensors that stand one after the other in one file.

    Raises:
        DamagedFileError: damage, or another number of tensors than names.
    """
    arrays, position = {}, 0
    for i, name in enumerate(names):
        if position == len(data):
            raise DamagedFileError(f"holds {i} parameters, its program names {len(names)}", where=path)
        try:
            arrays[name], position = _tensor(data, position)
        except ValueError as error:
            raise DamagedFileError(f"parameter {name!r} at byte {position}: {error}", where=path) from None
    if position != len(data):
        raise DamagedFileError(f"{len(data) - position} bytes follow after its {len(names)} parameters", where=path)
    return arrays


def read_program(program: Path, data: memoryview) -> tuple[list[str], set[str]]:
    """Return a program's parameter names, in the order in which a merged file holds them, and its operators.

    Args:
        program: its path: ``.json`` (Paddle 3) or protobuf (``.pdmodel``, ``__model__``).
        data: its bytes.

    Raises:
        DamagedFileError: it is no program.
    """
    try:
        names, operators = _read_json(bytes(data)) if program.suffix == ".json" else _read_protobuf(data)
    except (ValueError, KeyError, TypeError, IndexError, RecursionError):
        names, operators = [], set()
    if not names:
        raise DamagedFileError("is no Paddle program with parameters", where=program)
    return sorted(names), operators


def _read_protobuf(data: memoryview) -> tuple[list[str], set[str]]:
    # ProgramDesc.blocks 1; BlockDesc.vars 3, .ops 4; VarDesc.name 1, .type 2, .persistable 3; VarType.type 1;
    # OpDesc.type 3
    names, operators = [], set()
    for number, block in fields(data):
        for inner, message in fields(block) if number == 1 else ():
            if inner == 3:
                parts = dict(fields(message))
                if parts.get(3) == 1 and dict(fields(parts[2])).get(1) == LOD_TENSOR:
                    names.append(bytes(parts[1]).decode("utf-8"))
            elif inner == 4:
                operators.add(bytes(dict(fields(message))[3]).decode("utf-8"))
    return names, operators


def _read_json(data: bytes) -> tuple[list[str], set[str]]:
    regions = json.loads(data)["program"]["regions"]
    operations = [op for region in regions for block in region["blocks"] for op in block["ops"]]
    names = [op["A"][3] for op in operations if op["#"] == "p" and isinstance(op["A"][3], str)]
    # "1.relu6": the number stands for the dialect
    return names, {op["#"].rpartition(".")[2] for op in operations}


def find_program(path: Path) -> Path | None:
    """Return the program of a merged file, or of a folder of parameter files, if it is beside it or in it."""
    if path.is_dir():
        candidates = [path / "__model__"]
    else:
        stem = path.with_suffix("")
        candidates = [path.with_name("__model__")] if path.name == "__params__" else []
        candidates += [stem.with_suffix(".pdmodel"), stem.with_suffix(".json"), path.with_name("__model__")]
    return next((p for p in candidates if p.is_file()), None)


def read_merged(path: Path, map_file: Callable[[Path], memoryview]) -> dict[str, np.ndarray]:
    """Read an exported model's merged parameters, ``NAME.pdiparams`` or ``__params__``, by its program beside it.

    Raises:
        UserError: the program is not there.
        DamagedFileError: one of the two is damaged, or they do not belong together.
    """
    program = find_program(path)
    if program is None:
        raise UserError(
            "the program that names its parameters is not beside it",
            where=path,
            allowed=f"{path.stem}.pdmodel, {path.stem}.json or __model__ in the same folder",
        )
    names, _ = read_program(program, map_file(program))
    return read_tensors(map_file(path), names, path)


def merged_files(folder: Path) -> list[Path]:
    """Return the merged parameter files in a folder."""
    return sorted(p for p in folder.iterdir() if p.suffix == ".pdiparams" or p.name == "__params__")


def read_folder(folder: Path, map_file: Callable[[Path], memoryview]) -> dict[str, np.ndarray]:
    """Read a folder with one file a parameter, whose name is the parameter's, or with one merged file.

    Raises:
        UserError: the folder holds none, or several merged files.
        DamagedFileError: a file in it is damaged or no parameter.
    """
    merged = merged_files(folder)
    if len(merged) == 1:
        return read_merged(merged[0], map_file)
    if merged:
        raise UserError(f"holds {len(merged)} exported models; name one: {merged[0]}", where=folder)
    if runs := sorted(folder.glob("*.pdparams")):
        names = ", ".join(str(path.with_suffix("")) for path in runs[:3])
        raise UserError("is the folder of a run", where=folder, hint=f"name the weights in it: {names}")
    files = sorted(p for p in folder.iterdir() if p.is_file() and p.name not in PROGRAMS and p.name[0] != ".")
    if not files:
        raise UserError("the folder holds no parameter files", where=folder)
    if all(bytes(map_file(file)[:4]) != VERSION for file in files):
        raise UserError(f"this is no folder of parameters: {files[0].name} is none", where=folder)
    arrays = {}
    for file in files:
        arrays.update(read_tensors(map_file(file), [file.name], file))
    return arrays
