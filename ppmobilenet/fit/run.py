"""Photos -> package: the steps of ``ppmobilenet fit``, each done once."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np

from ppmobilenet import files
from ppmobilenet.config import load_config
from ppmobilenet.data.split import Earlier
from ppmobilenet.errors import NumericsError, Stopped, UserError
from ppmobilenet.field.answers import softmax
from ppmobilenet.field.package import open_package
from ppmobilenet.field.verify import verify
from ppmobilenet.fit import earlier as earlier_fit
from ppmobilenet.fit import notebook, plan, suspects
from ppmobilenet.fit.choice import Chosen, choose_network, decide_training
from ppmobilenet.fit.earlier import CONTENTS, LISTS
from ppmobilenet.fit.network import AUTO, Candidate, candidates
from ppmobilenet.fit.photos import Photos, find, fingerprint
from ppmobilenet.fit.trial import COURSES
from ppmobilenet.report import figures, gather
from ppmobilenet.report.advice import knows_by_heart
from ppmobilenet.report.after import predict
from ppmobilenet.report.predictions import FILE_NAME as PREDICTIONS
from ppmobilenet.report.predictions import LINEAR, SUSPECTS, UNUSED, Collector, Predictions
from ppmobilenet.telling import aloud, log
from ppmobilenet.training.evaluator import Ready
from ppmobilenet.training.runfolder import owned
from ppmobilenet.training.solved_head import solve
from ppmobilenet.training.trainer import train
from ppmobilenet.workshop.certainty import Certainty
from ppmobilenet.workshop.export import export
from ppmobilenet.workshop.forms import parse_forms
from ppmobilenet.workshop.from_config import listed_photos

VERIFIED = 16  # held-out photos that the package answers once more
PACKAGE = "package"
LOCK = "fit.lock"  # not the training's: that one is taken inside of this one


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
        certainty: what the package is to know of how sure it is, as :func:`ppmobilenet.workshop.export.export` takes
            it.
    """

    photos: Path
    output: Path
    to: str = "inference"
    model: str = AUTO
    minutes: float = 10.0
    weights: str | None = None
    seed: int = 0
    earlier: Path | None = None
    certainty: Certainty | None = None


@aloud()
def fit(request: Request) -> dict:
    """Do it all (``ppmobilenet fit``); what an interrupted start has finished is not done again.

    Returns:
        What :func:`ppmobilenet.fit.card.card` shows, and where everything lies.

    Raises:
        UserError, DataError, DamagedFileError, NumericsError: what is wrong, and where.
        Stopped: by a signal; the same command goes on.
    """
    try:
        return _steps(request)
    except Stopped as error:
        raise Stopped(error.message, hint="the same command goes on there", exit_code=error.exit_code) from error


def _steps(request: Request) -> dict:
    forms, folder = parse_forms(request.to), request.output  # a mistyped form is said before anything is read
    if folder.resolve().is_relative_to(request.photos.resolve()):
        raise UserError(
            "the output would lie among the photos, and the next start would learn its pictures",
            where=folder,
            hint=f"--output a folder outside of {request.photos}",
        )
    book = notebook.Notebook(folder, _asked(request))  # what cannot be gone on with is said before a file is made
    if request.earlier is not None:
        earlier, networks = earlier_fit.split_of(request.earlier), [earlier_fit.network_of(request.earlier)]
    else:
        earlier, networks = None, candidates(request.model, request.weights)
    with owned(folder, LOCK, "--output another folder"):
        book.look()  # another fit may have ended here since
        return _found(request, forms, book, earlier, networks)


def _found(
    request: Request,
    forms: Sequence[str],
    book: notebook.Notebook,
    earlier: Earlier | None,
    networks: Sequence[Candidate],
) -> dict:
    folder = request.output
    book.once("photos", lambda: _look(request, earlier))
    photos = earlier_fit.photos_of(book.entries["photos"], request.photos, folder)
    for line in photos.said:
        log.info("%s", line)
    known, samples = plan.of_photos(photos, folder, request.seed), photos.samples("train")
    chosen = choose_network(book, networks, known, samples, folder, request.seed, request.minutes)
    decisions = [*chosen.decisions, *decide_training(book, chosen, folder, request.minutes)]
    plan.write(decisions, folder / plan.FILE_NAME)
    book.once("trained", partial(_train, folder))
    book.once("linear", lambda: _judge_linear(chosen, decisions, folder))
    book.once("suspects", lambda: _suspects(chosen, photos, folder))
    wanted = {"forms": list(forms), "certainty": request.certainty and asdict(request.certainty)}
    if book.entries.get("package", wanted) != wanted or not (folder / PACKAGE / "package.json").is_file():
        book.entries.pop("package", None)
    book.once("package", lambda: _export(folder, forms, request.certainty) or wanted)
    return _result(book, request, photos, chosen.name)


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


def _look(request: Request, earlier: Earlier | None) -> dict:
    """Look at the photos; return what was found in plain values: lists by name only, for a fit's folder may move."""
    photos = find(request.photos, request.output / LISTS, request.seed, earlier)
    unused = [line.encode("utf-8", "replace").decode() for line in photos.unused]
    files.write_text(request.output / UNUSED, json.dumps(unused, indent=1, ensure_ascii=False))
    if photos.sides:
        files.write_text(request.output / LISTS / CONTENTS, json.dumps(photos.sides, indent=1))
    lists = {key: path and path.name for key, path in vars(photos).items() if key in ("train", "val", "labels")}
    return {**lists, "names": list(photos.names), "said": list(photos.said)}


