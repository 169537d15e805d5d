"""How sure a network may be: a temperature for its probabilities, and a threshold below which it is ``unsure``.

Temperature (Guo et al. 2017): the one number by which the logits are divided so that the validation photos' labels
become most likely. It changes no best answer.

False accept: an answer that stands as sure and should not. Where a folder of photos that show none of the classes is
given, its photos are those that should not be answered; else the validation photos that the network answers wrongly,
which says nothing of things it was never shown. The threshold is the lowest at which no more than the stated share of
these is accepted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ppmobilenet.errors import UserError
from ppmobilenet.field.decision import Decision
from ppmobilenet.telling import log
from ppmobilenet.training.metrics import reliability

COOLEST, HOTTEST = 0.05, 20.0
ENOUGH = 100  # validation photos, for a temperature that another set would give about the same
WRONG, STRANGERS = "wrong answers", "none of these"


@dataclass(frozen=True)
class Certainty:
    """What a package shall know of its own certainty; a temperature always.

    Attributes:
        unsure_at: the false-accept rate that is allowed, above 0 and below 1; None: no threshold.
        none_of_these: a folder of photos that show none of the classes.

    Raises:
        UserError: a rate out of bounds, or photos without a rate.
    """

    unsure_at: float | None = None
    none_of_these: str | None = None

    def __post_init__(self):
        if self.unsure_at is not None and not 0 < self.unsure_at < 1:
            raise UserError(
                f"a false-accept rate of {self.unsure_at:g}", where="--unsure-at", allowed="above 0 and below 1"
            )
        if self.none_of_these and self.unsure_at is None:
            raise UserError("at which false-accept rate?", where="--none-of-these", hint="add --unsure-at 0.05")


def decide(logits: np.ndarray, labels: np.ndarray, wanted: Certainty, strangers: np.ndarray | None = None) -> dict:
    """Return what package.json says as ``decision``, and tell it.

    Args:
        logits: ``[N, class_num]`` of the validation photos.
        labels: ``[N]`` their classes.
        wanted: what is asked.
        strangers: ``[M, class_num]`` of photos that show none of the classes; None: nobody has any.

    Raises:
        UserError: there is nothing to measure a threshold on.
    """
    temperature = fit_temperature(logits, labels)
    before, after = _error(logits, labels, 1.0), _error_of_halves(logits, labels)
    found = {"temperature": temperature, "photos": len(labels), "ece_before": before, "ece_after": after}
    log.info(
        "temperature %.3f: calibration error %.1f %% -> %.1f %% (%d validation photos, each half by the other's)",
        *(temperature, 100 * before, 100 * after, len(labels)),
    )
    if temperature == 1:
        log.info("note: no temperature can be measured where every photo, or none, is answered rightly: it stays 1")
    if len(labels) < ENOUGH:
        log.info("note: of %d photos a temperature is a rough guess; %d and more are better", len(labels), ENOUGH)
    if wanted.unsure_at is not None:
        found |= _threshold(logits, labels, temperature, wanted, strangers)
    return found


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the temperature at which the labels are most likely; 1 where every photo (or none) is answered rightly.

    The mean negative log-likelihood is convex in 1 / temperature, so its slope changes its sign once.
    """
    logits = np.asarray(logits, np.float64)
    right = logits.argmax(axis=1) == labels
    if right.all() or not right.any():
        return 1.0
    own = logits[np.arange(len(labels)), labels]

    def rises(beta: float) -> bool:
        scaled = np.exp(beta * (logits - logits.max(axis=1, keepdims=True)))
        expected = (scaled * logits).sum(axis=1) / scaled.sum(axis=1)
        return float((expected - own).mean()) > 0

    low, high = 1 / HOTTEST, 1 / COOLEST
    for _ in range(60):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if rises(middle) else (middle, high)
    return round(1 / math.sqrt(low * high), 5)


def _error(logits: np.ndarray, labels: np.ndarray, temperature: float) -> float:
    scores = Decision("logits", temperature).probabilities(logits)
    return round(reliability(scores.max(axis=1), scores.argmax(axis=1) == labels)[0], 5)


def _error_of_halves(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the calibration error of two halves, each with the temperature of the other: nothing is judged by itself.

    Every second photo is one half, since lists are often sorted by class.
    """
    if len(labels) < 2:
        return _error(logits, labels, 1.0)
    temperatures = [fit_temperature(logits[start::2], labels[start::2]) for start in (1, 0)]
    divided = np.array(logits, np.float64)
    for start, temperature in enumerate(temperatures):
        divided[start::2] /= temperature
    return _error(divided, labels, 1.0)


def _threshold(
    logits: np.ndarray, labels: np.ndarray, temperature: float, wanted: Certainty, strangers: np.ndarray | None
) -> dict:
    decision, rate = Decision("logits", temperature), wanted.unsure_at
    scores = decision.probabilities(logits)
    best, right = scores.max(axis=1), scores.argmax(axis=1) == labels
    by = WRONG if strangers is None else STRANGERS
    judged = best[~right] if strangers is None else decision.probabilities(strangers).max(axis=1)
    if not len(judged):
        raise UserError(
            f"all {len(labels)} validation photos are answered rightly: no threshold can be measured on them",
            where="--unsure-at",
            hint="give photos that show none of the classes: --none-of-these DIR",
        )
    threshold = lowest_threshold(judged, rate)
    sure = best >= threshold
    found = {
        "unsure_below": threshold,
        "false_accept": float(rate),
        "judged_by": by,
        "judged_photos": len(judged),
        "judged_accepted": int((judged >= threshold).sum()),
        "right_kept": round(float(sure[right].mean()) if right.any() else 0.0, 5),
        "sure_wrong": round(float((~right[sure]).mean()) if sure.any() else 0.0, 5),
    }
    log.info(
        "unsure below %.4f: %d of %d photos (%s) stay sure, at most %g %% were to; of the right answers %.1f %% stay "
        "sure, and of the sure ones %.1f %% are wrong",
        *(threshold, found["judged_accepted"], len(judged), by, 100 * rate),
        *(100 * found["right_kept"], 100 * found["sure_wrong"]),
    )
    if len(judged) * rate < 1:
        log.info(
            "note: %d photos cannot show a rate of %g %%: none of them stays sure, and that is all that is known; %d "
            "would do",
            *(len(judged), 100 * rate, math.ceil(1 / rate)),
        )
    return found


def lowest_threshold(scores: np.ndarray, rate: float) -> float:
    """Return the lowest threshold, to 5 decimals, at which at most ``rate`` of the scores are not below it."""
    falling = np.sort(np.asarray(scores, np.float64))[::-1]
    first_refused = falling[int(math.floor(rate * len(falling) + 1e-9))]
    return math.floor(first_refused * 1e5 + 1) / 1e5
