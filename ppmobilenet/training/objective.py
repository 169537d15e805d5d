"""What training minimises, seen from the trainer: a function of network, images and labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import paddle
import paddle.nn.functional as F

from ppmobilenet.training.losses import Loss

Network = Callable[[paddle.Tensor], paddle.Tensor]
# (network, images [N, 3, H, W], labels) -> (loss, a tensor without axes; logits [N, classes])
Objective = Callable[[Network, paddle.Tensor, paddle.Tensor], tuple[paddle.Tensor, paddle.Tensor]]


@dataclass(frozen=True)
class Supervised:
    """The answers are to be the labels."""

    loss: Loss

    def __call__(self, network: Network, images: paddle.Tensor, labels: paddle.Tensor):
        logits = network(images)
        return self.loss(logits, labels), logits


class AgreeWith:
    """The answers are to be those of another network, whatever the labels: cross entropy to its probabilities.

    Args:
        teacher: in evaluation mode.
    """

    def __init__(self, teacher: Network):
        self._teacher = teacher
        self._agreed = self._seen = 0

    def __call__(self, network: Network, images: paddle.Tensor, labels: paddle.Tensor):
        with paddle.no_grad():
            wanted = self._teacher(images)
        logits = network(images)
        self._agreed += int((logits.argmax(axis=1) == wanted.argmax(axis=1)).sum())
        self._seen += len(logits)
        return F.cross_entropy(logits, F.softmax(wanted), soft_label=True), logits

    def agreement(self) -> float:
        """Return the share of best answers that were the other network's since the last call."""
        share = self._agreed / max(1, self._seen)
        self._agreed = self._seen = 0
        return share
