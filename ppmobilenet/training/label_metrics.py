"""Metrics of several labels a photo, and of a yes and a no that do not weigh the same."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ppmobilenet.registry import METRICS

STEPS = 10000  # thresholds between 0 and 1
TINY = 1e-20


def _known(labels: np.ndarray) -> np.ndarray:
    return labels >= 0


class _OfAnswers:
    """A share of right answers, label by label; a label is said to be there above a probability of 0.5."""

    def __init__(self, name: str, base: str = "label"):
        if base not in ("label", "sample"):
            raise ValueError(f"base {base!r}; allowed: label, sample")
        self.names, self._base = (name,), base

    def count(self, logits: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
        """Return how many answers are right, and how many there are; a label that nobody knows (-1) is none."""
        known = _known(labels)
        right = ((logits > 0) == (labels > 0.5)) & known
        if self._base == "sample":
            right, known = (right | ~known).all(axis=1), np.ones(len(labels))
        return {self.names[0]: np.array([right.sum(), known.sum()], np.float64)}

    def _share(self, sums: Mapping) -> float:
        right, known = sums[self.names[0]]
        return float(right / max(1.0, known))


@METRICS.register()
class AccuracyScore(_OfAnswers):
    """Share of right answers.

    Args:
        base: ``label``: of all labels of all photos; ``sample``: of photos with every label right.
    """

    def __init__(self, base: str = "label"):
        super().__init__("AccuracyScore", base)

    def figures(self, sums: Mapping, photos: int) -> dict[str, float]:
        """Return the share."""
        return {"AccuracyScore": self._share(sums)}

    def score(self, result: Mapping[str, float]) -> float:
        """Return the figure that decides, the more the better."""
        return result["AccuracyScore"]


@METRICS.register()
class HammingDistance(_OfAnswers):
    """Share of wrong answers, of all labels of all photos; where it decides, the least is best."""

    def __init__(self):
        super().__init__("HammingDistance")

    def figures(self, sums: Mapping, photos: int) -> dict[str, float]:
        """Return the share."""
        return {"HammingDistance": 1 - self._share(sums)}

    def score(self, result: Mapping[str, float]) -> float:
        """Return what decides, the more the better."""
        return 1 - result["HammingDistance"]


@METRICS.register()
class ATTRMetric:
    """Mean accuracy ``mA``, which decides, and its relatives: what attributes of people are judged by.

    ``mA`` is the mean over the labels of (recall of ones + recall of zeros) / 2. Figures that begin with ``instance``
    are means over photos. A label of -1 is left out.

    Args:
        threshold: of the logit, as in PaddleClas (0.5 there is a probability of 0.62, prediction's is its own).
    """

    names = (
        *("mA", "label_f1", "label_pos_recall", "label_neg_recall"),
        *("instance_f1", "instance_acc", "instance_prec", "instance_recall"),
    )

    def __init__(self, threshold: float = 0.5):
        self.threshold = threshold

    def count(self, logits: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
        """Return what is added up: of each label, then of the photos."""
        known = _known(labels)
        said, true = (logits > self.threshold) & known, (labels > 0.5) & known
        both, either = (said & true).sum(axis=1), (said | true).sum(axis=1)
        shares = [both / (x + TINY) for x in (either, said.sum(axis=1), true.sum(axis=1))]
        of_labels = [true, known & ~true, said & true, known & ~said & ~true]
        return {
            "ATTRMetric.labels": np.stack([x.sum(axis=0) for x in of_labels]).astype(np.float64),
            "ATTRMetric.photos": np.array([x.sum() for x in shares], np.float64),
        }

    def figures(self, sums: Mapping, photos: int) -> dict[str, float]:
        """Return the eight figures."""
        ones, zeros, true_ones, true_zeros = sums["ATTRMetric.labels"]
        accuracy, precision, recall = sums["ATTRMetric.photos"] / max(1, photos)
        of_ones, of_zeros = true_ones / (ones + TINY), true_zeros / (zeros + TINY)
        said = true_ones + zeros - true_zeros
        found = {
            "mA": ((of_ones + of_zeros) / 2).mean(),
            "label_f1": (2 * true_ones / (said + ones + TINY)).mean(),
            "label_pos_recall": of_ones.mean(),
            "label_neg_recall": of_zeros.mean(),
            "instance_f1": 2 * precision * recall / (precision + recall + TINY),
            "instance_acc": accuracy,
            "instance_prec": precision,
            "instance_recall": recall,
        }
        return {name: float(value) for name, value in found.items()}

    def score(self, result: Mapping[str, float]) -> float:
        """Return the figure that decides, the more the better."""
        return result["mA"]


@METRICS.register()
class TprAtFpr:
    """The most of class 1 that is found while at most ``max_fpr`` of class 0 is taken for it.

    Over the thresholds 0, 0.0001, ... 0.9999; ``threshold`` is the one that does it, to be used in prediction.

    Args:
        max_fpr: share of class 0 that may be taken for class 1; None: 0.001.
    """

    names = ("tpr", "fpr", "threshold")
    classes = 2

    def __init__(self, max_fpr: float | None = 0.001):
        self.max_fpr = 0.001 if max_fpr is None else max_fpr
        if not 0 <= self.max_fpr <= 1:
            raise ValueError(f"max_fpr {max_fpr!r}; allowed: 0 to 1")

    def count(self, logits: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
        """Return how many photos of either class are above so many thresholds; mixed photos are neither."""
        if labels.ndim != 1:
            return {}
        score = 1 / (1 + np.exp(np.float64(logits[:, 0]) - logits[:, 1]))
        above = np.searchsorted(np.arange(STEPS) / STEPS, score, side="left")  # thresholds that are below the score
        counts = [np.bincount(above[labels == c], minlength=STEPS + 1) for c in (0, 1)]
        return {"TprAtFpr": np.stack(counts).astype(np.float64)}

    def figures(self, sums: Mapping, photos: int) -> dict[str, float]:
        """Return the shares and the threshold; tpr is 0 where no threshold is strict enough."""
        if "TprAtFpr" not in sums:
            return {}
        counts = sums["TprAtFpr"]
        # share of a class whose score is above threshold i: those above more than i thresholds
        fpr, tpr = (counts[:, :0:-1].cumsum(axis=1)[:, ::-1]) / np.maximum(1, counts.sum(axis=1, keepdims=True))
        allowed = np.where(fpr <= self.max_fpr, tpr, -1.0)
        best = int(allowed.argmax())
        if allowed[best] <= 0:
            return {"tpr": 0.0, "fpr": 0.0, "threshold": 1.0}
        return {"tpr": float(tpr[best]), "fpr": float(fpr[best]), "threshold": best / STEPS}

    def score(self, result: Mapping[str, float]) -> float:
        """Return the figure that decides, the more the better."""
        return result["tpr"]
