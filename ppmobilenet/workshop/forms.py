"""The forms of a package, one table: what each is made from, what it comes along with, and how it is written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ppmobilenet.errors import NumericsError, UserError, did_you_mean
from ppmobilenet.field.engines import lite_env
from ppmobilenet.telling import log
from ppmobilenet.workshop import lite, onnx
from ppmobilenet.workshop.board_sources import check_board
from ppmobilenet.workshop.int8_plan import Plan
from ppmobilenet.workshop.program import Deployed, save_program, writes_json
from ppmobilenet.workshop.qat import save_trained
from ppmobilenet.workshop.quantizers import count_quantized, onnx_int8, post_training


@dataclass(frozen=True)
class Bench:
    """What the writers of forms find on the workbench.

    Attributes:
        folder: the package being written.
        layer: the network as it is deployed, in eval mode.
        shape: of its input, None for the batch.
        dtype: of its input.
        plan: of the int8 forms; None: there are none.
    """

    folder: Path
    layer: Deployed
    shape: Sequence[int | None]
    dtype: str
    plan: Plan | None = None

    def program(self, precision: str = "fp32") -> tuple[Path, Path]:
        """Return the legacy program, and its parameters, that other forms are made from."""
        home = self.folder / "int8" if precision == "int8" else self.folder
        return home / "inference.pdmodel", home / "inference.pdiparams"


def _write_program(bench: Bench, name: str, stem: str, legacy: bool, batch: int | None = None) -> Mapping | None:
    """Write a Paddle Inference form; all float ones share one parameters file. Paddle 2 has only ``pdmodel``."""
    if not writes_json() and (not legacy or batch):  # neither .json nor OpenVINO
        return None
    shared, own = bench.folder / "inference.pdiparams", bench.folder / f"{stem}.pdiparams"
    before = shared.read_bytes() if shared.is_file() else None
    save_program(bench.layer, bench.folder / stem, [batch, *bench.shape[1:]], bench.dtype, legacy=legacy)
    if before is not None and own.read_bytes() != before:
        raise NumericsError("the Paddle forms need different parameter files", hint="report this, please")
    if own != shared:
        own.unlink()
    files = [f"{stem}{'.pdmodel' if legacy else '.json'}", shared.name]
    entry = {"name": name, "engine": "paddle", "precision": "fp32", "files": files}
    return {**entry, "batch": batch} if batch else entry


def _write_onnx(bench: Bench) -> Mapping:
    return onnx.convert(bench.folder)


def _write_lite(bench: Bench, target: str, precision: str = "fp32") -> Mapping | None:
    """Convert to an ``.nb``; where the tool cannot be had the form is left out, and that is said."""
    try:
        entry = lite.convert(*bench.program(precision), bench.folder, target, precision)
    except lite_env.NoLite as error:
        log.info("%s: left out: %s", f"lite-{target}" + ("" if precision == "fp32" else f"-{precision}"), error)
        return None
    wide = bench.folder / f"{target}_fp32.nb"
    if precision == "int8" and wide.is_file():
        ratio = (bench.folder / f"{target}_int8.nb").stat().st_size / wide.stat().st_size
        log.info("lite-%s-int8: %.2fx the size of fp32", target, ratio)
        if ratio > 0.9:
            raise NumericsError(f"the int8 .nb is {ratio:.2f}x the float one: nothing was quantized in it")
    return entry


def _write_int8_program(bench: Bench) -> Mapping:
    """Write the int8 program for Paddle Inference, of which the others for Paddle are made.

    Raises:
        NumericsError: nothing was quantized.
    """
    plan, (model, parameters) = bench.plan, bench.program("int8")
    model.parent.mkdir()
    if plan.trained is not None:
        layer = Deployed(plan.trained, bench.layer.softmax, several=bench.layer.several)
        layer.eval()
        save_trained(layer, plan.trained, model.parent, bench.shape, bench.dtype)
    else:
        algorithm = plan.settings.algorithm
        post_training(*bench.program(), model.parent, plan.tensors, algorithm, plan.kept_weights)
    done = count_quantized(model)
    log.info("int8: %d of %d layers quantized by %s", done, len(plan.order), plan.settings.method.upper())
    if done == 0:
        raise NumericsError("nothing was quantized in the Paddle program", hint="report this with the config, please")
    files = [path.relative_to(bench.folder).as_posix() for path in (model, parameters)]
    return {"name": "pdmodel-int8", "engine": "paddle", "precision": "int8", "files": files, "quantized_layers": done}


def _write_int8_onnx(bench: Bench) -> Mapping:
    plan, out = bench.plan, bench.folder / "int8/inference.onnx"
    source, algorithm = bench.folder / "inference.onnx", plan.settings.algorithm
    done = onnx_int8(source, out, plan.tensors, algorithm, plan.kept_positions, len(plan.order))
    log.info("onnx-int8: %d of %d layers quantized", done, len(plan.order))
    if done == 0:
        raise NumericsError("nothing was quantized in the ONNX model")
    entry = {"name": "onnx-int8", "engine": "onnxruntime", "precision": "int8", "files": ["int8/inference.onnx"]}
    return {**entry, "quantized_layers": done, **onnx.tidy(out)}


@dataclass(frozen=True)
class Form:
    """One row of :data:`FORMS`.

    Attributes:
        write: writes it into ``bench.folder`` and returns its entry for package.json; None: it cannot be had here.
        source: the form that it is made from.
        along: it is written where one of these is asked for; empty: it is asked for by its own name.
        int8: it needs a plan.
    """

    write: Callable[[Bench], Mapping | None]
    source: str | None = None
    along: tuple[str, ...] = ()
    int8: bool = False


PADDLE_FORMS = ("inference", "pdmodel")
ALL_FORMS = (*PADDLE_FORMS, "onnx", "lite-armv8", "lite-armv7", "lite-x86")  # what --to all means
ASKABLE = (*ALL_FORMS, "lite-armv8-fp16")

# in the order in which they are written
FORMS = {
    "inference": Form(partial(_write_program, name="inference", stem="inference", legacy=False)),
    "pdmodel": Form(partial(_write_program, name="pdmodel", stem="inference", legacy=True)),
    # OpenVINO runs a program of fixed shape about a sixth faster than one of any batch
    "pdmodel-b1": Form(
        partial(_write_program, name="pdmodel-b1", stem="inference_b1", legacy=True, batch=1), along=("pdmodel",)
    ),
    "onnx": Form(_write_onnx, "pdmodel"),
    "lite-armv8": Form(partial(_write_lite, target="armv8"), "pdmodel"),
    "lite-armv7": Form(partial(_write_lite, target="armv7"), "pdmodel"),
    "lite-x86": Form(partial(_write_lite, target="x86"), "pdmodel"),
    "lite-armv8-fp16": Form(partial(_write_lite, target="armv8", precision="fp16"), "pdmodel"),
    "pdmodel-int8": Form(_write_int8_program, "pdmodel", ASKABLE, int8=True),
    # Paddle Lite's int8 kernels are for ARM
    "lite-armv8-int8": Form(
        partial(_write_lite, target="armv8", precision="int8"), "pdmodel-int8", ("lite-armv8",), int8=True
    ),
    "lite-armv7-int8": Form(
        partial(_write_lite, target="armv7", precision="int8"), "pdmodel-int8", ("lite-armv7",), int8=True
    ),
    "onnx-int8": Form(_write_int8_onnx, "onnx", ("onnx",), int8=True),
}


def parse_forms(to: str | Sequence[str], with_board: bool = False) -> list[str]:
    """Return the forms named by ``--to``: names, a comma list, or ``"all"``; UserError says what exists.

    ``with_board``: the board program goes beside them, which needs one of Paddle Lite's.
    """
    names = [name.strip() for name in (to.split(",") if isinstance(to, str) else to) if name.strip()]
    if names == ["all"]:
        names = list(ALL_FORMS)
    for name in names:
        if name not in ASKABLE:
            hint = did_you_mean(name, [*ASKABLE, "all"])
            raise UserError(f"unknown form {name!r}", where="--to", allowed=", ".join([*ASKABLE, "all"]), hint=hint)
    if not names:
        raise UserError("no form was named", where="--to", allowed=", ".join([*ASKABLE, "all"]))
    if with_board:
        check_board(names)
    return list(dict.fromkeys(names))


def write_forms(bench: Bench, to: Iterable[str]) -> list[Mapping]:
    """Write the forms that were asked for and those that come along; return their entries for package.json.

    A form that is only the source of others is removed in the end.

    Raises:
        UserError: a tool refuses the network; none of the forms can be had here.
        NumericsError: nothing was quantized in an int8 form.
    """
    to = set(to)
    wanted = {
        name
        for name, form in FORMS.items()
        if (bool(to & set(form.along)) if form.along else name in to) and (bench.plan is not None or not form.int8)
    }
    needed = set(wanted)
    for name in reversed(FORMS):  # a source stands above what is made from it
        if name in needed and FORMS[name].source:
            needed.add(FORMS[name].source)
    if bench.plan is not None and "lite-x86" in to:
        log.info("lite-x86: no int8 form, Paddle Lite's int8 kernels are for ARM")
    entries = {name: FORMS[name].write(bench) for name in FORMS if name in needed}
    kept = [entry for name, entry in entries.items() if entry and name in wanted]
    if not kept:
        raise UserError("none of the forms could be written", where="--to")
    written = {file for entry in entries.values() if entry for file in entry["files"]}
    for file in written - {file for entry in kept for file in entry["files"]}:
        (bench.folder / file).unlink()
    return kept
