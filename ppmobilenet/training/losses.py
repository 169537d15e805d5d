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


def build_loss(terms: Iterable[Term], labels: np.ndarray | None = None, class_num: int = 0) -> Loss:
    """Return the weighted sum of ``Loss.Train`` or ``Loss.Eval``.

    Args:
        terms: the config's list.
        labels: of the training photos, for ``class_weight: balanced``.
        class_num: the classes that a list of class weights must match.

    Raises:
        UserError: weights for another number of classes, or nothing to balance them by.
    """
    built = []
    for term in terms:
        part = LOSSES.resolve(term.name)(**term.parameters)
        _settle_class_weight(part, labels, class_num)
        built.append((term.weight, part))

    def loss(logits: paddle.Tensor, labels: paddle.Tensor) -> paddle.Tensor:
        total = None
        for weight, term in built:
            value = term(logits, labels) * weight if weight != 1.0 else term(logits, labels)
            total = value if total is None else total + value
        return total

    return loss


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
