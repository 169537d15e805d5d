"""A config and its trained weights -> a package with int8 forms, and what they cost in accuracy."""

from __future__ import annotations

import platform
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ppmobilenet.data.build import build_loader
from ppmobilenet.data.lists import read_list
from ppmobilenet.data.transforms import build_transforms
from ppmobilenet.errors import DataError, UserError
from ppmobilenet.field.backends import open_backend, usable
from ppmobilenet.field.package import Package, measured_on, open_package
from ppmobilenet.field.predictor import list_photos
from ppmobilenet.machine import usable_cores
from ppmobilenet.training.start import model_with_weights
from ppmobilenet.workshop.board_sources import check_board
from ppmobilenet.workshop.forms import export_layer, parse_forms
from ppmobilenet.workshop.from_config import (
    check_image_shape,
    deployment_labels,
    evaluation_ops,
    example_photos,
)
from ppmobilenet.workshop.int8_arithmetic import Int8Program
from ppmobilenet.workshop.quantize import ALGORITHMS, METHODS, LayerError, Plan, decide, fine_tune, layers_meant

# agreement with float that a good int8 model reaches; below it the report says what to try
WANTED_AGREEMENT = {"ptq": 0.95, "qat": 0.97}


@dataclass
class Int8Report:
    """What int8 cost.

    Attributes:
        package: the folder written.
        method: ``"ptq"`` or ``"qat"``.
        accuracy: rows of :func:`measure`, float first.
        errors: every layer's own relative error, worst first.
        kept: the layers that stayed float.
    """

    package: Path
    method: str
    accuracy: list[dict]
    errors: list[LayerError]
    kept: list[str]

    def table(self) -> str:
        lines = [
            f"{'form':<17}{'engine':<13}{'processor':<17}{'top1':>8}{'top5':>9}{'agrees':>9}  of {self.samples} photos"
        ]
        for row in self.accuracy:
            lines.append(
                f"{row['form']:<17}{row['engine']:<13}{measured_on(row):<17}"
                f"{row['top1']:8.4f}{row['top5']:9.4f}{row['agreement']:9.1%}"
            )
        whole, wanted = self.accuracy[0], WANTED_AGREEMENT[self.method]
        for row in self.accuracy[1:]:
            lines.append(f"{row['form']} on {measured_on(row)}: top-1 {row['top1'] - whole['top1']:+.4f} against float")
            if row["agreement"] >= wanted:
                continue
            if row["computed"]:
                lines.append(
                    f"  agreement is below {wanted:.0%}: try "
                    + ("--method qat, " if self.method == "ptq" else "more --epochs, ")
                    + "another --algorithm, or --keep-float for the worst layers below"
                )
            else:
                lines.append(
                    f"  agreement is below {wanted:.0%}: that is of {row['engine']} on {row['processor']}, where it "
                    "rounds in its own way; boards are judged by the computed row"
                )
        if self.verdict is None:
            lines.append("what a board makes of this int8 program could not be computed; the rows are of this machine")
        lines.append("worst layers by themselves (relative error of the int8 output):")
        for error in self.errors[:8]:
            kept = "  kept float" if error.layer in self.kept else ""
            lines.append(f"  {error.error:7.4f}  {error.kind:<12}{error.layer} ({error.weight}){kept}")
        return "\n".join(lines)

    @property
    def verdict(self) -> dict | None:
        """What int8 is judged by: the first computed row, what was wanted of it, whether it is ``good``."""
        wanted = WANTED_AGREEMENT[self.method]
        for row in self.accuracy:
            if row["computed"]:
                return {
                    "form": row["form"],
                    "agreement": row["agreement"],
                    "wanted": wanted,
                    "good": row["agreement"] >= wanted,
                }
        return None

    @property
    def samples(self) -> int:
        return self.accuracy[0]["samples"]

    def to_dict(self) -> dict:
        """Return the report for machines."""
        return {
            "package": str(self.package),
            "method": self.method,
            "accuracy": self.accuracy,
            "verdict": self.verdict,
            "kept_float": self.kept,
            "layers": [vars(error) for error in self.errors],
        }


def _listed(config: Mapping, mode: str) -> Sequence[tuple[str, int]]:
    dataset = config["DataLoader"][mode]["dataset"]
    listed = dataset.get("cls_label_path")
    if not listed or not Path(listed).is_file():
        raise DataError(
            f"the list {listed!r} does not exist",
            where=f"DataLoader.{mode}.dataset.cls_label_path",
            hint="int8 needs photos: set the data set's paths with -o"
            + (", or give --images DIR to calibrate on" if mode == "Train" else ""),
        )
    return read_list(listed, dataset.get("image_root") or "", delimiter=dataset.get("delimiter"), check_files=False)


