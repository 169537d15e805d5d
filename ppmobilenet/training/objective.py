"""What training minimises, seen from the trainer: a function of network, images and labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import paddle
import paddle.nn.functional as F
from paddle import nn

from ppmobilenet.data.loader import Batch
from ppmobilenet.errors import UserError
from ppmobilenet.training.distillation import LOGITS, TeacherLoss
from ppmobilenet.training.losses import Loss, Terms, add_up
from ppmobilenet.training.teacher import Asked, Stages, Teacher

Network = Callable[[paddle.Tensor], paddle.Tensor]
# (network, images [N, 3, H, W], their batch) -> (loss, a tensor without axes; logits of what has labels [n, classes])
Objective = Callable[[Network, paddle.Tensor, Batch], tuple[paddle.Tensor, paddle.Tensor]]


@dataclass(frozen=True)
class Supervised:
    """The answers are to be the labels."""

    loss: Loss

    def __call__(self, network: Network, images: paddle.Tensor, batch: Batch):
        logits = network(images)
        return self.loss(logits, paddle.to_tensor(batch.labels)), logits


class LearnFrom:
    """The answers are to be near those of a teacher, and, as far as losses ask them, the labels.

    Photos without labels stand behind the others of a batch; only losses that ask no label see them.

    Args:
        teacher: that answers where the batch does not bring its answers.
        terms: the losses, at least one of them a teacher's.
        network: the student, whose layers a loss may ask for.

    Attributes:
        asked: what the losses ask of the teacher.

    Raises:
        UserError: no loss asks the teacher, or one asks for a layer that is not there.
    """

    def __init__(self, teacher: Teacher, terms: Terms, network: nn.Layer):
        self._terms = terms
        asking = [term for _, term in terms if isinstance(term, TeacherLoss)]
        if not asking:
            raise UserError(
                "no loss asks the Teacher",
                where="Loss.Train",
                hint="-o Loss.Train=[DistillationKLDivLoss], and as many others as are wanted",
            )
        ours, theirs = ([name for t in asking for name in _layers(t)[side]] for side in (0, 1))
        self._ours = Stages(network, dict.fromkeys(ours), "Arch") if ours else None
        self.asked = Asked(teacher, list(dict.fromkeys(theirs)))

    def __call__(self, network: Network, images: paddle.Tensor, batch: Batch):
        rows = self.asked(images) if batch.answers is None else paddle.to_tensor(batch.answers)
        wanted = self.asked.parted(rows)
        logits = network(images)
        labels, count = paddle.to_tensor(batch.labels), len(batch.labels)
        values = []
        for weight, term in self._terms:
            if not isinstance(term, TeacherLoss):
                values.append((weight, term(logits[:count], labels)))
                continue
            upto = count if term.asks_labels else len(logits)
            for ours, theirs in term.stages or ((LOGITS, LOGITS),):
                s, t = (logits if ours == LOGITS else self._ours[ours])[:upto], wanted[theirs][:upto]
                _refuse_shapes(term, s, t)
                values.append((weight, term(s.astype("float32"), t.detach().astype("float32"), labels)))
        return add_up(values), logits[:count]


def _layers(term: TeacherLoss) -> tuple[Sequence[str], Sequence[str]]:
    return tuple([pair[side] for pair in term.stages if pair[side] != LOGITS] for side in (0, 1))


def _refuse_shapes(term: TeacherLoss, s: paddle.Tensor, t: paddle.Tensor) -> None:
    if s.shape != t.shape and not hasattr(term, "relates"):
        raise UserError(
            f"{type(term).__name__}: the student's layer gives {list(s.shape[1:])}, the teacher's {list(t.shape[1:])}",
            where="Loss.Train",
            hint="name layers of equal shapes, or take DistillationRKDLoss, which compares relations among photos",
        )


class AgreeWith:
    """The answers are to be those of another network, whatever the labels: cross entropy to its probabilities.

    Args:
        teacher: in evaluation mode.
    """

    def __init__(self, teacher: Network):
        self._teacher = teacher
        self._agreed = self._seen = 0

    def __call__(self, network: Network, images: paddle.Tensor, batch: Batch):
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
