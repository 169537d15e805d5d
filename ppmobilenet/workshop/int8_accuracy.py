"""What int8 costs: float and int8 forms over the same photos, and what a board makes of the int8 program."""

from __future__ import annotations

import platform
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ppmobilenet.errors import UserError
from ppmobilenet.field.backends import open_backend, usable
from ppmobilenet.field.decision import Decision
from ppmobilenet.field.package import Package, measured_on
from ppmobilenet.machine import usable_cores
from ppmobilenet.photos.operators import build
from ppmobilenet.telling import bar, log
from ppmobilenet.workshop.int8_arithmetic import Int8Program
from ppmobilenet.workshop.int8_plan import LayerError

# agreement with float that a good int8 model reaches; below it the report says what to try
WANTED_AGREEMENT = {"ptq": 0.95, "qat": 0.97}


@dataclass
class Int8Report:
    """What int8 cost.

    Attributes:
        package: the folder written.
        method: ``"ptq"`` or ``"qat"``.
        accuracy: rows of :func:`form_accuracies`, float first.
        errors: every layer's own relative error, worst first.
        kept: the layers that stayed float.
    """

    package: Path
    method: str
    accuracy: list[dict]
    errors: list[LayerError]
    kept: list[str]

    def table(self) -> str:
        figures = [name for name in ("top1", "top5", "labels", "photos") if name in self.accuracy[0]]
        heads = "".join(f"{name:>9}" for name in (*figures, "agrees"))
        lines = [f"{'form':<17}{'engine':<13}{'processor':<16}{heads}  of {self.samples} photos"]
        for row in self.accuracy:
            numbers = "".join(f"{row[name]:9.4f}" for name in figures)
            lines.append(f"{row['form']:<17}{row['engine']:<13}{measured_on(row):<16}{numbers}{row['agreement']:9.1%}")
        float_row, wanted = self.accuracy[0], WANTED_AGREEMENT[self.method]
        for row in self.accuracy[1:]:
            cost, named = row[figures[0]] - float_row[figures[0]], "top-1" if figures[0] == "top1" else "labels right"
            lines.append(f"{row['form']} on {measured_on(row)}: {named} {cost:+.4f} against float")
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


def _ahead(pool: ThreadPoolExecutor, work: Callable, items: Iterable) -> Iterator:
    """Like ``pool.map``, but only a few items ahead of the reader."""
    waiting: deque = deque()
    for item in items:
        waiting.append(pool.submit(work, item))
        if len(waiting) > 8:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _arm_rows(package: Package) -> list[dict]:
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


def form_accuracies(package: Package, samples: Sequence[tuple[str, int]]) -> list[dict]:
    """Run float and every int8 form over the same photos, and compute what a board makes of the int8 program.

    The engines of this machine say what int8 costs on it; a board's kernels follow the int8 program's own arithmetic
    (:mod:`ppmobilenet.workshop.int8_arithmetic`), which is computed here.

    Args:
        package: an opened package.
        samples: (path, label) of each photo.

    Returns:
        A row a form; float first, then what was computed, then what this machine's engines gave: ``form``,
        ``engine``, ``processor``, ``computed``, ``top1``, ``top5``, ``agreement`` with float, ``samples``. Of several
        labels a photo, in place of ``top1`` and ``top5``: ``labels``, the share of them that is right, and ``photos``,
        the share with all of them right.
    """
    runs = _runs(package)
    try:
        program = Int8Program(*package.files_of(package.form("pdmodel-int8")))
        arm_rows = _arm_rows(package)
    except UserError as error:
        log.info("warning: %s", error)
        program, arm_rows = None, []
    transform = build(package.ops)

    def prepare(sample: tuple[str, int]) -> tuple[np.ndarray, np.ndarray | None]:
        tensor = np.ascontiguousarray(transform(sample[0]))[None]
        return tensor, program(tensor)[0] if program else None

    computed: list[np.ndarray] = []
    ran: list[list[np.ndarray]] = [[] for _ in runs]
    with ThreadPoolExecutor(max(1, usable_cores() - 1)) as pool:
        prepared = _ahead(pool, prepare, samples)
        for tensor, answer in bar(prepared, "validation photos", len(samples)):
            computed.append(answer)
            for answers, (_, run) in zip(ran, runs):
                answers.append(run(tensor)[0])
    labels, decision = np.array([label for _, label in samples]), Decision.of(package.meta)
    reference = np.stack(ran[0])
    heads = [row for row, _ in runs]
    measured = [(heads[0], ran[0]), *((row, computed) for row in arm_rows), *zip(heads[1:], ran[1:])]
    return [{**row, **_scores(np.stack(answers), labels, reference, decision)} for row, answers in measured]


def _scores(answers: np.ndarray, labels: np.ndarray, reference: np.ndarray, decision: Decision) -> dict:
    if decision.several:
        said = decision.probabilities(answers) >= np.array(decision.thresholds, np.float32)
        right = ((said == (labels > 0)) | (labels < 0)) if len(labels) else np.zeros((0, 1), bool)
        known = labels >= 0
        shares = {"labels": float(right[known].mean()), "photos": float(right.all(axis=1).mean())}
    else:
        order = np.argsort(-answers, axis=1, kind="stable")
        top5 = (order[:, :5] == labels[:, None]).any(axis=1)
        shares = {"top1": float((order[:, 0] == labels).mean()), "top5": float(top5.mean())}
    agreed = decision.agreement(answers, reference)
    return {**{k: round(v, 5) for k, v in shares.items()}, "agreement": round(agreed, 5), "samples": len(labels)}
