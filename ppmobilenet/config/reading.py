"""YAML text -> plain dicts, lists and scalars, each with the line it came from.

PyYAML scans and parses; what a scalar means is decided here, because YAML 1.1 reads ``1e-5`` as text and ``1:30`` as
90. Tags are refused, so no file can run code; aliases are followed, but not into a bomb.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from ppmobilenet.config.shipped import shipped_recipes
from ppmobilenet.errors import UserError

MAX_BYTES = 1_000_000  # the longest published recipe has 5 kB
MAX_VALUES = 20_000  # what all aliases together may expand to
MAX_DEPTH = 40

NULLS = ("", "~", "null", "Null", "NULL", "None")
BOOLEANS = {
    word: value
    for value, lower in ((True, ("true", "yes", "on")), (False, ("false", "no", "off")))
    for name in lower
    for word in (name, name.capitalize(), name.upper())
}
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_INTEGER = re.compile(r"[-+]?(?:0|[1-9]\d{0,17})")  # no leading zeros: 007 is a name, not a number
_FLOAT = re.compile(r"[-+]?(?:\d+\.\d*|\.\d+|\d+(?=[eE]))(?:[eE][-+]?\d+)?")
_FRACTION = re.compile(rf"({_NUMBER})\s*/\s*({_NUMBER})")
_SPECIAL = {".inf": float("inf"), "+.inf": float("inf"), "-.inf": float("-inf"), ".nan": float("nan")}


@dataclass
class Document:
    """A tree, and by path the line of each value and the text of each unquoted scalar."""

    tree: object
    marks: dict[tuple, str] = field(default_factory=dict)
    texts: dict[tuple, str] = field(default_factory=dict)

    def forget(self, path: tuple) -> None:
        """Drop what is known of a value that is about to be replaced."""
        for table in (self.marks, self.texts):
            for known in [p for p in table if p[: len(path)] == path]:
                del table[known]

    def where(self, path: tuple) -> str | None:
        """Return the place of a value, or of the nearest section around it."""
        while path and path not in self.marks:
            path = path[:-1]
        return self.marks.get(path)

    def typed(self, path: tuple) -> bool:
        """Whether a value was typed, by ``-o`` or as the run's folder after ``-c``, and not read from a file."""
        # a section that a typed key has made is not typed as a whole
        return is_typed(self.where(path)) and (path in self.marks or self.get(path) is not None)

    def get(self, path: tuple) -> object:
        """Return the value at a path of keys, None where there is none."""
        value = self.tree
        for key in path:
            if isinstance(value, list):
                value = value[int(key)] if str(key).isdecimal() and int(key) < len(value) else None
            else:
                value = value.get(key) if isinstance(value, dict) else None
        return value

    def put(self, path: tuple, value: object, place: str | None) -> None:
        """Set the value at a path of keys, making the sections on the way, as given at ``place``."""
        tree = self.tree
        for i, key in enumerate(path[:-1], 1):
            if tree.get(key) is None:
                tree[key] = {}
                self.marks.setdefault(path[:i], place or "")
            tree = tree[key]
        tree[path[-1]] = value
        self.forget(path)
        self.marks[path] = place or ""


def is_typed(place: str | None) -> bool:
    """Whether a place, as :meth:`Document.where` gives it, is the command line."""
    return (place or "").startswith(("-o ", "-c "))


def scalar(text: str) -> object:
    """Return what an unquoted scalar means: null, boolean, integer, float, fraction of two numbers, or text."""
    if text in NULLS:
        return None
    if text in BOOLEANS:
        return BOOLEANS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    if len(text) < 64 and _FLOAT.fullmatch(text):
        return float(text)
    if text.lower() in _SPECIAL:
        return _SPECIAL[text.lower()]
    fraction = _FRACTION.fullmatch(text) if len(text) < 128 else None
    if fraction and float(fraction[2]) != 0:
        return float(fraction[1]) / float(fraction[2])
    return text


def read_yaml(path: str | Path) -> Document:
    """Read a configuration file.

    Raises:
        UserError: not a file, not UTF-8, not YAML, a duplicate key, a tag, or more than a configuration can be.
    """
    source = str(path)
    return parse_yaml(_decode(_bytes(Path(path), source), source), source)


def parse_yaml(text: str, source: str, line_of=None) -> Document:
    """Parse YAML; ``source`` names it in errors, ``line_of(mark)`` the place (default ``source:line``)."""
    place = line_of or (lambda mark: f"{source}:{mark.line + 1}")
    try:
        node = yaml.compose(text, Loader=yaml.BaseLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise _syntax_error(error, place(mark) if mark else source, text, mark) from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise UserError(
            f"the character U+{error.character:04X} may not stand in YAML",
            where=source if line_of else f"{source}:{line}",
            hint="delete it, or write it as an escape in a double-quoted string",
        ) from error
    except RecursionError as error:
        raise UserError("nested too deeply to be a configuration", where=source) from error
    document = Document(None)
    if node is not None:
        document.tree = _Walk(document, source, place).value(node, ())
    return document


def _bytes(path: Path, source: str) -> bytes:
    if path.is_dir():
        raise UserError("this is a folder, not a configuration file", where=source, hint=_yamls_in(path))
    if not path.exists():
        raise UserError("no such configuration file", where=source, hint=_meant(path))
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror or error}", where=source) from error
    if len(data) > MAX_BYTES:
        raise UserError(f"more than {MAX_BYTES:,} bytes: this is no configuration file", where=source)
    return data


