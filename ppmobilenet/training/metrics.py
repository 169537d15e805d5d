"""How good answers are: counts, so that batches and processes add up exactly.

A metric has ``names`` of figures, the first of which decides between epochs, ``count(logits, labels)``: numbers or
arrays by name, that are added up over batches, and ``figures(sums, photos)``: name -> what they come to.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from ppmobilenet.config.fields import Term
from ppmobilenet.errors import UserError
from ppmobilenet.registry import METRICS
from ppmobilenet.telling import log

BINS = 15  # of the calibration error


@METRICS.register()
class TopkAcc:
    """Share of photos whose class is among the k best answers.

    Args:
        topk: one k or several. A k above the class count is lowered to it, since more cannot be asked.
    """

    def __init__(self, topk: int | list[int] = (1, 5)):
        self.topk = (topk,) if isinstance(topk, int) else tuple(topk)
        if not self.topk or min(self.topk) < 1:
            raise ValueError(f"topk {list(self.topk)}; allowed: numbers from 1 up")

    @property
    def names(self) -> tuple[str, ...]:
        """The names of its figures."""
        return tuple(f"top{k}" for k in self.topk)

    def figures(self, sums: Mapping, photos: int) -> dict[str, float]:
        """Return the shares of right answers; photos that were mixed have none."""
        return {name: sums[name] / max(1, photos) for name in self.names if name in sums}

    def score(self, result: Mapping[str, float]) -> float:
        """Return the figure that decides, the more the better."""
        return result[self.names[0]]

    def limited(self, class_num: int) -> TopkAcc:
        """Return this metric for a network of ``class_num`` classes."""
        lowered = TopkAcc([min(k, class_num) for k in self.topk])
        for old, new in zip(self.topk, lowered.topk):
            if old != new:
                log.info("top-%d of %d classes is always right: reporting top-%d", old, class_num, new)
        return lowered

    def count(self, logits: np.ndarray, labels: np.ndarray) -> dict[str, int]:
        """Return the number of right answers by name, ``{"top1": 3, "top5": 7}``.

        Of equal scores the lower class counts as the better answer. Mixed labels [N, classes] have no right answer:
        the result is empty.

        Args:
            logits: [N, classes].
            labels: [N] class numbers.
        """
        if labels.ndim != 1:
            return {}
        rows = np.arange(len(labels))
        own = logits[rows, labels][:, None]
        before = (logits > own) | ((logits == own) & (np.arange(logits.shape[1]) < labels[:, None]))
        rank = before.sum(axis=1)
        rank[~np.isfinite(own[:, 0])] = logits.shape[1]  # NaN is never a right answer
        return {f"top{k}": int((rank < k).sum()) for k in self.topk}


@METRICS.register()
class DistillationTopkAcc(TopkAcc):
    """The same of a student, whose answers are all that is judged here."""

    def __init__(self, model_key: str = "Student", feature_key: str | None = None, topk: int | list[int] = (1, 5)):
        super().__init__(topk)
        if model_key != "Student" or feature_key not in (None, "logits"):
            raise ValueError(f"model_key {model_key!r}, feature_key {feature_key!r}; allowed: Student, logits")


class Metrics:
    """Several metrics as one; the first of the list decides."""

    def __init__(self, parts: Iterable):
        self._parts = list(parts)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of their figures."""
        return tuple(name for part in self._parts for name in part.names)

    def count(self, logits: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray | int]:
        """Return what is added up, by name."""
        return {name: value for part in self._parts for name, value in part.count(logits, labels).items()}

    def figures(self, sums: Mapping, photos: int) -> dict[str, float]:
        """Return every figure, in the order of the list."""
        return {name: value for part in self._parts for name, value in part.figures(sums, photos).items()}

    def score(self, result: Mapping[str, float]) -> float:
        """Return the figure that decides, the more the better."""
        return self._parts[0].score(result)


def build_metrics(terms: Iterable[Term], class_num: int) -> TopkAcc | Metrics:
    """Return the metric that a config's ``Metric.Train`` or ``Metric.Eval`` list describes."""
    ks: list[int] = []
    others: list = []
    deciding = None
    for term in terms:
        try:
            part = METRICS.resolve(term.name)(**term.parameters)
        except ValueError as error:
            raise UserError(f"{term.name}: {error}", where="Metric") from error
        if getattr(part, "classes", class_num) != class_num:
            told = f"{term.name} is for {part.classes} classes, and Arch.class_num is {class_num}"
            raise UserError(told, where="Metric")
        deciding = deciding or part
        if isinstance(part, TopkAcc):
            ks += part.topk
        else:
            others.append(part)
    if class_num < 1:
        raise UserError(
            f"Arch.class_num is {class_num}: such a network gives features, not classes",
            where="Arch.class_num",
            hint="say how many classes the photos have: -o Arch.class_num=10",
        )
    best = [TopkAcc(list(dict.fromkeys(ks))).limited(class_num)] if ks else []
    if not others:
        return best[0]
    return Metrics([*best, *others] if isinstance(deciding, TopkAcc) else [*others, *best])


def reliability(confidence: np.ndarray, correct: np.ndarray, bins: int = BINS) -> tuple[float, list[dict]]:
    """Return the expected calibration error and the bins of the reliability diagram.

    ECE (Guo et al. 2017): bins of equal width over the confidence of the best answer, the mean distance of accuracy
    and confidence, weighted by photos.

    Args:
        confidence: [N] the best answers' probabilities.
        correct: [N] whether they are right.
        bins: how many.
    """
    which = np.clip(np.ceil(confidence.astype(float) * bins).astype(int) - 1, 0, bins - 1)
    rows, error = [], 0.0
    for b in range(bins):
        mine = which == b
        row = {"low": b / bins, "high": (b + 1) / bins, "photos": int(mine.sum()), "confidence": None, "accuracy": None}
        if mine.any():
            row["confidence"] = float(confidence[mine].astype(float).mean())
            row["accuracy"] = float(correct[mine].mean())
            error += row["photos"] / len(confidence) * abs(row["accuracy"] - row["confidence"])
        rows.append(row)
    return float(error), rows


class Totals:
    """Sums of losses and right answers over photos: averages that are exact for batches of any size.

    Attributes:
        sums: name -> sum over photos.
        photos: number of photos.
    """

    def __init__(self, sums: Mapping[str, float] | None = None, photos: int = 0):
        self.sums, self.photos = dict(sums or {}), int(photos)

    def add(self, photos: int, loss: float, counts: Mapping[str, int | np.ndarray]) -> None:
        """Add a batch of ``photos`` whose mean loss is ``loss``."""
        self.photos += photos
        for name, value in {"loss": loss * photos, **counts}.items():
            self.sums[name] = self.sums.get(name, 0) + value

    def means(self, metric: TopkAcc | Metrics | None = None) -> dict[str, float]:
        """Return the averages, the loss first, and the figures of a metric (by default one whose sums are counts)."""
        if metric is None:
            return {name: value / max(1, self.photos) for name, value in self.sums.items()}
        loss = {"loss": self.sums["loss"] / max(1, self.photos)} if "loss" in self.sums else {}
        return {**loss, **metric.figures(self.sums, self.photos)}
