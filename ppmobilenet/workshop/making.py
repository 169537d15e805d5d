"""A network and what is to be made of it -> a package: its forms written, recorded, and proven against the network."""

from __future__ import annotations

import copy
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import paddle
from paddle import nn

from ppmobilenet import __version__
from ppmobilenet.errors import NumericsError, UserError
from ppmobilenet.field import inference_yml, package
from ppmobilenet.field.decision import Decision
from ppmobilenet.field.engines.lite_env import LITE_VERSION
from ppmobilenet.field.golden import answer_of
from ppmobilenet.field.preprocessing import Ops, as_transform_ops, deployment_ops, spell_out
from ppmobilenet.field.verify import Model, verify
from ppmobilenet.photos.operators import build
from ppmobilenet.telling import log
from ppmobilenet.workshop import golden_record
from ppmobilenet.workshop.board_sources import copy_board
from ppmobilenet.workshop.folder import replacing
from ppmobilenet.workshop.forms import PADDLE_FORMS, Bench, parse_forms, write_forms
from ppmobilenet.workshop.int8_arithmetic import Int8Program
from ppmobilenet.workshop.int8_plan import Plan
from ppmobilenet.workshop.program import Deployed

LAYOUTS = ("NCHW", "NHWC")
ROUNDING_PHOTOS = 8  # that double precision is asked of, which takes several times as long
# an engine sums in another order and folds batch norm: its rounding is of the size of eager's, not equal to it
ROUNDINGS = 32


@dataclass
class PackageSpec:
    """What is to be made of a network.

    Attributes:
        name: what to call the model.
        ops: evaluation transforms, PaddleClas's shape (decoding and ToCHWImage are added where they are understood).
        labels: one name a class, in order.
        to: forms, see :func:`.forms.parse_forms`.
        photos: encoded photos to prove the forms on; the first becomes the golden one. None given: a drawn picture.
        softmax_inside: the forms give probabilities.
        embed_preprocess: ``"NCHW"`` or ``"NHWC"``: normalisation inside the graph, for uint8 input of that layout.
        topk: answers a predictor shows.
        int8: write int8 forms too, as planned.
        with_board: put the board program's sources into the package too, as ``board``.
        decision: package.json's: several labels and their thresholds, a temperature, when to be unsure.

    Raises:
        UserError: an unknown form; a board program without a form that it runs.
    """

    name: str
    ops: Ops
    labels: Sequence[str]
    to: str | Sequence[str] = PADDLE_FORMS
    photos: Sequence[bytes] = ()
    softmax_inside: bool = True
    embed_preprocess: str | None = None
    topk: int = 5
    int8: Plan | None = None
    with_board: bool = False
    decision: Mapping | None = None

    def __post_init__(self):
        self.to = parse_forms(self.to, self.with_board)


@dataclass(frozen=True)
class _Prepared:
    """What is known before anything is written: the layer as it is deployed, its operators, and photos through both."""

    layer: Deployed
    ops: Ops
    photos: Sequence[bytes]
    batch: np.ndarray
    logits: np.ndarray
    decision: Decision
    bounds: Mapping[str, float]


def make_package(
    network: nn.Layer,
    spec: PackageSpec,
    output: str | Path,
    accuracy: Callable[[package.Package], list[dict]] | None = None,
) -> Path:
    """Write a package of any classification network.

    Args:
        network: ``[N, 3, H, W]`` -> logits ``[N, class_num]``; put into eval mode.
        spec: what is to be made of it.
        output: the folder to write or to replace.
        accuracy: called with the package before it takes its place; gives its ``accuracy`` rows.

    Returns:
        The folder.

    Raises:
        UserError: the folder cannot be written or holds foreign files.
        NumericsError: a form departs from the network; nothing is then written.
    """
    made = _prepare(network, spec)
    with replacing(output) as folder:
        shape = [None, *made.batch.shape[1:]]
        forms = write_forms(Bench(folder, made.layer, shape, str(made.batch.dtype), spec.int8), spec.to)
        if spec.with_board:
            copy_board(folder)
        package.write_package(folder, {**_describe(spec, made, folder, forms), "forms": forms}, made.ops)
        for program, reason in inference_yml.why_not(spec.name, made.ops).items():
            log.info("inference.yml: not for %s's own predictor: %s", program, reason)
        prove(folder, lambda batch: _logits(made.layer, batch), made.photos)
        if accuracy is not None:
            written = package.open_package(folder)
            package.dump_json({**written.meta, "accuracy": accuracy(written)}, folder / "package.json")
    log.info("exported %s (%s) to %s", spec.name, ", ".join(form["name"] for form in forms), Path(output))
    return Path(output)


