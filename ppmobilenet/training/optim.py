"""Learning rate schedules, and optimizers for parameters that are treated one by one.

A schedule is a function of the position alone, so a resumed run needs no memory of it.  Values equal those of Paddle's
schedulers as PaddleClas combines them: linear warm-up first, and what follows counts from the warm-up's end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

import paddle
from paddle import nn
from paddle.optimizer.lr import LRScheduler

from ppmobilenet.config import parts
from ppmobilenet.errors import UserError, did_you_mean
from ppmobilenet.models.family import classifier_of
from ppmobilenet.registry import OPTIMIZERS, SCHEDULES
from ppmobilenet.telling import log

Rate = Callable[[int], float]


@SCHEDULES.register()
def ConstLR(learning_rate: float, epochs: int, steps_per_epoch: int) -> Rate:
    """The same rate at every step."""
    return lambda position: learning_rate


@SCHEDULES.register()
def Cosine(
    learning_rate: float, epochs: int, steps_per_epoch: int, warmup_epoch: float = 0, eta_min: float = 0.0
) -> Rate:
    """Half a cosine from ``learning_rate`` to ``eta_min`` (Loshchilov and Hutter 2017, without restarts)."""
    length = (epochs - warmup_epoch) * steps_per_epoch
    if length <= 0:
        return ConstLR(learning_rate, epochs, steps_per_epoch)
    return lambda p: eta_min + (learning_rate - eta_min) * (1 + math.cos(math.pi * p / length)) / 2


@SCHEDULES.register()
def Linear(
    learning_rate: float,
    epochs: int,
    steps_per_epoch: int,
    warmup_epoch: float = 0,
    end_lr: float = 0.0,
    power: float = 1.0,
    cycle: bool = False,
) -> Rate:
    """A polynomial of degree ``power`` from ``learning_rate`` to ``end_lr``; ``cycle`` starts it over at its end."""
    length = (epochs - warmup_epoch) * steps_per_epoch
    if length <= 0:
        return ConstLR(learning_rate, epochs, steps_per_epoch)

    def rate(p: int) -> float:
        end = length * max(1, math.ceil(p / length)) if cycle else length
        return end_lr + (learning_rate - end_lr) * (1 - min(p, end) / end) ** power

    return rate


@SCHEDULES.register()
def Step(learning_rate: float, epochs: int, steps_per_epoch: int, step_size: float, gamma: float = 0.1) -> Rate:
    """Times ``gamma`` after every ``step_size`` epochs."""
    size = int(step_size * steps_per_epoch)
    if size < 1:
        raise ValueError(f"step_size {step_size} is less than one step")
    return lambda p: learning_rate * gamma ** (p // size)


@SCHEDULES.register()
def Piecewise(
    learning_rate: float | None,
    epochs: int,
    steps_per_epoch: int,
    decay_epochs: list[float] | None = None,
    values: list[float] | None = None,
) -> Rate:
    """``values[i]`` until ``decay_epochs[i]``, the last value after that.

    PaddleClas ignores both where ``learning_rate`` stands beside them, and divides by ten every 30 epochs. The file
    says otherwise, so ``values`` count here; without them it is the same division by ten.
    """
    if values is None or decay_epochs is None:
        if learning_rate is None:
            raise ValueError("Piecewise needs decay_epochs and values, or learning_rate")
        decay_epochs = list(range(30, epochs, 30))
        values = [learning_rate * 0.1**i for i in range(len(decay_epochs) + 1)]
    elif learning_rate is not None:
        log.info(
            "Optimizer.lr: using decay_epochs %s and values %s of the file; PaddleClas would ignore them, since "
            "learning_rate %g stands beside them",
            list(decay_epochs),
            list(values),
            learning_rate,
        )
    if len(values) != len(decay_epochs) + 1:
        raise ValueError(f"{len(values)} values for {len(decay_epochs)} decay_epochs; allowed: one value more")
    bounds = [epoch * steps_per_epoch for epoch in decay_epochs]
    return lambda p: values[sum(p >= bound for bound in bounds)]


class Schedule(LRScheduler):
    """What an optimizer asks for its learning rate.

    Attributes:
        scale: factor on the whole schedule: the global batch size's, and a rollback's.
        by_epoch: the rate changes once an epoch.
        steps_per_epoch: updates of the weights in an epoch.
    """

    def __init__(self, rate: Rate, warmup: int, warmup_from: float, peak: float, by_epoch: bool, steps_per_epoch: int):
        self._rate, self._warmup, self._warmup_from, self._peak = rate, warmup, warmup_from, peak
        self.by_epoch, self.steps_per_epoch, self.scale = by_epoch, steps_per_epoch, 1.0
        super().__init__(learning_rate=peak)

    def get_lr(self) -> float:
        position = self.last_epoch
        if position < self._warmup:
            value = self._warmup_from + (self._peak - self._warmup_from) * position / self._warmup
        else:
            value = self._rate(position - self._warmup)
        return self.scale * value

    def at(self, update: int, scale: float = 1.0) -> float:
        """Set the rate for the ``update``-th change of the weights, counted from 0, times ``scale``, and return it."""
        self.step(update // self.steps_per_epoch if self.by_epoch else update)
        self.last_lr *= scale
        return self.last_lr

    def state_dict(self) -> dict:
        # the inner part is what PaddleClas reads where its schedule has a warm-up
        after = {"last_epoch": max(0, self.last_epoch - self._warmup), "last_lr": float(self.last_lr)}
        return {"last_epoch": self.last_epoch, "last_lr": float(self.last_lr), "LinearWarmup_LR": after}

    def set_state_dict(self, state: Mapping) -> None:
        """Nothing: the position comes from the training state."""


def build_schedule(part: parts.Schedule, epochs: int, steps_per_epoch: int, global_batch: int) -> Schedule:
    """Build what ``Optimizer.lr`` describes.

    Args:
        part: ``Optimizer.lr``.
        epochs: of the whole run.
        steps_per_epoch: updates of the weights in an epoch.
        global_batch: photos behind one update, over all processes.

    Raises:
        UserError: parameters that contradict each other.
    """
    name, warmup_epoch, base = part.name, part.warmup_epoch, part.base_batch_size
    if warmup_epoch >= epochs and warmup_epoch:
        log.warning("Optimizer.lr.warmup_epoch is %g of %d epochs: the run is all warm-up", warmup_epoch, epochs)
        warmup_epoch = epochs
    given = {key: list(v) if isinstance(v, tuple) else v for key, v in part.parameters.items() if v is not None}
    given.update(epochs=epochs, steps_per_epoch=1 if part.by_epoch else steps_per_epoch)
    given["learning_rate"] = part.learning_rate
    if "warmup_epoch" in given:
        given["warmup_epoch"] = warmup_epoch
    if part.learning_rate is None and name != "Piecewise":
        raise UserError("Optimizer.lr.learning_rate is missing", hint="-o Optimizer.lr.learning_rate=0.05")
    try:
        rate = SCHEDULES.resolve(name, where="Optimizer.lr.name")(**given)
    except (TypeError, ValueError) as error:
        raise UserError(f"{name}: {error}", where="Optimizer.lr") from error
    warmup = int(warmup_epoch) if part.by_epoch else round(warmup_epoch * steps_per_epoch)
    peak = rate(0) if name == "Piecewise" else part.learning_rate
    schedule = Schedule(rate, warmup, part.warmup_start_lr, peak, part.by_epoch, steps_per_epoch)
    if base and base != global_batch:
        schedule.scale = global_batch / base
        log.info(
            "learning rate %g is for batches of %d; a batch is %d here, so it becomes %g",
            *(peak, base, global_batch, peak * schedule.scale),
        )
    else:
        log.info("learning rate %g (%s), %d photos behind each step", peak, name, global_batch)
    return schedule


@OPTIMIZERS.register()
def SGD(learning_rate, parameters, **common):
    """Plain gradient descent."""
    return paddle.optimizer.SGD(learning_rate, parameters=parameters, **common)


@OPTIMIZERS.register()
def Momentum(learning_rate, parameters, momentum: float = 0.9, use_nesterov: bool = False, **common):
    """Gradient descent with a velocity (Sutskever et al. 2013)."""
    return paddle.optimizer.Momentum(
        learning_rate, momentum=momentum, parameters=parameters, use_nesterov=use_nesterov, **common
    )


@OPTIMIZERS.register()
def RMSProp(
    learning_rate, parameters, momentum: float = 0.0, rho: float = 0.95, epsilon: float = 1e-6, **common
):  # the optimizer of the MobileNet papers
    """Steps divided by the running root mean square of the gradient (Tieleman and Hinton 2012)."""
    return paddle.optimizer.RMSProp(
        learning_rate, rho=rho, epsilon=epsilon, momentum=momentum, parameters=parameters, **common
    )


@OPTIMIZERS.register()
def Adam(learning_rate, parameters, beta1: float = 0.9, beta2: float = 0.999, epsilon: float = 1e-8, **common):
    """Kingma and Ba 2015; weight decay is L2 on the gradient."""
    return paddle.optimizer.Adam(
        learning_rate, beta1=beta1, beta2=beta2, epsilon=epsilon, parameters=parameters, **common
    )


@OPTIMIZERS.register()
def AdamW(learning_rate, parameters, beta1: float = 0.9, beta2: float = 0.999, epsilon: float = 1e-8, **common):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019)."""
    return paddle.optimizer.AdamW(
        learning_rate, beta1=beta1, beta2=beta2, epsilon=epsilon, parameters=parameters, **common
    )


