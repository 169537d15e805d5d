"""The floor: a linear classifier on the features of the network as it is, cross-validated."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ppmobilenet.field.answers import softmax
from ppmobilenet.training.solved_head import solve

PENALTIES = (0.01, 0.03, 0.1, 0.3)
FOLDS = 5


@dataclass(frozen=True)
class Probe:
    """What a linear classifier is worth on photos that it has not seen.

    Attributes:
        penalty: of the best one, see :func:`ppmobilenet.training.solved_head.solve`.
        fold: [N], the part that each photo was left out with.
        scores: [N, K], the probabilities that it was then given.
        labels: [N].
        readable: bool, of the list: the N photos that could be read.
        losses: penalty -> mean cross entropy of the photos left out.
    """

    penalty: float
    fold: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    readable: np.ndarray
    losses: dict[float, float]

    @property
    def parts(self) -> int:
        """Of the cross-validation."""
        return int(self.fold.max()) + 1

    @property
    def right(self) -> int:
        """How many photos it was right about."""
        return int((self.scores.argmax(axis=1) == self.labels).sum())


def folds(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Deal photos into ``count`` parts, each class evenly: int [N]."""
    rng, part, at = np.random.default_rng(seed), np.zeros(len(labels), int), 0
    for label in np.unique(labels):
        mine = rng.permutation(np.flatnonzero(labels == label))
        part[mine] = (at + np.arange(len(mine))) % count
        at += len(mine)
    return part


def folds_of(labels: np.ndarray, seed: int) -> np.ndarray:
    """Deal photos into as many parts as the rarest class has photos, at most :data:`FOLDS`: int [N]."""
    rarest = int(np.unique(labels, return_counts=True)[1].min())
    return folds(labels, max(2, min(FOLDS, rarest)), seed)


def probe(inputs: np.ndarray, labels: np.ndarray, classes: int, seed: int, readable: np.ndarray) -> Probe:
    """Choose the penalty of the linear classifier by cross-validation.

    Args:
        inputs: [N, D], what the network's classifier gets.
        labels: [N].
        classes: K.
        seed: of the parts.
        readable: of the list, see :class:`Probe`.
    """
    fold = folds_of(labels, seed)
    found = {penalty: out_of_fold(inputs, labels, classes, penalty, fold) for penalty in PENALTIES}
    losses = {penalty: cross_entropy(scores, labels) for penalty, scores in found.items()}
    least = min(losses.values(), key=np.mean)
    # the strongest that is as good as the best within one standard error (Breiman et al. 1984)
    enough = np.mean(least) + np.std(least) / len(labels) ** 0.5
    best = max(penalty for penalty, loss in losses.items() if np.mean(loss) <= enough)
    means = {penalty: round(float(np.mean(loss)), 4) for penalty, loss in losses.items()}
    return Probe(best, fold, found[best], labels, readable, means)


def out_of_fold(inputs: np.ndarray, labels: np.ndarray, classes: int, penalty: float, fold: np.ndarray) -> np.ndarray:
    """Return for each photo the probabilities of the classifier that was solved without its part: [N, K]."""
    scores = np.zeros((len(labels), classes), np.float32)
    for part in np.unique(fold):
        out = fold == part
        scores[out] = softmax(solve(inputs[~out], labels[~out], classes, penalty).logits(inputs[out]))
    return scores


def cross_entropy(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the negative log of the probability of each label."""
    return -np.log(np.maximum(scores[np.arange(len(labels)), labels], 1e-12))
