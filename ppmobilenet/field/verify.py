"""At which stage does a deployed model depart from the trained one?

Three comparisons, each in a package's own terms:

* ``golden``: each preprocessing stage on this machine, given the recorded input of that stage, against the recorded
  output. Another OpenCV, decoder or operator shows here, at the stage where it works.
* ``evaluation`` (with the operators of the evaluation): these against the package's, on the same photos.
* every form that can run here, on the recorded and the given photos, against the reference: the trained model where it
  is given, else the recorded output (and for photos that were not recorded, the first float form).
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice

import numpy as np

from ppmobilenet.errors import DamagedFileError, UserError
from ppmobilenet.field import golden, inference_yml
from ppmobilenet.field.backends import BACKENDS, Run, open_backend, why_not
from ppmobilenet.field.decision import Decision
from ppmobilenet.field.engines.lite_file import read_version
from ppmobilenet.field.package import BOUNDS, Package, open_package
from ppmobilenet.field.package_shape import AGAIN
from ppmobilenet.field.preprocessing import Ops, as_transform_ops
from ppmobilenet.photos.decode import decode_image, read_bytes
from ppmobilenet.photos.names import list_photos
from ppmobilenet.photos.operators import build
from ppmobilenet.telling import bar

# the order of a photo's way: the first of these that departs is the one to look at
STAGES = ("files", "decode", "resize", "crop", "normalise", "logits", "probabilities", "top-1", "labels", "answer")
# pixels: JPEG decoders may round differently by one level; what follows is computed from recorded pixels, exactly
PREPROCESS_BOUNDS = {"decode": 1.0, "resize": 1.0, "crop": 0.0, "normalise": 1e-5}
# what a lower precision may change: reported as agreement, and bounded only where the classes change often
LOW_PRECISION_AGREEMENT = {"fp16": 0.98, "int8": 0.90}
ENOUGH = 20  # photos for that
Model = Callable[[np.ndarray], np.ndarray]


@dataclass
class Row:
    """One comparison.

    Attributes:
        stage: of :data:`STAGES`.
        subject: what was compared with what.
        difference: the largest absolute difference; None where that is no number.
        agreement: the share of equal values (for ``top-1``: of equal classes), 0..1.
        bound: what ``difference`` may be (for ``top-1``: what ``agreement`` must be).
        passed: whether it held; None: not run here, and ``note`` says why.
        note: more.
    """

    stage: str
    subject: str
    difference: float | None = None
    agreement: float | None = None
    bound: float | None = None
    passed: bool | None = None
    note: str = ""


@dataclass
class Report:
    """The rows, and what follows from them."""

    package: str
    rows: list[Row] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Something was compared, and nothing departed."""
        return any(row.passed for row in self.rows) and all(row.passed is not False for row in self.rows)

    @property
    def first_departure(self) -> Row | None:
        """The earliest stage of a photo's way that departs."""
        wrong = [row for row in self.rows if row.passed is False]
        return min(wrong, key=lambda row: STAGES.index(row.stage), default=None)

    def table(self) -> str:
        """Return the table as text."""
        cells = [("stage", "compared", "max diff", "agree", "bound", "")]
        for row in sorted(self.rows, key=lambda row: STAGES.index(row.stage)):
            cells.append(
                (
                    row.stage,
                    row.subject,
                    "" if row.difference is None else f"{row.difference:.1e}",
                    "" if row.agreement is None else f"{row.agreement:.1%}",
                    "" if row.bound is None else f"{row.bound:g}",
                    {True: "pass", False: "FAIL", None: "not run"}[row.passed] + (f": {row.note}" if row.note else ""),
                )
            )
        widths = [max(len(line[column]) for line in cells) for column in range(5)]
        lines = ["  ".join([*(f"{c:<{w}}" for c, w in zip(line, widths)), line[5]]).rstrip() for line in cells]
        first = self.first_departure
        if first is not None:
            lines.append(f"departs first at: {first.stage} ({first.subject})")
        else:
            lines.append("every comparison that could run here holds" if self.passed else "nothing could be compared")
        return "\n".join(lines)

    def to_dict(self) -> dict:
        """Return the table for machines."""
        first = self.first_departure
        return {
            "package": self.package,
            "passed": self.passed,
            "first_departure": first.stage if first else None,
            "rows": [asdict(row) for row in self.rows],
        }


