"""Put the fused operators under a model's layers, and say in one line what happened."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MethodType

import numpy as np
import paddle
from paddle import nn
from paddle.jit.sot.psdb import in_sot

from ppmobilenet.errors import UserError, did_you_mean
from ppmobilenet.kernels.build import INSTRUCTION_SETS, Unavailable, load_library
from ppmobilenet.kernels.plan import OURS, Part, Unsupported, check_around, check_code, kinds, plan
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
    static graphs (``paddle.jit``, export) see the stock layers. Units that the engine knows run on it, the others
    (attention, a layer of one's own) on stock operators, all in one graph. Each call looks at the layers anew, so that
    freezing, ``train()`` and ``eval()`` keep their meaning, and falls back to the stock operators by itself for what
    the engine cannot take: other shapes, places and types than float32 on the CPU (where Paddle has no AMP), units with
    hooks or with another forward than their class's, one value per channel. What stock operators refuse is refused by
    them.

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
        parts = plan(model.units())
        stock = [part for part in parts if not part.steps]
        if len(stock) == len(parts):
            raise Unsupported(parts[0].reason if parts else "no layers")
        library = load_library()
        engine = Engine(library, library.ppm_instruction_set(), threads or usable_cores())
        _let_openmp_sleep()
        _prove(model, engine)
    except (Unavailable, Unsupported) as reason:
        if mode == "on":
            raise UserError(
                f"cpu_kernels cannot run: {reason}", where="Global.cpu_kernels", hint="use auto or off"
            ) from reason
        return Report(False, f"cpu_kernels: stock operators ({reason})")
    engine.forward = type(model).forward
    engine.known = kinds(unit for part in parts if part.steps for unit in part.units)
    model._cpu_kernels = engine
    model.forward = MethodType(forward, model)
    name, plural = INSTRUCTION_SETS[engine.instruction_set][0], "" if engine.threads == 1 else "s"
    layers = sum(len(part.steps) for part in parts)
    message = f"cpu_kernels: {layers} layers fused, {name}, {engine.threads} thread{plural}"
    if stock:
        message += f"; {len(stock)} of {len(model.units())} units stock ({stock[0].reason})"
    return Report(True, message, layers, name, engine.threads)


def _let_openmp_sleep() -> None:
    """Let Paddle's own threads sleep as soon as a stock operator is done, where nobody has said otherwise.

    They spin for 200 ms (Intel OpenMP's default), and would take the processors from the fused operators' threads all
    the time: with ``OMP_NUM_THREADS=2`` on two processors a step of MobileNetV3 small took 1.6 times as long.
    """
    openmp = Path(paddle.__file__).parent / "libs" / "libiomp5.so"
    if openmp.is_file() and "KMP_BLOCKTIME" not in os.environ:
        ctypes.CDLL(str(openmp)).kmp_set_blocktime(0)


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
    author = next(c for c in kind.__mro__ if "forward" in vars(c))
    if author is nn.Layer or kind.__call__ is not nn.Layer.__call__:
        raise Unsupported(f"{kind.__name__} has no forward, or a __call__ of its own")
    if kind.forward.__module__ != author.__module__:
        raise Unsupported(f"the forward of {author.__name__} was replaced")
    if not author.__module__.startswith(OURS) and not {"units", "head"} <= set(vars(author)):
        raise Unsupported(f"{author.__name__} has a forward of its own")
    check_code(model, author, {"head"})  # what forward calls is what its author wrote, but for the head


def _prove(model: nn.Layer, engine: Engine) -> None:
    """Compare the fused layers with the stock ones on noise, so that nothing is fused that was misunderstood."""
    modes = [(layer, layer.training) for layer in (model, *model.sublayers())]
    model.eval()
    parts = [part for part in plan(model.units()) if part.steps]
    norms = [step.norm for part in parts for step in part.steps if not step.running]
    statistics = [t for norm in norms for t in (norm._mean, norm._variance)]
    kept = [t.numpy().copy() for t in statistics]  # use_global_stats=False updates them in evaluation too
    try:
        with paddle.no_grad():
            for part in parts:
                _compare(engine, part, (37, 33) if part is parts[0] else (13, 11))
    finally:
        for layer, training in modes:
            layer.training = training
        for t, value in zip(statistics, kept):
            t.set_value(value)


def _compare(engine: Engine, part: Part, size: tuple[int, int]) -> None:
    """Compare what the two make of images of noise; stock units are not called, they may want another size."""
    noise = np.random.default_rng(0).uniform(-2, 2, (2, part.steps[0].c_in, *size))
    x = stock = paddle.to_tensor(noise.astype("float32"))
    fused = execute(engine, part.steps, x)  # first: it refuses parameters of other types
    for unit in part.units:
        stock = unit(stock)
    apart, large = float((fused - stock).abs().max()), float(stock.abs().max())
    if not apart <= 1e-3 * large:
        raise Unavailable(f"its result departs from stock's by {apart:.2g} of {large:.2g}: a bug, please report it")


@paddle.jit.not_to_static
def _features(model: nn.Layer, units: Sequence[nn.Layer] | None, x):
    """What the units make of ``x``, some on fused operators; or None where only the stock operators will do."""
    engine = getattr(model, "_cpu_kernels", None)
    if engine is None or not paddle.in_dynamic_mode() or not _can_take(x):
        return None
    if type(model).forward is not engine.forward:
        return None
    units = model.units() if units is None else units
    try:
        check_around(model, model.units())
    except Unsupported:
        return None
    parts = plan(units, engine.known)
    trained = not x.stop_gradient or any(not p.stop_gradient for unit in units for p in unit.parameters())
    if not model.training and paddle.is_grad_enabled() and trained:
        return None  # a gradient in evaluation mode: explanations, not training
    for part in parts:
        x = _part(engine, part, x)
    return x


def _part(engine: Engine, part: Part, x):
    """What the units of a part make of ``x``."""
    if part.steps and _can_take(x):
        try:
            return execute(engine, part.steps, x)
        except Unsupported:
            pass  # nothing was computed yet
    for unit in part.units:
        x = unit(x)
    return x


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


def _can_take(x) -> bool:
    return isinstance(x, paddle.Tensor) and x.ndim == 4 and x.dtype == paddle.float32 and 0 not in x.shape
