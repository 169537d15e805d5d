"""Hostile weight files: each tries to run code, or to take memory or time without end.

``CORPUS`` is name -> (file name, content or a function of the canary path that gives it). Every pickle that would run
something would create the canary.
"""

from __future__ import annotations

import functools
import io
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def call(module: str, name: str, *args: bytes, stack: bool = False) -> bytes:
    """A pickle expression that calls a global."""
    function = text(module) + text(name) + b"\x93" if stack else f"c{module}\n{name}\n".encode()
    return function + b"(" + b"".join(args) + b"tR"


def as_weights(expression: bytes, protocol: int = 4) -> bytes:
    """A pickle of {"conv1._conv.weight": expression}."""
    return b"\x80" + bytes([protocol]) + b"}" + text("conv1._conv.weight") + expression + b"s."


def array(shape: bytes, data: bytes, dtype: bytes = text("f4"), state: bytes | None = None) -> bytes:
    """A pickle expression of a numpy array whose parts are given."""
    made = (
        b"cnumpy\ndtype\n"
        + dtype
        + b"\x89\x88\x87R(K\x03"
        + text("<")
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    )
    start = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R"
    content = b"B" + struct.pack("<I", len(data)) + data
    return start + (state if state is not None else b"(K\x01" + shape + made + b"\x89" + content + b"t") + b"b"


def number(value: int) -> bytes:
    return b"\x8a\x09" + value.to_bytes(9, "little", signed=True)


def laughs(depth: int, kind: str) -> bytes:
    """A container of 2 ** depth leaves in a few bytes: each level holds the one below twice."""
    out = b"K\x00" + b"q\x00"
    for level in range(depth):
        get = b"h" + bytes([level % 256])
        pair = get + get + b"\x86" if kind == "tuple" else b"](" + get + get + b"e"
        out += pair + b"q" + bytes([(level + 1) % 256])
    # the lower levels are still on the stack: gather them into one tuple
    return b"(" + out + b"t"


class Reduces:
    """An object whose pickle calls ``function(*args)``."""

    def __init__(self, function: Callable, *args: object, state: object = None):
        self.result = (function, args) if state is None else (function, args, state)

    def __reduce__(self):
        return self.result


class WithState:
    """An object whose pickle would call ``__setstate__``."""

    def __setstate__(self, state):
        os.system(state)

    def __getstate__(self):
        return "true"


def zipped(members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def npy(header: str, content: bytes = b"") -> bytes:
    line = header.encode() + b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(line)) + line + content


def torch_zip(pickled: bytes, **members: bytes) -> bytes:
    return zipped({"w/data.pkl": pickled, "w/byteorder": b"little", **{f"w/data/{k}": v for k, v in members.items()}})


def storage(count: int, key: str = "0", kind: str = "FloatStorage") -> bytes:
    return b"(" + text("storage") + f"ctorch\n{kind}\n".encode() + text(key) + text("cpu") + number(count) + b"tQ"


def tensor(stored: bytes, offset: int, size: list[int], stride: list[int]) -> bytes:
    numbers = [b"(" + b"".join(map(number, part)) + b"t" for part in (size, stride)]
    return call("torch._utils", "_rebuild_tensor_v2", stored, number(offset), *numbers, b"\x89", b"N")


def torch_file(expression: bytes, values: bytes | None = None) -> tuple[str, bytes]:
    """A zip-format file whose one weight is an expression, and the values of its storage "0"."""
    return "w.pth", torch_zip(as_weights(expression, 2), **({} if values is None else {"0": values}))


def lod(levels: int = 0, lod_bytes: int | None = None, description: bytes = b"\x08\x05\x10\x04") -> bytes:
    out = struct.pack("<IQ", 0, levels)
    if lod_bytes is not None:
        out += struct.pack("<Q", lod_bytes)
    return out + struct.pack("<Ii", 0, len(description)) + description + b"\0" * 16


def safetensors(header: bytes, values: bytes = b"", size: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if size is None else size) + header + values


def protobuf(*parts: tuple[int, int | bytes]) -> bytes:
    """One message of (field number, value) parts."""
    out = b""
    for field, value in parts:
        if isinstance(value, int):
            out += varint(field << 3) + varint(value)
        else:
            out += varint(field << 3 | 2) + varint(len(value)) + value
    return out


def program(name: str) -> bytes:
    """A program with one parameter of four floats and one operator."""
    kind = protobuf((1, 7), (3, protobuf((1, protobuf((1, 5), (2, 4))))))
    variable = protobuf((1, name.encode()), (2, kind), (3, 1))
    return protobuf((1, protobuf((1, 0), (2, 0), (3, variable), (4, protobuf((3, b"relu6"))))))


