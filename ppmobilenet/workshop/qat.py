"""Quantization-aware fine-tuning: int8 rounding in a network's forward pass, and the program of what was trained so."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import nn
from paddle.quantization.imperative.qat import ImperativeQuantAware

from ppmobilenet.errors import NumericsError
from ppmobilenet.telling import log
from ppmobilenet.workshop.int8_plan import quantizable_layers
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


def fine_tune(
    network: nn.Layer,
    teacher: nn.Layer,
    batches: Callable[[int], Iterable[np.ndarray]],
    *,
    epochs: int = 2,
    learning_rate: float = 1e-4,
    keep_float: Iterable[str] = (),
) -> nn.Layer:
    """Train a network with int8 rounding in its forward pass to answer as the float one does.

    The loss is the cross-entropy to the teacher's probabilities: agreement with the float model is what is wanted, and
    no labels are needed. Batch norm keeps its statistics (they are folded into the int8 weights later).

    Args:
        network: the float network; changed in place and returned.
        teacher: another copy of it.
        batches: ``batches(epoch)`` gives training input ``[N, 3, H, W]``.
        epochs: passes.
        learning_rate: at the start; falls to zero along a cosine.
        keep_float: names of layers that stay float.
    """
    keep_float = list(keep_float)
    network = fake_quantized(network, keep_float)
    teacher.eval()
    steps, step = None, 0
    optimizer = paddle.optimizer.Momentum(learning_rate, 0.9, parameters=network.parameters())
    for epoch in range(epochs):
        network.train()
        for layer in network.sublayers():
            if isinstance(layer, nn.BatchNorm2D):
                layer.eval()
        losses, agreed, seen = [], 0, 0
        for images in batches(epoch):
            x = paddle.to_tensor(images)
            with paddle.no_grad():
                wanted = teacher(x)
            got = network(x)
            loss = F.cross_entropy(got, F.softmax(wanted), soft_label=True)
            if not np.isfinite(float(loss)):
                raise NumericsError("the loss of quantization-aware training is not finite", hint="a lower --lr")
            loss.backward()
            if steps:
                optimizer.set_lr(learning_rate * 0.5 * (1 + np.cos(np.pi * min(1.0, step / steps))))
            optimizer.step()
            optimizer.clear_grad()
            step += 1
            losses.append(float(loss))
            agreed += int((got.argmax(axis=1) == wanted.argmax(axis=1)).sum())
            seen += len(images)
        steps = steps or len(losses) * epochs
        told = f"loss {np.mean(losses):.4f}, agrees with float {agreed / seen:.1%}"
        log.info("QAT epoch %d/%d: %s", epoch + 1, epochs, told)
    return finished(network, keep_float)


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