def calibration_tensors(config: Mapping, count: int = 64, images: str | None = None) -> np.ndarray:
    """Return preprocessed photos ``[N, 3, H, W]``: evenly spaced over the training list (or a folder).

    They go through the evaluation transforms, as photos will on the board.
    """
    paths = list_photos(images) if images else [path for path, _ in _listed(config, "Train")]
    chosen = [paths[i] for i in np.unique(np.linspace(0, len(paths) - 1, min(count, len(paths))).astype(int))]
    transform = build_transforms(evaluation_ops(config))
    with ThreadPoolExecutor(usable_cores()) as pool:
        made = pool.map(lambda path: np.ascontiguousarray(transform(Path(path))), chosen)
        return np.stack(list(tqdm(made, "calibration photos", len(chosen), leave=False, disable=None)))


def _ahead(pool: ThreadPoolExecutor, work: Callable, items: Iterable) -> Iterator:
    """Like ``pool.map``, but only a few items ahead of the reader."""
    waiting: deque = deque()
    for item in items:
        waiting.append(pool.submit(work, item))
        if len(waiting) > 8:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _board_rows(package: Package) -> list[dict]:
    """Return the rows that what is computed of the int8 program stands for: the package's int8 forms for ARM.

    A package without one (its conversion was left out) still has the program that they are made of.
    """
    forms = [(form["name"], form["target"]) for form in package.forms("lite", "int8")] or [("int8 program", "arm")]
    return [{"form": form, "engine": "lite", "processor": target, "computed": True} for form, target in forms]


def _runs(package: Package) -> list[tuple[dict, Callable[[np.ndarray], np.ndarray]]]:
    """Return what this machine runs: float by one engine, and every int8 form; each with the start of its row."""
    found = []
    for precision in ("fp32", "int8"):
        for backend in usable(package, precision):
            if backend == "lite" or (precision == "fp32" and found):
                continue
            name, form, run = open_backend(package, backend, precision=precision)
            row = {"form": form["name"], "engine": name, "processor": platform.machine(), "computed": False}
            found.append((row, run))
    return found


def measure(package: Package, samples: Sequence[tuple[str, int]], log: Callable[[str], None] = print) -> list[dict]:
    """Run float and every int8 form over the same photos, and compute what a board makes of the int8 program.

    The engines of this machine say what int8 costs on it; a board's kernels follow the int8 program's own arithmetic
    (:mod:`ppmobilenet.workshop.int8_arithmetic`), which is computed here.

    Args:
        package: an opened package.
        samples: (path, label) of each photo.
        log: where it is said when the program cannot be computed.

    Returns:
        A row a form; float first, then what was computed, then what this machine's engines gave: ``form``,
        ``engine``, ``processor``, ``computed``, ``top1``, ``top5``, ``agreement`` with float, ``samples``.
    """
    runs = _runs(package)
    try:
        program = Int8Program(*package.files_of(package.form("pdmodel-int8")))
        boards = _board_rows(package)
    except UserError as error:
        log(f"warning: {error}")
        program, boards = None, []
    transform = build_transforms(package.ops)

    def prepare(sample: tuple[str, int]) -> tuple[np.ndarray, np.ndarray | None]:
        tensor = np.ascontiguousarray(transform(Path(sample[0])))[None]
        return tensor, program(tensor)[0] if program else None

    computed: list[np.ndarray] = []
    ran: list[list[np.ndarray]] = [[] for _ in runs]
    with ThreadPoolExecutor(max(1, usable_cores() - 1)) as pool:
        prepared = _ahead(pool, prepare, samples)
        for tensor, answer in tqdm(prepared, "validation photos", len(samples), leave=False, disable=None):
            computed.append(answer)
            for answers, (_, run) in zip(ran, runs):
                answers.append(run(tensor)[0])
    labels = np.array([label for _, label in samples])
    reference = np.stack(ran[0]).argmax(axis=1)
    heads = [row for row, _ in runs]
    measured = [(heads[0], ran[0]), *((row, computed) for row in boards), *zip(heads[1:], ran[1:])]
    return [{**row, **_scores(np.stack(answers), labels, reference)} for row, answers in measured]