def verify(
    package: str | os.PathLike | Package,
    images: str | os.PathLike | Sequence[str | bytes] | None = None,
    model: Model | None = None,
    ops: Ops | None = None,
    limit: int = 64,
) -> Report:
    """Compare everything that can be compared on this machine.

    Args:
        package: an exported folder.
        images: photos (a folder, a file, a list of paths or encoded photos) besides the golden one.
        model: the trained model on the package's input, ``batch -> logits``, where it is at hand.
        ops: the operators with which it was evaluated, normalisation included.
        limit: photos at most.

    Raises:
        UserError: the folder is no package.
        DamagedFileError: a file is missing or was changed, or package.json does not hold what a package has to.
    """
    opened = package if isinstance(package, Package) else open_package(package, unaltered=False)
    report = Report(str(opened.folder))
    for entry in opened.meta["files"]:
        opened.check_file(entry["path"])
    listed, altered = len(opened.meta["files"]), (opened.folder / "package.json").is_file() and opened.altered
    if altered:
        report.rows.append(Row("files", "package.json, sha256", passed=False, note="changed after the export"))
    report.rows.append(
        Row("files", f"{listed} files, sha256", agreement=1.0, passed=True)
        if listed
        else Row("files", "sha256", note="the folder has no package.json")
    )
    paths = list_photos(images) if isinstance(images, (str, os.PathLike)) else list(images or ())
    photos = [_read(path) for path in islice(paths, limit)]
    try:
        report.rows += _golden_stages(opened)
        report.rows += _inference_yml(opened, photos)
        if ops is not None:
            report.rows += _evaluation_stages(opened, ops, photos)
        if altered:  # an engine may crash on a file that is not its own
            report.rows.append(Row("logits", "forms", note="package.json, which names their files, was changed"))
        else:
            report.rows += _forms(opened, photos, model)
        report.rows += _golden_answer(opened)
    except Exception as error:  # values that somebody has written may fail anywhere
        if isinstance(error, DamagedFileError) or not altered:
            raise
        note = f"the rest cannot be compared as it stands there ({type(error).__name__}: {error}); {AGAIN}"
        report.rows.append(Row("files", "package.json", passed=False, note=note))
    return report


def _read(path: str | os.PathLike | bytes) -> bytes:
    """Return a photo's bytes; one that cannot be decoded is named here, while its name is known."""
    data = path if isinstance(path, bytes) else read_bytes(path)
    decode_image(data, name="(bytes)" if isinstance(path, bytes) else path)
    return data


def _bound(opened: Package, stage: str) -> float:
    """What fp32 may differ by; folders that PaddleClas wrote say nothing of it, altered ones may say anything."""
    bounds = opened.meta.get("bounds")
    bound = bounds.get(stage) if isinstance(bounds, Mapping) else None
    return bound if isinstance(bound, (int, float)) else BOUNDS[stage]


def _compare(stage: str, subject: str, got: np.ndarray, expected: np.ndarray, bound: float) -> Row:
    if got.shape != expected.shape:
        return Row(stage, subject, bound=bound, passed=False, note=f"shape {got.shape}, expected {expected.shape}")
    difference = np.abs(got.astype(np.float64) - expected.astype(np.float64))
    worst = float(difference.max()) if np.isfinite(difference).all() else float("inf")
    return Row(stage, subject, worst, float((difference <= bound).mean()), bound, bool(worst <= bound))


def _worst(rows: Sequence[Row]) -> list[Row]:
    """Return one row a stage and subject: the worst of several photos."""
    by_key: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        by_key.setdefault((row.stage, row.subject), []).append(row)
    worst = []
    for group in by_key.values():
        row = max(group, key=lambda row: (row.passed is False, row.difference or 0.0))
        row.agreement = min((r.agreement for r in group if r.agreement is not None), default=None)
        worst.append(row)
    return worst


def _golden_stages(opened: Package) -> list[Row]:
    """Each stage from the recorded input of that stage, so that one stage's fault is not the next one's."""
    if "golden" not in opened.meta:
        return [Row("decode", "golden", note="the package has no golden record")]
    record, ops = opened.meta["golden"], opened.ops
    rgb = golden.decodes_to_rgb(ops)
    value: bytes | np.ndarray = opened.check_file(record["image"]).read_bytes()
    rows, done = [], {}
    for op in ops:
        done.setdefault(golden.STAGES[next(iter(op))], []).append(op)
    last = list(done)[-1]
    for stage, stage_ops in done.items():
        got = build(stage_ops)(value)
        if stage == last:
            expected = opened.golden("tensor")[0]
        else:
            expected = golden.png_to_picture(opened.check_file(record[stage]).read_bytes(), rgb)
        rows.append(_compare(stage, "golden, this machine", got, expected, PREPROCESS_BOUNDS[stage]))
        value = expected
    return rows


