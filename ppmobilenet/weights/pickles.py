"""A pickle reader that runs no code.

Paddle's ``.pdparams`` and PyTorch's ``.pth`` are pickles, and a pickle is a program. Python's own machine calls what
the file names; this one is an interpreter of the few instructions that weight files need, over a table of the few
names they need. Nothing is imported and nothing of the file is called: each name stands for a function of
:mod:`.pickle_values`, and any other name, instruction, key or size ends the reading with an error that says which.

Arrays are not copied: they are read-only views of the file's bytes.

Instructions: protocols 2 to 5 as CPython's ``pickletools`` documents them. Names: what numpy 1 and 2,
``paddle.save`` and ``torch.save`` write for arrays, dicts and numbers.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping

import numpy as np

from ppmobilenet.errors import DamagedFileError
from ppmobilenet.weights.pickle_values import (
    MAX_NAME,
    PADDLE_GLOBALS,
    Array,
    Dtype,
    Known,
    LongText,
    as_text,
    checked_key,
)

# A MobileNet checkpoint takes some ten thousand instructions; each costs at most about 100 bytes of memory.
MAX_INSTRUCTIONS = 1_000_000
MAX_DEPTH = 64


class Refused(DamagedFileError):
    """The pickle holds something that no weight file needs."""


class _Machine:
    def __init__(self, data: memoryview, position: int, table: Mapping, persistent: Callable | None):
        self.data, self.position, self.table, self.persistent = data, position, table, persistent
        self.stack: list = []
        self.marks: list[int] = []
        self.memo: dict[int, object] = {}
        self.to_copy = 2 * len(data) + MAX_INSTRUCTIONS

    def take(self, count: int) -> memoryview:
        end = self.position + count
        if end > len(self.data):
            raise ValueError(f"it ends at byte {len(self.data)}, inside a value that needs {end - len(self.data)} more")
        piece = self.data[self.position : end]
        self.position = end
        return piece

    def number(self, form: str) -> int | float:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def line(self) -> str:
        # names only: a short window is enough, and a file without a newline is not searched to its end
        window = bytes(self.data[self.position : self.position + 256])
        end = window.find(b"\n")
        if end < 0:
            raise ValueError("a name without an end")
        self.position += end + 1
        return window[:end].decode("utf-8")

    def pop(self) -> object:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise ValueError("an instruction without its operand")
        return self.stack.pop()

    def top(self) -> object:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise ValueError("an instruction without its operand")
        return self.stack[-1]

    def pop_mark(self) -> list:
        if not self.marks:
            raise ValueError("an instruction without its mark")
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def name(self, module: object, name: object) -> Known:
        module, name = as_text(module), as_text(name)
        if not isinstance(module, str) or not isinstance(name, str):
            raise ValueError("a global whose name is not text")
        if (module, name) not in self.table:
            raise Refused(f"the global '{module[:80]}.{name[:80]}'")
        return self.table[module, name]

    def call(self, function: object, args: object) -> object:
        if not isinstance(function, Known) or not isinstance(args, tuple):
            raise ValueError("a call of something that is not a function")
        if function.make is None:
            raise ValueError(f"a call of {function.text}")
        # a few instructions can ask for the same large copy again and again: no honest file copies more than it holds
        self.to_copy -= sum(len(arg) for arg in args if isinstance(arg, (str, list, LongText)))
        if self.to_copy < 0:
            raise ValueError("calls that would copy more than the file holds")
        try:
            return function.make(*args)
        except TypeError as error:
            raise ValueError(f"{function.text} with arguments of the wrong number or kind") from error

    def build(self, state: object) -> None:
        thing = self.top()
        if isinstance(thing, (Array, Dtype)):
            thing.build(state)
        elif not (isinstance(thing, dict) and isinstance(state, dict)):  # PyTorch's _metadata on an OrderedDict
            raise ValueError(f"a state for a {type(thing).__name__}")

    def set_items(self, items: list) -> None:
        target = self.top()
        if not isinstance(target, dict) or len(items) % 2:
            raise ValueError("dict items without a dict")
        for i in range(0, len(items), 2):
            target[checked_key(items[i])] = items[i + 1]

    def append(self, items: list) -> None:
        target = self.top()
        if not isinstance(target, list):
            raise ValueError("list items without a list")
        target.extend(items)

    def recall(self, index: int) -> object:
        if index not in self.memo:
            raise ValueError(f"memo entry {index} that was never written")
        return self.memo[index]

    def run(self) -> object:
        steps, take, number = INSTRUCTIONS, self.take, self.number
        for _ in range(MAX_INSTRUCTIONS):
            code = take(1)[0]
            if code == 0x2E:  # STOP
                value = self.pop()
                if self.stack or self.marks:
                    raise ValueError("values left over at its end")
                return value
            if code == 0x80:
                protocol = number("B")
                if not 2 <= protocol <= 5:
                    raise ValueError(f"pickle protocol {protocol}; allowed: 2 to 5")
                continue
            step = steps.get(code)
            if step is None:
                raise ValueError(f"pickle instruction 0x{code:02x}, which no weight file needs")
            step(self)
        raise ValueError(f"more than {MAX_INSTRUCTIONS} pickle instructions")


def _long(m: _Machine, form: str) -> None:
    size = m.number(form)
    if not 0 <= size <= 256:
        raise ValueError(f"a whole number of {size} bytes")
    m.stack.append(int.from_bytes(m.take(size), "little", signed=True))


def _sized(m: _Machine, form: str) -> memoryview:
    size = m.number(form)
    if size < 0:
        raise ValueError("a negative size")
    return m.take(size)


def _text(m: _Machine, form: str) -> str | LongText:
    data = _sized(m, form)
    return LongText(data) if len(data) > MAX_NAME else bytes(data).decode("utf-8", "surrogatepass")


def _push(make: Callable[[_Machine], object]) -> Callable[[_Machine], None]:
    return lambda m: m.stack.append(make(m))


def _store(m: _Machine, index: int) -> None:
    m.memo[index] = m.top()


def _some(m: _Machine, count: int) -> tuple:
    return tuple(reversed([m.pop() for _ in range(count)]))


def _reduce(m: _Machine) -> None:
    args = m.pop()
    m.stack.append(m.call(m.pop(), args))


def _stack_global(m: _Machine) -> None:
    name = m.pop()
    m.stack.append(m.name(m.pop(), name))


def _setitem(m: _Machine) -> None:
    value = m.pop()
    m.set_items([m.pop(), value])


def _append_one(m: _Machine) -> None:
    m.append([m.pop()])


def _persistent(m: _Machine) -> None:
    if m.persistent is None:
        raise ValueError("a reference to a storage outside the pickle (PyTorch's?)")
    m.stack.append(m.persistent(m.pop()))


def _frame(m: _Machine) -> None:
    size = m.number("<Q")
    if size > len(m.data) - m.position:
        raise ValueError(f"it ends at byte {len(m.data)}, inside a frame of {size} bytes")


INSTRUCTIONS: dict[int, Callable[[_Machine], None]] = {
    ord("("): lambda m: m.marks.append(len(m.stack)),
    0x95: _frame,
    # constants and numbers
    ord("N"): _push(lambda m: None),
    0x88: _push(lambda m: True),
    0x89: _push(lambda m: False),
    ord("J"): _push(lambda m: m.number("<i")),
    ord("K"): _push(lambda m: m.number("B")),
    ord("M"): _push(lambda m: m.number("<H")),
    ord("G"): _push(lambda m: m.number(">d")),
    0x8A: lambda m: _long(m, "B"),
    0x8B: lambda m: _long(m, "<i"),
    # text and bytes; bytes stay views of the file
    ord("X"): _push(lambda m: _text(m, "<I")),
    0x8C: _push(lambda m: _text(m, "B")),
    0x8D: _push(lambda m: _text(m, "<Q")),
    ord("T"): _push(lambda m: _sized(m, "<i")),
    ord("U"): _push(lambda m: _sized(m, "B")),
    ord("B"): _push(lambda m: _sized(m, "<I")),
    ord("C"): _push(lambda m: _sized(m, "B")),
    0x8E: _push(lambda m: _sized(m, "<Q")),
    0x96: _push(lambda m: _sized(m, "<Q")),
    # containers
    ord("}"): _push(lambda m: {}),
    ord("]"): _push(lambda m: []),
    ord(")"): _push(lambda m: ()),
    0x85: _push(lambda m: _some(m, 1)),
    0x86: _push(lambda m: _some(m, 2)),
    0x87: _push(lambda m: _some(m, 3)),
    ord("t"): _push(lambda m: tuple(m.pop_mark())),
    ord("a"): _append_one,
    ord("e"): lambda m: m.append(m.pop_mark()),
    ord("s"): _setitem,
    ord("u"): lambda m: m.set_items(m.pop_mark()),
    # memo
    ord("q"): lambda m: _store(m, m.number("B")),
    ord("r"): lambda m: _store(m, m.number("<I")),
    0x94: lambda m: _store(m, len(m.memo)),
    ord("h"): _push(lambda m: m.recall(m.number("B"))),
    ord("j"): _push(lambda m: m.recall(m.number("<I"))),
    # names and calls of our own stand-ins
    ord("c"): _push(lambda m: m.name(m.line(), m.line())),
    0x93: _stack_global,
    ord("R"): _reduce,
    0x81: _reduce,
    ord("b"): lambda m: m.build(m.pop()),
    ord("Q"): _persistent,
}


class _Finish:
    """Replace the placeholders by arrays, each object once: shared ones stay shared, cycles are refused.

    Args:
        copy: give arrays of their own instead of views of the file.
    """

    def __init__(self, copy: bool):
        self.copy = copy
        self.done: dict[int, tuple[object, int]] = {}  # id -> what it became, values in it
        self.kept: list = []  # keeps ids from being given again

    def __call__(self, value: object, depth: int = 0) -> tuple[object, int]:
        if isinstance(value, (str, int, float, bool, type(None))):
            return value, 1
        if id(value) in self.done:
            made, count = self.done[id(value)]
            if made is _UNFINISHED:
                raise ValueError("a container that holds itself")
            return made, count
        if depth > MAX_DEPTH:
            raise ValueError(f"containers nested more than {MAX_DEPTH} deep")
        self.done[id(value)] = _UNFINISHED, 0
        self.kept.append(value)
        count = 1
        if isinstance(value, (dict, list, tuple)):
            parts = [self(v, depth + 1) for v in (value.values() if isinstance(value, dict) else value)]
            count += sum(n for _, n in parts)
            # a container that is used again and again grows without end when somebody walks through it
            if count > MAX_INSTRUCTIONS:
                raise ValueError(f"containers of more than {MAX_INSTRUCTIONS} values")
            things = [part for part, _ in parts]
            made = dict(zip(value, things)) if isinstance(value, dict) else type(value)(things)
        elif isinstance(value, (memoryview, bytes)):
            made = bytes(value)
        elif isinstance(value, LongText):
            made = str(value)
        elif isinstance(value, (Array, np.ndarray)):
            made = value.value if isinstance(value, Array) else value
            if made is None:
                raise ValueError("an unfinished array")
            made = made.copy() if self.copy else made
        elif isinstance(value, Dtype):
            made = str(value.value)
        else:
            raise ValueError("a function as a value")
        self.done[id(value)] = made, count
        return made, count


_UNFINISHED = object()


def load(
    data: memoryview,
    source: object,
    *,
    position: int = 0,
    table: Mapping[tuple[str, str], Known] = PADDLE_GLOBALS,
    persistent: Callable[[object], object] | None = None,
    copy: bool = False,
) -> tuple[object, int]:
    """Read one pickle without running anything of it.

    Args:
        data: the file's bytes.
        source: its path, for messages.
        position: where the pickle starts.
        table: the names it may use.
        persistent: resolves PyTorch's references to storages.
        copy: return writable arrays of their own instead of read-only views of ``data``.

    Returns:
        The value (dicts, lists, tuples, numbers, text, bytes and arrays) and the position after it.

    Raises:
        DamagedFileError: anything that a weight file has no need of, and any damage.
    """
    machine = _Machine(data, position, table, persistent)
    try:
        value, _ = _Finish(copy)(machine.run())
        return value, machine.position
    except Refused as error:
        raise Refused(
            f"refused: the file names {error.message}, which no weight file needs and which can run code",
            where=source,
            hint="do not open it with paddle.load or torch.load either unless you trust its author",
        ) from None
    except (ValueError, OverflowError, struct.error) as error:
        raise DamagedFileError(
            f"cannot be read as a weight file: byte {machine.position}: {error}",
            where=source,
            hint="the file is damaged or of another kind: copy or download it again",
        ) from None
