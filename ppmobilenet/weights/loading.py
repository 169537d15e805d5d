"""Strict loading: every tensor of the model from the file, every tensor of the file into the model, or an error."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ppmobilenet.errors import NumericsError, UserError, did_you_mean
from ppmobilenet.weights import files, naming
from ppmobilenet.weights.guess import Architecture, guess

if TYPE_CHECKING:
    from paddle import nn

log = logging.getLogger("ppmobilenet")

SAME_NAMES = "same-names"
SHOWN = 6


@dataclass
class LoadReport:
    """What a load did. ``str(report)`` is the line that is logged.

    Attributes:
        path: the file or folder that was read.
        scheme: the naming scheme, one of ``naming.SCHEME_NAMES`` or ``"same-names"`` for a network of your own.
        loaded: tensors of the model that received a value.
        total: tensors of the model.
        head: ``"1000 -> 10 classes"`` when the classifier was skipped because the class counts differ.
        missing: the model's keys that were allowed to keep their initial values (``allow_missing``), each with the
            name that the file would have had for it, where that is another: ``{"out.weight": "fc10_weights"}``.
        ignored: the file's keys that were not used, with the reason.
        notes: what was changed on the way, one line each: an identity expansion, batch norm that was folded.
        bn_folded: the batch norm is folded away: right in eval mode only, recalibrate it before fine-tuning.
    """

    path: Path
    scheme: str
    loaded: int
    total: int
    head: str | None = None
    missing: dict[str, str] = field(default_factory=dict)
    ignored: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    bn_folded: bool = False

    def __str__(self) -> str:
        text = f"{self.loaded} of {self.total} tensors loaded"
        if self.head:
            text += f"; head skipped: {self.head}"
        if self.missing:
            text += f"; missing, as allowed: {_some(_spelled(self.missing))}"
        reasons: dict[str, list[str]] = {}
        for key, reason in self.ignored.items():
            reasons.setdefault(reason, []).append(key)
        for reason, keys in reasons.items():
            text += f"; {len(keys)} ignored: {reason}"
        return "; ".join((text, *self.notes))


def load_weights(
    model: nn.Layer,
    path: str | os.PathLike,
    *,
    class_num_may_differ: bool = True,
    allow_missing: Iterable[str] = (),
    scheme: str | None = None,
) -> LoadReport:
    """Load a weight file of any kind and naming into a model, strictly.

    The whole file is checked before the first tensor of the model changes.

    Args:
        model: a network of this project, or any ``paddle.nn.Layer`` whose own keys the file holds.
        path: whatever :func:`ppmobilenet.weights.files.read_weights` reads, with or without the extension.
        class_num_may_differ: when nothing but the classifier differs, and the model's class count is not the file's,
            leave the classifier at its initial values and say so. False where that would be a mistake: evaluation,
            prediction, export.
        allow_missing: keys of the model that may keep their initial values if the file lacks them.
        scheme: force a naming scheme (``naming.SCHEME_NAMES``) instead of recognising it.

    Returns:
        The report, also logged: ``265 of 267 tensors loaded; head skipped: 1000 -> 10 classes``.

    Raises:
        UserError: missing, unexpected or mis-shaped keys, each named; another architecture; no such file.
        NumericsError: a tensor that holds NaN or infinity.
        DamagedFileError: the file is damaged or runs code.
    """
    source = files.resolve(path)
    arrays = files.read_weights(source)
    state = model.state_dict()
    report, values = match(
        {key: tuple(value.shape) for key, value in state.items()},
        arrays,
        source,
        names={key: value.name for key, value in state.items()},
        class_num_may_differ=class_num_may_differ,
        allow_missing=tuple(allow_missing),
        scheme=scheme,
    )
    theirs, ours = files.activation_of(source), getattr(model, "activation", None)
    if theirs and ours and theirs != ours:
        report.notes += (f"its program computes with {theirs}, this model with {ours}",)
        log.warning(
            "%s: its program computes with %s and this model with %s: the same weights give other outputs; "
            "Arch.activation=%s computes what the program did",
            source,
            theirs,
            ours,
            theirs,
        )
    for key, array in values.items():
        state[key].set_value(_as(array, state[key]))
    log.info("%s: %s (%s)", source, report, report.scheme)
    if report.bn_folded:
        log.warning(
            "%s: its batch norm is folded away: right for evaluation and export, but training from it starts badly; "
            "recalibrate it first: tools/convert_weights.py %s --arch NAME --unfold-bn PHOTOS -o NEW.pdparams",
            source,
            source,
        )
    return report


def match(
    shapes: Mapping[str, tuple[int, ...]],
    arrays: Mapping[str, np.ndarray],
    source: object,
    *,
    names: Mapping[str, str] | None = None,
    class_num_may_differ: bool = True,
    allow_missing: tuple[str, ...] = (),
    scheme: str | None = None,
) -> tuple[LoadReport, dict[str, np.ndarray]]:
    """Find each of a model's tensors in a file, without touching the model.

    Args:
        shapes: the model's key -> shape.
        arrays: the file's key -> array.
        source: the file, for messages.
        names: the model's key -> ParamAttr name, which static-graph files call it.
        class_num_may_differ, allow_missing, scheme: as in :func:`load_weights`.

    Returns:
        The report and the model's key -> array.

    Raises:
        UserError, NumericsError: as in :func:`load_weights`.
    """
    for key in allow_missing:
        if key not in shapes:
            raise UserError(f"allow_missing names {key!r}, which the model has not", hint=did_you_mean(key, shapes))
    found = _translated(shapes, arrays, source, scheme)
    values, heads = found.values, found.heads
    missing = [key for key in shapes if key not in values]
    misshaped = [key for key in shapes if key in values and tuple(values[key].shape) != shapes[key]]
    head_problems = [key for key in missing + misshaped if key in heads]
    report = LoadReport(Path(str(source)), found.scheme, 0, len(shapes), ignored=found.ignored, notes=found.notes)
    report.bn_folded = found.bn_folded

    classes = _classes(heads, found)
    if head_problems and classes and classes[0] != classes[1] and class_num_may_differ:
        report.head = f"{classes[0]} -> {classes[1]} classes"
        for key in heads:
            values.pop(key, None)
        missing = [key for key in missing if key not in heads]
        misshaped = [key for key in misshaped if key not in heads]
    theirs = names if names and found.scheme.startswith("param-attr") else {}
    report.missing = {key: theirs.get(key, key) for key in missing if key in allow_missing}
    missing = [key for key in missing if key not in allow_missing]
    if missing or misshaped or found.unexpected:
        raise UserError(
            _difference(missing, misshaped, shapes, found, classes, report, theirs),
            where=source,
            hint=_advice(missing, misshaped, found, heads, classes),
        )
    bad = [key for key, array in values.items() if array.dtype.kind == "f" and not np.isfinite(array).all()]
    if bad:
        raise NumericsError(
            f"NaN or infinity in {len(bad)} of its tensors: {_some(bad)}",
            where=source,
            hint="the training that wrote it had diverged: take an earlier checkpoint",
        )
    report.loaded = len(values)
    return report, values


@dataclass
class _Found:
    """A file's arrays under the model's keys."""

    scheme: str
    values: dict[str, np.ndarray]
    heads: dict[str, str] = field(default_factory=dict)  # the model's classifier keys -> "weight" or "bias"
    unexpected: list[str] = field(default_factory=list)
    ignored: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    bn_folded: bool = False
    classes: tuple[int, int] | None = None  # the file's and the model's
    architecture: Architecture | None = None


def _translated(shapes: Mapping, arrays: Mapping, source: object, scheme: str | None) -> _Found:
    own = _own_layout(shapes)
    names, outside = naming.strip_prefixes(arrays)
    if own is None or (scheme is None and set(names) >= set(shapes) and not outside):
        found = _Found(SAME_NAMES, {name: arrays[key] for name, key in names.items() if name in shapes})
        if not found.values:
            raise UserError(
                f"none of its {len(arrays)} keys is one of the model's {len(shapes)}: {_some(arrays)}",
                where=source,
                allowed=_some(shapes),
            )
        found.unexpected = [key for name, key in names.items() if name not in shapes]
        found.ignored = outside
        if own is None:
            return found
        found.scheme = own.scheme
    layout = naming.read_layout(arrays, scheme, source)
    if layout.family != own.family:
        raise UserError(
            f"these are the weights of a {layout.family} ({layout.text}), the model is a {own.family}", where=source
        )
    theirs, folded = naming.neutral_arrays(layout, arrays)
    notes = []
    if "block.0.expand.weight" in own.keys and "block.0.expand.weight" not in theirs and "block.0.dw.weight" in theirs:
        channels = theirs["block.0.dw.weight"].shape[0]
        theirs.update(naming.identity_expansion(channels))
        notes.append("identity expansion in the first block")
    bn_folded = folded or naming.norm_is_folded(theirs)
    if bn_folded:
        notes.append("batch norm folded")
    found = _Found(layout.scheme, {}, notes=tuple(notes), bn_folded=bn_folded)
    found.architecture = guess({name: array.shape for name, array in theirs.items()}, layout.family)
    found.ignored = dict(layout.ignored)
    misfits = [key for key, reason in layout.ignored.items() if reason.startswith("not a key of")]
    for key in misfits:
        del found.ignored[key]
    found.unexpected = misfits
    found.values = {own.keys[name]: array for name, array in theirs.items() if name in own.keys}
    found.heads = {key: name[len("head.") :] for name, key in own.keys.items() if name.startswith("head.")}
    headless = not found.heads
    trunk_only = headless and "last.weight" not in own.keys
    deepest = max((int(n.split(".")[1]) for n in own.keys if n.startswith("block.")), default=-1)
    for name, key in layout.keys.items():
        if name in own.keys or name.endswith(".bias") and not name.startswith("head."):
            continue
        block = int(name.split(".")[1]) if name.startswith("block.") else -1
        if headless and name.startswith("head."):
            found.ignored[key] = "the model has no classifier"
        elif trunk_only and (name.startswith("last.") or block > deepest):
            found.ignored[key] = "behind the model's last feature map"
        else:
            found.unexpected.append(key)
    for name, key in own.keys.items():
        if name in ("head.bias", "head.weight") and name in theirs:
            found.classes = (theirs[name].shape[-1], shapes[key][-1])
    return found


def _own_layout(shapes: Mapping[str, tuple[int, ...]]) -> naming.Layout | None:
    """Read a model's own keys; None if it is not one of our networks."""
    try:
        layout = naming.read_layout({key: np.broadcast_to(np.float32(0), shape) for key, shape in shapes.items()})
    except UserError:
        return None
    ours = layout.scheme in ("paddleclas-v1", "paddleclas-v2") and len(layout.keys) == len(shapes)
    return layout if ours else None


