"""The read-only configuration."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path

import yaml

from ppmobilenet import files, registry
from ppmobilenet.config import parts, schema
from ppmobilenet.config.check import dotted
from ppmobilenet.config.fields import Missing, MissingKey, Part, parameters
from ppmobilenet.config.reading import Document, is_typed, scalar
from ppmobilenet.errors import did_you_mean

EFFECTIVE = "# effective configuration"  # how a dumped file begins


class Section(Mapping):
    """A read-only mapping inside a configuration; lists in it are tuples.

    ``section["key"]`` is the value of the file and raises :class:`MissingKey` where there is none;
    ``section.get("a.b")`` takes a dotted key and falls back to the schema's default.
    """

    def __init__(self, tree: Mapping, path: tuple, root: Config | None = None):
        self._tree, self._path = tree, path
        self._root = root if root is not None else self

    def __getitem__(self, key: str):
        if key not in self._tree:
            where = self._root.where(self._path) if self._path else self._root.source
            raise MissingKey.at(dotted((*self._path, key)), where)
        return self._wrap(self._tree[key], (*self._path, key))

    def _wrap(self, value, path: tuple):
        if isinstance(value, dict):
            return Section(value, path, self._root)
        if isinstance(value, list):
            return tuple(self._wrap(v, (*path, i)) for i, v in enumerate(value))
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self._tree)

    def __len__(self) -> int:
        return len(self._tree)

    def __contains__(self, key) -> bool:
        return key in self._tree

    def __eq__(self, other) -> bool:
        if isinstance(other, Section):
            return self._tree == other._tree
        return self.to_dict() == other

    __hash__ = None

    def get(self, key: str, default=None):
        """Return the value at a dotted key (list indices are numbers).

        Where the file gives none, or null: the schema's default, else ``default``.

        Raises:
            KeyError: no such key can stand there: a mistake in the program, not in the file.
        """
        value, path = self._tree, self._path
        for part in key.split("."):
            if isinstance(value, dict):
                path, value = (*path, part), value.get(part)
            elif isinstance(value, list):
                index = int(part) if part.isdecimal() else len(value)
                path, value = (*path, index), value[index] if index < len(value) else None
            else:
                path, value = (*path, part), None
        if value is not None:
            return self._wrap(value, path)
        known = self._root.default(path)
        return default if known is None else known

    def to_dict(self) -> dict:
        """Return a deep copy in plain dicts and lists, to change at will."""
        return _copy(self._tree)

    def __reduce__(self):
        return dict, (self.to_dict(),)  # a copy, also one for another process, is plain data

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._tree!r})"


class Config(Section):
    """What :func:`ppmobilenet.load_config` returns: the parts that functions take, and the mapping, for showing.

    Attributes:
        run, amp, arch, teacher, optimizer, ema, train, unlabelled, eval, loss, metric, infer: the sections as typed
            parts (``parts.py``). One that was left out has its defaults; where it can have none it is false, and an
            error once it is asked.
        weights, labels: what several sections say together.
        source: the file, as it was named.
        overrides: the ``-o`` texts.
        notes: lines for the log: keys of PaddleClas that are set and change nothing here, sizes that differ.
    """

    def __init__(self, tree: dict, marks: dict, source: str, overrides: tuple[str, ...] = (), notes=()):
        super().__init__(tree, ())
        self._marks, self.source, self.overrides, self.notes = marks, source, overrides, tuple(notes)

    def __reduce__(self):
        return Config, (self.to_dict(), self._marks, self.source, self.overrides, self.notes)

    def _part(self, kind: type[Part], *, needed: bool = False):
        tree = self._inner(tuple(kind.at.split(".")))
        return kind.of(tree, where=self.where) if tree or not needed else Missing(kind.at, self.source)

    @cached_property
    def run(self) -> parts.Run:
        return self._part(parts.Run)

    @cached_property
    def amp(self) -> parts.Amp:
        return self._part(parts.Amp)

    @cached_property
    def arch(self) -> parts.Arch:
        return self._part(parts.Arch, needed=True)

    @cached_property
    def teacher(self) -> parts.Teacher:
        return self._part(parts.Teacher, needed=True)

    @cached_property
    def optimizer(self) -> parts.Optimizer:
        return self._part(parts.Optimizer, needed=True)

    @cached_property
    def ema(self) -> parts.Ema:
        return self._part(parts.Ema, needed=True)

    @cached_property
    def train(self) -> parts.TrainSource:
        return self._part(parts.TrainSource, needed=True)

    @cached_property
    def unlabelled(self) -> parts.UnlabelledSource:
        return self._part(parts.UnlabelledSource, needed=True)

    @cached_property
    def eval(self) -> parts.EvalSource:
        return self._part(parts.EvalSource, needed=True)

    @cached_property
    def loss(self) -> parts.Losses:
        return self._part(parts.Losses)

    @cached_property
    def metric(self) -> parts.Metrics:
        return self._part(parts.Metrics)

    @cached_property
    def infer(self) -> parts.Infer:
        return self._part(parts.Infer)

    @cached_property
    def weights(self) -> parts.Weights:
        run, arch = self.run, self.arch
        others = {"Global.pretrained_model": run.pretrained_model, "Arch.pretrained": arch.pretrained}
        typed = any(value and self.typed(key) for key, value in others.items())
        return parts.Weights(
            network=arch.name,
            folder=run.output_dir,
            checkpoints=run.checkpoints,
            pretrained_model=run.pretrained_model,
            published=arch.pretrained,
            use_ssld=arch.use_ssld,
            others_typed=typed and not self.typed("Global.checkpoints"),
        )

    @cached_property
    def labels(self) -> parts.Labels:
        post, typed = self.infer.post, self.typed("Infer.PostProcess.class_id_map_file")
        names = tuple(registry.POSTPROCESSES[post.name](**post.parameters).names)
        return parts.Labels(post.class_id_map_file, post.delimiter, Path(self.source).parent, typed, names)

    @property
    def decision(self) -> dict:
        """What is made of a network's answers, as a package says it (``decision``).

        Raises:
            UserError: a post-process for another number of classes.
        """
        post, several = self.infer.post, self.run.use_multilabel
        if several and post.name == "Topk":  # no post-process was named
            return registry.POSTPROCESSES["MultiLabelThreshOutput"]().decision(self.arch.class_num)
        return registry.POSTPROCESSES[post.name](**post.parameters).decision(self.arch.class_num)

    def given(self, keys: Mapping[str, str]) -> dict[str, float | int | str]:
        """Return the numbers and texts that stand in the file or were typed, of name -> dotted key."""
        found = {name: Document(self._tree).get(tuple(key.split("."))) for name, key in keys.items()}
        return {k: v for k, v in found.items() if isinstance(v, (int, float, str)) and not isinstance(v, bool)}

    def where(self, key: str | tuple) -> str:
        """Return where a value was given: ``"a.yaml:63"``, ``"-o Global.epochs=5"``, ``"default of Global.seed"``."""
        path = tuple(int(p) if p.isdecimal() else p for p in key.split(".")) if isinstance(key, str) else key
        around = path
        while around and around not in self._marks:
            around = around[:-1]
        if around == path or dotted(path) not in schema.KEYS:
            return self._marks.get(around, self.source)
        return f"default of {dotted(path)}"

    def typed(self, key: str) -> bool:
        """Whether a value was typed, by ``-o`` or as the run's folder after ``-c``."""
        return is_typed(self.where(key))

    def default(self, path: tuple):
        """Return what the schema, or the constructor of the named part, gives where the file is silent.

        Raises:
            KeyError: no such key can stand there.
        """
        name, section, key = dotted(path), dotted(path[:-1]), str(path[-1])
        by = schema.PARTS.get(section)
        if by and key == "name":
            return by.default
        if name in schema.KEYS and schema.KEYS[name].default is not None:
            return schema.KEYS[name].default
        if by:
            named = self._inner(path[:-1]).get("name", by.default)
            own = parameters(by, named) if named in by.registry else {}
            if key in own:
                found = own[key].default
                return None if found is inspect.Parameter.empty else found
        elsewhere = (schema.KEYS, schema.SECTIONS, schema.PART_LISTS, schema.IGNORED, schema.UNSUPPORTED)
        if any(name in table for table in elsewhere) or any(isinstance(p, int) for p in path):
            return None
        inside = any(name.startswith(f"{known}.") for known in schema.PART_LISTS)
        if inside or by:
            return None
        raise KeyError(f"{name} is no key of a configuration; {did_you_mean(key, schema.children(section))}")

    def _inner(self, path: tuple) -> dict:
        tree = self._tree
        for key in path:
            tree = tree.get(key) if isinstance(tree, dict) else None
        return tree if isinstance(tree, dict) else {}

    def dump(self, path: str | Path) -> None:
        """Write the effective YAML: the file with the overrides in it. Loading it gives an equal configuration."""
        lines = [f"{EFFECTIVE}, from {self.source}", *(f"#   -o {text}" for text in self.overrides)]
        header = "".join(_one_line(line) + "\n" for line in lines)
        files.write_text(path, header + to_yaml(self._tree))


def is_effective(path: Path) -> bool:
    """Whether a file is one that :meth:`Config.dump` wrote."""
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.readline().startswith(EFFECTIVE)


def to_yaml(tree: object) -> str:
    """Return YAML that reads back as the same values, with the keys in their order."""
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=None, width=110)


class _Dumper(yaml.SafeDumper):
    """Quotes each text that, unquoted, :func:`scalar` would read as something else."""

    def ignore_aliases(self, data) -> bool:
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    style = None if isinstance(scalar(text), str) else "'"
    if not text.isprintable():
        style = '"'  # line breaks and control characters as escapes
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)


def _one_line(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text)


def _copy(value):
    if isinstance(value, dict):
        return {key: _copy(v) for key, v in value.items()}
    return [_copy(v) for v in value] if isinstance(value, list) else value
