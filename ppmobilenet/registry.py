"""Name -> thing. Configs name their parts; the names resolve here and nowhere else.

A registry fills itself: it knows the modules whose import registers its entries, and imports them at the first
look-up. So ``config`` can check a name without importing the room that owns it.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from ppmobilenet.errors import UserError, did_you_mean


class Registry(Mapping):
    """A table of things of one kind.

    Args:
        kind: what the entries are, for messages: ``"transform"``.
        modules: modules that register entries when they are imported.
        also: an ending that other programs give to the name of an entry: ``_x1_0``.
    """

    def __init__(self, kind: str, modules: tuple[str, ...] = (), also: str = ""):
        self.kind, self._also = kind, also
        self._modules = modules
        self._things: Mapping[str, Callable] = {}
        self._filled = not modules

    def register(self, name: str | None = None) -> Callable:
        """Decorator that enters a class or function under ``name`` (default: its own). Twice is an error."""

        def enter(thing: Callable) -> Callable:
            key = name or thing.__name__
            if key in self._things:
                raise ValueError(f"{self.kind} {key!r} is registered twice")
            self._things[key] = thing
            return thing

        return enter

    def show(self, things: Mapping[str, Callable]) -> None:
        """Be a view of a table that another place fills, also later."""
        self._things = things

    def _fill(self) -> None:
        if not self._filled:
            self._filled = True  # before the imports: a module that asks its own registry must not start over
            try:
                for module in self._modules:
                    importlib.import_module(module)
            except ImportError:
                self._filled = False  # a missing package is reported each time, not as "unknown name" the second
                raise

    def __getitem__(self, name: str) -> Callable:
        self._fill()
        return self._things[name]

    def __iter__(self) -> Iterator[str]:
        self._fill()
        return iter(self._things)

    def __len__(self) -> int:
        self._fill()
        return len(self._things)

    def own_name(self, name: str) -> str:
        """Return the name that an entry has here, whatever other programs call it; an unknown name as it is."""
        plain = name[: -len(self._also)] if self._also and name.endswith(self._also) else name
        return plain if name not in self and plain in self else name

    def resolve(self, name: str, where: object | None = None) -> Callable:
        """Return the entry called ``name``; a wrong name is a UserError that says what was meant."""
        self._fill()
        if name not in self._things:
            raise UserError(f"unknown {self.kind} {name!r}", where=where, hint=did_you_mean(name, self._things))
        return self._things[name]

    def freer(self, name: str, key: str) -> str | None:
        """Return the entry that takes any ``key`` and is else the same: MobileNetV2 for MobileNetV2_x0_5's scale."""
        fixed = getattr(self[name], "keywords", {})
        built = getattr(self[name], "func", self[name])
        for other, thing in self.items():
            given = getattr(thing, "keywords", {})
            if getattr(thing, "func", thing) is built and key not in given and given.items() <= fixed.items():
                return other
        return None

    def parameters(self, name: str) -> Mapping[str, inspect.Parameter]:
        """Return the keyword parameters that a config may give to the entry.

        ``self`` is left out, and so is what a ``functools.partial`` fixes: ``scale`` of ``MobileNetV2_x0_25``.
        """
        fixed = getattr(self[name], "keywords", {})
        return {k: p for k, p in inspect.signature(self[name]).parameters.items() if k not in fixed}


MODELS = Registry("model", ("ppmobilenet.zoo",), also="_x1_0")  # PaddleX's MobileNetV2_x1_0
# a network that teaches: one of those, or `Exported`, whatever a package or an ONNX file computes
TEACHERS = Registry("teacher", ("ppmobilenet.training.teacher",), also="_x1_0")
DATASETS = Registry("dataset", ("ppmobilenet.data.dataset", "ppmobilenet.data.shards.dataset"))
SAMPLERS = Registry("sampler", ("ppmobilenet.data.samplers",))
TRANSFORMS = Registry(
    "transform", ("ppmobilenet.photos.operators", "ppmobilenet.data.transforms", "ppmobilenet.data.augment")
)
BATCH_TRANSFORMS = Registry("batch transform", ("ppmobilenet.data.batch_ops",))
LOSSES = Registry("loss", ("ppmobilenet.training.losses", "ppmobilenet.training.distillation"))
METRICS = Registry("metric", ("ppmobilenet.training.metrics", "ppmobilenet.training.label_metrics"))
OPTIMIZERS = Registry("optimizer", ("ppmobilenet.training.optim",))
SCHEDULES = Registry("learning rate schedule", ("ppmobilenet.training.optim",))
POSTPROCESSES = Registry("post-process", ("ppmobilenet.field.answers",))

PACKAGE = "package:"  # before the folder of an exported package, where a weight file could stand as well


RUN_CONFIG = "config.yaml"  # what a training writes into its folder: all that it was


def is_run(named: str) -> bool:
    """Whether a text in the place of weights names the folder of a training."""
    return Path(named, RUN_CONFIG).is_file()


def is_whole(named: str) -> bool:
    """Whether a text in the place of weights names a whole network: ``package:DIR``, an ONNX file, a run's folder."""
    return named.startswith(PACKAGE) or named.endswith(".onnx") or is_run(named)
