"""Fine-tuning on a part of the training photos, judged on the rest: is it worth more than the linear classifier?"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ppmobilenet import files
from ppmobilenet.config import Config
from ppmobilenet.data.build import lists_of
from ppmobilenet.data.lists import Samples
from ppmobilenet.field.answers import softmax
from ppmobilenet.fit import plan
from ppmobilenet.fit.plan import EVAL, TRAIN, Decision, configuration
from ppmobilenet.fit.probe import Probe, cross_entropy
from ppmobilenet.telling import aloud
from ppmobilenet.training.device import set_device
from ppmobilenet.training.evaluator import Ready, build_evaluator
from ppmobilenet.training.keeping import Keeper
from ppmobilenet.training.setting import prepare
from ppmobilenet.training.start import find_start
from ppmobilenet.training.state import TrainState
from ppmobilenet.training.trainer import train, train_epoch
from ppmobilenet.workshop.certainty import fit_temperature

# passes over the photos and the share of the recipe's crop that is trained on, the first that the time allows; by 600
# photos of clothes, the other 300 judging, three times: MobileNetV2 in 12 passes at 160 pixels, 8 at 192 and 6 at 224
# was right in 83.2, 83.2 and 83.8 %, MobileNetV3 small in 8 passes at 224 in 82.9 %
COURSES = ((8, 1.0), (8, 6 / 7), (8, 5 / 7), (7, 5 / 7), (6, 5 / 7), (5, 5 / 7), (4, 5 / 7))
SHRINKING = 1.5  # the pace goes with this power of the side: reading a photo takes as long for small crops
SPARE = 1.05  # a long training is slower than its first steps: the processor gets warm, others work beside it
START = 4.0  # seconds that a training takes besides its steps
SLOW, TIMED = 3, 9  # steps: the first ones compile and fill memory, the median of the others is the pace


class Course(NamedTuple):
    """How long a fine-tuning is to take: passes over the photos, trials of it before, share of the recipe's crop."""

    epochs: int
    parts: int
    share: float


def plan_course(photos: int, parts: int, pace: float, seconds: float) -> Course | None:
    """Return the longest course that there is time for; None: there is not enough for any.

    Args:
        photos: to learn from.
        parts: of the cross-validation.
        pace: seconds that a training step takes for each of its photos, in crops of the recipe's size.
        seconds: that are left.
    """
    for epochs, share in COURSES:
        for judged in range(parts, 0, -1):
            passes = 1 + judged * (parts - 1) / parts
            if SPARE * epochs * photos * pace * share**SHRINKING * passes + START * (1 + judged) <= seconds:
                return Course(epochs, judged, share)
    return None


class _Clock(Keeper):
    """Notes when the weights changed."""

    def __init__(self):
        self.times: list[float] = []

    def changed(self, state: TrainState, asked: bool) -> None:
        self.times.append(time.monotonic())


def measure_pace(decisions: Sequence[Decision]) -> float:
    """Return the seconds that training takes for each photo, of a few steps on a network that is then dropped."""
    config = configuration([*decisions, Decision("Arch.solve_head", None, ""), Decision("EMA.decay", 0.99, "")])
    clock = _Clock()
    with aloud(show=False):  # its lines are of no use to anybody
        device, lists = set_device(config.run.device), lists_of(config.train, config.eval)
        state, setting = prepare(config, find_start(config.weights, training=True), lists, device, 0, 1)
        try:
            began = time.monotonic()
            train_epoch(state, replace(setting, steps=min(SLOW + TIMED, setting.steps)), clock)
        finally:
            setting.loader.close()
    steps = np.diff([began, *clock.times]).tolist()
    return statistics.median(steps[SLOW:] or steps) / setting.loader.batch_size


def judge_part(
    decisions: Sequence[Decision],
    samples: Samples,
    probe: Probe,
    part: int,
    folder: Path,
    write_start: Callable[[Path, np.ndarray], None],
    views: Sequence[tuple[int, int]],
) -> dict:
    """Fine-tune without one part of the training photos, and judge it and the linear classifier there.

    Args:
        decisions: of the fine-tuning.
        samples: the training photos.
        probe: the linear classifier's cross-validation.
        part: of it.
        folder: of this trial; an unfinished one goes on.
        write_start: writes the weights to begin with into a file: the classifier solved on the photos of a mask.
        views: how photos are shown to what was fine-tuned, see :func:`ppmobilenet.fit.plan.of_view`.

    Returns:
        ``photos`` of the part; ``linear``, and ``tuned`` for each view: ``[right, loss]``, how many it had right, and
        the sum of its cross entropies at the temperature that suits it best: one is trained with smoothed labels, the
        other regularised, and neither's certainty is what is asked.
    """
    held = probe.fold == part
    start = folder / "start.pdparams"
    for name, mask in (("train", ~held), ("held", held)):
        lines = "".join(f"{samples.name(i)} {samples.labels[i]}\n" for i in np.flatnonzero(mask))
        files.write_bytes(folder / f"{name}.txt", lines.encode("utf-8", "surrogateescape"))
    write_start(start, ~held)
    decisions = [
        *decisions,
        Decision("Arch.solve_head", None, "the file has it"),
        Decision("Global.pretrained_model", str(start), "of this part"),
        Decision("Global.output_dir", str(folder), "of this part"),
        *plan.going_on(folder),
        Decision("Global.eval_during_train", False, "once, at the end"),
        Decision("Global.check_data", "off", "they were looked at"),
        Decision(f"{TRAIN}.cls_label_path", str(folder / "train.txt"), "of this part"),
        Decision(f"{EVAL}.cls_label_path", str(folder / "held.txt"), "of this part"),
    ]
    ways = [configuration([*decisions, *plan.of_view(view, "on trial")]) for view in views]
    labels = samples.labels[held]
    scores = _answers(ways, probe.scores[held].shape)
    linear = _judged(probe.scores[held], labels)
    return {"photos": len(labels), "tuned": [_judged(each, labels) for each in scores], "linear": linear}


def _judged(scores: np.ndarray, labels: np.ndarray) -> tuple[int, float]:
    """Return how many are right, and the sum of the cross entropies at the temperature that suits them best."""
    logits = np.log(np.maximum(scores, 1e-12))
    suited = softmax(logits / fit_temperature(logits, labels))
    return int((scores.argmax(axis=1) == labels).sum()), float(cross_entropy(suited, labels).sum())


def _answers(ways: Sequence[Config], shape: tuple[int, int]) -> np.ndarray:
    """Train by the first of some configurations that differ in how photos are shown; return what each answers."""
    scores = np.zeros((len(ways), *shape), np.float32)

    def judge(best: Callable[[], Ready]) -> None:
        trained = best()
        trained.evaluator.loader.close()
        for way, answers in zip(ways, scores):
            evaluator = build_evaluator(way, trained.evaluator.precision)

            def collect(found: np.ndarray, labels: np.ndarray, indices: np.ndarray, answers=answers) -> None:
                answers[indices] = found

            evaluator(trained.network, collect)
            evaluator.loader.close()

    train(ways[0], then=judge)
    return scores
