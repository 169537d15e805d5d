"""What a value may be: the checks that the schema's table and constructors' annotations are made of."""

from __future__ import annotations

import ast
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """One kind of value.

    Attributes:
        says: the kind in words, for messages: ``"an integer, at least 1"``.
        accepts: whether a value of YAML's plain types is one.
        text: an unquoted scalar counts as the text that stands there (``output_dir: 2024``).
        element: of a list, what its values are.
    """

    says: str
    accepts: Callable[[object], bool]
    text: bool = False
    element: Kind | None = None
    choices: tuple = ()

    def fit(self, value: object, path: tuple = (), texts: dict | None = None) -> object:
        """Return the value as this kind takes it.

        Raises:
            ValueError: it is not of this kind.
        """
        if isinstance(value, bool) and ("on" if value else "off") in self.choices:
            value = "on" if value else "off"  # YAML reads the bare words as booleans
        if self.text and not isinstance(value, (str, list, dict)) and path in (texts or {}):
            value = texts[path]
        if self.element and isinstance(value, list):
            value = [self.element.fit(v, (*path, i), texts) for i, v in enumerate(value)]
        if not self.accepts(value):
            raise ValueError(self.says)
        return value


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def integer(low: int | None = None) -> Kind:
    """An integer of at least ``low``."""
    says = "an integer" if low is None else f"an integer, at least {low}"
    return Kind(says, lambda v: _is_integer(v) and (low is None or v >= low))


def number(low: float | None = None, high: float | None = None) -> Kind:
    """A finite number within the bounds, both included."""
    says = "a number" + (f", at least {low}" if low is not None else "") + (f", at most {high}" if high else "")
    return Kind(says, lambda v: _is_number(v) and (low is None or v >= low) and (high is None or v <= high))


def one_of(*choices: object) -> Kind:
    """One of a few words."""
    return Kind(
        "one of " + ", ".join(map(str, choices)),
        lambda v: any(v == c and type(v) is type(c) for c in choices),
        choices=choices,
    )


def list_of(element: Kind, length: int | None = None) -> Kind:
    """A list, of ``length`` entries if given."""
    count = "" if length is None else f"{length} of "
    return Kind(
        f"a list [{count}{element.says}]",
        lambda v: isinstance(v, list) and (length is None or len(v) == length),
        element=element,
    )


def any_of(*kinds: Kind) -> Kind:
    """What any of the kinds takes; a more exact one goes before text."""
    if len(kinds) == 1:
        return kinds[0]
    ordered = sorted(kinds, key=lambda kind: kind.text)
    return _AnyOf(" or ".join(dict.fromkeys(kind.says for kind in kinds)), lambda v: True, kinds=tuple(ordered))


@dataclass(frozen=True)
class _AnyOf(Kind):
    kinds: tuple[Kind, ...] = ()

    def fit(self, value: object, path: tuple = (), texts: dict | None = None) -> object:
        for kind in self.kinds:
            try:
                return kind.fit(value, path, texts)
            except ValueError:
                continue
        raise ValueError(self.says)


ANYTHING = Kind("anything", lambda v: True)
BOOLEAN = Kind("True or False", lambda v: isinstance(v, bool))
TEXT = Kind("text", lambda v: isinstance(v, str), text=True)
MAPPING = Kind("a mapping {key: value}", lambda v: isinstance(v, dict))
NUMBER = number()
ABOVE_ZERO = Kind("a number above 0", lambda v: _is_number(v) and v > 0)
# `gpu:1` chooses a card
DEVICE = Kind(
    "cpu, gpu, gpu:N, xpu, npu, mlu",
    lambda v: (
        isinstance(v, str)
        and v.partition(":")[0] in ("cpu", "gpu", "xpu", "npu", "mlu")
        and (":" not in v or v.partition(":")[2].isdecimal())
    ),
)
INTEGER = integer()

_NAMES = {
    "int": INTEGER,
    "float": NUMBER,
    "bool": BOOLEAN,
    "str": TEXT,
    "Path": TEXT,
    "PathLike": TEXT,
    "dict": MAPPING,
    "Mapping": MAPPING,
    "list": list_of(ANYTHING),
    "tuple": list_of(ANYTHING),
    "Sequence": list_of(ANYTHING),
    "Iterable": list_of(ANYTHING),
}


def kind_of(parameter: inspect.Parameter) -> Kind:
    """Return the kind that a constructor's annotation describes; without one, anything.

    Annotations are read as text, not evaluated: ``int | tuple[int, int] | None`` must also work on Python 3.9.
    """
    annotation = parameter.annotation
    if annotation is inspect.Parameter.empty:
        return ANYTHING
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    try:
        return _from_syntax(ast.parse(text, mode="eval").body)
    except SyntaxError:
        return ANYTHING


def _from_syntax(node: ast.expr) -> Kind:
    parts = [kind for kind in map(_one, _alternatives(node)) if kind is not None]
    if not parts or ANYTHING in parts:
        return ANYTHING
    return any_of(*parts)


def _alternatives(node: ast.expr) -> list[ast.expr]:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return _alternatives(node.left) + _alternatives(node.right)
    if isinstance(node, ast.Subscript) and _name(node.value) in ("Optional", "Union"):
        return [part for inner in _arguments(node) for part in _alternatives(inner)]
    return [node]


def _one(node: ast.expr) -> Kind | None:
    """Return the kind of one alternative; None for ``None``, which every key takes as "not given"."""
    if isinstance(node, ast.Constant) and node.value is None or _name(node) == "None":
        return None
    if not isinstance(node, ast.Subscript):
        return _NAMES.get(_name(node), ANYTHING)
    name, inner = _name(node.value), _arguments(node)
    if name == "Literal":
        return one_of(*(c.value for c in inner if isinstance(c, ast.Constant)))
    if name == "tuple" and not any(isinstance(i, ast.Constant) and i.value is ... for i in inner):
        return list_of(_from_syntax(inner[0]), len(inner))
    if name in ("list", "tuple", "Sequence", "Iterable"):
        return list_of(_from_syntax(inner[0]))
    return _NAMES.get(name, ANYTHING)


def _arguments(node: ast.Subscript) -> list[ast.expr]:
    inner = getattr(node.slice, "value", node.slice) if type(node.slice).__name__ == "Index" else node.slice
    return list(inner.elts) if isinstance(inner, ast.Tuple) else [inner]


def _name(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""