def _golden_answer(opened: Package) -> list[Row]:
    """What the decision makes of the recorded output, against what was recorded of it."""
    recorded = opened.meta.get("golden", {}).get("answer")
    if recorded is None:
        return []
    here = golden.answer_of(Decision.of(opened.meta), opened.golden("output"))
    several = "class_ids" in here
    same = all(here[key] == recorded.get(key) for key in (("class_ids",) if several else ("class_id", "unsure")))
    scores = [answer["scores"] if several else [answer["score"]] for answer in (here, recorded)] if same else [[], []]
    difference = max((abs(a - b) for a, b in zip(*scores)), default=0.0)
    bound = BOUNDS["probabilities"]
    if several:
        note = f"labels {', '.join(map(str, here['class_ids'])) or 'none'}"
    else:
        note = f"class {here['class_id']}, {'unsure' if here['unsure'] else 'sure'}"
    return [Row("answer", "golden, this machine", difference, float(same), bound, same and difference <= bound, note)]


def _inference_yml(opened: Package, photos: Sequence[bytes]) -> list[Row]:
    """What other predictors do by inference.yml, against package.json."""
    path = opened.folder / "inference.yml"
    if not path.is_file() or not opened.meta["files"]:
        return []
    theirs = as_transform_ops(inference_yml.read(opened.folder)[1])
    if opened.meta["input"]["layout"] == "NHWC":
        theirs = theirs[:-1]  # the file lists no ToCHWImage then, and reading it assumes one
    return _preprocess_rows(opened, theirs, photos, "inference.yml to package.json")


def _evaluation_stages(opened: Package, theirs: Ops, photos: Sequence[bytes]) -> list[Row]:
    if opened.meta["input"]["dtype"] == "uint8":  # normalisation is in the graph
        theirs = [op for op in theirs if "NormalizeImage" not in op]
        if opened.meta["input"]["layout"] == "NHWC":
            theirs = [op for op in theirs if "ToCHWImage" not in op]
    return _preprocess_rows(opened, theirs, photos, "evaluation to package")


def _preprocess_rows(opened: Package, theirs, photos: Sequence[bytes], subject: str) -> list[Row]:
    photos = list(photos)
    if "golden" in opened.meta:
        photos.append(opened.check_file(opened.meta["golden"]["image"]).read_bytes())
    rows = []
    for photo in photos:
        ours, other = golden.run_stages(opened.ops, photo), golden.run_stages(theirs, photo)
        for stage in dict.fromkeys([*ours, *other]):
            if stage not in ours or stage not in other:
                rows.append(Row(stage, subject, passed=False, note="only one of the two has this stage"))
            else:
                rows.append(_compare(stage, subject, other[stage], ours[stage], 0.0))
    return _worst(rows)


def _forms(opened: Package, photos: Sequence[bytes], model: Model | None) -> list[Row]:
    """Every backend on every form it can run here."""
    decision = Decision.of(opened.meta)
    transform = build(opened.ops)
    tensors = [np.ascontiguousarray(transform(photo)) for photo in photos]
    recorded = "golden" in opened.meta
    if recorded:
        tensors.insert(0, opened.golden("tensor")[0])
    rows: list[Row] = []
    if not tensors:
        return [Row("logits", "forms", note="no photo: give --images")]
    expected: np.ndarray | None = None
    if model is not None:
        logits = model(np.stack(tensors))
        expected = decision.inside(logits)
        if recorded:
            rows.append(
                _compare("logits", "eager to golden", logits[0], opened.golden("logits"), _bound(opened, "logits"))
            )
    for form in opened.meta["forms"]:
        if form["engine"] == "lite":
            rows += _lite_rows(opened, form, decision.output)
        for backend, got in _answers(opened, form, tensors):
            subject = f"{form['name']}, {backend}"
            if isinstance(got, Row):
                rows.append(got)
                continue
            if recorded and expected is None:
                rows += _form_rows(opened, subject + ", golden", form, got[:1], opened.golden("output")[None])
            if expected is not None:
                rows += _form_rows(opened, subject + (", eager" if model else ""), form, got, expected)
            elif form["precision"] == "fp32":
                expected = got  # photos that were not recorded: the first float form is what the others are held to
    rows += _int8_rows(opened.meta)
    if not any(row.stage in ("logits", "probabilities") for row in rows):
        names = ", ".join(form["name"] for form in opened.meta["forms"])
        rows.append(Row("logits", names, note="no engine on this machine runs these forms"))
    return rows