def _prepare(network: nn.Layer, spec: PackageSpec) -> _Prepared:
    network.eval()
    photos = spec.photos
    if not photos:
        log.info("no photo was found to prove the export on: a drawn picture is used")
        photos = [golden_record.synthetic_photo()]
    photos = [golden_record.golden_photo(photo)[0] for photo in photos]
    ops, normalise = deployment_ops(spec.ops), None
    if spec.embed_preprocess:
        ops, normalise = _without_normalisation(ops, spec.embed_preprocess)
    several = bool((spec.decision or {}).get("several"))
    layer = Deployed(network, spec.softmax_inside, normalise, spec.embed_preprocess or "NCHW", several)
    layer.eval()
    transform = build(ops)
    batch = np.stack([np.ascontiguousarray(transform(photo)) for photo in photos])
    logits = _logits(layer, batch)
    if logits.shape[1] != len(spec.labels):
        raise UserError(f"the model gives {logits.shape[1]} classes, there are {len(spec.labels)} labels")
    output = {"kind": "probabilities" if spec.softmax_inside else "logits", "class_num": len(spec.labels)}
    decision = Decision.of({"output": output, "decision": spec.decision or {}})
    return _Prepared(layer, ops, photos, batch, logits, decision, _bounds(layer, batch, logits, decision))


def _without_normalisation(ops: Ops, layout: str) -> tuple[list[dict], Mapping]:
    """Split the operators into those before the graph and the NormalizeImage that moves into it."""
    if layout not in LAYOUTS:
        raise UserError(f"unknown layout {layout!r}", where="--embed-preprocess", allowed=", ".join(LAYOUTS))
    spelled = spell_out(ops)
    names = [op["op"] for op in spelled]
    if names[-2:] != ["NormalizeImage", "ToCHWImage"]:
        raise UserError(
            f"normalisation can move into the graph when it comes last, here the list is {', '.join(names)}",
            where="DataLoader.Eval.dataset.transform_ops",
        )
    normalise = next(op for op in spelled if op["op"] == "NormalizeImage")
    keep = [op for op in spelled if op["op"] != "NormalizeImage" and (layout == "NCHW" or op["op"] != "ToCHWImage")]
    return as_transform_ops(keep), normalise


def _logits(layer: Deployed, batch: np.ndarray) -> np.ndarray:
    """Return the layer's logits, computed by Paddle's eager mode."""
    with paddle.no_grad():
        inside, layer.softmax = layer.softmax, False
        try:
            return layer(paddle.to_tensor(batch)).numpy()
        finally:
            layer.softmax = inside


