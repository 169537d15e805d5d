"""Photos -> package: the steps of ``ppmobilenet fit``, each done once."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np

from ppmobilenet import files
from ppmobilenet.config import load_config
from ppmobilenet.data.split import Earlier
from ppmobilenet.errors import Stopped, UserError
from ppmobilenet.field.answers import softmax
from ppmobilenet.field.package import open_package
from ppmobilenet.field.verify import verify
from ppmobilenet.fit import notebook, plan, suspects
from ppmobilenet.fit.bench import Bench
from ppmobilenet.fit.card import percent
from ppmobilenet.fit.network import AUTO, Candidate, candidates
from ppmobilenet.fit.photos import Photos, find, fingerprint
from ppmobilenet.fit.plan import Decision
from ppmobilenet.fit.probe import Probe, probe
from ppmobilenet.fit.trial import Course, judge_part, measure_pace, plan_course
from ppmobilenet.report import figures, gather
from ppmobilenet.report.after import predict
from ppmobilenet.report.predictions import FILE_NAME as PREDICTIONS
from ppmobilenet.report.predictions import LINEAR, SUSPECTS, Collector, Predictions
from ppmobilenet.telling import NOWHERE, aloud, log
from ppmobilenet.training.evaluator import Ready
from ppmobilenet.training.solved_head import solve
from ppmobilenet.training.trainer import train
from ppmobilenet.weights import catalog
from ppmobilenet.workshop.export import export
from ppmobilenet.workshop.forms import parse_forms

VERIFIED = 16  # held-out photos that the package answers once more
AFTER = 25.0  # seconds that evaluation, report, export and its proof take


@dataclass(frozen=True)
class Request:
    """What is asked for.

    Attributes:
        photos: the folder.
        output: where everything goes.
        to: forms of the package, as ``export`` takes them.
        model: ``"auto"`` or a network's name.
        minutes: that may be spent.
        weights: a weight file to begin with; None: published ones.
        seed: of every random choice.
        earlier: an earlier fit's folder, to go on from.
    """

    photos: Path
    output: Path
    to: str = "inference"
    model: str = AUTO
    minutes: float = 10.0
    weights: str | None = None
    seed: int = 0
    earlier: Path | None = None


@aloud()
def fit(request: Request) -> dict:
    """Do it all (``ppmobilenet fit``); what an interrupted start has finished is not done again.

    Returns:
        What :func:`ppmobilenet.fit.card.card` shows, and where everything lies.

    Raises:
        UserError, DataError, DamagedFileError, NumericsError: what is wrong, and where.
        Stopped: by a signal; the same command goes on.
    """
    forms = parse_forms(request.to)  # a mistyped form is said before anything is read
    book = notebook.Notebook(request.output, _asked(request))
    before = notebook.read(request.earlier) if request.earlier else None
    earlier = _earlier_split(before) if before else None
    if before is None:
        found = candidates(request.model, request.weights)
    else:
        found = [_earlier_network(request.earlier)]
    photos = _photos(
        book.once("photos", lambda: _to_dict(find(request.photos, request.output / "lists", request.seed, earlier)))
    )
    for line in photos.said:
        log.info("%s", line)
    decisions = plan.of_photos(photos, request.output, request.seed)
    chosen, probed = _choose(book, found, photos, decisions, request)
    decisions += plan.of_network(chosen, book.entries["network"]["why"])
    bench = Bench(plan.configuration(decisions), request.output)
    decisions += _decide_training(book, bench, probed, photos, decisions, request)
    plan.write(decisions, request.output / plan.FILE_NAME)
    try:
        book.once("trained", partial(_train, request.output))
    except Stopped as error:
        raise Stopped(error.message, hint="the same command goes on there", exit_code=error.exit_code) from error
    _judge_linear(bench, decisions, request.output)
    doubts = book.once("suspects", lambda: _suspects(bench, probed, photos, decisions, request.output))
    _export(book, request.output, forms)
    return _result(book, request, photos, chosen, doubts)


def _asked(request: Request) -> dict:
    """What every step depends on."""
    weights = Path(request.weights).expanduser() if request.weights else None
    about = weights.stat() if weights and weights.exists() else None
    return {
        "photos": str(request.photos.resolve()),
        "fingerprint": fingerprint(request.photos),
        "model": request.model,
        "weights": about and [str(weights.resolve()), about.st_size, about.st_mtime_ns],
        "minutes": request.minutes,
        "seed": request.seed,
        "from": str(request.earlier.resolve()) if request.earlier else None,
    }


def _to_dict(photos: Photos) -> dict:
    return {key: str(value) if isinstance(value, Path) else value for key, value in asdict(photos).items()}


def _photos(told: dict) -> Photos:
    paths = {key: told[key] and Path(told[key]) for key in ("root", "train", "val", "labels")}
    return Photos(**paths, names=tuple(told["names"]), said=tuple(told["said"]))


def _earlier_split(before: dict) -> Earlier:
    photos = _photos(before["entries"]["photos"])
    sides = {}
    for side in ("train", "val"):
        samples = photos.samples(side)
        sides.update({samples.name(i): side for i in range(len(samples))})
    return Earlier(photos.names, sides)


def _earlier_network(folder: Path) -> Candidate:
    config = load_config(folder)
    arguments = {key: value for key, value in config.arch.parameters.items() if key != "class_num"}
    _, side, _ = config.run.image_shape or (3, 224, 224)
    short = next(
        (op["ResizeImage"]["resize_short"] for op in config.eval.dataset.transform_ops if "ResizeImage" in op), side
    )
    weights = Path(f"{config.run.pretrained_model}.pdparams")
    return Candidate(config.arch.name, arguments, weights, f"--from {folder}: what was learned there", (side, short))


def _choose(
    book: notebook.Notebook, found: Sequence[Candidate], photos: Photos, decisions: Sequence[Decision], request: Request
) -> tuple[Candidate, Probe]:
    """Cross-validate the linear classifier on each network's features; return the best network and its probe."""
    probes: dict[int, Probe] = {}

    def probed(place: int) -> Probe:
        if place not in probes:
            folder = request.output / "networks" / str(place) if len(found) > 1 else request.output
            probes[place] = _probe(found[place], photos, decisions, folder, request.seed)
        return probes[place]

    def compare() -> dict:
        rows = []
        for place, candidate in enumerate(found):
            one = probed(place)
            right = one.right
            rows.append({"name": candidate.name, "right": right, "photos": len(one.labels), "madds": _madds(candidate)})
            log.info(
                "%s: the linear classifier is right in %s of its cross-validation",
                candidate.name,
                percent(right / len(one.labels)),
            )
        best = max(range(len(rows)), key=lambda i: rows[i]["right"])
        margin = (rows[best]["right"] * (1 - rows[best]["right"] / rows[best]["photos"])) ** 0.5
        equal = [i for i, row in enumerate(rows) if row["right"] >= rows[best]["right"] - margin]
        place = min(equal, key=lambda i: rows[i]["madds"])
        why = (
            found[place].why
            if len(rows) == 1
            else "best on these photos"
            if place == best
            else "as good as the best here, and quicker"
        )
        return {"place": place, "weights": str(found[place].weights), "rows": rows, "why": why}

    entry = book.once("network", compare)
    place = next((i for i, c in enumerate(found) if str(c.weights) == entry["weights"]), 0)
    one = probed(place)
    if len(found) > 1:
        for file in (request.output / "networks" / str(place)).glob("features-*"):
            os.replace(file, request.output / file.name)
        shutil.rmtree(request.output / "networks", ignore_errors=True)
    return found[place], one


