"""A network -> a package in the forms that were asked for, each reloaded and compared with the network first."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import paddle
from paddle import nn

from ppmobilenet import __version__
from ppmobilenet.data.transforms import build_transforms
from ppmobilenet.errors import NumericsError, UserError, did_you_mean
from ppmobilenet.field import golden, inference_yml, package
from ppmobilenet.field.engines import lite_env
from ppmobilenet.field.folder import replacing
from ppmobilenet.field.predictor import softmax
from ppmobilenet.field.preprocessing import Ops, as_transform_ops, deployment_ops, spell_out
from ppmobilenet.field.verify import verify
from ppmobilenet.workshop import lite, onnx
from ppmobilenet.workshop.board_sources import check_board, copy_board
from ppmobilenet.workshop.program import Deployed, save_program, writes_json
from ppmobilenet.workshop.quantize import Plan, decide, write_forms

PADDLE_FORMS = ("inference", "pdmodel")
ALL_FORMS = (*PADDLE_FORMS, "onnx", "lite-armv8", "lite-armv7", "lite-x86")
FORMS = (*ALL_FORMS, "lite-armv8-fp16")
LAYOUTS = ("NCHW", "NHWC")


# form -> (file name without suffix, legacy program, photos a run or None for any)
_PROGRAMS = {
    "inference": ("inference", False, None),
    "pdmodel": ("inference", True, None),
    # OpenVINO runs a program of fixed shape about a sixth faster than one of any batch
    "pdmodel-b1": ("inference_b1", True, 1),
}


def _write_paddle_forms(layer: Deployed, folder: Path, shape: Sequence[int], dtype: str, names: Iterable[str]):
    """Write the Paddle Inference forms that were asked for; they share one parameters file."""
    parameters: bytes | None = None
    shared = folder / "inference.pdiparams"
    for name in names:
        stem, legacy, batch = _PROGRAMS[name]
        if not writes_json() and (not legacy or batch):  # Paddle 2: neither .json nor OpenVINO
            continue
        save_program(layer, folder / stem, [batch, *shape[1:]], dtype, legacy=legacy)
        own = folder / f"{stem}.pdiparams"
        written = own.read_bytes()
        if parameters is not None and written != parameters:
            raise NumericsError("the Paddle forms need different parameter files", hint="report this, please")
        parameters = written
        if own != shared:
            own.unlink()
        files = [f"{stem}{'.pdmodel' if legacy else '.json'}", shared.name]
        yield {"name": name, "engine": "paddle", "precision": "fp32", "files": files, **({"batch": 1} if batch else {})}


def _convert_forms(folder: Path, names: Iterable[str], log: Callable[[str], None]) -> Iterable[Mapping]:
    """Write the forms that are made from ``inference.pdmodel``; those for which no tool is there are left out, said."""
    for name in names:
        if name == "onnx":
            yield onnx.convert(folder, log)
            continue
        _, target, precision = f"{name}-fp32".split("-")[:3]
        try:
            model, parameters = folder / "inference.pdmodel", folder / "inference.pdiparams"
            yield lite.convert(model, parameters, folder, target, precision, log)
        except lite_env.NoLite as error:
            log(f"{name}: left out: {error}")


def parse_forms(to: str | Sequence[str]) -> list[str]:
    """Return the forms named by ``--to``: names, a comma list, or ``"all"``; UserError says what exists."""
    names = [name.strip() for name in (to.split(",") if isinstance(to, str) else to) if name.strip()]
    if names == ["all"]:
        return list(ALL_FORMS)
    for name in names:
        if name not in FORMS:
            hint = did_you_mean(name, [*FORMS, "all"])
            raise UserError(f"unknown form {name!r}", where="--to", allowed=", ".join([*FORMS, "all"]), hint=hint)
    if not names:
        raise UserError("no form was named", where="--to", allowed=", ".join([*FORMS, "all"]))
    return list(dict.fromkeys(names))


def export_layer(
    model: nn.Layer,
    output: str | Path,
    *,
    name: str,
    ops: Ops,
    labels: Sequence[str],
    to: Sequence[str] = PADDLE_FORMS,
    photos: Sequence[bytes] = (),
    softmax_inside: bool = True,
    embed_preprocess: str | None = None,
    topk: int = 5,
    int8: Plan | None = None,
    with_board: bool = False,
    measure: Callable[[package.Package], list[dict]] | None = None,
    log: Callable[[str], None] = print,
) -> Path:
    """Write a package of any classification layer.

    Args:
        model: ``[N, 3, H, W]`` -> logits ``[N, class_num]``; put into eval mode.
        output: the folder to write or to replace.
        name: what to call the model.
        ops: evaluation transforms, PaddleClas's shape (decoding and ToCHWImage are added where they are understood).
        labels: one name a class, in order.
        to: forms, see :func:`parse_forms`.
        photos: encoded photos to prove the forms on; the first becomes the golden one. None given: a drawn picture.
        softmax_inside: the forms give probabilities.
        embed_preprocess: ``"NCHW"`` or ``"NHWC"``: normalisation inside the graph, for uint8 input of that layout.
        topk: answers a predictor shows.
        int8: write int8 forms too, as planned.
        with_board: put the board program's sources into the package too, as ``board``.
        measure: called with the package before it takes its place; gives its ``accuracy`` rows.
        log: where lines for the user go.

    Raises:
        UserError: the folder cannot be written or holds foreign files; an unknown form.
        NumericsError: a form departs from the model; nothing is then written.
    """
    to = parse_forms(to)
    if with_board:
        check_board(to)
    model.eval()
    ops = deployment_ops(ops)
    if not photos:
        log("no photo was found to prove the export on: a drawn picture is used")
        photos = [golden.synthetic_photo()]
    photos = [golden.golden_photo(photo)[0] for photo in photos]
    inner_ops, normalise = ops, None
    if embed_preprocess:
        inner_ops, normalise = _without_normalisation(ops, embed_preprocess)
    layer = Deployed(model, softmax_inside, normalise, embed_preprocess or "NCHW")
    layer.eval()
    transform = build_transforms(inner_ops)
    batch = np.stack([np.ascontiguousarray(transform(photo)) for photo in photos])
    shape, dtype = [None, *batch.shape[1:]], str(batch.dtype)
    logits, expected = _eager(layer, batch)
    if logits.shape[1] != len(labels):
        raise UserError(f"the model gives {logits.shape[1]} classes, there are {len(labels)} labels")
    kind = "probabilities" if softmax_inside else "logits"

    with replacing(output) as folder:
        # ONNX and Lite are converted from the legacy program, so it is written for them and removed if nobody asked
        wanted = [
            form for form in PADDLE_FORMS if form in to or (form == "pdmodel" and (int8 or set(to) - set(PADDLE_FORMS)))
        ]
        if "pdmodel" in to:
            wanted.append("pdmodel-b1")
        forms = list(_write_paddle_forms(layer, folder, shape, dtype, wanted))
        forms += _convert_forms(folder, [form for form in to if form not in PADDLE_FORMS], log)
        if int8 is not None:
            if not int8.errors:
                decide(model, int8)
            forms += write_forms(folder, layer, model, int8, to, shape, dtype, log)
        if "pdmodel" in wanted and "pdmodel" not in to:
            forms = [form for form in forms if form["name"] != "pdmodel"]
            (folder / "inference.pdmodel").unlink()
            if "inference" not in to:
                (folder / "inference.pdiparams").unlink()
        if not forms:
            raise UserError("none of the forms could be written", where="--to")
        if with_board:
            copy_board(folder)
        meta = {
            "name": name,
            "class_num": len(labels),
            "topk": min(topk, len(labels)),
            "input": {
                "name": "x",
                "dtype": dtype,
                "layout": embed_preprocess or "NCHW",
                "shape": [-1, *map(int, batch.shape[1:])],
            },
            "output": {"kind": kind, "class_num": len(labels)},
            "golden": golden.write_golden(folder, inner_ops, photos[0], logits[0], expected[0]),
            "versions": _versions(),
            "accuracy": [],
            **({"int8": int8.summary()} if int8 is not None else {}),
            "labels": list(labels),
        }
        package.write_package(folder, {**meta, "forms": forms}, inner_ops)
        for program, reason in inference_yml.why_not(name, inner_ops).items():
            log(f"inference.yml: not for {program}'s own predictor: {reason}")
        prove(folder, lambda batch: _eager(layer, batch)[0], photos, log)
        if measure is not None:
            written = package.open_package(folder)
            package.dump_json({**written.meta, "accuracy": measure(written)}, folder / "package.json")
    final = Path(output)
    log(f"exported {name} ({', '.join(form['name'] for form in forms)}) to {final}")
    return final


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


def _eager(layer: Deployed, batch: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return logits and declared output of the layer, computed by Paddle's eager mode."""
    with paddle.no_grad():
        inside, layer.softmax = layer.softmax, False
        try:
            logits = layer(paddle.to_tensor(batch)).numpy()
        finally:
            layer.softmax = inside
    return logits, softmax(logits) if inside else logits


def prove(folder: Path, eager: Callable[[np.ndarray], np.ndarray], photos: Sequence[bytes], log: Callable[[str], None]):
    """Verify a package that is being written and note in its package.json what was compared.

    Args:
        folder: complete, not yet in its place.
        eager: the network on the package's input, logits.
        photos: encoded photos.
        log: where the table goes.

    Raises:
        NumericsError: something departs; names the first stage.
    """
    report = verify(folder, photos, model=eager)
    log(report.table())
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


def _versions() -> dict[str, str]:
    import platform

    import cv2

    return {
        "ppmobilenet": __version__,
        "paddle": paddle.__version__,
        "numpy": np.__version__,
        "opencv": cv2.__version__,
        "python": platform.python_version(),
        "lite_runtime": lite_env.LITE_VERSION,
    }
