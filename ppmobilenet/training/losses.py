"""What training minimises."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import paddle
import paddle.nn.functional as F

from ppmobilenet.config.fields import Term
from ppmobilenet.data.balance import class_weights
from ppmobilenet.errors import UserError
from ppmobilenet.registry import LOSSES

Loss = Callable[[paddle.Tensor, paddle.Tensor], paddle.Tensor]


@LOSSES.register()
class CELoss:
    """Softmax cross entropy.

    Labels are class numbers [N], or the probabilities [N, classes] that mixing augmentations give; those are taken as
    they are (PaddleClas sends them through one more softmax where ``epsilon`` is not set).

    Args:
        epsilon: label smoothing (Szegedy et al. 2016, section 7): this share of the target is spread over all classes.
            PaddleClas takes values outside (0, 1) as none, and so does this.
        reduction: how the photos of a batch are put together; ``mean`` divides by their number.
        class_weight: a factor for each class, or ``balanced``: every class counts the same, however many photos the
            training list has of it (:func:`ppmobilenet.data.balance.class_weights`).
    """

    def __init__(self, epsilon: float | None = None, reduction: str = "mean", class_weight: list | str | None = None):
        if reduction not in ("mean", "sum"):
            raise ValueError(f"reduction {reduction!r}; allowed: 'mean', 'sum'")
        self.epsilon = epsilon if epsilon is not None and 0 < epsilon < 1 else 0.0
        self.reduction = reduction
        if isinstance(class_weight, str) and class_weight != "balanced":
            raise ValueError(f"class_weight {class_weight!r}; allowed: a list of numbers, balanced")
        self.class_weight = class_weight

    def __call__(self, logits: paddle.Tensor, labels: paddle.Tensor) -> paddle.Tensor:
        """Return the loss of logits [N, classes], a tensor without axes."""
        logits = logits.astype("float32")  # the sum of exponentials overflows in float16
        if labels.ndim == 1 and not self.epsilon and self.class_weight is None:
            return F.cross_entropy(logits, labels, reduction=self.reduction)
        classes = logits.shape[-1]
        target = F.one_hot(labels, classes) if labels.ndim == 1 else labels.astype("float32")
        target = target * (1 - self.epsilon) + self.epsilon / classes
        if self.class_weight is not None:
            target = target * paddle.to_tensor(self.class_weight, dtype="float32")
        each = -(F.log_softmax(logits, axis=-1) * target).sum(axis=-1)
        return each.mean() if self.reduction == "mean" else each.sum()


@LOSSES.register()
class MultiLabelLoss:
    """Binary cross entropy of several labels a photo, each by itself.

    Labels are [N, classes]: 0, 1, or -1 where nobody knows. PaddleClas leaves out -1 only with ``weight_ratio``, and
    trains towards it otherwise; here it is always left out.

    Args:
        epsilon: label smoothing: this share of the target becomes 1 / classes.
        size_sum: sum over the labels of a photo; else their mean.
        weight_ratio: the rarer answer of a label counts more: exp(1 - r) for 1, exp(r) for 0, where r is the label's
            share of ones in the list.

    Attributes:
        ratio: those shares; the builder sets them.
    """

    def __init__(self, epsilon: float | None = None, size_sum: bool = False, weight_ratio: bool = False):
        self.epsilon = epsilon if epsilon is not None and 0 < epsilon < 1 else 0.0
        self.size_sum, self.weight_ratio, self.ratio = size_sum, weight_ratio, None

    def __call__(self, logits: paddle.Tensor, labels: paddle.Tensor) -> paddle.Tensor:
        """Return the loss of logits [N, classes] and labels of the same shape, a tensor without axes."""
        known = (labels >= 0).astype("float32")
        target = labels.astype("float32") * known
        target = target * (1 - self.epsilon) + self.epsilon / labels.shape[-1]
        each = F.binary_cross_entropy_with_logits(logits.astype("float32"), target, reduction="none")
        each = each * (self.weights(labels, self.ratio) if self.weight_ratio else known)
        return each.sum(axis=1).mean() if self.size_sum else each.mean()

    @staticmethod
    def weights(labels: paddle.Tensor, ratio) -> paddle.Tensor:
        """Return what each label counts, [N, classes]."""
        ratio, ones = paddle.to_tensor(ratio, "float32"), (labels > 0.5).astype("float32")
        return paddle.exp(ones * (1 - ratio) + (1 - ones) * ratio) * (labels >= 0).astype("float32")


Terms = list[tuple[float, object]]  # factor, loss


def build_terms(
    terms: Iterable[Term], labels: np.ndarray | None = None, class_num: int = 0, at: str = "Loss.Train"
) -> Terms:
    """Return the losses of ``Loss.Train`` or ``Loss.Eval`` with their factors.

    Args:
        terms: the config's list.
        labels: of the photos, for ``class_weight: balanced`` and ``weight_ratio``.
        class_num: the classes that a list of class weights must match.
        at: the key, for messages.

    Raises:
        UserError: a wrong parameter, weights for another number of classes, or nothing to balance them by.
    """
    built = []
    for term in terms:
        try:
            part = LOSSES.resolve(term.name)(**term.parameters)
        except ValueError as error:
            raise UserError(f"{term.name}: {error}", where=at) from error
        _settle_class_weight(part, labels if at == "Loss.Train" else None, class_num)
        if getattr(part, "weight_ratio", False):
            if labels is None or labels.ndim != 2:
                raise UserError(f"{term.name}: weight_ratio", where=at, hint="it is for several labels a photo")
            part.ratio = np.where(labels < 0, 0, labels).mean(axis=0).astype(np.float32)
        built.append((term.weight, part))
    return built


def build_loss(
    terms: Iterable[Term], labels: np.ndarray | None = None, class_num: int = 0, at: str = "Loss.Train"
) -> Loss:
    """Return the weighted sum of ``Loss.Train`` or ``Loss.Eval``, see :func:`build_terms`.

    Raises:
        UserError: also for a loss that asks a teacher, where there is none.
    """
    built = build_terms(terms, labels, class_num, at)
    asking = [type(part).__name__ for _, part in built if hasattr(part, "stages")]
    if asking and at == "Loss.Train":
        hint = "-o Teacher.name=... -o Teacher.pretrained=..., or -o Teacher.pretrained=package:DIR"
        raise UserError(f"{asking[0]} asks a teacher, and there is no Teacher", where=at, hint=hint)
    if asking:
        hint = f"-o {at}=[CELoss], or MultiLabelLoss for several labels a photo"
        raise UserError(f"{asking[0]} asks a teacher, and evaluation has none", where=at, hint=hint)

    def loss(logits: paddle.Tensor, labels: paddle.Tensor) -> paddle.Tensor:
        return add_up([(weight, term(logits, labels)) for weight, term in built])

    return loss


def add_up(values: Iterable[tuple[float, paddle.Tensor]]) -> paddle.Tensor:
    """Return the sum of (factor, value)."""
    total = None
    for weight, value in values:
        value = value * weight if weight != 1.0 else value
        total = value if total is None else total + value
    return total


def _settle_class_weight(term: Loss, labels: np.ndarray | None, class_num: int) -> None:
    given = getattr(term, "class_weight", None)
    if given == "balanced":
        if labels is None:
            raise UserError("class_weight: balanced", where="Loss.Eval", hint="it is for Loss.Train")
        term.class_weight = class_weights(labels, class_num).tolist()
    elif given is not None and class_num and len(given) != class_num:
        raise UserError(f"class_weight has {len(given)} numbers", where="Loss", allowed=f"{class_num}, one a class")
    elif given is not None and (min(given) < 0 or not max(given) > 0):
        raise UserError(f"class_weight is {list(given)}", where="Loss", allowed="0 and above, not all 0")
