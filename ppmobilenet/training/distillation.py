"""What a student minimises beside, or in place of, the labels' losses: its distance from a teacher's answers.

Names, parameters and values are PaddleClas's. ``s`` and ``t`` are logits of student and teacher [N, classes], or, with
``key``, what a layer of each gives.
"""

from __future__ import annotations

from collections.abc import Sequence

import paddle
import paddle.nn.functional as F

from ppmobilenet.registry import LOSSES
from ppmobilenet.training.losses import CELoss, MultiLabelLoss

PAIR = ("Student", "Teacher")
LOGITS = "logits"  # what a key says for the answer itself
FEATURES = "features"  # and for what the classifier gets, in front of dropout, whatever a network's layer is called


class TeacherLoss:
    """A loss that asks a teacher.

    Attributes:
        stages: pairs (layer of the student, layer of the teacher) whose outputs it takes; none: the logits of both.
        asks_labels: it takes the labels too, so photos without one are left out.
    """

    asks_labels = False
    stages: tuple[tuple[str, str], ...] = ()

    def __init__(self, model_name_pairs: Sequence = (PAIR,), key: str | None = None, name: str | None = None):
        pairs = [tuple(pair) for pair in model_name_pairs]
        if pairs != [PAIR]:
            raise ValueError(f"model_name_pairs {[list(p) for p in pairs]}; allowed: [[Student, Teacher]]")
        self.stages = ((key, key),) if key not in (None, LOGITS) else ()

    def __call__(self, s: paddle.Tensor, t: paddle.Tensor, labels: paddle.Tensor | None) -> paddle.Tensor:
        raise NotImplementedError


def _each_cross_entropy(logits: paddle.Tensor, target: paddle.Tensor) -> paddle.Tensor:
    """Cross entropy of each photo [N] to labels [N] or probabilities [N, classes]."""
    target = F.one_hot(target, logits.shape[-1]) if target.ndim == 1 else target.astype("float32")
    return -(F.log_softmax(logits, axis=-1) * target).sum(axis=-1)


def _kl(wanted: paddle.Tensor, log_given: paddle.Tensor) -> paddle.Tensor:
    """KL divergence, the sum over classes, the mean over photos."""
    # where nothing is wanted of a class, nothing is asked: 0 * log 0 = 0
    return (wanted * (paddle.log(wanted.clip(min=1e-38)) - log_given)).sum(axis=-1).mean()


@LOSSES.register()
class DistillationCELoss(TeacherLoss):
    """Cross entropy to the teacher's probabilities.

    Args:
        epsilon: PaddleClas takes the teacher's logits for probabilities where this is set, and so nothing can be.
    """

    def __init__(
        self,
        model_name_pairs: Sequence = (PAIR,),
        epsilon: float | None = None,
        key: str | None = None,
        name: str | None = None,
    ):
        super().__init__(model_name_pairs, key)
        if epsilon is not None:
            raise ValueError("epsilon: the teacher's probabilities are smooth already; leave it out")

    def __call__(self, s, t, labels):
        return _each_cross_entropy(s, F.softmax(t, axis=-1)).mean()


@LOSSES.register()
class DistillationGTCELoss(CELoss):
    """Cross entropy to the labels, as :class:`CELoss`; ``model_names`` is the student (the teacher does not learn)."""

    def __init__(
        self,
        model_names: Sequence[str] = PAIR[:1],
        epsilon: float | None = None,
        key: str | None = None,
        name: str | None = None,
    ):
        super().__init__(epsilon)
        _only_student(model_names, key)


def _only_student(model_names: Sequence[str], key: str | None) -> None:
    if list(model_names) != [PAIR[0]] or key not in (None, LOGITS):
        raise ValueError(f"model_names {list(model_names)}, key {key!r}; allowed: [Student], logits")


@LOSSES.register()
class DistillationMultiLabelLoss(MultiLabelLoss):
    """The labels' loss of several labels a photo, as :class:`MultiLabelLoss`; ``model_names`` is the student."""

    def __init__(
        self,
        model_names: Sequence[str] = PAIR[:1],
        epsilon: float | None = None,
        size_sum: bool = False,
        weight_ratio: bool = False,
        key: str | None = None,
        name: str | None = None,
    ):
        super().__init__(epsilon, size_sum, weight_ratio)
        _only_student(model_names, key)


