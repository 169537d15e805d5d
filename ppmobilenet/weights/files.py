"""Weight files of every kind -> name and array. Nothing that a file holds is ever run.

| kind | how it is recognised | reader |
|---|---|---|
| Paddle ``.pdparams`` ``.pdopt`` ``.pdstates`` ``.pdema`` | a pickle | :mod:`.pickles` |
| static-graph folder, one file a parameter | a folder of LoDTensor files | :mod:`.lodtensor` |
| merged ``.pdiparams`` or ``__params__`` with its program beside it | LoDTensors one after the other | the same |
| ``.npz`` | a zip of ``.npy`` | :mod:`.archives` |
| ``.safetensors`` | a length and a JSON header | the same |
| PyTorch, legacy and zip | its magic number; a zip with ``data.pkl`` | :mod:`.torchfile` |

A kind is recognised by content; the extension only helps to find a file that was named without it.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ppmobilenet.errors import DamagedFileError, UserError, nearest
from ppmobilenet.weights import archives, lodtensor, pickles, torchfile

# tried in this order when a path is given without its extension
EXTENSIONS = (".pdparams", ".npz", ".safetensors", ".pth", ".pth.tar", ".pt", ".pdiparams")

# where training scripts keep the weights in a checkpoint of more
CONTAINERS = ("state_dict", "model_state_dict", "model", "net", "network", "params", "weights", "state_dict_ema")


def resolve(path: str | os.PathLike) -> Path:
    """Return the file or folder that ``path`` names, which may lack the extension (``output/best_model``).

    PaddleClas writes ``best_model.pdparams`` beside a folder ``best_model``: the file is meant.

    Raises:
        UserError: there is no such file, with the nearest one that is there.
    """
    given = Path(os.path.expanduser(os.fspath(path)))
    if given.is_file():
        return given
    for extension in EXTENSIONS:
        candidate = given.with_name(given.name + extension) if given.name else given
        if candidate.is_file():
            return candidate
    if given.is_dir():
        return given
    if given.parent.is_dir():
        # only what could be meant: the folder may hold a whole project
        beside = [p.name for p in given.parent.iterdir() if p.is_dir() or p.name.endswith(EXTENSIONS)]
        match = nearest(given.name, beside)
        files = sorted(name for name in beside if name.endswith(EXTENSIONS))[:12]
        there = f"there: {', '.join(files)}" if files else f"no file in {str(given.parent)!r} holds weights"
        hint = f"did you mean {match!r}?" if match else there
    else:
        hint = f"the folder {str(given.parent)!r} does not exist either"
    raise UserError(
        f"no weight file {str(path)!r}",
        allowed=f"a path with or without its extension ({', '.join(EXTENSIONS)}), or a folder of parameter files",
        hint=hint,
    )


def map_file(path: Path) -> memoryview:
    """Return the file's bytes, read from disk as they are used."""
    try:
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                raise DamagedFileError("the file is empty", where=path, hint="copy or download it again")
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror or error}", where=path) from error


def read_pickle(path: str | os.PathLike) -> object:
    """Read a ``.pdopt``, ``.pdstates`` or other file of ``paddle.save`` as plain Python values.

    Returns:
        dicts, lists, tuples, numbers, text and arrays (writable copies).

    Raises:
        DamagedFileError: damage, or anything that would run code.
        UserError: no such file.
    """
    path = Path(path)
    return _whole_pickle(_checked(path), path, copy=True)


