"""Give a batch-norm-folded network its batch norms back, so that it can be fine-tuned.

Where batch norm was folded into the convolutions, what stands in its place is an identity: right in eval mode, but in
train mode it normalises by statistics that the file never had. Photos supply them: with a convolution's mean m and
variance v over the photos as running statistics, scale sqrt(v + eps) and offset b + m give the same outputs in eval
mode, and nearly the same in train mode.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import paddle

from ppmobilenet.errors import UserError


@dataclass
class _Moments:
    """Sum and sum of squares of one layer's inputs by channel, in float64."""

    count: int = 0
    total: np.ndarray | float = 0.0
    squares: np.ndarray | float = 0.0

    def add(self, values: np.ndarray) -> None:
        rows = np.moveaxis(values, 1, -1).reshape(-1, values.shape[1]).astype("float64")
        self.count += len(rows)
        self.total = self.total + rows.sum(0)
        self.squares = self.squares + np.square(rows).sum(0)


def unfold_bn(model, batches: Iterable[np.ndarray]) -> int:
    """Recalibrate every batch norm of a model from images, keeping its eval-mode outputs.

    Args:
        model: a ``paddle.nn.Layer`` in NCHW; it is left in eval mode.
        batches: float32 [N, 3, H, W], preprocessed as for evaluation. A few dozen varied photos are enough.

    Returns:
        The number of images used.

    Raises:
        UserError: no image was given, or the model has no batch norm.
    """
    layers = [layer for layer in model.sublayers() if isinstance(layer, paddle.nn.BatchNorm2D)]
    if not layers:
        raise UserError("the model has no batch norm to recalibrate")
    moments = [_Moments() for _ in layers]
    hooks = [
        layer.register_forward_pre_hook(lambda _, inputs, into=into: into.add(inputs[0].numpy()))
        for layer, into in zip(layers, moments)
    ]
    images = 0
    model.eval()
    try:
        with paddle.no_grad():
            for batch in batches:
                model(paddle.to_tensor(batch))
                images += len(batch)
    finally:
        for hook in hooks:
            hook.remove()
    if not images:
        raise UserError("no photo to recalibrate the batch norms with")
    for layer, seen in zip(layers, moments):
        if not seen.count:  # a layer that this network does not run
            continue
        mean = seen.total / seen.count
        variance = np.maximum(seen.squares / seen.count - mean**2, 0.0)
        old_mean, old_variance, scale, offset = (
            tensor.numpy().astype("float64") for tensor in (layer._mean, layer._variance, layer.weight, layer.bias)
        )
        factor = scale / np.sqrt(old_variance + layer._epsilon)
        layer.weight.set_value((factor * np.sqrt(variance + layer._epsilon)).astype("float32"))
        layer.bias.set_value((offset + factor * (mean - old_mean)).astype("float32"))
        layer._mean.set_value(mean.astype("float32"))
        layer._variance.set_value(variance.astype("float32"))
    return images
