"""Which network, and shown photos how: a linear classifier on the features of each, cross-validated on some photos."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ppmobilenet import files
from ppmobilenet.data.lists import Samples
from ppmobilenet.fit import plan
from ppmobilenet.fit.bench import Bench
from ppmobilenet.fit.card import percent
from ppmobilenet.fit.drawn import Drawn
from ppmobilenet.fit.network import Candidate, madds
from ppmobilenet.fit.plan import TRAIN, Decision
from ppmobilenet.fit.probe import cross_entropy, folds_of, out_of_fold
from ppmobilenet.telling import aloud, log

SAMPLE, CLASSES = 400, 40  # photos that are looked at, of so many classes
PENALTY = 0.1


def compare(
    found: Sequence[Candidate],
    known: Sequence[Decision],
    samples: Samples,
    folder: Path,
    seed: int,
    seconds: float = float("inf"),
) -> dict:
    """Return the network to take, how it is shown photos, and why, in plain values.

    Of the ways to show photos to the same weights the one of least cross entropy; of networks that are right as often
    as the best within one standard error, the one of fewest multiply-adds.

    Args:
        found: to choose from, those of the same weights one after the other.
        known: decisions that were made.
        samples: the photos to learn from.
        folder: for a while.
        seed: of the photos that are looked at, and of the cross-validation.
        seconds: after which no other network is looked at.
    """
    if len(found) == 1:
        return {"chosen": found[0].told(), "why": found[0].why, "rows": []}
    drawn = Drawn(samples, _draw(samples.labels, seed))
    known = [*known, Decision(f"{TRAIN}.name", "ImageNetDataset", "some photos, one by one, whatever they lie in")]
    began, rows = time.monotonic(), []
    for place, one in enumerate(found):
        if rows and one.weights != found[place - 1].weights and time.monotonic() - began > seconds:
            log.info("no time to look at %s and what follows", one.weights.name)
            break
        rows.append(_judge(one, known, drawn, folder / str(place), seed))
    files.remove(folder)
    return _best(found, rows)


def _draw(labels: np.ndarray, seed: int) -> np.ndarray:
    """Return the places of some photos, as many of each class as can be."""
    rng = np.random.default_rng(seed)
    classes = np.sort(rng.permutation(np.unique(labels))[:CLASSES])
    each = [rng.permutation(np.flatnonzero(labels == label))[: SAMPLE // len(classes)] for label in classes]
    return np.sort(np.concatenate(each))


def _judge(candidate: Candidate, known: Sequence[Decision], drawn: Drawn, folder: Path, seed: int) -> dict:
    config = plan.configuration([*known, *plan.of_network(candidate, "")])
    with aloud(show=False):  # a line for each network comes at the end
        inputs, readable, samples = Bench(config, folder).inputs(config.train, "train", drawn)
    labels = samples.labels[readable]
    scores = out_of_fold(inputs, labels, config.arch.class_num, PENALTY, folds_of(labels, seed))
    right = int((scores.argmax(axis=1) == labels).sum())
    loss = round(float(cross_entropy(scores, labels).mean()), 4)
    return {"name": candidate.name, "right": right, "photos": len(labels), "loss": loss}


def _best(found: Sequence[Candidate], rows: Sequence[dict]) -> dict:
    ways: dict[Path, list[int]] = {}
    for place in range(len(rows)):
        ways.setdefault(found[place].weights, []).append(place)
    each = {min(places, key=lambda i: rows[i]["loss"]): places for places in ways.values()}
    said = {place: _said(rows, place, places) for place, places in each.items()}
    for place, text in said.items():
        log.info("%s: %s", found[place].weights.name, text)
    best = max(each, key=lambda i: rows[i]["right"])
    share = rows[best]["right"] / rows[best]["photos"]
    error = (share * (1 - share) * rows[best]["photos"]) ** 0.5
    equal = [i for i in each if rows[i]["right"] >= rows[best]["right"] - error]
    place = min(equal, key=lambda i: (madds(found[i].name), -rows[i]["right"]))
    why = found[place].why
    if len(each) > 1:
        why = f"the best of {len(each)} on these photos" if place == best else "as good as the best, and quicker"
    return {"chosen": found[place].told(), "why": f"{why}; {said[place]}", "rows": rows}


def _said(rows: Sequence[dict], place: int, places: Sequence[int]) -> str:
    """Say what the best way to show photos to some weights is worth, and the other ways."""
    shares = {i: percent(rows[i]["right"] / rows[i]["photos"]) for i in places}
    best = shares.pop(place)
    otherwise = f"; shown them otherwise in {', '.join(shares.values())}" if shares else ""
    return f"a linear classifier on its features is right in {best} of {rows[place]['photos']} photos{otherwise}"
