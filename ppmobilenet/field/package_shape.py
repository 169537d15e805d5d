"""What package.json has to hold, in one table, and the check of what somebody may have written into it since.

Its readers reach into it without asking again, so whatever one of them reaches for stands in :data:`PACKAGE`; what
they pass over may be anything that the format allows. ``package.py`` says what it all means.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from ppmobilenet.errors import DamagedFileError, UserError
from ppmobilenet.field.decision import Decision
from ppmobilenet.field.golden import PICTURES, STAGES
from ppmobilenet.field.preprocessing import OP_DEFAULTS, as_transform_ops
from ppmobilenet.photos.chain import check_chain
from ppmobilenet.photos.operators import build

AGAIN = "copy the package again, whole, or export again"
LONGEST_SIDE = 2**14  # of a picture that a package makes of a photo: no memory is asked for beyond that
LONGEST_PART = 255  # bytes of one name within a path: a system's call refuses more in words of its own


class Kind(NamedTuple):
    """What may stand in a place: in words, and whether a value is it."""

    words: str
    fits: Callable[[object], bool]


class Fault(NamedTuple):
    """A place, what stands there (None: nothing), and what may."""

    place: str
    found: str | None
    allowed: str


def _whole(value: object, least: int, most: int = 2**31 - 1) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _number(value: object) -> bool:
    return _whole(value, -(2**31)) or (isinstance(value, float) and math.isfinite(value))


def _path(value: object) -> bool:
    parts = value.split("/") if isinstance(value, str) else ()
    return any(parts) and all(len(part.encode("utf-8", "replace")) <= LONGEST_PART for part in parts)


def _list_of(count: int, fits: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: isinstance(value, list) and len(value) == count and all(map(fits, value))


def _one_of(*words: str) -> Kind:
    return Kind(" or ".join(words), lambda value: isinstance(value, str) and value in words)


def _side(value: object) -> bool:
    return _whole(value, 1, LONGEST_SIDE)


def _shape(value: object) -> bool:
    right = isinstance(value, list) and len(value) == 4 and all(map(_side, value[1:]))
    return right and (_side(value[0]) or _whole(value[0], -1, -1))


TEXT = Kind("a text", lambda value: isinstance(value, str))
PATH = Kind("the path of a file", _path)
FLAG = Kind("true or false", lambda value: isinstance(value, bool))
NUMBER = Kind("a number", _number)
NUMBERS = Kind("three numbers", _list_of(3, _number))
COUNT = Kind("a whole number from 1", lambda value: _whole(value, 1))
SIZE = Kind("a whole number from 0", lambda value: _whole(value, 0))
CLASS = SIZE
SIDE = Kind(f"a whole number from 1 to {LONGEST_SIDE}", _side)
SIDES = Kind(f"[width, height], each from 1 to {LONGEST_SIDE}", _list_of(2, _side))
SHAPE = Kind("[-1 for any batch, and three lengths]", _shape)

# A kind; the keys of an object, "?" behind those that may be left out; [what a list holds], [it, ...]: at least once;
# or a function of an object that returns its keys.
Spec = object

OPERATORS: Mapping[str, Callable[[Mapping], Mapping[str, Spec]]] = {
    "DecodeImage": lambda op: {"to_rgb": FLAG},
    "ResizeImage": lambda op: {
        **({"resize_short": SIDE} if "resize_short" in op else {"size": SIDES}),
        **{"interpolation": TEXT, "backend": TEXT},
    },
    "CropImage": lambda op: {"size": SIDES},
    "NormalizeImage": lambda op: {"scale": NUMBER, "mean": NUMBERS, "std": NUMBERS, "order": TEXT},
    "ToCHWImage": lambda op: {},
}


def _operator(op: Mapping) -> Mapping[str, Spec]:
    name = op.get("op")
    return {"op": TEXT, **(OPERATORS[name](op) if isinstance(name, str) and name in OPERATORS else {})}


def _form(form: Mapping) -> Mapping[str, Spec]:
    keys = {"name": TEXT, "engine": TEXT, "precision": _one_of("fp32", "fp16", "int8"), "files": [PATH, ...]}
    return {**keys, "batch?": COUNT, "input?": TEXT, "output?": TEXT, **_lite(form)}


def _lite(form: Mapping) -> Mapping[str, Spec]:
    return {"target": TEXT, "opt_version?": TEXT} if form.get("engine") == "lite" else {}


def _answer(answer: Mapping) -> Mapping[str, Spec]:
    if "class_ids" in answer:
        return {"class_ids": [CLASS], "scores": [NUMBER]}
    return {"class_id": CLASS, "score": NUMBER, "unsure": FLAG}


def _accuracy(row: Mapping) -> Mapping[str, Spec]:
    computed = {"processor": TEXT, "samples": SIZE, "agreement": NUMBER} if row.get("computed") else {}
    return {"form": TEXT, "computed?": FLAG, "processor?": TEXT, **computed}


PACKAGE: Mapping[str, Spec] = {
    "name": TEXT,
    "class_num": COUNT,
    "topk": COUNT,
    "labels": [TEXT],
    "input": {"dtype": _one_of("float32", "uint8"), "layout": _one_of("NCHW", "NHWC"), "shape": SHAPE},
    "output": {"kind": _one_of("probabilities", "logits"), "class_num?": COUNT},
    "preprocess": {"ops": [_operator, ...]},
    "forms": [_form, ...],
    "files": [{"path": PATH, "bytes": SIZE, "sha256": TEXT}],
    "golden?": {
        **{"image": PATH, "decode?": PATH, "resize?": PATH, "crop?": PATH, "tensor": PATH, "tensor_shape": SHAPE},
        **{"logits": PATH, "output": PATH, "output_int8?": PATH, "answer?": _answer},
    },
    "decision?": {},
    "bounds?": {"logits?": NUMBER, "probabilities?": NUMBER, "int8?": NUMBER},
    "versions?": {"lite_runtime?": TEXT},
    "accuracy?": [_accuracy],
    "sha256?": TEXT,
}


def check_shape(meta: Mapping, folder: Path) -> None:
    """Refuse a package.json that its readers would stumble over.

    Args:
        meta: its content.
        folder: where it lies, for messages.

    Raises:
        DamagedFileError: it does not hold what the table says.
        UserError: it names an operator of a later version.
    """
    for fault in _faults(meta, PACKAGE, ""):
        raise _damaged(fault, folder)
    ops = meta["preprocess"]["ops"]
    unknown = [op["op"] for op in ops if op["op"] not in OP_DEFAULTS]
    if unknown:
        raise UserError(
            f"package.json names the operator {unknown[0]!r}, which this version does not know",
            where=folder,
            allowed=", ".join(OP_DEFAULTS),
            hint="upgrade ppmobilenet (pip install -U ppmobilenet)",
        )
    for stage in (STAGES[op["op"]] for op in ops):
        if stage in PICTURES and stage not in meta.get("golden", {stage: ""}):
            raise _damaged(Fault(f"golden.{stage}", None, PATH.words), folder)
    try:
        Decision.of(meta)
        unfit = check_chain(build(as_transform_ops(ops), "preprocess.ops").transforms)
        if unfit is not None and unfit.position < len(ops):  # the result, too, is uint8 where the graph normalises
            raise UserError(unfit.message, where=f"preprocess.ops.{unfit.position}")
    except UserError as error:
        said = error.message
        if not isinstance(error, DamagedFileError):
            said = f"package.json was altered: {error.where}: {said}"
        raise DamagedFileError(said, where=folder, allowed=error.allowed, hint=AGAIN) from error


def _damaged(fault: Fault, folder: Path) -> DamagedFileError:
    if fault.found is None:
        said = f"package.json lacks {fault.place}"
    else:
        said = f"package.json was altered: {fault.place} is {fault.found}"
    return DamagedFileError(said, where=folder, allowed=fault.allowed, hint=AGAIN)


def _faults(value: object, spec: Spec, place: str) -> Iterator[Fault]:
    if isinstance(spec, Kind):
        if not spec.fits(value):
            yield Fault(place, _shown(value), spec.words)
    elif isinstance(spec, list):
        if not isinstance(value, list) or (... in spec and not value):
            yield Fault(place, _shown(value), f"a list{' with something in it' if ... in spec else ''}")
            return
        for number, entry in enumerate(value):
            yield from _faults(entry, spec[0], f"{place}[{number}]")
    elif not isinstance(value, dict):
        yield Fault(place, _shown(value), "an object")
    else:
        for key, inside in (spec(value) if callable(spec) else spec).items():
            name = key.rstrip("?")
            below = f"{place}.{name}" if place else name
            if name in value:
                yield from _faults(value[name], inside, below)
            elif name == key:
                yield Fault(below, None, inside.words if isinstance(inside, Kind) else "as an export writes it")


def _shown(value: object) -> str:
    if isinstance(value, (dict, list)) and value:
        return "an object" if isinstance(value, dict) else f"a list of {len(value)}"
    return json.dumps(value)