def _madds(candidate: Candidate) -> float:
    row = catalog.rows().get(candidate.name)
    return row.madds if row else float("inf")


def _probe(candidate: Candidate, photos: Photos, decisions: Sequence[Decision], folder: Path, seed: int) -> Probe:
    config = plan.configuration([*decisions, *plan.of_network(candidate, "")])
    inputs, readable, samples = Bench(config, folder).inputs(config.train, "train")
    return probe(inputs, samples.labels[readable], len(photos.names), seed, readable)


def _decide_training(
    book: notebook.Notebook,
    bench: Bench,
    probed: Probe,
    photos: Photos,
    decisions: Sequence[Decision],
    request: Request,
) -> list[Decision]:
    """Decide between the linear classifier and fine-tuning, and how long."""
    floor = f"{percent(probed.right / len(probed.labels))} in {len(np.unique(probed.fold))}-fold cross-validation"
    solved = Decision("Arch.solve_head", probed.penalty, f"the best of {len(probed.losses)} penalties, {floor}")
    tuning = [*plan.of_fine_tuning(len(probed.labels)), solved]

    def course() -> dict:
        left = 60 * request.minutes - book.seconds - AFTER
        if left <= 0:
            return {"epochs": 0, "why": f"--minutes {request.minutes:g} are too few for fine-tuning"}
        pace = measure_pace([*decisions, *tuning])
        found = plan_course(len(probed.labels), len(np.unique(probed.fold)), pace, left)
        if found is None:
            return {
                "epochs": 0,
                "why": f"--minutes {request.minutes:g} are too few for fine-tuning at {1 / pace:.0f} photos a second",
            }
        said = f"what --minutes {request.minutes:g} allow at {1 / pace:.0f} photos a second"
        return {"epochs": found.epochs, "parts": found.parts, "why": said}

    entry = book.once("course", course)
    verdict = entry["why"]
    if entry["epochs"]:
        verdict = _try_out(
            book,
            bench,
            probed,
            [*decisions, *tuning, Decision("Global.epochs", entry["epochs"], "")],
            Course(entry["epochs"], entry["parts"]),
            request.output,
        )
    if not entry["epochs"] or not book.entries["verdict"]["tuned"]:
        return [solved, Decision("Global.epochs", 0, f"the linear classifier is kept: {verdict}")]
    return [
        *tuning,
        Decision("Global.epochs", entry["epochs"], f"{entry['why']}; {verdict}"),
        Decision("Global.eval_interval", entry["epochs"], "once, at the end"),
    ]


