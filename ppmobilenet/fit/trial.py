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
from ppmobilenet.fit import plan
from ppmobilenet.fit.plan import EVAL, TRAIN, Decision, configuration
from ppmobilenet.fit.probe import Probe
from ppmobilenet.telling import aloud
from ppmobilenet.training.device import set_device
from ppmobilenet.training.evaluator import Ready
from ppmobilenet.training.keeping import Keeper
from ppmobilenet.training.setting import prepare
from ppmobilenet.training.start import find_start
from ppmobilenet.training.state import TrainState
from ppmobilenet.training.trainer import train, train_epoch

# passes over the photos, the first that the time allows; fewer are not worth their while
EPOCHS = (12, 8, 6)
START = 4.0  # seconds that a training takes besides its steps
TIMED = 8  # steps


class Course(NamedTuple):
    """How long a fine-tuning is to take: passes over the photos, and parts of them that judge it before."""

    epochs: int
    parts: int


def plan_course(photos: int, parts: int, pace: float, seconds: float) -> Course | None:
    """Return the longest course that there is time for; None: there is not enough for any.

    Args:
        photos: to learn from.
        parts: of the cross-validation.
        pace: seconds that a training step takes for each of its photos.
        seconds: that are left.
    """
    for epochs in EPOCHS:
        for judged in range(parts, 0, -1):
            passes = 1 + judged * (parts - 1) / parts
            if epochs * photos * pace * passes + START * (1 + judged) <= seconds:
                return Course(epochs, judged)
    return None


class _Clock(Keeper):
    """Notes when the weights changed."""

    def __init__(self):
        self.times: list[float] = []

    def changed(self, state: TrainState, asked: bool) -> None:
        self.times.append(time.monotonic())


def measure_pace(decisions: Sequence[Decision]) -> float:
    """Return the seconds that training takes for each photo, of a few steps on a network that is then dropped."""
    config = configuration([*decisions, Decision("Arch.solve_head", None, "")])
    clock = _Clock()
    with aloud(show=False):  # its lines are of no use to anybody
        device, lists = set_device(config.run.device), lists_of(config.train, config.eval)
        state, setting = prepare(config, find_start(config.weights, training=True), lists, device, 0, 1)
        try:
            began = time.monotonic()
            train_epoch(state, replace(setting, steps=min(TIMED, setting.steps)), clock)
        finally:
            setting.loader.close()
    steps = np.diff([began, *clock.times]).tolist()
    return statistics.median(steps[1:] or steps) / setting.loader.batch_size


def judge_part(
    decisions: Sequence[Decision],
    samples: Samples,
    probe: Probe,
    part: int,
    folder: Path,
    write_start: Callable[[Path, np.ndarray], None],
) -> dict[str, int]:
    """Fine-tune without one part of the training photos; return how often it and the linear classifier are right there.

    Args:
        decisions: of the fine-tuning.
        samples: the training photos.
        probe: the linear classifier's cross-validation.
        part: of it.
        folder: of this trial; an unfinished one goes on.
        write_start: writes the weights to begin with into a file: the classifier solved on the photos of a mask.
    """
    held = probe.fold == part
    start = folder / "start.pdparams"
    for name, mask in (("train", ~held), ("held", held)):
        lines = "".join(f"{samples.name(i)} {samples.labels[i]}\n" for i in np.flatnonzero(mask))
        files.write_bytes(folder / f"{name}.txt", lines.encode("utf-8", "surrogateescape"))
    write_start(start, ~held)
    config = configuration(
        [
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
    )
    scores = _answers(config, int(held.sum()), probe.scores.shape[1])
    labels, linear = samples.labels[held], probe.scores[held].argmax(axis=1)
    tuned = scores.argmax(axis=1)
    return {"photos": len(labels), "tuned": int((tuned == labels).sum()), "linear": int((linear == labels).sum())}


def _answers(config: Config, photos: int, classes: int) -> np.ndarray:
    """Train, and return the probabilities for the evaluation list."""
    scores = np.zeros((photos, classes), np.float32)

    def collect(found: np.ndarray, labels: np.ndarray, indices: np.ndarray) -> None:
        scores[indices] = found

    def judge(best: Callable[[], Ready]) -> None:
        trained = best()
        trained.evaluator(trained.network, collect)
        trained.evaluator.loader.close()

    train(config, then=judge)
    return scores