def varint(value: int) -> bytes:
    out = b""
    while value >= 0x80:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


@functools.lru_cache(maxsize=2)
def corpus(canary: Path) -> dict[str, tuple[str, bytes]]:
    """Return name -> (file name, content)."""
    touch = text(f"touch {canary}")
    python = text(f"open({str(canary)!r}, 'w')")
    system = call("os", "system", touch)
    pickles = {
        # what runs code: by every way a global can be named and called
        "os.system": as_weights(system, 2),
        "posix.system from Python": pickle.dumps({"w": Reduces(os.system, f"touch {canary}")}, 4),
        "STACK_GLOBAL": as_weights(call("os", "system", touch, stack=True)),
        "STACK_GLOBAL with a name from the memo": as_weights(
            b"("
            + text("os")
            + b"q\x00"
            + text("system")
            + b"q\x01t0".replace(b"0", b"")
            + b"h\x00h\x01\x93("
            + touch
            + b"tR\x86"
        ),
        "dotted name": as_weights(call("numpy", "ndarray.__class__", touch, stack=True)),
        "module path in the name": as_weights(call("numpy", "core.multiarray._reconstruct", touch, stack=True)),
        "nt.system": as_weights(call("nt", "system", touch)),
        "subprocess.Popen": as_weights(call("subprocess", "Popen", b"](" + text("touch") + text(str(canary)) + b"e")),
        "builtins.exec": as_weights(call("builtins", "exec", python)),
        "builtins.eval": as_weights(call("builtins", "eval", python)),
        "builtins.eval with Paddle's names": as_weights(
            call("builtins", "eval", python, b"}" + text("data") + b"K\x01s")
        ),
        "builtins.eval of data with more names": as_weights(
            call("builtins", "eval", text("data"), b"}(" + text("data") + b"K\x01" + text("x") + b"K\x01u")
        ),
        "__builtin__.eval": as_weights(call("__builtin__", "eval", python), 2),
        "builtins.getattr": as_weights(call("builtins", "getattr", b"cos\nsystem\n", text("__call__"))),
        "builtins.__import__": as_weights(call("builtins", "__import__", text("antigravity"))),
        "builtins.open": as_weights(call("builtins", "open", text(str(canary)), text("w"))),
        "importlib": as_weights(call("importlib", "import_module", text("this"))),
        "runpy": as_weights(call("runpy", "run_path", text(str(canary)))),
        "ctypes": as_weights(call("ctypes", "CDLL", text("libc.so.6"))),
        "shutil.rmtree": as_weights(call("shutil", "rmtree", text(str(canary.parent)))),
        "webbrowser": as_weights(call("webbrowser", "open", text("file:///"))),
        "functools.partial": as_weights(call("functools", "partial", b"cos\nsystem\n", touch)),
        "operator.methodcaller": as_weights(call("operator", "methodcaller", text("system"))),
        "types.FunctionType": as_weights(call("types", "FunctionType")),
        "numpy.load": as_weights(call("numpy", "load", text(str(canary)))),
        "numpy runstring": as_weights(call("numpy.testing._private.utils", "runstring", python, b"}")),
        "pickle.loads": as_weights(call("pickle", "loads", b"C\x01.")),
        "paddle.load": as_weights(call("paddle", "load", text(str(canary)))),
        "torch in a Paddle file": as_weights(call("torch._utils", "_rebuild_tensor_v2")),
        "copyreg._reconstructor": as_weights(call("copyreg", "_reconstructor", b"cos\nsystem\n")),
        "copyreg.__newobj__": as_weights(call("copyreg", "__newobj__", b"cos\nsystem\n")),
        "__setstate__": pickle.dumps({"w": WithState()}, 4),
        "BUILD with a state for an array": as_weights(array(b"", b"", state=system)),
        "BUILD of a dict with __class__": as_weights(
            b"ccollections\nOrderedDict\n)R}" + text("__class__") + b"cos\nsystem\nsb"
        ),
        "NEWOBJ": as_weights(b"cos\nsystem\n(" + touch + b"t\x81"),
        "NEWOBJ_EX": as_weights(b"cos\nsystem\n(" + touch + b"t}\x92"),
        "OBJ": as_weights(b"(cos\nsystem\n" + touch + b"o", 2),
        "INST": as_weights(b"(" + touch + b"ios\nsystem\n", 2),
        "EXT1": as_weights(b"\x82\x01)R"),
        "EXT4": as_weights(b"\x84\x01\x00\x00\x00)R"),
        "protocol 0": b"cos\nsystem\n(S'touch " + str(canary).encode() + b"'\ntR.",
        "protocol 0 behind a header": b"\x80\x02cos\nsystem\n(S'touch " + str(canary).encode() + b"'\ntR.",
        "persistent id": as_weights(touch + b"Q"),
        "nested in an array's bytes": as_weights(array(b"K\x01\x85", b"", state=b"(K\x01" + system + b"NNNt")),
        "nested in a dtype": as_weights(array(b"K\x01\x85", b"abcd", dtype=system)),
        "nested in a key": b"\x80\x04}" + system + b"K\x01s.",
        "call of a call": as_weights(call("collections", "OrderedDict") + b")R"),
        "call of text": as_weights(text("os.system") + b"(" + touch + b"tR"),
        "a function as the value": as_weights(b"ccollections\nOrderedDict\n"),
        "memo swaps the function": as_weights(b"cnumpy\ndtype\nq\x00cos\nsystem\nq\x00\x86"),
        # arrays that are no numbers
        "object array": pickle.dumps({"w": np.array([os.getcwd], dtype=object)}, 4),
        "dtype O8": as_weights(array(b"K\x01\x85", b"\0" * 8, dtype=text("O8"))),
        "structured dtype": pickle.dumps({"w": np.zeros(3, [("a", "f4"), ("b", "O")])}, 4),
        "datetime": pickle.dumps({"w": np.zeros(3, "M8[s]")}, 4),
        "subclass of ndarray": pickle.dumps({"w": np.zeros(3).view(np.matrix)}, 4),
        # sizes and counts without end
        "bytes of 2^62": as_weights(b"\x8e" + struct.pack("<Q", 2**62)),
        "bytes of 2^64 - 1": as_weights(b"\x8e" + b"\xff" * 8),
        "text of 2^62": as_weights(b"\x8d" + struct.pack("<Q", 2**62)),
        "bytearray of 2^62": as_weights(b"\x96" + struct.pack("<Q", 2**62), 5),
        "number of 2^31 - 1 bytes": as_weights(b"\x8b\xff\xff\xff\x7f"),
        "number of -1 bytes": as_weights(b"\x8b\xff\xff\xff\xff"),
        "string of -5 bytes": as_weights(b"T" + struct.pack("<i", -5)),
        "frame of 2^63": b"\x80\x04\x95" + struct.pack("<Q", 2**63) + as_weights(b"N")[2:],
        "memo entry 2^32 - 1 never written": as_weights(b"j\xff\xff\xff\xff"),
        "memo entry 2^32 - 1": as_weights(b"Nr\xff\xff\xff\xff"),
        "shape of 2^40": as_weights(array(number(2**40) + b"\x85", b"abcd")),
        "shape that overflows to 4 bytes": as_weights(array(number(2**62 + 1) + number(4) + b"\x86", b"abcd")),
        "negative shape": as_weights(array(number(-1) + b"\x85", b"abcd")),
        "64 dimensions": as_weights(array(b"(" + b"K\x01" * 64 + b"t", b"abcd")),
        "number as a shape of text": as_weights(array(text("a") + b"\x85", b"abcd")),
        "tuples of 2^200 leaves": as_weights(laughs(200, "tuple")),
        "lists of 2^200 leaves": as_weights(laughs(200, "list")),
        "tuples of 2^200 leaves as a key": b"\x80\x04}" + laughs(200, "tuple") + b"K\x01s.",
        "tuples of 2^200 leaves as a shape": as_weights(array(laughs(200, "tuple"), b"abcd")),
        "tuples of 2^200 leaves as a dtype": as_weights(array(b"K\x01\x85", b"abcd", dtype=laughs(200, "tuple"))),
        "tuples of 2^200 leaves as a reference": as_weights(laughs(200, "tuple") + b"Q"),
        "list in itself": as_weights(b"]q\x00h\x00a"),
        "dict in itself": as_weights(b"}q\x00" + text("a") + b"h\x00s"),
        "nested 100000 deep": as_weights(b"]" * 100_000 + b"a" * 99_999),
        "3 million marks": b"\x80\x04" + b"(" * 3_000_000,
        "3 million lists": b"\x80\x04" + b"]" * 3_000_000,
        "a large list copied again and again": b"\x80\x04ccollections\nOrderedDict\nq\x01]("
        + (b"](K\x01K\x02e" * 50_000)
        + b"e\x85q\x00"
        + b"h\x01h\x00R" * 100_000
        + b".",
        "a large text encoded again and again": b"\x80\x04c_codecs\nencode\nq\x01"
        + text("a" * 1_000_000)
        + text("latin1")
        + b"\x86q\x00"
        + b"h\x01h\x00R" * 100_000
        + b".",
        "a name without an end": as_weights(b"c" + b"a" * 1_000_000),
        "values left over": as_weights(b"N")[:-1] + b"N.",
        "empty stack": b"\x80\x04.",
        "pops below its mark": b"\x80\x04N(s.",
        "items for no dict": b"\x80\x04N(K\x01K\x02u.",
    }
    floats = np.zeros(4, "f4").tobytes()
    others = {
        # PyTorch's
        "torch: os.system": torch_file(system),
        "torch: hub": torch_file(call("torch.hub", "load", text("a"), text("b"))),
        "torch: load_from_bytes": torch_file(call("torch.storage", "_load_from_bytes", b"C\x01.")),
        "torch: Paddle's eval": torch_file(call("builtins", "eval", text("data"), b"}" + text("data") + b"K\x01s")),
        "torch: stride 0": torch_file(tensor(storage(4), 0, [2**40], [0]), floats),
        "torch: past its storage": torch_file(tensor(storage(4), 2, [4], [1]), floats),
        "torch: negative stride": torch_file(tensor(storage(4), 3, [4], [-1]), floats),
        "torch: huge storage": torch_file(tensor(storage(2**47), 0, [4], [1]), floats),
        "torch: no storage": torch_file(tensor(storage(4), 0, [4], [1])),
        "torch: storage outside": torch_file(tensor(storage(4, "../../w"), 0, [4], [1]), floats),
        "torch: storage of a function": torch_file(
            call("torch._utils", "_rebuild_tensor_v2", b"cos\nsystem\n", b"K\x00", b")", b")")
        ),
        "torch legacy: os.system": (
            "w.pth",
            b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
            + pickle.dumps(1001, 2)
            + pickle.dumps({"little_endian": True}, 2)
            + as_weights(system, 2),
        ),
        "torch legacy: system information": (
            "w.pth",
            b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19." + pickle.dumps(1001, 2) + as_weights(system, 2),
        ),
        # zip bombs
        "zip bomb": ("w.npz", zipped({"a.npy": b"\0" * 100_000_000}, zipfile.ZIP_DEFLATED)),
        "zip bomb in PyTorch's": (
            "w.pth",
            zipped({"w/data.pkl": b"\x80\x02" + b"]" * 90_000_000}, zipfile.ZIP_DEFLATED),
        ),
        "zip of 20000 members": ("w.npz", zipped({f"{i}.npy": b"" for i in range(20_000)})),
        "zip that is no npz": ("w.npz", zipped({"readme.txt": b"hello"})),
        "npy of objects": ("w.npz", zipped({"a.npy": npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }")})),
        "npy of 2^60": (
            "w.npz",
            zipped({"a.npy": npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1152921504606846976,), }")}),
        ),
        "npy whose header is code": ("w.npz", zipped({"a.npy": npy(f"__import__('os').system('touch {canary}')")})),
        "npy nested header": ("w.npz", zipped({"a.npy": npy("(" * 5000)})),
        # safetensors, LoDTensor, programs
        "safetensors: huge header": ("w.safetensors", safetensors(b"{}", size=2**63)),
        "safetensors: nested": ("w.safetensors", safetensors(b'{"a":' + b"[" * 200_000)),
        "safetensors: outside": (
            "w.safetensors",
            safetensors(b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}', b"\0" * 8),
        ),
        "safetensors: negative": (
            "w.safetensors",
            safetensors(b'{"a":{"dtype":"F32","shape":[-1,-4],"data_offsets":[0,16]}}', b"\0" * 16),
        ),
        "safetensors: no table": ("w.safetensors", safetensors(b'{"a":[1,2]}')),
        "LoDTensor: 2^63 levels": ("d/w", lod(levels=2**63)),
        "LoDTensor: level of 2^63 bytes": ("d/w", lod(1, 2**63)),
        "LoDTensor: 2^60 values": ("d/w", lod(description=b"\x08\x05\x10" + varint(2**60))),
        "LoDTensor: negative size": ("d/w", lod(description=b"\x08\x05\x10" + b"\xff" * 9 + b"\x01")),
        "LoDTensor: unknown type": ("d/w", lod(description=b"\x08\x63\x10\x04")),
        "program: nested": ("m.pdiparams", b"\0" * 64),
    }
    return {**{name: ("w.pdparams", content) for name, content in pickles.items()}, **others}


PROGRAM_BESIDE = {"program: nested": ("m.json", b"[" * 500_000)}
