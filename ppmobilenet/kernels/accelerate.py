"""Put the fused operators under a model's layers, and say in one line what happened."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import MethodType

import numpy as np
import paddle
from paddle import nn

from ppmobilenet.errors import UserError, did_you_mean
from ppmobilenet.kernels.build import INSTRUCTION_SETS, Unavailable, load_library
from ppmobilenet.kernels.plan import DENSE3, Step, Unsupported, plan
from ppmobilenet.kernels.run import Engine, execute
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


def accelerate(
    model: nn.Layer, mode: str = "auto", *, threads: int | None = None, say: Callable[[str], None] = print
) -> Report:
    """Run ``model`` on fused CPU operators from now on, where that is possible.

    Only how ``model(x)`` is computed changes: keys, parameter names, state dict and optimizer stay as they are, and
    static graphs (``paddle.jit``, export) see the stock layers. Each call looks at the layers anew, so that freezing,
    ``train()`` and ``eval()`` keep their meaning, and falls back to the stock operators by itself for what the engine
    cannot take: other places and types than float32 on the CPU (where Paddle has no AMP), layers with hooks, one value
    per channel.

    Args:
        model: a network with ``units()`` and ``head(x)`` (all of :mod:`ppmobilenet.models`).
        mode: ``auto`` (stock operators if it cannot be), ``on`` (an error instead), ``off``.
        threads: by default the cores this process may use.
        say: receives the progress line of the compilation.

    Returns:
        The report; its message is worth logging.

    Raises:
        UserError: an unknown mode, or mode ``on`` where the kernels cannot run, with the reason.
    """
    if mode not in MODES:
        raise UserError(
            f"cpu_kernels {mode!r}",
            where="Global.cpu_kernels",
            allowed=", ".join(MODES),
            hint=did_you_mean(mode, MODES),
        )
    if mode == "off":
        return Report(False, "cpu_kernels: off, stock operators")
    try:
        if paddle.get_device() != "cpu":
            raise Unavailable(f"the device is {paddle.get_device()}")
        if not hasattr(model, "units") or not hasattr(model, "head"):
            raise Unsupported(f"{type(model).__name__} has no units() and head()")
        if getattr(model, "features_only", False):
            raise Unsupported("features_only returns maps from inside the network")
        steps = plan(model.units())
        library = load_library(say)
        engine = Engine(library, library.ppm_instruction_set(), threads or usable_cores())
        _prove(model, engine)
    except (Unavailable, Unsupported) as reason:
        if mode == "on":
            raise UserError(
                f"cpu_kernels cannot run: {reason}", where="Global.cpu_kernels", hint="use auto or off"
            ) from reason
        return Report(False, f"cpu_kernels: stock operators ({reason})")
    model._cpu_kernels = engine
    model.forward = MethodType(_forward, model)
    name, plural = INSTRUCTION_SETS[engine.instruction_set][0], "" if engine.threads == 1 else "s"
    message = f"cpu_kernels: {len(steps)} layers fused, {name}, {engine.threads} thread{plural}"
    return Report(True, message, len(steps), name, engine.threads)


def _prove(model: nn.Layer, engine: Engine) -> None:
    """Compare the fused layers with the stock ones on noise, so that nothing is fused that was misunderstood."""
    modes = [(layer, layer.training) for layer in (model, *model.sublayers())]
    model.eval()
    try:
        with paddle.no_grad():
            noise = np.random.default_rng(0).uniform(-2, 2, (2, plan(model.units())[0].c_in, 37, 33))
            x = stock = paddle.to_tensor(noise.astype("float32"))
            for unit in model.units():
                stock = unit(stock)
            fused = execute(engine, plan(model.units()), x)
            apart, size = float((fused - stock).abs().max()), float(stock.abs().max())
    finally:
        for layer, training in modes:
            layer.training = training
    if not apart <= 1e-3 * size:
        raise Unavailable(f"its result departs from stock's by {apart:.2g} of {size:.2g}: a bug, please report it")


def _forward(self: nn.Layer, x):  # jit.save wants the first argument to be called self
    if not paddle.in_dynamic_mode() or not _can_take(x):
        return type(self).forward(self, x)
    steps = _steps(self, self.units(), x)
    return type(self).forward(self, x) if steps is None else self.head(execute(self._cpu_kernels, steps, x))


def run_units(model: nn.Layer, units: Sequence[nn.Layer], x):
    """Run some of a model's units one after the other, on its fused operators if it was accelerated.

    Args:
        model: the network that the units belong to.
        units: a part of ``model.units()``, in order.
        x: what the first of them takes, [N, C, H, W].
    """
    engine = getattr(model, "_cpu_kernels", None)
    if engine is not None and units and paddle.in_dynamic_mode() and _can_take(x):
        steps = _steps(model, units, x)
        if steps is not None:
            return execute(engine, steps, x)
    for unit in units:
        x = unit(x)
    return x


def _steps(model: nn.Layer, units: Sequence[nn.Layer], x) -> list[Step] | None:
    """The steps for this input, or None where only the stock operators will do."""
    try:
        steps = plan(units)
    except Unsupported:
        return None
    if not model.training and paddle.is_grad_enabled() and _is_trained(steps, x):
        return None  # a gradient in evaluation mode: explanations, not training
    if any(layer._forward_pre_hooks or layer._forward_post_hooks for layer in model.sublayers()):
        return None  # somebody wants to see what happens inside
    if any(p.dtype != paddle.float32 for step in steps for p in step.parameters):
        return None
    if steps[0].kind == DENSE3 and not x.stop_gradient:
        return None  # the gradient of the pixels: not on the way of training
    height, width = x.shape[2:]
    for step in steps:
        height, width = -(-height // step.stride), -(-width // step.stride)
        if not step.running and x.shape[0] * height * width == 1:
            return None  # batch statistics of one value: Paddle passes it through
    return steps


def _is_trained(steps: Sequence[Step], x) -> bool:
    return not x.stop_gradient or any(not p.stop_gradient for step in steps for p in step.parameters)


def _can_take(x) -> bool:
    return (
        isinstance(x, paddle.Tensor)
        and x.ndim == 4
        and x.dtype == paddle.float32
        and x.place.is_cpu_place()
        and 0 not in x.shape
    )