@LOSSES.register()
class DistillationDMLLoss(TeacherLoss):
    """Half of KL(t, s) + KL(s, t): what SSLD is configured with in PaddleClas (its paper calls it JS; it is not).

    Args:
        act: ``softmax``, or ``sigmoid`` for several labels a photo, each class by itself.
        weight_ratio: weight each label as :class:`MultiLabelLoss` does.
        sum_across_class_dim: multiply by the number of classes (PaddleClas sums what it had multiplied before).
    """

    def __init__(
        self,
        model_name_pairs: Sequence = (PAIR,),
        act: str | None = "softmax",
        weight_ratio: bool = False,
        sum_across_class_dim: bool = False,
        key: str | None = None,
        name: str | None = None,
    ):
        super().__init__(model_name_pairs, key)
        if act not in (None, "softmax", "sigmoid"):
            raise ValueError(f"act {act!r}; allowed: softmax, sigmoid, null")
        self._act = {None: lambda x: x, "softmax": lambda x: F.softmax(x, axis=-1), "sigmoid": F.sigmoid}[act]
        self.weight_ratio, self._summed, self.ratio = weight_ratio, sum_across_class_dim, None
        self.asks_labels = weight_ratio

    def __call__(self, s, t, labels):
        p, q, tiny = self._act(s), self._act(t), 1e-12
        both = (q - p) * paddle.log((q + tiny) / (p + tiny)) * (s.shape[-1] / 2)
        if self.weight_ratio:
            both = both * MultiLabelLoss.weights(labels, self.ratio)
        return both.sum(axis=1).mean() if self._summed else both.mean()


@LOSSES.register()
class DistillationKLDivLoss(TeacherLoss):
    """KL divergence from the teacher's softened probabilities (Hinton et al. 2015), times the temperature's square."""

    def __init__(
        self,
        model_name_pairs: Sequence = (PAIR,),
        temperature: float = 4,
        key: str | None = None,
        name: str | None = None,
    ):
        super().__init__(model_name_pairs, key)
        self._t = _above_zero(temperature)

    def __call__(self, s, t, labels):
        return _kl(F.softmax(t / self._t, axis=1), F.log_softmax(s / self._t, axis=1)) * self._t**2


def _above_zero(temperature: float) -> float:
    if not temperature > 0:
        raise ValueError(f"temperature {temperature!r}; allowed: above 0")
    return temperature


@LOSSES.register()
class DistillationDKDLoss(TeacherLoss):
    """Decoupled distillation (Zhao et al. 2022): the true class against the rest, and the rest among themselves.

    Args:
        use_target_as_gt: the teacher's best class in place of the label.
    """

    asks_labels = True

    def __init__(
        self,
        model_name_pairs: Sequence = (PAIR,),
        key: str | None = None,
        temperature: float = 1.0,
        alpha: float = 1.0,
        beta: float = 1.0,
        use_target_as_gt: bool = False,
        name: str | None = None,
    ):
        super().__init__(model_name_pairs, key)
        self._t, self._alpha, self._beta = _above_zero(temperature), alpha, beta
        self.asks_labels = not use_target_as_gt

    def __call__(self, s, t, labels):
        if not self.asks_labels:
            labels = t.argmax(axis=-1)
        labels = labels if labels.ndim == 1 else labels.argmax(axis=-1)
        own = F.one_hot(labels, s.shape[-1])
        s, t, square = s / self._t, t / self._t, self._t**2

        def target_and_rest(p):
            return paddle.stack([(p * own).sum(axis=1), (p * (1 - own)).sum(axis=1)], axis=1)

        wanted, given = target_and_rest(F.softmax(t, axis=1)), target_and_rest(F.softmax(s, axis=1))
        target = _kl(wanted, paddle.log(given.clip(min=1e-38)))
        away = 1000.0 * own
        rest = _kl(F.softmax(t - away, axis=1), F.log_softmax(s - away, axis=1))
        return square * (self._alpha * target + self._beta * rest)


@LOSSES.register()
class DistillationDISTLoss(TeacherLoss):
    """1 - Pearson's correlation of probabilities: over the classes of a photo, and over the photos of a class.

    Huang et al. 2022.
    """

    def __init__(
        self,
        model_name_pairs: Sequence = (PAIR,),
        key: str | None = None,
        beta: float = 1.0,
        gamma: float = 1.0,
        name: str | None = None,
    ):
        super().__init__(model_name_pairs, key)
        self._beta, self._gamma = beta, gamma

    def __call__(self, s, t, labels):
        p, q = F.softmax(s, axis=-1), F.softmax(t, axis=-1)
        return self._beta * _apart(p, q) + self._gamma * _apart(p.T, q.T)


def _apart(a: paddle.Tensor, b: paddle.Tensor) -> paddle.Tensor:
    a, b = (x - x.mean(axis=1, keepdim=True) for x in (a, b))
    return 1 - ((a * b).sum(axis=1) / (a.norm(axis=1) * b.norm(axis=1) + 1e-8)).mean()


@LOSSES.register()
class DistillationWSLLoss(TeacherLoss):
    """Softened cross entropy, less of it where the student already does better than the teacher (Zhou et al. 2021)."""

    asks_labels = True

    def __init__(
        self,
        model_name_pairs: Sequence = (PAIR,),
        key: str | None = None,
        temperature: float = 2.0,
        name: str | None = None,
    ):
        super().__init__(model_name_pairs, key)
        self._t = _above_zero(temperature)

    def __call__(self, s, t, labels):
        soft = _each_cross_entropy(s / self._t, F.softmax(t / self._t, axis=1))
        ratio = _each_cross_entropy(s.detach(), labels) / (_each_cross_entropy(t.detach(), labels) + 1e-7)
        return self._t**2 * (soft * (1 - paddle.exp(-ratio))).mean()