def _try_out(
    book: notebook.Notebook, bench: Bench, probed: Probe, decisions: Sequence[Decision], course: Course, folder: Path
) -> str:
    """Judge fine-tuning on parts that it has not seen; return the verdict in words."""
    inputs, readable, samples = bench.inputs(plan.configuration(decisions).train, "train")
    samples = samples if readable.all() else None
    if samples is None:
        raise UserError(
            "a photo cannot be read any more", where=folder, hint="start again: the photos are looked at anew"
        )

    def write_start(path: Path, mask: np.ndarray) -> None:
        bench.write(path, solve(inputs[mask], probed.labels[mask], probed.scores.shape[1], probed.penalty))

    def one(part: int) -> dict:
        place = folder / "trial" / str(part)
        log.info("fine-tuning on trial: part %d of %d", part + 1, course.parts)
        found = judge_part(decisions, samples, probed, part, place, write_start)
        shutil.rmtree(place, ignore_errors=True)
        return found

    rows = [book.once(f"trial {part}", partial(one, part)) for part in range(course.parts)]
    shutil.rmtree(folder / "trial", ignore_errors=True)
    tuned, linear, photos = (sum(row[key] for row in rows) for key in ("tuned", "linear", "photos"))
    said = f"of {photos} photos held out of training fine-tuning had {tuned} right, the linear classifier {linear}"
    log.info("%s", said)
    book.once("verdict", lambda: {"tuned": tuned > linear, "said": said})
    return said


def _train(folder: Path) -> dict:
    """Train what fit.yaml says, going on where an earlier start stopped; judge it by the photos held out."""
    config = load_config(folder / plan.FILE_NAME, ["Global.checkpoints=auto"])

    def judge(best: Callable[[], Ready]) -> None:
        predict(best(), config.labels)[1].save(folder / PREDICTIONS)

    return train(config, then=judge)