def _scores(answers: np.ndarray, labels: np.ndarray, reference: np.ndarray) -> dict:
    order = np.argsort(-answers, axis=1, kind="stable")
    return {
        "top1": round(float((order[:, 0] == labels).mean()), 5),
        "top5": round(float((order[:, :5] == labels[:, None]).any(axis=1).mean()), 5),
        "agreement": round(float((order[:, 0] == reference).mean()), 5),
        "samples": len(labels),
    }


def plan_int8(
    config: Mapping,
    method: str = "ptq",
    *,
    algorithm: str = "hist",
    photos: int = 64,
    images: str | None = None,
    keep_float: Sequence[str] = (),
    max_layer_error: float | None = None,
    epochs: int = 2,
    learning_rate: float = 1e-4,
    log: Callable[[str], None] = print,
) -> Plan:
    """Gather what int8 forms need: calibration photos, and with ``"qat"`` the fine-tuned network.

    Args:
        config: with its weights.
        method: ``"ptq"`` (post-training) or ``"qat"`` (quantization-aware fine-tuning on the training list).
        algorithm: how activation ranges are found: ``"hist"``, ``"KL"``, ``"abs_max"``, ``"mse"``.
        photos: how many to calibrate on.
        images: a folder to calibrate on, instead of the training list.
        keep_float: patterns of layer or weight names that stay float.
        max_layer_error: layers with a larger error of their own stay float.
        epochs: of QAT.
        learning_rate: of QAT.
        log: where lines go.
    """
    if method not in METHODS:
        raise UserError(f"unknown method {method!r}", where="--method", allowed=", ".join(METHODS))
    if algorithm not in ALGORITHMS:
        raise UserError(f"unknown algorithm {algorithm!r}", where="--algorithm", allowed=", ".join(ALGORITHMS))
    tensors = calibration_tensors(config, photos, images)
    log(f"calibrating on {len(tensors)} photos")
    plan = Plan(tensors, method, algorithm, tuple(keep_float), max_layer_error)
    if method == "qat":
        teacher, student = model_with_weights(config), model_with_weights(config)
        student.eval()
        decide(student, plan)
        loader = build_loader(config.train, config.arch.class_num)
        try:
            plan.trained = fine_tune(
                student, teacher, loader, epochs=epochs, learning_rate=learning_rate, keep_float=plan.kept, log=log
            )
        finally:
            loader.close()
    return plan


def quantize(
    config: Mapping,
    output: str | Path | None = None,
    to: str | Sequence[str] = ("pdmodel", "onnx", "lite-armv8"),
    limit: int | None = None,
    with_board: bool = False,
    log: Callable[[str], None] = print,
    **planning,
) -> Int8Report:
    """Write a package with float and int8 forms, and report both accuracies on the validation list.

    Args:
        config: as :func:`ppmobilenet.load_config` gives it, with ``Global.pretrained_model``.
        output: the folder; default ``Global.save_inference_dir``.
        to: forms; each gets its int8 twin where there is one.
        limit: validation photos at most; default all.
        with_board: put the board program's sources into the package too, as ``board``.
        log: where lines go.
        **planning: of :func:`plan_int8`.

    Raises:
        UserError: no weights, no photos, a pattern without a layer.
        NumericsError: nothing was quantized, or a float form departs from the model.
    """
    to = parse_forms(to)
    if with_board:
        check_board(to)
    model = model_with_weights(config)
    ops = evaluation_ops(config)
    check_image_shape(config, ops)
    samples = list(islice(_listed(config, "Eval"), limit))
    layers_meant(model, planning.get("keep_float", ()))  # a wrong pattern is said before photos are read
    plan = plan_int8(config, log=log, **planning)
    folder = export_layer(
        model,
        output or config.get("Global.save_inference_dir") or "./inference",
        name=config["Arch"]["name"],
        ops=ops,
        labels=deployment_labels(config, int(config["Arch"].get("class_num", 1000))),
        to=to,
        photos=example_photos(config),
        softmax_inside=bool(config["Arch"].get("infer_add_softmax", True)),
        topk=int(config.get("Infer.PostProcess.topk") or 5),
        int8=plan,
        with_board=with_board,
        measure=lambda written: measure(written, samples, log),
        log=log,
    )
    rows = open_package(folder).meta["accuracy"]
    return Int8Report(folder, plan.method, rows, plan.errors, plan.kept)


def say(line: str) -> None:
    """Print to stderr: what is told along the way, while stdout holds the result."""
    print(line, file=sys.stderr)