def _classes(heads: Mapping[str, str], found: _Found) -> tuple[int, int] | None:
    return found.classes if heads else None


def _difference(missing, misshaped, shapes, found: _Found, classes, report: LoadReport, theirs: Mapping) -> str:
    good = len(shapes) - len(missing) - len(misshaped) - len(report.missing)
    lines = [f"does not fit the model: {good} of {len(shapes)} tensors fit (naming: {found.scheme})"]
    if classes and classes[0] != classes[1] and not report.head:
        lines.append(f"the classifier has {classes[0]} classes in the file, {classes[1]} in the model")
    if missing:
        lines.append(
            f"missing in the file ({len(missing)}): {_some(_spelled({key: theirs.get(key, key) for key in missing}))}"
        )
    if misshaped:
        pairs = [f"{key} {list(found.values[key].shape)} -> {list(shapes[key])}" for key in misshaped]
        lines.append(f"other shapes, file -> model ({len(misshaped)}): {_some(pairs)}")
    if misshaped and found.architecture:
        lines.append(f"the file's shapes are those of {found.architecture}")
    if found.unexpected:
        lines.append(f"not in the model ({len(found.unexpected)}): {_some(found.unexpected)}")
    return "\n  ".join(lines)


def _advice(missing, misshaped, found: _Found, heads, classes) -> str | None:
    problems = missing + misshaped
    if problems and all(key in heads for key in problems) and classes and classes[0] != classes[1]:
        return f"give the model the file's class count (Arch.class_num={classes[0]})"
    if misshaped and found.architecture:
        return f"build the file's network: Arch.name={found.architecture.name}" + "".join(
            f" Arch.{key}={value}" for key, value in found.architecture.arguments.items()
        )
    if missing and not misshaped and not found.unexpected and len(missing) <= SHOWN:
        return f"if they may keep their initial values: --allow-missing {' '.join(missing)}"
    return None


def _as(array: np.ndarray, tensor) -> np.ndarray:
    kind = str(tensor.dtype).rsplit(".", 1)[-1]
    return np.ascontiguousarray(array, dtype=kind if kind != "bfloat16" else "float32")


def _spelled(names: Mapping[str, str]) -> list[str]:
    return [key if key == theirs else f"{key} (its {theirs})" for key, theirs in names.items()]


def _some(names: Iterable[str]) -> str:
    names = list(names)
    rest = f", and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + rest
