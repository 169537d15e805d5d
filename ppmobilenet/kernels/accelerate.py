"""Put the fused operators under a model's layers, and say in one line what happened."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import FunctionType, MethodType

import numpy as np
import paddle
from paddle import nn
from paddle.jit.sot.psdb import in_sot

from ppmobilenet.errors import UserError, did_you_mean
from ppmobilenet.kernels.build import INSTRUCTION_SETS, Unavailable, load_library
from ppmobilenet.kernels.plan import OURS, Unsupported, check_around, form, plan
from ppmobilenet.kernels.run import MAX_THREADS, Engine, execute
from ppmobilenet.machine import usable_cores

MODES = ("auto", "on", "off")


@dataclass(frozen=True)
class Report:
    """What :func:`accelerate` did.

    Attributes:
        accelerated: the model now runs on the fused operators.
        message: one line for the log.
        layers: how many convolution layers were fused.
        instruction_set: ``"avx512"``, ``"avx2"`` or ``"baseline"``; None with stock operators.
        threads: of the fused operators; 0 with stock operators.
    """

    accelerated: bool
    message: str
    layers: int = 0
    instruction_set: str | None = None
    threads: int = 0


def accelerate(model: nn.Layer, mode: str = "auto", *, threads: int | None = None) -> Report:
    """Run ``model`` on fused CPU operators from now on, where that is possible.

    Only how ``model(x)`` is computed changes: keys, parameter names, state dict and optimizer stay as they are, and
    static graphs (``paddle.jit``, export) see the stock layers. Each call looks at the layers anew, so that freezing,
    ``train()`` and ``eval()`` keep their meaning, and falls back to the stock operators by itself for what the engine
    cannot take: other shapes, places and types than float32 on the CPU (where Paddle has no AMP), layers with hooks or
    with another forward than their class's, one value per channel. What stock operators refuse is refused by them.

    Args:
        model: a network with ``units()`` and ``head(x)`` (all of :mod:`ppmobilenet.models`), whose forward is the one
            after the other. A subclass may have its own head; with a forward of its own it keeps stock operators.
        mode: ``auto`` (stock operators if it cannot be), ``on`` (an error instead), ``off``.
        threads: by default the cores this process may use.

    Returns:
        The report; its message is worth logging.

    Raises:
        UserError: an unknown mode, a number of threads that is none, or mode ``on`` where the kernels cannot run, with
            the reason.
    """
    if mode not in MODES:
        raise UserError(
            f"cpu_kernels {mode!r}",
            where="Global.cpu_kernels",
            allowed=", ".join(MODES),
            hint=did_you_mean(mode, MODES),
        )
    if threads is not None and not (isinstance(threads, int) and 1 <= threads <= MAX_THREADS):
        raise UserError(f"{threads!r} threads", allowed=f"1 to {MAX_THREADS}, or None: the usable cores")
    if mode == "off":
        return Report(False, "cpu_kernels: off, stock operators")
    try:
        if not paddle.in_dynamic_mode():
            raise Unavailable("Paddle is in static graph mode")
        if paddle.get_device() != "cpu":
            raise Unavailable(f"the device is {paddle.get_device()}")
        _check_forward(model)
        check_around(model, model.units())
        steps = plan(model.units())
        library = load_library()
        engine = Engine(library, library.ppm_instruction_set(), threads or usable_cores())
        _prove(model, engine)
    except (Unavailable, Unsupported) as reason:
        if mode == "on":
            raise UserError(
                f"cpu_kernels cannot run: {reason}", where="Global.cpu_kernels", hint="use auto or off"
            ) from reason
        return Report(False, f"cpu_kernels: stock operators ({reason})")
    engine.forward, engine.forms = type(model).forward, frozenset(form(unit) for unit in model.units())
    model._cpu_kernels = engine
    model.forward = MethodType(forward, model)
    name, plural = INSTRUCTION_SETS[engine.instruction_set][0], "" if engine.threads == 1 else "s"
    message = f"cpu_kernels: {len(steps)} layers fused, {name}, {engine.threads} thread{plural}"
    return Report(True, message, len(steps), name, engine.threads)


def _check_forward(model: nn.Layer) -> None:
    """Refuse a model whose forward need not be its units and then its head."""
    kind = type(model)
    if not hasattr(model, "units") or not hasattr(model, "head"):
        raise Unsupported(f"{kind.__name__} has no units() and head()")
    if getattr(model, "features_only", False):
        raise Unsupported("features_only returns maps from inside the network")
    mine = getattr(model.__dict__.get("forward"), "__func__", None)
    if "forward" in model.__dict__ and mine not in (forward, kind.forward):
        raise Unsupported(f"the forward of this {kind.__name__} was replaced")
    line = kind.__mro__[: kind.__mro__.index(nn.Layer)]
    author = next((c for c in line if "forward" in vars(c)), None)
    if author is None or kind.__call__ is not nn.Layer.__call__:
        raise Unsupported(f"{kind.__name__} has no forward, or a __call__ of its own")
    if kind.forward.__module__ != author.__module__:
        raise Unsupported(f"the forward of {author.__name__} was replaced")
    if not author.__module__.startswith(OURS) and not {"units", "head"} <= set(vars(author)):
        raise Unsupported(f"{author.__name__} has a forward of its own")
    # what forward calls is what its author wrote, but for the head, which is called here too
    at = line.index(author)
    code = (FunctionType, property, staticmethod, classmethod)
    written = {name for c in line[at:] for name, value in vars(c).items() if isinstance(value, code)}
    written -= {"head", "__init__", "__repr__", "extra_repr"}
    for c in line[:at]:
        changed = sorted(written & set(vars(c)))
        if changed and not c.__module__.startswith(OURS):
            raise Unsupported(f"{c.__name__} has its own {', '.join(changed)}")
    changed = sorted((written - {"forward"}) & set(model.__dict__))
    if changed:
        raise Unsupported(f"{', '.join(changed)} of this {kind.__name__} was replaced")


def _prove(model: nn.Layer, engine: Engine) -> None:
    """Compare the fused layers with the stock ones on noise, so that nothing is fused that was misunderstood."""
    modes = [(layer, layer.training) for layer in (model, *model.sublayers())]
    model.eval()
    steps = plan(model.units())
    statistics = [t for step in steps if not step.running for t in (step.norm._mean, step.norm._variance)]
    kept = [t.numpy().copy() for t in statistics]  # use_global_stats=False updates them in evaluation too
    try:
        with paddle.no_grad():
            noise = np.random.default_rng(0).uniform(-2, 2, (2, steps[0].c_in, 37, 33))
            x = stock = paddle.to_tensor(noise.astype("float32"))
            fused = execute(engine, steps, x)  # first: it refuses parameters of other types
            for unit in model.units():
                stock = unit(stock)
            apart, size = float((fused - stock).abs().max()), float(stock.abs().max())
    finally:
        for layer, training in modes:
            layer.training = training
        for t, value in zip(statistics, kept):
            t.set_value(value)
    if not apart <= 1e-3 * size:
        raise Unavailable(f"its result departs from stock's by {apart:.2g} of {size:.2g}: a bug, please report it")


@paddle.jit.not_to_static
def _features(model: nn.Layer, units: Sequence[nn.Layer] | None, x):
    """What the units make of ``x`` on the fused operators, or None where only the stock operators will do."""
    engine = getattr(model, "_cpu_kernels", None)
    if engine is None or not paddle.in_dynamic_mode() or not _can_take(x):
        return None
    if type(model).forward is not engine.forward:
        return None
    units = model.units() if units is None else units
    try:
        check_around(model, model.units())
        steps = plan(units)
        if not engine.forms.issuperset(form(unit) for unit in units):
            return None  # something was put in that nobody compared
        if not model.training and paddle.is_grad_enabled() and _is_trained(steps, x):
            return None  # a gradient in evaluation mode: explanations, not training
        return execute(engine, steps, x)
    except Unsupported:
        return None


def forward(self: nn.Layer, x):  # the names are those that jit.save and pickle want
    if in_sot():  # True only where to_static reads this line instead of running it
        return type(self).forward(self, x)
    features = _features(self, None, x)
    if features is None:
        return type(self).forward(self, x)
    return self.head(features)


def run_units(model: nn.Layer, units: Sequence[nn.Layer], x):
    """Run some of a model's units one after the other, on its fused operators if it was accelerated.

    Args:
        model: the network that the units belong to.
        units: a part of ``model.units()``, in order.
        x: what the first of them takes, [N, C, H, W].
    """
    features = _features(model, units, x) if units else None
    if features is not None:
        return features
    for unit in units:
        x = unit(x)
    return x


def _is_trained(steps, x) -> bool:
    return not x.stop_gradient or any(not p.stop_gradient for step in steps for p in step.parameters)


def _can_take(x) -> bool:
    return isinstance(x, paddle.Tensor) and x.ndim == 4 and x.dtype == paddle.float32 and 0 not in x.shape
