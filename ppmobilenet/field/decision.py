"""What an engine's output becomes: probabilities, and whether the best of them is enough for an answer.

The one place that reads package.json's ``output`` and ``decision``; on a board it is ``board/decision.cpp``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ppmobilenet.errors import DamagedFileError
from ppmobilenet.field.answers import ATTRIBUTES, Prediction, Topk, sigmoid, softmax


@dataclass(frozen=True)
class Decision:
    """How a package's output is read.

    Attributes:
        output: what the engine gives: ``"probabilities"`` or ``"logits"``.
        temperature: the logits are divided by it before the softmax (Guo et al. 2017); 1: as they are.
        several: a photo has several labels, each with a probability of its own (a sigmoid, not a softmax).
        thresholds: from which probability on a label is there; of one label a photo, if not empty, that of class 1 of
            two: below it the answer is class 0.
        attributes: the labels are said in words, by that name of ``answers.ATTRIBUTES``; empty: they are not.
        unsure_below: a best answer whose probability is below this is ``unsure``; None: that is not asked.
    """

    output: str = "logits"
    temperature: float = 1.0
    unsure_below: float | None = None
    several: bool = False
    thresholds: tuple[float, ...] = ()
    attributes: str = ""

    @classmethod
    def of(cls, meta: Mapping) -> Decision:
        """Return what a package.json says; packages of before say nothing of a decision.

        Raises:
            DamagedFileError: it says what no export writes.
        """
        given = meta.get("decision", {})
        readable = isinstance(given, Mapping)
        numbers = [given.get("temperature", 1.0), given.get("unsure_below", 0.0)] if readable else []
        several = bool(readable and given.get("several", False))
        thresholds = _thresholds(given, several, meta["output"].get("class_num", 0)) if readable else None
        words = given.get("attributes", "") if readable else ""
        if thresholds is None or words not in ("", *ATTRIBUTES):
            readable = False
        if not readable or not all(isinstance(value, (int, float)) for value in numbers) or not numbers[0] > 0:
            raise DamagedFileError(
                f"package.json was altered: decision is {given}",
                allowed="temperature above 0, unsure_below from 0 to 1, a threshold from 0 to 1 for each label",
                hint="export again",
            )
        return cls(*(meta["output"]["kind"], float(numbers[0]), given.get("unsure_below"), several, thresholds, words))

    def inside(self, logits: np.ndarray) -> np.ndarray:
        """Return what forms of this decision give where the network gives logits: those, or probabilities."""
        return logits if self.output == "logits" else (sigmoid if self.several else softmax)(logits)

    def probabilities(self, output: np.ndarray) -> np.ndarray:
        """Return the probabilities behind what an engine gave, over the last axis."""
        if self.output == "probabilities":
            if self.temperature == 1:
                return output
            output = np.log(np.maximum(output, np.finfo(np.float32).tiny))
        if self.several:
            return sigmoid(output)
        return softmax(output if self.temperature == 1 else output / np.float32(self.temperature))

    def is_unsure(self, probabilities: np.ndarray) -> bool | None:
        """Return whether the best of one photo's probabilities is too little; None where that is not asked."""
        return None if self.unsure_below is None else float(probabilities.max()) < self.unsure_below

    def answer(self, probabilities: np.ndarray, labels: Sequence[str], source: str, topk: int) -> Prediction:
        """Return the answer for one photo.

        Args:
            probabilities: ``[class_num]``.
            labels: one name a class, or empty.
            source: what to call the photo.
            topk: classes to name at most.
        """
        if self.several or self.thresholds:
            ids = self.chosen(probabilities)
            found = [float(probabilities[i]) for i in ids]
            names = [labels[i] for i in ids] if labels else []
            words = ATTRIBUTES[self.attributes](probabilities, self.thresholds) if self.attributes else None
            return Prediction(source, ids, found, names, self.is_unsure(probabilities), attributes=words)
        return replace(Topk(topk)(probabilities, labels, source), unsure=self.is_unsure(probabilities))

    def chosen(self, probabilities: np.ndarray) -> list[int]:
        """Return the classes that one photo's probabilities come to: its labels, or the best class."""
        if self.several:
            return [int(i) for i in np.flatnonzero(probabilities >= np.array(self.thresholds, np.float32))]
        if self.thresholds:
            return [int(probabilities[1] >= np.float32(self.thresholds[0]))]
        return [int(probabilities.argmax())]

    def agreement(self, output: np.ndarray, other: np.ndarray) -> float:
        """Return the share of photos that two outputs say the same of; of several labels, the share of labels."""
        one, two = self.probabilities(output), self.probabilities(other)
        if self.several:
            bounds = np.array(self.thresholds, np.float32)
            return float(((one >= bounds) == (two >= bounds)).mean())
        return float(np.mean([self.chosen(a) == self.chosen(b) for a, b in zip(one, two)]))


def _thresholds(given: Mapping, several: bool, class_num: int) -> tuple[float, ...] | None:
    """Return the thresholds of a ``decision``; None: they are not what an export writes."""
    found = given.get("thresholds", []) if several else [given["threshold"]] if "threshold" in given else []
    right = isinstance(found, list) and all(isinstance(v, (int, float)) and 0 <= v <= 1 for v in found)
    if not right or (several and len(found) != class_num) or (found and not several and class_num != 2):
        return None
    return tuple(float(value) for value in found)
