"""A file's arrays against a model's tensors: which goes where, and every difference by its name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from ppmobilenet.errors import NumericsError, UserError, did_you_mean
from ppmobilenet.weights import naming
from ppmobilenet.weights.guess import Architecture, guess, refusal
from ppmobilenet.weights.layouts import LAYOUTS

SAME_NAMES = "same-names"
SHOWN = 6


class Wanted(NamedTuple):
    """What a model wants of a file.

    Attributes:
        shapes: its key -> shape.
        names: its key -> ParamAttr name, which static-graph files call it.
        computes: what it computes with, where other projects' networks of its kind compute otherwise.
    """

    shapes: Mapping[str, tuple[int, ...]]
    names: Mapping[str, str]
    computes: Mapping[str, float]

    @classmethod
    def by(cls, model) -> Wanted:
        """Return what a ``paddle.nn.Layer`` wants."""
        state = model.state_dict()
        shapes = {key: tuple(value.shape) for key, value in state.items()}
        return cls(shapes, {key: value.name for key, value in state.items()}, getattr(model, "computes", None) or {})


@dataclass
class Match:
    """What of a file goes where in a model.

    Attributes:
        scheme: the file's naming.
        values: the model's key -> the file's array, as Paddle keeps it.
        classifier: the model's classifier keys.
        unexpected: the file's keys that the model has no place for.
        ignored: the file's keys that are rightly not used, with the reason.
        notes: what was changed on the way.
        bn_folded: the file's batch norm is folded away.
        classes: class counts of the file and of the model, where both have a classifier.
        architecture: the network that the file's shapes tell.
        refusal: what they are, where it is none that can be built.
        missing: the model's keys that keep their values, as allowed -> the file's name for them.
        new_classifier: the classifier is left out because the class counts differ.
    """

    scheme: str
    values: dict[str, np.ndarray]
    classifier: tuple[str, ...] = ()
    unexpected: list[str] = field(default_factory=list)
    ignored: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    bn_folded: bool = False
    classes: tuple[int, int] | None = None
    architecture: Architecture | None = None
    refusal: str | None = None
    missing: dict[str, str] = field(default_factory=dict)
    new_classifier: bool = False

    @property
    def classes_differ(self) -> bool:
        return self.classes is not None and self.classes[0] != self.classes[1]


def match(
    wanted: Wanted,
    arrays: Mapping[str, np.ndarray],
    source: object,
    *,
    class_num_may_differ: bool = True,
    allow_missing: Iterable[str] = (),
    scheme: str | None = None,
) -> Match:
    """Find each of a model's tensors in a file, without touching the model.

    Args:
        wanted: by the model.
        arrays: the file's key -> array.
        source: the file, for messages.
        class_num_may_differ: leave the classifier out where the class counts differ.
        allow_missing: the model's keys that the file may lack.
        scheme: force a naming scheme.

    Raises:
        UserError: missing, unexpected or mis-shaped keys, each named; another family.
        NumericsError: NaN or infinity in a tensor.
    """
    shapes, allow_missing = wanted.shapes, tuple(allow_missing)
    for key in allow_missing:
        if key not in shapes:
            raise UserError(f"allow_missing names {key!r}, which the model has not", hint=did_you_mean(key, shapes))
    found = translate(wanted, arrays, source, scheme)
    spelled = wanted.names if found.scheme.startswith("param-attr") else {}
    missing = [key for key in shapes if key not in found.values]
    misshaped = [key for key in shapes if key in found.values and tuple(found.values[key].shape) != shapes[key]]
    if found.classes_differ and class_num_may_differ:
        found.new_classifier = True
        found.values = {key: array for key, array in found.values.items() if key not in found.classifier}
        missing = [key for key in missing if key not in found.classifier]
        misshaped = [key for key in misshaped if key not in found.classifier]
    found.missing = {key: spelled.get(key, key) for key in missing if key in allow_missing}
    missing = [key for key in missing if key not in allow_missing]
    if missing or misshaped or found.unexpected:
        text = _difference(found, shapes, missing, misshaped, spelled)
        raise UserError(text, where=source, hint=_advice(found, missing, misshaped))
    _check_numbers(found.values, source)
    return found


def translate(wanted: Wanted, arrays: Mapping[str, np.ndarray], source: object, scheme: str | None) -> Match:
    """Put a file's arrays under a model's keys, whatever fits or not.

    Raises:
        UserError: no key fits, or the file is another family's.
    """
    own = _own_layout(wanted.shapes)
    if own is None:
        return _by_same_names(wanted.shapes, arrays, source)
    layout = naming.read_layout(arrays, scheme, source)
    if layout.family != own.family:
        raise UserError(
            f"these are the weights of a {layout.family} ({layout.text}), the model is a {own.family}", where=source
        )
    theirs, folded = naming.neutral_arrays(layout, arrays)
    notes = LAYOUTS[own.family].adapt(theirs, layout.computes, wanted.computes) if layout.computes else []
    file_shapes = {name: array.shape for name, array in theirs.items()}
    lacks_expansion = "block.0.expand.weight" in own.keys and "block.0.expand.weight" not in theirs
    if lacks_expansion and "block.0.dw.weight" in theirs and LAYOUTS[own.family].identity_expansion:
        theirs.update(naming.identity_expansion(len(theirs["block.0.dw.weight"])))
        notes.append("identity expansion in the first block")
    if folded or naming.norm_is_folded(theirs):
        folded = True
        notes.append("batch norm folded")
    bias, weight = ((theirs.get(name), own.keys.get(name)) for name in ("head.bias", "head.weight"))
    known = next(((a, key) for a, key in (bias, weight) if a is not None and key is not None), None)
    unexpected, unused = _unused(layout, own)
    return Match(
        layout.scheme,
        {own.keys[name]: array for name, array in theirs.items() if name in own.keys},
        classifier=tuple(key for name, key in own.keys.items() if name.startswith("head.")),
        unexpected=[*layout.misfits, *unexpected],
        ignored={**layout.ignored, **unused},
        notes=tuple(notes),
        bn_folded=folded,
        classes=(known[0].shape[-1], wanted.shapes[known[1]][-1]) if known else None,
        architecture=guess(file_shapes, layout.family),
        refusal=refusal(file_shapes, layout.family),
    )


def _own_layout(shapes: Mapping[str, tuple[int, ...]]) -> naming.Layout | None:
    """Read a model's own keys; None if it is not one of our networks."""
    try:
        layout = naming.read_layout({key: np.broadcast_to(np.float32(0), shape) for key, shape in shapes.items()})
    except UserError:
        return None
    ours = layout.scheme == LAYOUTS[layout.family].schemes[0].name and len(layout.keys) == len(shapes)
    return layout if ours else None


