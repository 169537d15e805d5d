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
        class_ids: class numbers; of several labels a photo those that it has, in their order: perhaps none.
        scores: probabilities in [0, 1], in the same order.
        label_names: their names; empty if the model has no labels.
        attributes: what they say of a person, in PaddleClas's words; None: the package does not say it so.
        unsure: whether the best score is below what the package asks of an answer; None: it asks nothing.
        moment: of a video's frame, when that was.
    """

    source: str
    class_ids: list[int]
    scores: list[float]
    label_names: list[str]
    unsure: bool | None = None
    moment: Moment | None = None
    attributes: list[str] | None = None

    def to_dict(self) -> dict:
        """Return PaddleClas's keys (``class_ids, scores, file_name, label_names``), scores to 5 decimals.

        Where the package knows when to be ``unsure``, that too; and of a video's frame, when it was.
        """
        return {
            "class_ids": self.class_ids,
            "scores": [round(score, 5) for score in self.scores],
            "file_name": self.source,
            "label_names": self.label_names,
            **({} if self.attributes is None else {"attributes": self.attributes}),
            **({} if self.unsure is None else {"unsure": self.unsure}),
            **(self.moment.to_dict() if self.moment else {}),
        }

    def __str__(self) -> str:
        names = self.label_names or [f"class {number}" for number in self.class_ids]
        answers = ", ".join(f"{name} {score:.4f}" for name, score in zip(names, self.scores)) or "none of the labels"
        answers = "; ".join(self.attributes) if self.attributes is not None else answers
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

    names: tuple[str, ...] = ()

    def __init__(
        self, topk: int = 1, class_id_map_file: str | None = None, delimiter: str | None = None
    ):  # file and delimiter belong to the config's vocabulary; labels arrive at the call
        self.topk, self.class_id_map_file, self.delimiter = topk, class_id_map_file, delimiter

    def decision(self, class_num: int) -> dict:
        """Return what package.json says as ``decision``: nothing, the best answer is the answer."""
        return {}

    def __call__(self, probabilities: np.ndarray, labels: Sequence[str], source: str) -> Prediction:
        """Args: ``probabilities`` ``[class_num]``; ``labels`` one name a class, or empty."""
        best = np.argsort(-probabilities, kind="stable")[: self.topk]
        return Prediction(
            source=source,
            class_ids=[int(number) for number in best],
            scores=[float(probabilities[number]) for number in best],
            label_names=[labels[number] for number in best] if labels else [],
        )


@POSTPROCESSES.register()
class ThreshOutput:
    """Of two classes the second from a probability of ``threshold`` on, else the first.

    Args:
        threshold: of class 1.
        label_0, label_1: names of the classes.
    """

    def __init__(self, threshold: float, label_0: str = "0", label_1: str = "1"):
        self.threshold, self.names = _share(threshold, "threshold"), (label_0, label_1)

    def decision(self, class_num: int) -> dict:
        """Return what package.json says as ``decision``.

        Raises:
            UserError: there are not two classes.
        """
        if class_num != 2:
            told = f"ThreshOutput is for two classes, and Arch.class_num is {class_num}"
            raise UserError(told, where="Infer.PostProcess.name", hint="-o Infer.PostProcess.name=Topk")
        return {"threshold": self.threshold}


@POSTPROCESSES.register()
class MultiLabelThreshOutput:
    """Every label from a probability of ``threshold`` on.

    Args:
        threshold: for all labels, or a list with one for each.
        class_id_map_file: label file, read by whoever knows where the config stands.
        delimiter: between number and name in that file.
    """

    names: tuple[str, ...] = ()

    def __init__(
        self,
        threshold: float | list[float] = 0.5,
        class_id_map_file: str | None = None,
        delimiter: str | None = None,
    ):
        each = threshold if isinstance(threshold, (list, tuple)) else [threshold]
        self.threshold = threshold
        for value in each:
            _share(value, "threshold")

    def decision(self, class_num: int) -> dict:
        """Return what package.json says as ``decision``.

        Raises:
            UserError: not one threshold a label.
        """
        each = list(self.threshold) if isinstance(self.threshold, (list, tuple)) else [self.threshold] * class_num
        if len(each) != class_num:
            told = f"there are {len(each)} thresholds, and Arch.class_num is {class_num}"
            raise UserError(told, where="Infer.PostProcess.threshold", allowed="one for all, or one a label")
        return {"several": True, "thresholds": [float(value) for value in each]}


def _share(value: float, name: str) -> float:
    if not 0 <= value <= 1:
        raise UserError(f"{name} is {value}", where="Infer.PostProcess", allowed="0 to 1")
    return float(value)


@POSTPROCESSES.register()
class PersonAttribute:
    """The 26 attributes of a person that PaddleClas's PULC model gives.

    Args:
        threshold: of a label; where one of several is meant (age, direction, sleeves), the most probable counts.
        glasses_threshold, hold_threshold: of those two.
    """

    names = (
        *("Hat", "Glasses", "ShortSleeve", "LongSleeve", "UpperStride", "UpperLogo", "UpperPlaid", "UpperSplice"),
        *("LowerStripe", "LowerPattern", "LongCoat", "Trousers", "Shorts", "Skirt&Dress", "Boots"),
        *("HandBag", "ShoulderBag", "Backpack", "HoldObjectsInFront", "AgeLess18", "Age18-60", "AgeOver60", "Female"),
        *("Front", "Side", "Back"),
    )

    def __init__(self, threshold: float = 0.5, glasses_threshold: float = 0.3, hold_threshold: float = 0.6):
        given = {"threshold": threshold, "glasses_threshold": glasses_threshold, "hold_threshold": hold_threshold}
        self.threshold, self._glasses, self._hold = (_share(value, name) for name, value in given.items())

    def decision(self, class_num: int) -> dict:
        """Return what package.json says as ``decision``.

        Raises:
            UserError: there are not 26 labels.
        """
        if class_num != len(self.names):
            told = f"PersonAttribute is for {len(self.names)} labels, and Arch.class_num is {class_num}"
            hint = "-o Infer.PostProcess.name=MultiLabelThreshOutput"
            raise UserError(told, where="Infer.PostProcess.name", hint=hint)
        thresholds = [self.threshold] * class_num
        thresholds[self.names.index("Glasses")], thresholds[self.names.index("HoldObjectsInFront")] = (
            self._glasses,
            self._hold,
        )
        return {"several": True, "thresholds": thresholds, "attributes": "PersonAttribute"}

    @classmethod
    def words(cls, scores: np.ndarray, thresholds: Sequence[float]) -> list[str]:
        """Return what PaddleClas says of a person, ten texts.

        Args:
            scores: [26] probabilities.
            thresholds: of each.
        """
        there = {name: bool(score > bound) for name, score, bound in zip(cls.names, scores, thresholds)}
        score = dict(zip(cls.names, scores))

        def best(*names: str) -> str:
            return max(names, key=score.__getitem__)

        bag = best("HandBag", "ShoulderBag", "Backpack")
        upper = [name for name in cls.names[4:8] if there[name]]
        lower = [name for name in cls.names[8:14] if there[name]] or [best(*cls.names[8:14])]
        sleeve = "LongSleeve" if score["LongSleeve"] > score["ShortSleeve"] else "ShortSleeve"
        return [
            "Female" if there["Female"] else "Male",
            best("AgeLess18", "Age18-60", "AgeOver60"),
            best("Front", "Side", "Back"),
            f"Glasses: {there['Glasses']}",
            f"Hat: {there['Hat']}",
            f"HoldObjectsInFront: {there['HoldObjectsInFront']}",
            bag if there[bag] else "No bag",
            " ".join(["Upper:", sleeve, *upper]),
            " ".join(["Lower: ", *lower]),
            "Boots" if there["Boots"] else "No boots",
        ]


ATTRIBUTES = {"PersonAttribute": PersonAttribute.words}  # what package.json's decision.attributes may say


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """A probability for each value by itself."""
    return (1 / (1 + np.exp(-logits.astype(np.float64)))).astype(np.float32)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Softmax over the last axis."""
    exponents = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponents / exponents.sum(axis=-1, keepdims=True)
