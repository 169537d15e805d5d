"""Quantization-aware fine-tuning: int8 rounding in a network's forward pass, and the program of what was trained so."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import paddle
from paddle import nn
from paddle.quantization.imperative.qat import ImperativeQuantAware

from ppmobilenet.config import parts
from ppmobilenet.data.loader import Loader
from ppmobilenet.telling import log
from ppmobilenet.training.device import Precision
from ppmobilenet.training.ema import ModelEma
from ppmobilenet.training.freezing import norms
from ppmobilenet.training.keeping import Keeper
from ppmobilenet.training.metrics import TopkAcc, Totals
from ppmobilenet.training.objective import AgreeWith, Objective
from ppmobilenet.training.optim import build_optimizer, build_schedule
from ppmobilenet.training.setting import Setting
from ppmobilenet.training.state import TrainState
from ppmobilenet.training.trainer import train_epoch
from ppmobilenet.workshop.int8_plan import Plan, quantizable_layers
from ppmobilenet.workshop.program import legacy_program
from ppmobilenet.workshop.quantizers import clearly_float, quiet


def fake_quantized(network: nn.Layer, keep_float: Iterable[str] = ()) -> nn.Layer:
    """Give a float network int8 rounding in its forward pass; it is changed in place and returned.

    Args:
        network: to be trained so, see :func:`finished`.
        keep_float: names of layers that stay float.
    """
    kept = set(keep_float)
    for name, layer in quantizable_layers(network):
        layer.skip_quant = name in kept
    aware = ImperativeQuantAware(
        weight_quantize_type="channel_wise_abs_max", activation_quantize_type="moving_average_abs_max"
    )
    aware.quantize(network)
    network._int8_saver = aware
    return network


def finished(network: nn.Layer, keep_float: Iterable[str] = ()) -> nn.Layer:
    """Make a network of :func:`fake_quantized` that was trained ready for :func:`save_trained`; returns it."""
    kept = set(keep_float)
    for name, layer in quantizable_layers(network):
        if name in kept:
            layer.weight.set_value(clearly_float(layer.weight.numpy()))
    network.eval()
    return network


def fine_tune(network: nn.Layer, teacher: nn.Layer, loader: Loader, plan: Plan) -> nn.Layer:
    """Train a network with int8 rounding in its forward pass to answer as the float one does.

    It is trained like any other network, with the objective :class:`AgreeWith` the float one: no labels are needed.
    Batch norm keeps its statistics (they are folded into the int8 weights later).

    Args:
        network: the float network; changed in place and returned.
        teacher: another copy of it.
        loader: of training photos.
        plan: says how many passes, the learning rate at the start, which falls to zero along a cosine, and which layers
            stay float.
    """
    epochs = plan.settings.epochs
    network = fake_quantized(network, plan.kept)
    teacher.eval()
    agree = AgreeWith(teacher)
    state, setting = _run(network, loader, agree, epochs, plan.settings.learning_rate)
    while state.epoch < epochs:
        train_epoch(state, setting, Keeper())
        loss, state.totals = state.totals.means()["loss"], Totals()
        state.epoch, state.step_in_epoch = state.epoch + 1, 0
        told = f"loss {loss:.4f}, agrees with float {agree.agreement():.1%}"
        log.info("QAT epoch %d/%d: %s", state.epoch, epochs, told)
    return finished(network, plan.kept)


def _run(
    network: nn.Layer, loader: Loader, objective: Objective, epochs: int, learning_rate: float
) -> tuple[TrainState, Setting]:
    schedule = build_schedule(
        parts.Schedule.of({"name": "Cosine", "learning_rate": learning_rate}), epochs, len(loader), loader.batch_size
    )
    optimizer = build_optimizer(parts.Optimizer.of({"name": "Momentum", "momentum": 0.9}), network, schedule)
    precision = Precision(parts.Amp(), "cpu")
    setting = Setting(
        name="",
        run=parts.Run(epochs=epochs),
        steps=len(loader),
        update_freq=1,
        loader=loader,
        network=network,
        forward=network,
        resting=tuple(norms(network)),
        schedule=schedule,
        objective=objective,
        metric=TopkAcc(1),
        precision=precision,
        diverged="a lower --lr",
    )
    return TrainState(network, optimizer, ModelEma(network, None), precision.scaler, seed=0), setting


def save_trained(layer: nn.Layer, network: nn.Layer, out: Path, shape: Sequence, dtype: str) -> None:
    """Write the program of a network that :func:`fine_tune` returned, wrapped in ``layer`` as it is deployed."""
    with legacy_program(), quiet():
        network._int8_saver._quantize_outputs.save_quantized_model(
            layer,
            str(out / "inference"),
            [paddle.static.InputSpec(list(shape), dtype, name="x")],
            clip_extra=False,
        )
    (out / "inference.pdiparams.info").unlink(missing_ok=True)
