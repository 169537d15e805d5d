"""Every key known, every value of its type, every name in its registry: before any data is read."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping

from ppmobilenet.config import schema
from ppmobilenet.config.fields import ByName, PartList, needed, parameters
from ppmobilenet.config.kinds import TEXT, kind_of
from ppmobilenet.config.reading import Document
from ppmobilenet.errors import UserError, did_you_mean, nearest
from ppmobilenet.registry import Registry


def check(document: Document) -> list[str]:
    """Check the tree against the schema, in place: nulls of sections become ``{}``, values take their type.

    Returns:
        Notes for the log: keys of PaddleClas that change nothing here.

    Raises:
        UserError: the first mistake; where there are more, all of them.
    """
    checker = _Checker(document)
    document.tree = checker.section((), document.tree)
    if len(checker.errors) == 1:
        raise checker.errors[0]
    if checker.errors:
        shown = checker.errors[:10]
        more = [f"and {len(checker.errors) - 10} more"] if len(checker.errors) > 10 else []
        raise UserError("\n".join([f"{len(checker.errors)} mistakes:", *(f"  {error}" for error in shown), *more]))
    return checker.notes


def dotted(path: Iterable) -> str:
    """``("a", 1, "b")`` -> ``"a.1.b"``."""
    return ".".join(map(str, path))


class _Checker:
    def __init__(self, document: Document):
        self.document = document
        self.errors: list[UserError] = []
        self.notes: list[str] = []

    def error(self, path: tuple, message: str, allowed: str | None = None, hint: str | None = None) -> None:
        self.errors.append(UserError(message, where=self.document.where(path), allowed=allowed, hint=hint))

    def section(self, path: tuple, value: object) -> object:
        """Check a mapping of known keys; ``path`` has no list index in it."""
        name = dotted(path)
        if value is None:
            value = {}
        if not isinstance(value, dict):
            keys = ", ".join(schema.children(name)[:8])
            self.error(
                path, f"{name or 'the file'} is a section of keys, found {_show(value)}", allowed=f"keys such as {keys}"
            )
            return {}
        part = schema.PARTS.get(name)
        own = self.part(path, value, part) if part else {}
        # a missing or unknown name leaves the keys that only it could know unjudged
        judged = own is not None
        return {
            key: self.key(path, key, inner, own or {}, part, judged)
            for key, inner in value.items()
            if not _means_default(inner, (own or {}).get(key), f"{name}.{key}")
        }

    def part(self, path: tuple, value: dict, part: ByName) -> Mapping[str, inspect.Parameter] | None:
        """Resolve a part's name; return its parameters, or None where it has none that could be known."""
        name = value.get("name", part.default)
        if name is None:
            self.error(
                path,
                f"{dotted(path)} has no name",
                allowed=", ".join(sorted(part.registry)),
                hint=f"give one: -o {dotted(path)}.name=...",
            )
            return None
        if not self.known(part.registry, name, (*path, "name")):
            return None
        own = parameters(part, name)
        for key, parameter in own.items():
            inner = f"{dotted(path)}.{key}"
            if (
                needed(parameter)
                and value.get(key) is None
                and inner not in schema.PART_LISTS
                and not _has_default(inner)
            ):
                self.error(path, f"{inner} is missing: {name} needs it", hint=f"-o {inner}=...")
        return own

    def known(self, registry: Registry, name: object, path: tuple) -> bool:
        if isinstance(name, str) and name in registry:
            return True
        self.error(
            path,
            f"unknown {registry.kind} {_show(name)} at {dotted(path)}",
            allowed=", ".join(sorted(registry)) or "none so far",
            hint=did_you_mean(str(name), registry) if nearest(str(name), registry) else None,
        )
        return False

    def key(self, section: tuple, key: str, value: object, own: Mapping, part, judged: bool) -> object:
        path = (*section, key)
        name = dotted(path)
        if name in schema.PART_LISTS:
            return self.part_list(path, value, schema.PART_LISTS[name])
        if name in schema.SECTIONS:
            return self.section(path, value)
        if part and key == "name":
            return value
        if name in schema.IGNORED:
            if value not in (None, False, -1, "", [], {}):
                place = self.document.where(path)
                self.notes.append(f"{place}: {name} is PaddleClas's and changes nothing here: {schema.IGNORED[name]}")
            return value
        if key in own and name not in schema.KEYS:  # the table knows bounds, an annotation does not
            return self.value(path, value, kind_of(own[key]))
        if part and key in self.fixed(section, part):
            variant, fixed = self.name(section, part), self.fixed(section, part)[key]
            freer = part.registry.freer(variant, key)
            other = f", or take -o {dotted(section)}.name={freer}, which takes any" if freer else ""
            self.error(path, f"{variant} fixes {name} at {fixed!r}", hint=f"leave it out{other}")
            return value
        if part and part.closed and judged and key not in own:
            self.unknown(path, list(own), self.name(section, part))
            return value
        if name in schema.KEYS:
            return self.value(path, value, schema.KEYS[name].kind)
        if name in schema.UNSUPPORTED:
            if value is not None and value is not False:
                self.error(
                    path,
                    f"{name} belongs to PaddleClas's {schema.UNSUPPORTED[name]}, which ppmobilenet does not do",
                    hint="delete it" if section else "delete this section",
                )
            return value
        if judged:
            self.unknown(path, [*schema.children(dotted(section)), *own], self.name(section, part) if part else None)
        return value

    def name(self, section: tuple, part: ByName) -> str:
        """The name that a part's section gives, or its default."""
        tree = self.document.tree
        for key in section:
            tree = tree[key]
        return str(tree.get("name", part.default))

    def fixed(self, section: tuple, part: ByName) -> Mapping:
        name = self.name(section, part)
        if name not in part.registry:
            return {}
        return getattr(part.registry[name], "keywords", {})

    def unknown(self, path: tuple, siblings: list[str], owner: str | None = None) -> None:
        key = str(path[-1])
        match = nearest(key, siblings)
        elsewhere = sorted(known for known in schema.KEYS if known.rsplit(".", 1)[-1] == key)
        if match:
            hint = f"did you mean {dotted((*path[:-1], match))}?"
        elif elsewhere:
            hint = f"{key} stands at {' or '.join(elsewhere[:3])}"
        else:
            hint = None
        of = f" (of {owner})" if owner else ""
        self.error(path, f"unknown key {dotted(path)}", allowed=", ".join(sorted(set(siblings))) + of, hint=hint)

    def value(self, path: tuple, value: object, kind) -> object:
        if value is None:
            return None  # not given: the default holds
        try:
            return kind.fit(value, path, self.document.texts)
        except ValueError as error:
            self.error(path, f"{dotted(path)} is {_show(value)}", allowed=str(error), hint=_retype(value, path))
            return value

    def part_list(self, path: tuple, value: object, parts: PartList) -> object:
        if value is None:
            return []
        if not isinstance(value, list):
            example = "- Name: {key: value}"
            self.error(path, f"{dotted(path)} is a list of names, found {_show(value)}", allowed=example)
            return value
        return [self.entry((*path, i), entry, parts) for i, entry in enumerate(value)]

    def entry(self, path: tuple, entry: object, parts: PartList) -> object:
        """Check ``{Name: {key: value}}`` (or the bare ``Name``) and return it in that shape."""
        if isinstance(entry, str):
            entry = {entry: {}}
        if not isinstance(entry, dict) or len(entry) != 1:
            self.error(
                path,
                f"{dotted(path)} is {_show(entry)}",
                allowed="one name with its keys, as in `- CropImage: {size: 224}`",
                hint="check the indentation: the keys stand two columns further in than the name",
            )
            return entry
        name, given = next(iter(entry.items()))
        inner = (*path, name)
        if not self.known(parts.registry, name, inner):
            return entry
        own = parameters(parts, name)
        if given is None:
            given = {}
        if not isinstance(given, dict):
            self.error(inner, f"{dotted(inner)} is {_show(given)}", allowed="its keys: " + (", ".join(own) or "none"))
            return entry
        checked = {}
        for key, value in given.items():
            if key in own:
                if not _means_default(value, own[key]):
                    checked[key] = self.value((*inner, key), value, kind_of(own[key]))
            elif key in parts.extra:
                checked[key] = self.value((*inner, key), value, schema.EXTRA_KEYS[key].kind)
            else:
                self.unknown((*inner, key), [*own, *parts.extra], name)
        for key, parameter in own.items():
            if needed(parameter) and given.get(key) is None:
                self.error(inner, f"{dotted((*inner, key))} is missing: {name} needs it")
        return {name: checked}


def _means_default(value: object, parameter: inspect.Parameter | None, name: str = "") -> bool:
    """Whether this is a null where the default, and not None, is meant."""
    if value is not None:
        return False
    if parameter is not None and not (needed(parameter) and _has_default(name)):
        return parameter.default not in (None, inspect.Parameter.empty) and "None" not in str(parameter.annotation)
    return _has_default(name)


def _has_default(name: str) -> bool:
    return name in schema.KEYS and schema.KEYS[name].default is not None


def _retype(value: object, path: tuple) -> str | None:
    """Say what went wrong where the value looks as if it were meant well."""
    if isinstance(value, str) and value.startswith("(") and value.endswith(")"):
        return f"write a list: [{value[1:-1]}]"
    if isinstance(value, str) and value.lower() in ("true", "false", "none", "null"):
        return "leave the quotation marks away"
    if isinstance(value, str) and TEXT.accepts(value) and value[:1].isdecimal() and "," in value:
        return f"one -o for each key; if this is a list, write [{value}]"
    return None


def _show(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
