"""What training minimises."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import paddle
import paddle.nn.functional as F

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
        reduction: how the photos of a batch are put together.
    """

    def __init__(self, epsilon: float | None = None, reduction: str = "mean"):
        if reduction not in ("mean", "sum"):
            raise ValueError(f"reduction {reduction!r}; allowed: 'mean', 'sum'")
        self.epsilon = epsilon if epsilon is not None and 0 < epsilon < 1 else 0.0
        self.reduction = reduction

    def __call__(self, logits: paddle.Tensor, labels: paddle.Tensor) -> paddle.Tensor:
        """Return the loss of logits [N, classes], a tensor without axes."""
        logits = logits.astype("float32")  # the sum of exponentials overflows in float16
        if labels.ndim == 1 and not self.epsilon:
            return F.cross_entropy(logits, labels, reduction=self.reduction)
        classes = logits.shape[-1]
        target = F.one_hot(labels, classes) if labels.ndim == 1 else labels.astype("float32")
        target = target * (1 - self.epsilon) + self.epsilon / classes
        each = -(F.log_softmax(logits, axis=-1) * target).sum(axis=-1)
        return each.mean() if self.reduction == "mean" else each.sum()


def build_loss(section: Sequence | None) -> Loss:
    """Return the weighted sum of a config's ``Loss.Train`` or ``Loss.Eval`` list; cross entropy where it is absent."""
    terms = []
    for entry in section or ({"CELoss": {}},):
        for name, parameters in entry.items():
            parameters = dict(parameters or {})
            weight = parameters.pop("weight", None)
            terms.append((1.0 if weight is None else weight, LOSSES.resolve(name)(**parameters)))

    def loss(logits: paddle.Tensor, labels: paddle.Tensor) -> paddle.Tensor:
        total = None
        for weight, term in terms:
            value = term(logits, labels) * weight if weight != 1.0 else term(logits, labels)
            total = value if total is None else total + value
        return total

    return loss
