"""What an engine's output becomes: probabilities, and whether the best of them is enough for an answer.

The one place that reads package.json's ``output`` and ``decision``; on a board it is ``board/decision.cpp``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ppmobilenet.errors import DamagedFileError
from ppmobilenet.field.answers import Prediction, Topk, softmax


@dataclass(frozen=True)
class Decision:
    """How a package's output is read.

    Attributes:
        output: what the engine gives: ``"probabilities"`` or ``"logits"``.
        temperature: the logits are divided by it before the softmax (Guo et al. 2017); 1: as they are.
        unsure_below: a best answer whose probability is below this is ``unsure``; None: that is not asked.
    """

    output: str = "logits"
    temperature: float = 1.0
    unsure_below: float | None = None

    @classmethod
    def of(cls, meta: Mapping) -> Decision:
        """Return what a package.json says; packages of before say nothing of a decision.

        Raises:
            DamagedFileError: it says what no export writes.
        """
        given = meta.get("decision", {})
        readable = isinstance(given, Mapping)
        numbers = [given.get("temperature", 1.0), given.get("unsure_below", 0.0)] if readable else []
        if not readable or not all(isinstance(value, (int, float)) for value in numbers) or not numbers[0] > 0:
            raise DamagedFileError(
                f"package.json was altered: decision is {given}",
                allowed="temperature above 0, unsure_below from 0 to 1",
                hint="export again",
            )
        return cls(meta["output"]["kind"], float(numbers[0]), given.get("unsure_below"))

    def probabilities(self, output: np.ndarray) -> np.ndarray:
        """Return the probabilities behind what an engine gave, over the last axis."""
        if self.output == "probabilities":
            if self.temperature == 1:
                return output
            output = np.log(np.maximum(output, np.finfo(np.float32).tiny))
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
        return replace(Topk(topk)(probabilities, labels, source), unsure=self.is_unsure(probabilities))