def _yamls_in(folder: Path) -> str | None:
    try:
        found = sorted(p.name for p in folder.glob("*.y*ml"))
    except OSError:
        return None
    return f"in {folder} there are: {', '.join(found[:12])}" if found else f"there is no .yaml file in {folder}"


def _meant(path: Path) -> str | None:
    """What a missing file may have been meant to be: one beside it, or one of the shipped configurations."""
    if path.parent.is_dir() and any(path.parent.glob("*.y*ml")):
        return _yamls_in(path.parent)
    shipped = {name.rpartition("/")[2]: name for name in shipped_recipes()}
    near = difflib.get_close_matches(path.with_suffix(".yaml").name, shipped, 1)
    if near:
        return f"did you mean {shipped[near[0]]}? (`ppmobilenet configs` lists the shipped recipes)"
    return _yamls_in(path.parent) if path.parent.is_dir() else f"there is no folder {path.parent}"


def _decode(data: bytes, source: str) -> str:
    # never the locale's encoding: the same file means the same on every machine
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"byte 0x{data[error.start]:02X} is not UTF-8",
            where=f"{source}:{line}",
            hint=f"save the file as UTF-8, for example: iconv -f GB18030 -t UTF-8 {source} > new.yaml",
        ) from error
    return text


def _syntax_error(error: yaml.MarkedYAMLError, where: str, text: str, mark) -> UserError:
    line = text.split("\n")[mark.line] if mark and mark.line < text.count("\n") + 1 else ""
    if "\t" in line[: len(line) - len(line.lstrip())] or "'\\t'" in str(error.problem):
        return UserError("a tab stands where YAML wants spaces", where=where, hint="indent with spaces only")
    about = ": ".join(part for part in (error.context, error.problem) if part)
    return UserError(f"not valid YAML: {about}", where=where, hint=f"the line reads {line.strip()!r}" if line else None)


class _Walk:
    """Turns composed nodes into values, filling the document's tables."""

    def __init__(self, document: Document, source: str, place):
        self.document, self.source, self.place, self.count = document, source, place, 0

    def value(self, node: yaml.Node, path: tuple) -> object:
        self.count += 1
        where = self.place(node.start_mark)
        if self.count > MAX_VALUES or len(path) > MAX_DEPTH:
            raise UserError("the aliases of this file expand to more than a configuration can hold", where=where)
        if not node.tag.startswith("tag:yaml.org,2002:") or node.tag.rsplit(":", 1)[1] not in ("str", "seq", "map"):
            raise UserError(
                f"the tag {node.tag.replace('tag:yaml.org,2002:', '!!')} is not read",
                where=where,
                allowed="plain values, lists and mappings; a configuration never runs code",
                hint="delete the tag",
            )
        self.document.marks.setdefault(path, where)
        if isinstance(node, yaml.ScalarNode):
            if node.style is not None:
                return node.value
            self.document.texts[path] = node.value
            return scalar(node.value)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(child, (*path, i)) for i, child in enumerate(node.value)]
        return self._mapping(node, path)

    def _mapping(self, node: yaml.MappingNode, path: tuple) -> dict:
        lines: dict[str, str] = {}
        result: dict[str, object] = {}
        merged: list[yaml.Node] = []
        for key_node, value_node in node.value:
            where = self.place(key_node.start_mark)
            if not isinstance(key_node, yaml.ScalarNode):
                raise UserError("a key must be a word, not a list or a mapping", where=where)
            key = key_node.value
            if key == "<<" and key_node.style is None:
                merged += value_node.value if isinstance(value_node, yaml.SequenceNode) else [value_node]
                continue
            if key in lines:
                raise UserError(
                    f"the key {'.'.join(map(str, (*path, key)))} is given twice, first at {lines[key]}",
                    where=where,
                    hint="delete one: YAML would silently take the last",
                )
            lines[key] = where
            self.document.marks[(*path, key)] = where
            result[key] = self.value(value_node, (*path, key))
        for parent in merged:
            if not isinstance(parent, yaml.MappingNode):
                raise UserError("<<: takes a mapping or a list of mappings", where=self.place(parent.start_mark))
            # keys given here win over merged ones, earlier merges over later ones; a merge may itself hold a merge
            inherited = Document(None)
            walk = _Walk(inherited, self.source, self.place)
            walk.count = self.count
            for key, value in walk.value(parent, path).items():
                if key not in result:
                    result[key] = value
                    for mine, theirs in (
                        (self.document.marks, inherited.marks),
                        (self.document.texts, inherited.texts),
                    ):
                        mine.update({p: v for p, v in theirs.items() if p[: len(path) + 1] == (*path, key)})
            self.count = walk.count
        return result