def _answers(opened: Package, form: Mapping, tensors: Sequence[np.ndarray]) -> Iterator[tuple[str, np.ndarray | Row]]:
    """Yield each backend of a form, with its output for the tensors, or with the row that says why there is none."""
    stage = "logits" if opened.meta["output"]["kind"] == "logits" else "probabilities"
    alone = Package(opened.folder, {**opened.meta, "forms": [form]}, opened._checked)
    for backend, row in BACKENDS.items():
        if row.engine != form["engine"] or form["name"] not in row.prefer:
            continue
        subject = f"{form['name']}, {backend}"
        reason = why_not(alone, backend, form["precision"])
        if reason:
            yield backend, Row(stage, subject, note=reason)
            continue
        try:
            run: Run = open_backend(alone, backend, precision=form["precision"])[2]
            yield backend, np.concatenate([run(tensor[None]) for tensor in bar(tensors, subject)])
        except DamagedFileError:
            raise
        except UserError as error:  # the engine refuses this form; the others are judged all the same
            yield backend, Row(stage, subject, passed=False, note=error.message)


def _lite_rows(opened: Package, form: Mapping, kind: str) -> list[Row]:
    rows = [_nb_version(opened, form)]
    if form["target"] != "x86":
        stage = "logits" if kind == "logits" else "probabilities"
        rows.append(Row(stage, form["name"], note="ARM only: the board proves it (classify --self-test)"))
    return rows


def _int8_rows(meta: Mapping) -> list[Row]:
    """What int8 is judged by: the agreement with float that was computed at the export, for the boards."""
    rows = []
    for row in meta.get("accuracy", ()):
        if row.get("computed"):
            enough = row["samples"] >= ENOUGH
            needed = LOW_PRECISION_AGREEMENT["int8"] if enough else None
            subject = f"{row['form']}, {row['processor']}, computed at the export"
            passed = not enough or row["agreement"] >= needed
            note = f"{row['samples']} photos" + ("" if enough else f": judged from {ENOUGH} on")
            rows.append(Row("top-1", subject, None, row["agreement"], needed, passed, note))
    return rows


def _nb_version(opened: Package, form: Mapping) -> Row:
    subject = f"{form['files'][0]}, opt version"
    try:
        version = read_version(opened.check_file(form["files"][0]))
    except UserError as error:
        return Row("files", subject, passed=False, note=error.message)
    return Row("files", subject, agreement=1.0, passed=True, note=version)


def _form_rows(opened: Package, subject: str, form: Mapping, got: np.ndarray, expected: np.ndarray) -> list[Row]:
    decision = Decision.of(opened.meta)
    same, what = decision.agreement(got, expected), "labels" if decision.several else "top-1"
    stage = "logits" if decision.output == "logits" else "probabilities"
    sure = _sure_rows(subject, decision, got, expected)
    if form["precision"] == "fp32":
        numbers = _compare(stage, subject, got, expected, _bound(opened, stage))
        return [numbers, Row(what, subject, None, same, 1.0, same == 1.0), *sure]
    numbers = _compare(stage, subject, got, expected, float("inf"))
    numbers.bound, numbers.note = None, f"{form['precision']}: reported, {what} decides"
    numbers.agreement = None
    needed = LOW_PRECISION_AGREEMENT[form["precision"]] if len(got) >= ENOUGH else None
    note = f"{len(got)} photos" + ("" if needed else f", judged from {ENOUGH} on (--images)")
    if form["name"] == "pdmodel-int8" and _int8_rows(opened.meta):
        # Paddle's x86 kernels round elsewhere than a board: what they answer is no verdict on the program
        needed, note = None, f"{len(got)} photos, of {platform.machine()}; the computed row decides"
    return [numbers, Row(what, subject, None, same, needed, not needed or same >= needed, note), *sure]


def _sure_rows(subject: str, decision: Decision, got: np.ndarray, expected: np.ndarray) -> list[Row]:
    """How many photos two outputs agree to be sure or unsure of, where the package asks that: reported, not judged."""
    if decision.unsure_below is None:
        return []
    flags = [[decision.is_unsure(row) for row in decision.probabilities(output)] for output in (got, expected)]
    same = float(np.mean(np.equal(*flags)))
    note = f"{sum(flags[0])} of {len(got)} photos unsure"
    return [Row("answer", subject, None, same, None, True, note)]
