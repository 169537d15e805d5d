"""What a predictor answers: the best classes of a photo, or why there is no answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ppmobilenet.errors import UserError
from ppmobilenet.registry import POSTPROCESSES


@dataclass(frozen=True)
class Moment:
    """When a frame of a video was.

    Attributes:
        frame: its number, from 0.
        seconds: its place in the file; of a live source the seconds since that was opened.
        time: when it was taken, ISO 8601; None for a file.
        frames_per_second: answered of late; None at the first.
    """

    frame: int
    seconds: float
    time: str | None
    frames_per_second: float | None

    def to_dict(self) -> dict:
        """Return what is known, rounded for people."""
        speed = self.frames_per_second and round(self.frames_per_second, 1)
        found = {"frame": self.frame, "seconds": round(self.seconds, 3), "time": self.time, "frames_per_second": speed}
        return {key: value for key, value in found.items() if value is not None}


@dataclass(frozen=True)
class Prediction:
    """The answer for one photo, best class first.

    Attributes:
        source: the path as given, or a description of a photo that is not a file.
        class_ids: class numbers.
        scores: probabilities in [0, 1], in the same order.
        label_names: their names; empty if the model has no labels.
        unsure: whether the best score is below what the package asks of an answer; None: it asks nothing.
        moment: of a video's frame, when that was.
    """

    source: str
    class_ids: list[int]
    scores: list[float]
    label_names: list[str]
    unsure: bool | None = None
    moment: Moment | None = None

    def to_dict(self) -> dict:
        """Return PaddleClas's keys (``class_ids, scores, file_name, label_names``), scores to 5 decimals.

        Where the package knows when to be ``unsure``, that too; and of a video's frame, when it was.
        """
        return {
            "class_ids": self.class_ids,
            "scores": [round(score, 5) for score in self.scores],
            "file_name": self.source,
            "label_names": self.label_names,
            **({} if self.unsure is None else {"unsure": self.unsure}),
            **(self.moment.to_dict() if self.moment else {}),
        }

    def __str__(self) -> str:
        names = self.label_names or [f"class {number}" for number in self.class_ids]
        answers = ", ".join(f"{name} {score:.4f}" for name, score in zip(names, self.scores))
        when = f" {self.moment.seconds:.2f} s" if self.moment else ""
        return f"{self.source}{when}: {f'unsure: {answers}' if self.unsure else answers}"


@dataclass(frozen=True)
class Failure:
    """A photo that could not be used, in its place among the others' answers."""

    source: str
    error: UserError

    def to_dict(self) -> dict:
        return {"file_name": self.source, "error": str(self.error)}

    def __str__(self) -> str:
        return f"{self.source}: failed: {self.error}"


@POSTPROCESSES.register()
class Topk:
    """The ``k`` most probable classes (PaddleClas's ``PostProcess.Topk``).

    Args:
        topk: how many; never more than there are classes.
        class_id_map_file: label file, read by whoever knows where the config stands.
        delimiter: between number and name in that file; None means a space.
    """

    def __init__(
        self, topk: int = 1, class_id_map_file: str | None = None, delimiter: str | None = None
    ):  # file and delimiter belong to the config's vocabulary; labels arrive at the call
        self.topk, self.class_id_map_file, self.delimiter = topk, class_id_map_file, delimiter

    def __call__(self, probabilities: np.ndarray, labels: Sequence[str], source: str) -> Prediction:
        """Args: ``probabilities`` ``[class_num]``; ``labels`` one name a class, or empty."""
        best = np.argsort(-probabilities, kind="stable")[: self.topk]
        return Prediction(
            source=source,
            class_ids=[int(number) for number in best],
            scores=[float(probabilities[number]) for number in best],
            label_names=[labels[number] for number in best] if labels else [],
        )


def softmax(logits: np.ndarray) -> np.ndarray:
    """Softmax over the last axis."""
    exponents = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponents / exponents.sum(axis=-1, keepdims=True)