def _by_same_names(shapes: Mapping, arrays: Mapping[str, np.ndarray], source: object) -> Match:
    names, outside = naming.strip_prefixes(arrays)
    values = {name: arrays[key] for name, key in names.items() if name in shapes}
    if not values:
        raise UserError(
            f"none of its {len(arrays)} keys is one of the model's {len(shapes)}: {some(arrays)}",
            where=source,
            allowed=some(shapes),
        )
    unexpected = [key for name, key in names.items() if name not in shapes]
    return Match(SAME_NAMES, values, unexpected=unexpected, ignored=outside)


def _unused(layout: naming.Layout, own: naming.Layout) -> tuple[list[str], dict[str, str]]:
    """Return the file's keys that a model has no place for: those that it should have, and those that it need not."""
    headless = not any(name.startswith("head.") for name in own.keys)
    trunk_only = headless and not any(name.startswith("last") for name in own.keys)
    deepest = max((int(name.split(".")[1]) for name in own.keys if name.startswith("block.")), default=-1)
    unexpected, unused = [], {}
    for name, key in layout.keys.items():
        unit, _, role = name.rpartition(".")
        if name in own.keys or (role == "bias" and unit != "head" and not layout.is_plain(unit)):
            continue  # a convolution's bias has gone into its batch norm
        block = int(name.split(".")[1]) if name.startswith("block.") else -1
        if headless and name.startswith("head."):
            unused[key] = "the model has no classifier"
        elif trunk_only and (name.startswith("last") or block > deepest):
            unused[key] = "behind the model's last feature map"
        else:
            unexpected.append(key)
    return unexpected, unused


def _check_numbers(values: Mapping[str, np.ndarray], source: object) -> None:
    whole = [f"{key} ({array.dtype})" for key, array in values.items() if array.dtype.kind != "f"]
    if whole:
        raise UserError(
            f"{len(whole)} of its tensors are whole numbers, so it is quantised or of another kind: {some(whole)}",
            where=source,
            allowed="weights in float16, float32 or float64",
        )
    bad = [key for key, array in values.items() if not np.isfinite(array).all()]
    if bad:
        raise NumericsError(
            f"NaN or infinity in {len(bad)} of its tensors: {some(bad)}",
            where=source,
            hint="the training that wrote it had diverged: take an earlier checkpoint",
        )


def _difference(found: Match, shapes: Mapping, missing: list[str], misshaped: list[str], spelled: Mapping) -> str:
    good = len(shapes) - len(missing) - len(misshaped) - len(found.missing)
    lines = [f"does not fit the model: {good} of {len(shapes)} tensors fit (naming: {found.scheme})"]
    if found.classes_differ and not found.new_classifier:
        lines.append(f"the classifier has {found.classes[0]} classes in the file, {found.classes[1]} in the model")
    if missing:
        named = {key: spelled.get(key, key) for key in missing}
        lines.append(f"missing in the file ({len(missing)}): {some(with_spelling(named))}")
    if misshaped:
        pairs = [f"{key} {list(found.values[key].shape)} -> {list(shapes[key])}" for key in misshaped]
        lines.append(f"other shapes, file -> model ({len(misshaped)}): {some(pairs)}")
    told = found.architecture or found.refusal
    if told and (misshaped or missing):
        lines.append(f"the file's shapes are those of {told}")
    if found.unexpected:
        lines.append(f"not in the model ({len(found.unexpected)}): {some(found.unexpected)}")
    return "\n  ".join(lines)


def _advice(found: Match, missing: list[str], misshaped: list[str]) -> str | None:
    if found.classes_differ and set(missing + misshaped) <= set(found.classifier):
        return f"give the model the file's class count: Arch.class_num={found.classes[0]}"
    if misshaped and found.architecture:
        arguments = "".join(f" Arch.{key}={value}" for key, value in found.architecture.arguments.items())
        return f"build the file's network: Arch.name={found.architecture.name}{arguments}"
    if missing and not misshaped and not found.unexpected and len(missing) <= SHOWN:
        keys = " ".join(missing)
        return f"if they may keep their initial values: ppmobilenet convert-weights SRC -o DST --allow-missing {keys}"
    return None


def with_spelling(names: Mapping[str, str]) -> list[str]:
    """Return the model's keys, each with the file's name for it where that is another."""
    return [key if key == theirs else f"{key} (its {theirs})" for key, theirs in names.items()]


def some(names: Iterable[str]) -> str:
    """Return the first few names, and how many more there are."""
    names = list(names)
    rest = f", and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + rest