def build_optimizer(part: parts.Optimizer, model: nn.Layer, schedule: Schedule) -> paddle.optimizer.Optimizer:
    """Build what ``Optimizer`` describes, for the parameters that are trained.

    What is said of single parameters (``lr_mult``, ``no_weight_decay_name``, ``one_dim_param_no_weight_decay``) is
    written on them, so the optimizer has one list and its state the same keys as PaddleClas's.

    Raises:
        UserError: two parameters of one name; a pattern that fits none; nothing left to train.
    """
    own = {key: value for key, value in part.parameters.items() if value is not None}
    named = [(key, p) for key, p in model.named_parameters() if not p.stop_gradient]
    if not named:
        raise UserError("Arch.freeze leaves no parameter to train")
    _refuse_equal_names([p.name for _, p in named])
    decay = _decay(part)
    spared = _spared(part, named)
    if part.name == "AdamW":
        names = {p.name for key, p in named if key in spared}
        own.update(weight_decay=decay or 0.0, apply_decay_param_fun=lambda parameter: parameter not in names)
    else:
        own["weight_decay"] = decay
        for key, parameter in named:
            if key in spared and decay is not None:
                parameter.regularizer = paddle.regularizer.L2Decay(0.0)
    _multiply(part.lr_mult or {}, named, classifier_of(model))
    if part.clip_norm:
        own["grad_clip"] = nn.ClipGradByNorm(part.clip_norm)
    if part.clip_global_norm:
        own["grad_clip"] = nn.ClipGradByGlobalNorm(part.clip_global_norm)
    if part.name == "RMSProp":  # Paddle's has none
        if part.multi_precision:
            log.warning("Optimizer.multi_precision changes nothing: RMSProp keeps no float32 weights beside others")
    else:
        own["multi_precision"] = part.multi_precision
    return OPTIMIZERS.resolve(part.name, where="Optimizer.name")(schedule, [p for _, p in named], **own)


