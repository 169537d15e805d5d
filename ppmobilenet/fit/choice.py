"""What a fit decides by measuring: the network, the penalty of its classifier, whether and how long to fine-tune."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from ppmobilenet.data.lists import Samples
from ppmobilenet.fit import plan
from ppmobilenet.fit.bench import Bench
from ppmobilenet.fit.card import percent
from ppmobilenet.fit.comparison import compare
from ppmobilenet.fit.network import Candidate
from ppmobilenet.fit.notebook import Notebook
from ppmobilenet.fit.plan import Decision
from ppmobilenet.fit.probe import Probe, probe
from ppmobilenet.fit.trial import judge_part, measure_pace, plan_course
from ppmobilenet.telling import log
from ppmobilenet.training.solved_head import solve

COMPARING = 0.2  # share of the time that may pass before other networks are left aside
AFTER = 30.0  # seconds that evaluation, report, export and its proof take, and Python before the clock began
LEAST = 15.0  # seconds below which fine-tuning is not even timed


@dataclass(frozen=True)
class Chosen:
    """A network on the bench.

    Attributes:
        name: of the network.
        bench: with its weights.
        probe: the linear classifier's cross-validation.
        decisions: all that were made.
    """

    name: str
    bench: Bench
    probe: Probe
    decisions: Sequence[Decision]


def choose_network(
    book: Notebook,
    found: Sequence[Candidate],
    known: Sequence[Decision],
    samples: Samples,
    folder: Path,
    seed: int,
    minutes: float,
) -> Chosen:
    """Take the network whose features tell these photos apart best, and cross-validate the linear classifier on them.

    Args:
        book: of the fit.
        found: networks to choose from, see :func:`ppmobilenet.fit.comparison.compare`.
        known: decisions that were made.
        samples: the photos to learn from.
        folder: keeps the features.
        seed: of the cross-validation.
        minutes: that the fit may take.
    """
    compared = partial(compare, found, known, samples, folder / "networks", seed, COMPARING * 60 * minutes)
    entry = book.once("network", compared)
    candidate = Candidate.of(entry["chosen"])
    decisions = [*known, *plan.of_network(candidate, entry["why"])]
    config = plan.configuration(decisions)
    bench = Bench(config, folder)
    inputs, readable, samples = bench.inputs(config.train, "train")
    probed = probe(inputs, samples.labels[readable], config.arch.class_num, seed, readable)
    shown = percent(probed.right / len(probed.labels))
    log.info("%s: the linear classifier is right in %s, cross-validated", candidate.name, shown)
    return Chosen(candidate.name, bench, probed, decisions)


def decide_training(book: Notebook, chosen: Chosen, folder: Path, minutes: float) -> list[Decision]:
    """Decide between the linear classifier and fine-tuning: by the time that is left, then by photos held out."""
    probed = chosen.probe
    floor = f"{percent(probed.right / len(probed.labels))} in {probed.parts}-fold cross-validation"
    solved = Decision("Arch.solve_head", probed.penalty, f"the best of {len(probed.losses)} penalties, {floor}")
    tuning = [*plan.FINE_TUNING, solved]
    left = 60 * minutes - book.seconds - AFTER
    course = book.once("course", lambda: _course([*chosen.decisions, *tuning], probed, left))
    epochs, why = course["epochs"], course["why"].format(minutes=f"--minutes {minutes:g}")
    if not epochs:
        return _linear(solved, why)
    config = plan.configuration(chosen.decisions)
    tuning += plan.of_crops(config, course["share"])
    tuning.append(plan.of_average(epochs * -(-len(probed.labels) // config.train.sampler.batch_size)))
    tuning.append(Decision("Global.epochs", epochs, why))
    verdict = _try_out(book, chosen, [*chosen.decisions, *tuning], course["parts"], folder)
    if not verdict["tuned"]:
        return _linear(solved, verdict["said"])
    return [
        *tuning[:-1],
        *plan.of_view(tuple(verdict["view"]), "how the photos held out of fine-tuning were answered best"),
        Decision("Global.epochs", epochs, f"{why}; {verdict['said']}"),
        Decision("Global.eval_interval", epochs, "once, at the end"),
    ]


def _linear(solved: Decision, why: str) -> list[Decision]:
    """Decide for the linear classifier."""
    log.info("the linear classifier is kept: %s", why)
    kept = Decision("Global.epochs", 0, f"the linear classifier is kept: {why}")
    return [solved, kept, Decision("Optimizer.lr.warmup_epoch", 0, "nothing is trained")]


def _course(decisions: Sequence[Decision], probed: Probe, left: float) -> dict:
    """Return how many epochs and trial parts there is time for."""
    if left < LEAST:
        return {"epochs": 0, "why": "{minutes} are too few for fine-tuning"}
    pace = measure_pace(decisions)
    found = plan_course(len(probed.labels), probed.parts, pace, left)
    speed = f"at {1 / pace:.0f} photos a second"
    if found is None:
        return {"epochs": 0, "why": f"{{minutes}} are too few for fine-tuning {speed}"}
    return {**found._asdict(), "why": f"what {{minutes}} allow {speed}"}


def _try_out(book: Notebook, chosen: Chosen, decisions: Sequence[Decision], parts: int, folder: Path) -> dict:
    """Judge fine-tuning on parts of the training photos that it has not seen."""
    probed, config = chosen.probe, plan.configuration(decisions)
    inputs, _, samples = chosen.bench.inputs(config.train, "train")
    views = plan.views(config)

    def write_start(path: Path, mask: np.ndarray) -> None:
        chosen.bench.write(path, solve(inputs[mask], probed.labels[mask], probed.scores.shape[1], probed.penalty))

    def one(part: int) -> dict:
        log.info("fine-tuning on trial, part %d of %d", part + 1, parts)
        place = folder / "trial" / str(part)
        found = judge_part(decisions, samples, probed, part, place, write_start, views)
        shutil.rmtree(place, ignore_errors=True)
        return found

    rows = [book.once(f"trial {part}", partial(one, part)) for part in range(parts)]
    shutil.rmtree(folder / "trial", ignore_errors=True)
    photos, linear = sum(row["photos"] for row in rows), np.sum([row["linear"] for row in rows], axis=0)
    by_view = np.sum([row["tuned"] for row in rows], axis=0)
    # not by who is right more often: of so few photos that is chance, and the probabilities tell more
    best = int(by_view[:, 1].argmin())
    (tuned, loss), (right, floor) = by_view[best], linear
    said = (
        f"of {photos} photos held out of it fine-tuning had {tuned:.0f} right (cross entropy {loss / photos:.3f}), "
        f"the linear classifier {right:.0f} ({floor / photos:.3f})"
    )
    log.info("%s", said)
    return book.once("verdict", lambda: {"tuned": bool(loss < floor), "said": said, "view": views[best]})
