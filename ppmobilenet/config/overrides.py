"""``-o key=value``: the same values as in the file, under a dotted key with list indices."""

from __future__ import annotations

from collections.abc import Iterable

from ppmobilenet.config.reading import Document, parse_yaml, scalar
from ppmobilenet.errors import UserError, nearest

EXAMPLE = "for example -o Global.epochs=5 or -o DataLoader.Train.dataset.transform_ops.1.RandCropImage.size=160"


def apply_overrides(document: Document, overrides: Iterable[str]) -> None:
    """Put ``key=value`` texts into the tree, in order. Whether a new key is known is found by the check that follows.

    Raises:
        UserError: no ``=``, an index outside its list, an inner key of a plain value, or a value that is not YAML.
    """
    for override in map(_utf8, overrides):
        where = f"-o {override if len(override) <= 100 else override[:97] + '...'}"
        keys, text = _split(override, where)
        path = _descend(document, keys, where)
        value = parse_value(text, where)
        document.forget(path)
        document.marks[path] = where
        document.marks.update({(*path, *p): where for p in value.marks})
        document.texts.update({(*path, *p): t for p, t in value.texts.items()})
        _container(document.tree, path)[path[-1]] = value.tree


def parse_value(text: str, where: str) -> Document:
    """Parse the right-hand side: a quoted string, ``[...]``, ``{...}``, or an unquoted scalar taken whole."""
    text = text.strip()
    if text[:1] in ("'", '"', "[", "{"):
        return parse_yaml(text, where, line_of=lambda mark: where)
    if text.startswith("!"):
        raise UserError("a tag (!) is not read: a configuration never runs code", where=where)
    return Document(scalar(text), texts={(): text}, marks={(): where})


def _utf8(argument: str) -> str:
    """Undo what a locale that is not UTF-8 makes of a UTF-8 command line; other bytes stay as Python escapes them."""
    try:
        return argument.encode("utf-8", "surrogateescape").decode("utf-8")
    except UnicodeError:
        return argument


def _split(override: str, where: str) -> tuple[list[str], str]:
    key, equals, text = override.partition("=")
    keys = [part.strip() for part in key.strip().split(".")]
    if not equals or not all(keys):
        raise UserError("an override is KEY=VALUE", where=where, hint=EXAMPLE)
    return keys, text


def _descend(document: Document, keys: list[str], where: str) -> tuple:
    """Return the keys as a path, making the sections on the way that the file does not hold."""
    path: tuple = ()
    here = document.tree
    for i, key in enumerate(keys):
        shown = ".".join(map(str, path))
        if isinstance(here, list):
            path = (*path, _index(here, key, shown, where))
        elif isinstance(here, dict):
            path = (*path, key)
        else:
            raise UserError(f"{shown} is {here!r}, it has no inner key {key!r}", where=where, hint=EXAMPLE)
        if i < len(keys) - 1:
            inner = here.get(key) if isinstance(here, dict) else here[path[-1]]
            if inner is None:  # a section that the file leaves out or leaves empty
                inner = here[path[-1]] = {}
                document.marks.setdefault(path, where)
            here = inner
    return path


def _index(values: list, key: str, shown: str, where: str) -> int:
    if key.isascii() and key.isdecimal() and len(key) < 7 and int(key) < len(values):
        index = int(key)
        return index
    names = [next(iter(v)) if isinstance(v, dict) and v else str(v) for v in values]
    listing = ", ".join(f"{i} {name}" for i, name in enumerate(names)) or "nothing"
    match = nearest(key, names)
    raise UserError(
        f"{shown} is a list of {len(values)}, it has no entry {key!r}",
        where=where,
        allowed=f"its entries: {listing}",
        hint=f"write {shown}.{names.index(match)}.{match}" if match else None,
    )


def _container(tree, path: tuple):
    for key in path[:-1]:
        tree = tree[key]
    return tree