@LOSSES.register()
class DistillationSKDLoss(TeacherLoss):
    """Cross entropy of standardised logits to the teacher's standardised ones, and a share ``1 - alpha`` of labels.

    Args:
        use_target_as_gt: the teacher's best class in place of the label.
    """

    def __init__(
        self,
        model_name_pairs: Sequence = (PAIR,),
        key: str | None = None,
        temperature: float = 1.0,
        multiplier: float = 2.0,
        alpha: float = 0.9,
        use_target_as_gt: bool = False,
        name: str | None = None,
    ):
        super().__init__(model_name_pairs, key)
        self._t, self._multiplier, self._alpha = _above_zero(temperature), multiplier, alpha
        self.asks_labels = not use_target_as_gt

    def __call__(self, s, t, labels):
        if not self.asks_labels:
            labels = t.argmax(axis=-1)
        s, t = (F.layer_norm(x, x.shape[1:], epsilon=1e-7) * self._multiplier for x in (s, t))
        soft = _each_cross_entropy(s / self._t, F.softmax(t / self._t, axis=1)).mean() * self._t**2
        return self._alpha * soft + (1 - self._alpha) * _each_cross_entropy(s, labels).mean()


@LOSSES.register()
class DistillationDistanceLoss(TeacherLoss):
    """The distance of answers, or of what a layer gives (``key``).

    Of ``features`` this is a small network's imitation of a large one's trunk (Romero et al. 2015, "FitNets"): 1280
    numbers of MobileNetV2 up to x1_0, V3 and V4 alike.

    Args:
        mode: ``l1``, ``l2`` (squared) or ``smooth_l1``, the mean over all values.
        act: ``sigmoid`` or ``softmax`` first.
    """

    def __init__(
        self,
        mode: str = "l2",
        model_name_pairs: Sequence = (PAIR,),
        act: str | None = None,
        key: str | None = None,
        name: str | None = None,
    ):
        super().__init__(model_name_pairs, key)
        distances = {"l1": F.l1_loss, "l2": F.mse_loss, "smooth_l1": F.smooth_l1_loss}
        acts = {None: lambda x: x, "softmax": lambda x: F.softmax(x, axis=-1), "sigmoid": F.sigmoid}
        if mode not in distances or act not in acts:
            raise ValueError(f"mode {mode!r}, act {act!r}; allowed: l1, l2, smooth_l1; softmax, sigmoid, null")
        self._distance, self._act = distances[mode], acts[act]

    def __call__(self, s, t, labels):
        return self._distance(self._act(s), self._act(t))


@LOSSES.register()
class DistillationRKDLoss(TeacherLoss):
    """Relations among the photos of a batch: the angles of any three, the distances of any two (Park et al. 2019).

    Args:
        target_size: pool maps to this size first.
        student_keepkeys, teacher_keepkeys: layers, or ``logits``, pair by pair.
    """

    relates = True  # the two need not be of one shape

    def __init__(
        self,
        target_size: int | None = None,
        model_name_pairs: Sequence = (PAIR,),
        student_keepkeys: Sequence[str] = (LOGITS,),
        teacher_keepkeys: Sequence[str] = (LOGITS,),
    ):
        super().__init__(model_name_pairs)
        if len(student_keepkeys) != len(teacher_keepkeys) or not student_keepkeys:
            raise ValueError("student_keepkeys and teacher_keepkeys; allowed: equally many layers, at least one")
        self._size = target_size
        self.stages = tuple(zip(student_keepkeys, teacher_keepkeys))

    def __call__(self, s, t, labels):
        s, t = (self._flat(x) for x in (s, t))
        return angles_apart(s, t) + distances_apart(s, t)

    def _flat(self, x):
        if self._size is not None and x.ndim == 4:
            x = F.adaptive_avg_pool2d(x, self._size)
        return x.flatten(1)


def angles_apart(s: paddle.Tensor, t: paddle.Tensor) -> paddle.Tensor:
    """Smooth L1 distance of the cosines of all angles that three rows make."""

    def cosines(x):
        lines = F.normalize(x.unsqueeze(0) - x.unsqueeze(1), p=2, axis=2)
        return paddle.bmm(lines, lines.transpose([0, 2, 1])).flatten()

    return F.smooth_l1_loss(cosines(s), cosines(t))


def distances_apart(s: paddle.Tensor, t: paddle.Tensor) -> paddle.Tensor:
    """Smooth L1 distance of the distances of all pairs of rows (one with itself too), each divided by their mean."""

    def relative(x):
        square = x.pow(2).sum(axis=1)
        far = (square.unsqueeze(1) + square.unsqueeze(0) - 2 * x @ x.T).clip(min=1e-12).sqrt()
        return far / (far.mean() + 1e-12)

    return F.smooth_l1_loss(relative(s), relative(t))