def _train(folder: Path) -> dict:
    """Train what fit.yaml says, going on where an earlier start stopped; then the photos held out judge it."""
    config = load_config(folder / plan.FILE_NAME, plan.overrides(plan.going_on(folder)))

    def judge(best: Callable[[], Ready]) -> None:
        predict(best(), config)[1].save(folder / PREDICTIONS)

    return {key: round(float(value), 6) for key, value in train(config, then=judge).items()}


def _judge_linear(chosen: Chosen, decisions: Sequence[plan.Decision], folder: Path) -> dict:
    """Have the linear classifier answer the photos held out, for comparison."""
    config, names = plan.configuration(decisions), Predictions.load(folder / PREDICTIONS).names
    inputs, readable, samples = chosen.bench.inputs(config.train, "train")
    linear = solve(inputs, samples.labels[readable], len(names), config.arch.solve_head)
    inputs, readable, samples = chosen.bench.inputs(config.eval, "eval")
    collector = Collector(names)
    collector.add(softmax(linear.logits(inputs)), samples.labels[readable], np.flatnonzero(readable))
    table = collector.finish([samples.path(i) for i in range(len(samples))], penalty=config.arch.solve_head)
    table.save(folder / LINEAR)
    return figures.accuracy(table)


def _suspects(chosen: Chosen, photos: Photos, folder: Path) -> int:
    """Write down the training photos whose labels look wrong; return how many."""
    if not suspects.available():
        log.info("labels were not examined: pip install 'ppmobilenet[fit]' brings cleanlab")
        return 0
    found = suspects.suspects(photos.samples("train"), chosen.probe.readable, chosen.probe.scores, photos.names)
    rows = [suspect.to_dict() for suspect in found]
    files.write_text(folder / SUSPECTS, json.dumps(rows, indent=1, ensure_ascii=False))
    for line in suspects.lines(found, 3):
        log.info("label? %s", line)
    return len(found)


def _export(folder: Path, forms: Sequence[str], certainty: Certainty | None) -> None:
    """Write the package and let it answer photos once more, as anybody may who gets it."""
    config = load_config(folder)
    package = export(
        config,
        to=forms,
        output=folder / PACKAGE,
        with_board=any(name.startswith("lite") for name in forms),
        certainty=certainty,
    )
    held_out = [path for path, _ in listed_photos(config.eval)]
    report = verify(package, held_out[:: max(1, len(held_out) // VERIFIED)][:VERIFIED])
    if report.first_departure is not None:
        first = report.first_departure
        raise NumericsError(f"the package departs at {first.stage} ({first.subject})", where=package)


def _result(book: notebook.Notebook, request: Request, photos: Photos, network: str) -> dict:
    folder = request.output
    report = gather.report_folder(folder)
    told = json.loads(report.with_name("report.json").read_text(encoding="utf-8"))
    table, linear = Predictions.load(folder / PREDICTIONS), Predictions.load(folder / LINEAR)
    seen = [row for row in figures.per_class(table) if row["support"]]
    epochs = int(book.entries["trained"]["epochs"])
    return {
        "output": folder,
        "export": " ".join(_words({"--to": f"{request.to},lite-armv8"}, request.certainty)),
        "network": network,
        "kept": "tuned" if epochs else "linear",
        "what": f"fine-tuned in {epochs} epochs" if epochs else "not fine-tuned: a linear classifier on its features",
        "accuracy": figures.accuracy(table),
        "linear": figures.accuracy(linear),
        "weakest": min(seen, key=lambda row: row["recall"]),
        "forms": gather.forms(open_package(folder / PACKAGE)),
        "latencies": told.get("latencies", []),
        "package": folder / PACKAGE,
        "report": report,
        "plan": folder / plan.FILE_NAME,
        "suspects": book.entries["suspects"],
        "classes": list(photos.names),
        "seconds": round(book.seconds, 1),
        "go_on": _going_on(request, _could_be_longer(book, table, told.get("curves", ()))),
        "steps": book.entries,
    }


def _could_be_longer(book: notebook.Notebook, table: Predictions, curves: Sequence[dict]) -> bool:
    """Whether more minutes may do better: there was no time to fine-tune, or to do it as long as it can be done."""
    course, found = book.entries["course"], figures.accuracy(table)
    if found["right"] == found["photos"]:
        return False
    if not course["epochs"]:
        return True
    longest = (course["epochs"], course["share"]) == COURSES[0]
    return book.entries["verdict"]["tuned"] and not longest and not knows_by_heart(found, curves)


def _going_on(request: Request, longer: bool) -> str:
    """Return the command that is most likely to make it better."""
    photos, output = shlex.quote(str(request.photos)), shlex.quote(str(request.output))
    if longer:
        given = {"--to": request.to, "--model": request.model, "--weights": request.weights, "--seed": request.seed}
        usual = {"--to": Request.to, "--model": Request.model, "--seed": Request.seed}
        given["--from"] = request.earlier
        given = {key: value for key, value in given.items() if value != usual.get(key)}
        more = _words(given, request.certainty)
        return " ".join(["ppmobilenet fit", photos, f"--minutes {3 * request.minutes:g}", *more, "--output ANOTHER"])
    return f"more photos, then: ppmobilenet fit {photos} --from {output} --output ANOTHER"


def _words(given: dict[str, object], certainty: Certainty | None) -> list[str]:
    """Return options as they are typed, those of the package's certainty among them."""
    if certainty is not None:
        given = {**given, "--calibrate": True} if certainty.unsure_at is None else {
            **given, "--unsure-at": certainty.unsure_at, "--none-of-these": certainty.none_of_these,
        }  # fmt: skip
    typed = {key: value for key, value in given.items() if value is not None}
    return [key if value is True else f"{key} {shlex.quote(str(value))}" for key, value in typed.items()]