def _decay(part: parts.Optimizer):
    kind = part.regularizer.name
    coefficient = part.regularizer.coeff or part.weight_decay
    if not coefficient:
        return None
    if part.name == "AdamW":
        if kind != "L2":
            raise UserError("AdamW decays weights by weight_decay, not by L1", where="Optimizer.regularizer.name")
        return float(coefficient)
    kinds = {"L1": paddle.regularizer.L1Decay, "L2": paddle.regularizer.L2Decay}
    return kinds[kind](float(coefficient))


def _spared(part: parts.Optimizer, named: list) -> set[str]:
    """The keys of the parameters that do not decay."""
    words = (part.no_weight_decay_name or "").split()
    for word in words:
        if not any(word in key for key, _ in named):
            raise UserError(
                f"no parameter has {word!r} in its name",
                where="Optimizer.no_weight_decay_name",
                hint=did_you_mean(word, {word for key, _ in named for word in key.split(".")}),
            )
    flat = part.one_dim_param_no_weight_decay
    return {key for key, p in named if (flat and p.ndim == 1) or any(word in key for word in words)}


def _multiply(multipliers: Mapping[str, float], named: list, head: str) -> None:
    """Give the parameters of the layers that a pattern fits their own multiple of the learning rate."""
    for pattern, factor in multipliers.items():
        hit = meant(pattern, named, head)
        if not hit:
            layers = sorted({key.split(".")[0] for key, _ in named})
            raise UserError(
                f"no layer fits {pattern!r}",
                where="Optimizer.lr_mult",
                allowed="trunk, head, or patterns of layer names: " + ", ".join(layers),
                hint=did_you_mean(pattern, ["trunk", "head", *layers]),
            )
        for parameter in hit:
            parameter.optimize_attr["learning_rate"] = float(factor)


def meant(pattern: str, named: Iterable[tuple[str, Any]], head: str) -> list:
    """Return the parameters that ``trunk`` (all but the classifier), ``head`` (the classifier) or a pattern names.

    Args:
        pattern: see above.
        named: (name of a layer or of its parameter, what to return of it).
        head: the name of the classifier's layer, of :func:`ppmobilenet.models.family.classifier_of`.
    """
    if pattern in ("trunk", "head"):
        return [p for key, p in named if f"{key}.".startswith(f"{head}.") == (pattern == "head")]
    return [p for key, p in named if _fits(key, pattern)]


def _fits(key: str, pattern: str) -> bool:
    """Whether a pattern (``conv1``, ``conv[2-4]*``) names the parameter ``key``, its layer, or a layer around it."""
    parts = key.split(".")
    return any(fnmatchcase(".".join(parts[:n]), pattern) for n in range(1, len(parts) + 1))


def _refuse_equal_names(names: list[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(
            f"two parameters are named {twice[0]!r}: they would share one optimizer state",
            hint="build each network with create_model, and give one optimizer the parameters of one network",
        )