def _judge_linear(bench: Bench, decisions: Sequence[Decision], folder: Path) -> None:
    """Have the linear classifier answer the photos held out, for comparison."""
    if (folder / LINEAR).is_file():
        return
    config = plan.configuration(decisions)
    tables = Predictions.load(folder / PREDICTIONS)
    inputs, readable, samples = bench.inputs(config.train, "train")
    linear = solve(inputs, samples.labels[readable], len(tables.names), config.arch.solve_head)
    inputs, readable, samples = bench.inputs(config.eval, "eval")
    collector = Collector(tables.names)
    collector.add(softmax(linear.logits(inputs)), samples.labels[readable], np.flatnonzero(readable))
    paths = [samples.path(i) for i in range(len(samples))]
    collector.finish(paths, penalty=config.arch.solve_head).save(folder / LINEAR)


def _suspects(bench: Bench, probed: Probe, photos: Photos, decisions: Sequence[Decision], folder: Path) -> int:
    if not suspects.available():
        log.info("labels were not examined: pip install 'ppmobilenet[fit]' brings cleanlab")
        return 0
    samples = photos.samples("train")
    found = suspects.suspects(samples, probed.readable, probed.scores, photos.names)
    rows = [suspect.to_dict() for suspect in found]
    files.write_text(folder / SUSPECTS, json.dumps(rows, indent=1, ensure_ascii=False))
    for line in suspects.lines(found, 3):
        log.info("%s", line)
    return len(found)


def _export(book: notebook.Notebook, folder: Path, forms: Sequence[str]) -> None:
    """Write the package, unless it is there with these forms, and let it answer once more."""
    package = folder / "package"

    def made() -> list[str]:
        export(load_config(folder), to=forms, output=package)
        config = load_config(folder)
        photos = [path for path, _ in config_photos(config)]
        report = verify(package, [Path(path).read_bytes() for path in photos])
        if report.first_departure is not None:
            raise UserError(f"the package departs at {report.first_departure.stage}", where=package)
        return list(forms)

    if book.entries.get("exported") != list(forms) or not (package / "package.json").is_file():
        book.entries.pop("exported", None)
    book.once("exported", made)


def config_photos(config) -> list[tuple[str, int]]:
    from ppmobilenet.workshop.from_config import listed_photos

    return list(listed_photos(config.eval))[:VERIFIED]


def _result(book: notebook.Notebook, request: Request, photos: Photos, chosen: Candidate, doubts: int) -> dict:
    folder = request.output
    config = load_config(folder)
    with aloud(NOWHERE):
        report = gather.report_folder(folder)
    told = json.loads(report.with_name("report.json").read_text(encoding="utf-8"))
    table, linear = Predictions.load(folder / PREDICTIONS), Predictions.load(folder / LINEAR)
    seen = [row for row in figures.per_class(table) if row["support"]]
    tuned = config.run.epochs > 0
    what = f"fine-tuned for {config.run.epochs} epochs" if tuned else "its trunk as it was, the classifier solved"
    package = open_package(folder / "package")
    return {
        "output": folder,
        "network": chosen.name,
        "kept": "tuned" if tuned else "linear",
        "what": what,
        "accuracy": figures.accuracy(table),
        "linear": figures.accuracy(linear),
        "weakest": min(seen, key=lambda row: row["recall"]),
        "forms": gather.forms(package),
        "latencies": told.get("latencies", []),
        "package": folder / "package",
        "report": report,
        "plan": folder / plan.FILE_NAME,
        "suspects": doubts,
        "classes": list(photos.names),
        "seconds": round(book.seconds, 1),
        "go_on": f"ppmobilenet train -c {folder} -o Global.epochs={2 * config.run.epochs}"
        if tuned
        else f"ppmobilenet fit {request.photos} --minutes {max(10, round(3 * request.minutes))} --output ANOTHER",
        "steps": book.entries,
    }