def read_weights(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Read the named arrays of a weight file of any kind.

    Args:
        path: a file with or without its extension, or a folder of static-graph parameter files.

    Returns:
        Name -> array, in the file's order. Arrays are read-only views of the file, which is read as they are used:
        do not overwrite the file in place while you hold them (replace it by renaming, as every writer here does).

    Raises:
        UserError: no such file, or one that holds no arrays.
        DamagedFileError: truncated, altered, a web page, or a pickle that names anything but arrays.
    """
    path = resolve(path)
    if path.is_dir():
        return lodtensor.read_folder(path, map_file)
    if path.suffix in (".pdmodel", ".json") or path.name == "__model__":
        raise UserError(
            "is a program; its weights are in another file",
            where=path,
            allowed="the .pdiparams or __params__ beside it",
        )
    data = _checked(path)
    if archives.is_zip(data):
        return _read_zip(data, path)
    if archives.is_safetensors(data):
        return archives.read_safetensors(data, path)
    if data[0] == 0:
        return lodtensor.read_merged(path, map_file)
    if torchfile.is_legacy(data):
        return flat_arrays(torchfile.read_legacy(data, path), path)
    return flat_arrays(_whole_pickle(data, path), path)


def activation_of(path: Path) -> str | None:
    """Return ``"relu"``, ``"relu6"`` or ``"hardswish"``: what a static-graph file's own program computes with.

    None if it has no program, or one that does not tell. Hard-swish stands beside ReLU in the networks that have it.

    Args:
        path: of the file or folder, as :func:`resolve` gives it.
    """
    if path.is_dir() and len(lodtensor.merged_files(path)) == 1:
        path = lodtensor.merged_files(path)[0]
    program = lodtensor.find_program(path) if path.is_dir() or map_file(path)[0] == 0 else None
    if program is None:
        return None
    _, operators = lodtensor.read_program(program, map_file(program))
    if "hard_swish" in operators:
        return "hardswish"
    found = {"relu", "relu6"} & operators
    return found.pop() if len(found) == 1 else None


def _read_zip(data: memoryview, path: Path) -> dict[str, np.ndarray]:
    try:
        with archives.open_zip(data) as archive:
            if torchfile.is_torch_zip(archive):
                return flat_arrays(torchfile.read_zip(archive, data, path), path)
            return archives.read_npz(archive, data, path)
    except archives.ZIP_ERRORS as error:
        raise DamagedFileError(
            f"is damaged: {str(error)[:200] or type(error).__name__}", where=path, hint="copy or download it again"
        ) from None


def flat_arrays(value: object, path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of a state dict, leaving out what is not a weight (epoch numbers, Paddle's table of names).

    A checkpoint that holds more than weights keeps them under a key of :data:`CONTAINERS`.
    """
    if not isinstance(value, Mapping):
        raise UserError(f"holds a {type(value).__name__}, not a dict of weights", where=path)
    for container in CONTAINERS:
        # beside it may stand an array or two that is no weight, such as the best accuracy
        if isinstance(value.get(container), Mapping) and _count(value[container]) > _count(value):
            return flat_arrays(value[container], path)
    arrays = {}
    for key, item in value.items():
        if isinstance(item, tuple) and len(item) == 2 and isinstance(item[1], np.ndarray):
            item = item[1]  # paddle.save's (parameter name, array)
        if isinstance(item, np.ndarray) and isinstance(key, str):
            arrays[key] = item
    if not arrays:
        found = ", ".join(map(repr, list(value)[:8])) or "nothing"
        raise UserError(f"holds no weights; found: {found[:300]}", where=path)
    return arrays


def _count(value: Mapping) -> int:
    return sum(isinstance(item, np.ndarray) for item in value.values())


def _checked(path: Path) -> memoryview:
    data = map_file(path)
    start = bytes(data[:512]).lstrip(b"\xef\xbb\xbf \t\r\n")
    if start[:1] == b"<" or start[:5].lower() == b"http/":
        raise DamagedFileError(
            "is a web page, not weights: a download failed and its error page was saved",
            where=path,
            hint="delete it and download it again",
        )
    return data


def _whole_pickle(data: memoryview, path: Path, copy: bool = False) -> object:
    if data[0] != 0x80:
        raise DamagedFileError(
            f"is no weight file: it begins with {bytes(data[:8])!r}",
            where=path,
            allowed="Paddle .pdparams or .pdiparams, PyTorch .pth, .safetensors, .npz, a folder of parameter files",
        )
    value, end = pickles.load(data, path, copy=copy)
    if end != len(data):
        raise DamagedFileError(f"{len(data) - end} bytes follow after the end of its content", where=path)
    return value