def _bounds(layer: Deployed, batch: np.ndarray, logits: np.ndarray, decision: Decision) -> dict[str, float]:
    """Return what float32 may differ by: the usual bounds, and more only where this network's own rounding is more.

    Large logits, and batch norms that divide by a tiny variance, make float32's rounding large: how large is seen
    against double precision.
    """
    batch, logits = batch[:ROUNDING_PHOTOS], logits[:ROUNDING_PHOTOS]
    try:
        exact = copy.deepcopy(layer.model).to(dtype="float64")
        with paddle.no_grad():
            wanted = exact(layer.pixels(paddle.to_tensor(batch)).astype("float64")).numpy()
    except (RuntimeError, TypeError, ValueError) as error:  # a layer of one's own that computes in float32 alone
        log.debug("double precision was not computed: %s", error)
        return dict(package.BOUNDS)
    inside = {"logits": (logits, wanted)}
    if decision.output == "probabilities":
        inside["probabilities"] = (decision.inside(logits), decision.inside(wanted))
    bounds = dict(package.BOUNDS)
    for kind, (single, double) in inside.items():
        rounding = float(np.abs(single - double).max())
        if bounds[kind] < ROUNDINGS * rounding < np.inf:  # what is no number is told by comparing the forms
            bounds[kind] = float(f"{ROUNDINGS * rounding:.2g}")
    return bounds


def _computed_int8(folder: Path, forms: Sequence[Mapping], tensor: np.ndarray) -> np.ndarray | None:
    """Return what the int8 program gives for a tensor by its own arithmetic, as a board follows it."""
    files = next((form["files"] for form in forms if form["name"] == "pdmodel-int8"), None)
    if files is None:
        return None
    try:
        return Int8Program(*(folder / file for file in files))(tensor[None])[0]
    except UserError as error:  # of an operator whose arithmetic is not known
        log.info("warning: no int8 output is recorded: %s", error)
        return None


def _describe(spec: PackageSpec, made: _Prepared, folder: Path, forms: Sequence[Mapping]) -> dict:
    """Return the keys of package.json besides its forms; writes the golden record on the way."""
    classes, decision = len(spec.labels), made.decision
    computed = _computed_int8(folder, forms, made.batch[0])
    expected = decision.inside(made.logits)
    record = golden_record.write_golden(folder, made.ops, made.photos[0], made.logits[0], expected[0], computed)
    decided = {"decision": dict(spec.decision)} if spec.decision else {}
    if decided:
        record = {**record, "answer": answer_of(decision, expected[0])}
    return {
        "name": spec.name,
        "class_num": classes,
        "topk": min(spec.topk, classes),
        "input": {
            "name": "x",
            "dtype": str(made.batch.dtype),
            "layout": spec.embed_preprocess or "NCHW",
            "shape": [-1, *map(int, made.batch.shape[1:])],
        },
        "output": {"kind": decision.output, "class_num": classes},
        **decided,
        "golden": record,
        "bounds": dict(made.bounds),
        "versions": {
            "ppmobilenet": __version__,
            "paddle": paddle.__version__,
            "numpy": np.__version__,
            "opencv": cv2.__version__,
            "python": platform.python_version(),
            "lite_runtime": LITE_VERSION,
        },
        "accuracy": [],
        **({"int8": spec.int8.summary()} if spec.int8 is not None else {}),
        "labels": list(spec.labels),
    }


def prove(folder: Path, model: Model, photos: Sequence[bytes]) -> None:
    """Verify a package that is being written and note in its package.json what was compared.

    Args:
        folder: complete, not yet in its place.
        model: the network on the package's input, logits.
        photos: encoded photos.

    Raises:
        NumericsError: something departs; names the first stage.
    """
    report = verify(folder, photos, model=model)
    log.info("%s", report.table())
    first = report.first_departure
    if first is not None:
        numbers = f"{first.difference:.3g}, allowed {first.bound:g}" if first.difference is not None else first.note
        raise NumericsError(
            f"the export departs from the model at {first.stage} ({first.subject}): {numbers}; nothing was written",
            hint="report this with the config and the versions of paddle and onnxruntime",
        )
    meta = package.read_json(folder / "package.json")
    for form in meta["forms"]:
        rows = [row for row in report.rows if row.subject.startswith(f"{form['name']},") and row.difference is not None]
        form["compared"] = bool(rows)
        if rows:
            form["max_difference"] = max(row.difference for row in rows)
    package.dump_json(meta, folder / "package.json")
