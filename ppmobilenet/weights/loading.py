"""Strict loading: every tensor of the model from the file, every tensor of the file into the model, or an error."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ppmobilenet.telling import log
from ppmobilenet.weights import files
from ppmobilenet.weights.matching import Wanted, match, some, with_spelling

if TYPE_CHECKING:
    from paddle import nn


@dataclass
class LoadReport:
    """What a load did. ``str(report)`` is the line that is logged.

    Attributes:
        path: the file or folder that was read.
        scheme: the naming scheme, one of ``schemes.SCHEME_NAMES`` or ``"same-names"`` for a network of your own.
        loaded: tensors of the model that received a value.
        total: tensors of the model.
        head: ``"1000 -> 10 classes"`` when the classifier was skipped because the class counts differ.
        missing: the model's keys that were allowed to keep their initial values (``allow_missing``), each with the
            name that the file would have had for it, where that is another: ``{"out.weight": "fc10_weights"}``.
        ignored: the file's keys that were not used, with the reason.
        notes: what was changed on the way, one line each: an identity expansion, batch norm that was folded.
        bn_folded: the batch norm is folded away: right while batch norm keeps its statistics, as in eval mode.
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
            text += f"; missing, as allowed: {some(with_spelling(self.missing))}"
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
        scheme: force a naming scheme (``schemes.SCHEME_NAMES``) instead of recognising it.

    Returns:
        The report, also logged: ``265 of 267 tensors loaded; head skipped: 1000 -> 10 classes``.

    Raises:
        UserError: missing, unexpected or mis-shaped keys, each named; another architecture; no such file.
        NumericsError: a tensor that holds NaN or infinity.
        DamagedFileError: the file is damaged or runs code.
    """
    source = files.resolve(path)
    arrays = files.read_weights(source)
    found = match(
        Wanted.by(model),
        arrays,
        source,
        class_num_may_differ=class_num_may_differ,
        allow_missing=allow_missing,
        scheme=scheme,
    )
    state = model.state_dict()
    notes, theirs, ours = found.notes, files.activation_of(source), getattr(model, "activation", None)
    if theirs and ours and theirs != ours:
        notes += (f"its program computes with {theirs}, this model with {ours}",)
    report = LoadReport(
        source,
        found.scheme,
        len(found.values),
        len(state),
        f"{found.classes[0]} -> {found.classes[1]} classes" if found.new_classifier else None,
        found.missing,
        found.ignored,
        notes,
        found.bn_folded,
    )
    for key, array in found.values.items():
        state[key].set_value(_as(array, state[key]))
    _say(report, theirs, ours)
    return report


def _say(report: LoadReport, theirs: str | None, ours: str | None) -> None:
    source = report.path
    log.info("%s: %s (%s)", source, report, report.scheme)
    if theirs and ours and theirs != ours:
        log.warning(
            "%s: with %s the same weights give other outputs than its program did; Arch.activation=%s gives those",
            source,
            ours,
            theirs,
        )


def _as(array: np.ndarray, tensor) -> np.ndarray:
    kind = str(tensor.dtype).rsplit(".", 1)[-1]
    return np.ascontiguousarray(array, dtype=kind if kind != "bfloat16" else "float32")
