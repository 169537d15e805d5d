"""How a section of a configuration is declared, a dataclass each, and how such a part is read from a checked tree."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any, ClassVar, NamedTuple

from ppmobilenet.config.kinds import Kind
from ppmobilenet.errors import UserError
from ppmobilenet.registry import Registry

Where = Callable[[str], object]  # dotted key -> the place where it was given


class MissingKey(UserError, KeyError):
    """A section or key that a command needs and the configuration does not hold."""

    __str__ = Exception.__str__

    @classmethod
    def at(cls, key: str, where: object) -> MissingKey:
        """Return the error for a dotted key."""
        return cls(f"{key} is missing", where=where, hint=f"-o {key}=..., or add it to the file")


class Missing:
    """Stands for a section that was not given and cannot be guessed: false, and an error once it is asked."""

    def __init__(self, at: str, where: object):
        self._at, self._where = at, where

    def __bool__(self) -> bool:
        return False

    def __getattr__(self, name: str):
        if name.startswith("__"):
            raise AttributeError(name)
        raise MissingKey.at(self._at, self._where)

    def __repr__(self) -> str:
        return f"{self._at} is missing"


class Term(NamedTuple):
    """An entry of a list of losses or metrics: a name of its registry, the parameters given, its factor in a sum."""

    name: str
    parameters: Mapping[str, Any] = {}
    weight: float = 1.0


@dataclass(frozen=True)
class Key:
    """One known key: what its value may be, the value where the file gives none, and what it does."""

    kind: Kind
    default: object
    help: str

    def read(self, value: object, at: str, where: Where) -> object:
        return self.default if value is None else plain(value)


@dataclass(frozen=True)
class PartList:
    """A list ``[{Name: {parameter: value}}, ...]`` of things in a registry, each with ``extra`` keys of its own."""

    registry: Registry
    extra: tuple[str, ...] = ()
    supplied: frozenset = frozenset({"class_num"})

    def read(self, value: Sequence[Mapping] | None, at: str, where: Where) -> tuple:
        return plain(list(value or ()))


@dataclass(frozen=True)
class TermList(PartList):
    """The same, read as :class:`Term` s; where the file gives none, the one called ``default``."""

    default: str = ""

    def read(self, value: Sequence[Mapping] | None, at: str, where: Where) -> tuple:
        terms = []
        for entry in value or ({self.default: {}},):
            for name, given in entry.items():
                parameters = {key: plain(v) for key, v in (given or {}).items()}
                weight = parameters.pop("weight", None) if "weight" in self.extra else None
                terms.append(Term(name, parameters) if weight is None else Term(name, parameters, weight))
        return tuple(terms)


@dataclass(frozen=True)
class Inner:
    """A section inside a section; one that is ``needed`` has no defaults for all of it."""

    part: type[Part]
    needed: bool = False

    def read(self, value: Mapping | None, at: str, where: Where) -> object:
        return Missing(at, where(at)) if value is None and self.needed else self.part.of(value, at, where)


@dataclass(frozen=True)
class ByName:
    """Says that a section's ``name`` stands in a registry, and that its other keys are that thing's parameters.

    Attributes:
        registry: of the names.
        default: the name where the file gives none; None: it must.
        supplied: parameters that the program gives, not the file.
        closed: the thing's parameters are all that there is: what the table knows is another's.
    """

    registry: Registry
    default: str | None = None
    supplied: frozenset = frozenset()
    closed: bool = False


def parameters(known: ByName | PartList, name: str) -> Mapping[str, inspect.Parameter]:
    """Return what a configuration may give to an entry of a registry, by name."""
    named = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    every = known.registry.parameters(name)
    return {key: p for key, p in every.items() if p.kind in named and key not in known.supplied}


def needed(parameter: inspect.Parameter) -> bool:
    """Whether a constructor cannot do without this parameter: it has no default and does not take None."""
    return parameter.default is inspect.Parameter.empty and "None" not in str(parameter.annotation)


def key(kind: Kind, default: object, help: str) -> Any:
    """Declare a key of a part."""
    return field(default=default, metadata={"known": Key(kind, default, help)})


def section(part: type[Part], *, needed: bool = False, called: str | None = None) -> Any:
    """Declare a section inside a part, ``called`` so in a file where that is not the field's name."""
    default = partial(Missing, part.at, None) if needed else part
    return field(default_factory=default, metadata={"known": Inner(part, needed), "called": called})


def entries(registry: Registry) -> Any:
    """Declare a list of things with their parameters."""
    return field(default=(), metadata={"known": PartList(registry)})


def terms(registry: Registry, default: str, called: str, extra: tuple[str, ...] = ()) -> Any:
    """Declare a list of losses or metrics."""
    known = TermList(registry, extra, default=default)
    return field(default=(Term(default),), metadata={"known": known, "called": called})


@dataclass(frozen=True)
class Part:
    """A section as typed values, one field a key.

    Attributes:
        at: where it stands, dotted; of a part inside another, that one's place comes before it.
        by: set where its ``name`` chooses what it is.
    """

    at: ClassVar[str] = ""
    by: ClassVar[ByName | None] = None

    @classmethod
    def known(cls) -> dict[str, tuple[str, Key | PartList | Inner]]:
        """Return what may stand in the section by this class: key as in a file -> (field, what it is)."""
        declared = [f for f in fields(cls) if "known" in f.metadata]
        return {f.metadata.get("called") or f.name: (f.name, f.metadata["known"]) for f in declared}

    @classmethod
    def of(cls, tree: Mapping | None, at: str | None = None, where: Where = lambda key: None):
        """Read the part from a section that was checked; what it lacks takes its default."""
        tree, at = tree or {}, cls.at if at is None else at
        values = {
            name: known.read(tree.get(called), f"{at}.{called}", where) for called, (name, known) in cls.known().items()
        }
        return cls(**values, **cls.named(tree, values))

    @classmethod
    def named(cls, tree: Mapping, values: Mapping) -> dict:
        """Return the fields that depend on the section's ``name``."""
        return {}


@dataclass(frozen=True)
class NamedPart(Part):
    """A section whose ``name`` chooses what is built.

    Attributes:
        name: of an entry of the registry.
        parameters: what the entry is to be given of what the file gives.
    """

    name: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def named(cls, tree: Mapping, values: Mapping) -> dict:
        name = tree.get("name") or cls.by.default
        own = parameters(cls.by, name)
        given = {key: plain(tree[key]) for key in own if key in tree}
        # the section's default is used where the entry itself has none
        lacking = [key for key in own if key not in given and needed(own[key]) and values.get(key) is not None]
        return {"name": name, "parameters": {**given, **{key: values[key] for key in lacking}}}


def plain(value: object) -> Any:
    """Return a copy of a value in plain dicts, and tuples in place of lists."""
    if isinstance(value, Mapping):
        return {key: plain(inner) for key, inner in value.items()}
    return tuple(plain(inner) for inner in value) if isinstance(value, (list, tuple)) else value
