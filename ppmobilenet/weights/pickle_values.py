"""The few names that a weight file's pickle may use, and what stands in for them.

Each receives the arguments that the file gives, which may be anything: sizes, kinds and lengths are checked here, and
every refusal is a ValueError that the reader turns into its one error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

MAX_DIMENSIONS = 8
MAX_NAME = 1024

DTYPES = {
    code: np.dtype(code) for code in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1", "?")
}


class Known:
    """A global that may be named in a file: ``make(*args)`` is our stand-in, ``text`` its name in messages."""

    def __init__(self, text: str, make: Callable | None = None):
        self.text, self.make = text, make


class Dtype:
    """numpy's dtype while it is being put together."""

    def __init__(self, code: str):
        self.value = DTYPES[code]

    def build(self, state: object) -> None:
        if not (isinstance(state, tuple) and len(state) >= 2 and as_text(state[1]) in ("<", ">", "=", "|")):
            raise ValueError("a dtype with a state that numpy does not write")
        if any(part is not None for part in state[2:5]):
            raise ValueError("a structured dtype")
        order = as_text(state[1])
        self.value = self.value.newbyteorder(order) if order in "<>" else self.value


class Array:
    """An array while it is being put together, then a view of the file."""

    def __init__(self):
        self.value: np.ndarray | None = None

    def build(self, state: object) -> None:
        if not (isinstance(state, tuple) and len(state) == 5 and isinstance(state[2], Dtype)):
            raise ValueError("an array with a state that numpy does not write")
        _, shape, dtype, fortran, data = state
        self.value = view(data, dtype.value, shape, "F" if fortran else "C")


class LongText:
    """Text that is decoded when it is used: protocol 2 spells an array's bytes as text, half as long again."""

    def __init__(self, data: memoryview):
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __str__(self) -> str:
        return bytes(self.data).decode("utf-8", "surrogatepass")


def as_text(value: object) -> object:
    """Python 2 wrote names as bytes: read them as text."""
    if not isinstance(value, (memoryview, bytes)):
        return value
    if len(value) > MAX_NAME:
        raise ValueError(f"a name of {len(value)} bytes")
    return bytes(value).decode("latin-1")


def view(data: object, dtype: np.dtype, shape: object, order: str = "C") -> np.ndarray:
    """Return the bytes as a read-only array of this shape, refusing any size that is not exactly theirs."""
    if isinstance(shape, int):
        shape = (shape,)
    if not isinstance(data, (memoryview, bytes)) or not isinstance(shape, tuple) or len(shape) > MAX_DIMENSIONS:
        raise ValueError("an array whose shape or content is of the wrong kind")
    size = dtype.itemsize
    for n in shape:
        # the shape is not printed before it is known to be numbers: a nested one can be endless
        if type(n) is not int or not 0 <= n < 2**48:
            raise ValueError("an array with a size that is not a number or is not possible")
        size *= n
    if size != len(data):
        raise ValueError(f"an array of shape {shape!r} and {dtype} with {len(data)} bytes where {size} are needed")
    array = np.frombuffer(data, dtype).reshape(shape, order=order)
    array.flags.writeable = False
    return array


def _dtype(code: object, *_: object) -> Dtype:
    code = as_text(code)
    if not isinstance(code, str) or code not in DTYPES:
        found = code[:20] if isinstance(code, str) else type(code).__name__
        raise ValueError(f"dtype {found!r}; allowed: {', '.join(DTYPES)}")
    return Dtype(code)


def _empty_array(kind: object, *_: object) -> Array:
    if not (isinstance(kind, Known) and kind.text == "numpy.ndarray"):
        raise ValueError("an array of a class that is not numpy.ndarray")
    return Array()


def _array_from_buffer(data: object, dtype: object, shape: object, order: object) -> Array:
    if not isinstance(dtype, Dtype) or order not in ("C", "F"):
        raise ValueError("an array that numpy does not write")
    array = Array()
    array.value = view(data, dtype.value, shape, order)
    return array


def _scalar(dtype: object, data: object) -> object:
    if not isinstance(dtype, Dtype):
        raise ValueError("a number without a dtype")
    return view(data, dtype.value, (1,))[0].item()


def _encode(text: object, encoding: object = "latin1", *_: object) -> bytes:
    # how protocol 2 spells bytes
    if not isinstance(text, (str, LongText)) or as_text(encoding) not in ("latin1", "latin-1"):
        raise ValueError("_codecs.encode that does not spell bytes")
    return str(text).encode("latin-1")


def _no_bytes() -> bytes:
    # how protocol 2 spells empty bytes
    return b""


def checked_key(key: object) -> object:
    key = as_text(key)
    # a nested tuple as a key can take for ever to hash
    if not isinstance(key, (str, int, float, bool, type(None))):
        raise ValueError(f"a dict key of type {type(key).__name__}")
    return key


def _ordered_dict(pairs: object = ()) -> dict:
    if not isinstance(pairs, (list, tuple)) or (isinstance(pairs, tuple) and pairs):
        raise ValueError("an OrderedDict of something that is not a list of pairs")
    made = {}
    for pair in pairs:
        if not (isinstance(pair, (list, tuple)) and len(pair) == 2):
            raise ValueError("an OrderedDict of something that is not a list of pairs")
        made[checked_key(pair[0])] = pair[1]
    return made


def _tuple(items: object = ()) -> tuple:
    # paddle.save writes a tensor outside a state dict as tuple((name, array))
    if not isinstance(items, tuple):
        raise ValueError("a tuple of something that is not one")
    return items


def _eval_of_data(expression: object, names: object = None) -> object:
    # paddle.save writes a static-graph tensor as eval("data", {"data": array}); any other expression is refused
    if as_text(expression) != "data" or not isinstance(names, dict) or set(names) != {"data"}:
        raise ValueError("the global 'builtins.eval'")
    return names["data"]


def known(*entries: tuple[str, str, Callable | None]) -> dict[tuple[str, str], Known]:
    """Return a table of globals from (module, name, stand-in) rows."""
    return {(module, name): Known(f"{module}.{name}", make) for module, name, make in entries}


PADDLE_GLOBALS: Mapping[tuple[str, str], Known] = known(
    ("numpy", "ndarray", None),
    ("numpy", "dtype", _dtype),
    ("numpy.core.multiarray", "_reconstruct", _empty_array),
    ("numpy._core.multiarray", "_reconstruct", _empty_array),
    ("numpy.core.multiarray", "scalar", _scalar),
    ("numpy._core.multiarray", "scalar", _scalar),
    ("numpy.core.numeric", "_frombuffer", _array_from_buffer),
    ("numpy._core.numeric", "_frombuffer", _array_from_buffer),
    ("_codecs", "encode", _encode),
    ("builtins", "bytes", _no_bytes),
    ("__builtin__", "bytes", _no_bytes),
    ("collections", "OrderedDict", _ordered_dict),
    ("builtins", "tuple", _tuple),
    ("__builtin__", "tuple", _tuple),
    ("builtins", "eval", _eval_of_data),
    ("__builtin__", "eval", _eval_of_data),
)
