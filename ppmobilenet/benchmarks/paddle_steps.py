"""One training step in Paddle, to compare speeds: stock, accelerated, on cached features, in two processes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import paddle

from ppmobilenet import kernels
from ppmobilenet.training.feature_cache import Rest
from ppmobilenet.training.freezing import freeze
from ppmobilenet.zoo import create_model


def training_step(candidate: str, name: str, batch: int, threads: int, size: int) -> Callable[[], float]:
    """Return a function that does one full training step on noise, as one of ``training.CANDIDATES`` does it."""
    paddle.set_device("cpu")
    model = network = create_model(name)
    if candidate != "stock":
        kernels.accelerate(network, "on", threads=threads)
    if candidate == "frozen_cached":
        return _cached_step(network, batch)
    if candidate == "two_processes":
        paddle.distributed.init_parallel_env()
        model = paddle.DataParallel(network)
    model.train()
    optimizer = paddle.optimizer.Momentum(0.01, 0.9, parameters=network.parameters(), weight_decay=4e-5)
    rng = np.random.default_rng(0)
    x = paddle.to_tensor(rng.normal(size=(batch, 3, size, size)).astype("float32"))
    y = paddle.to_tensor(rng.integers(0, 1000, batch))

    def step() -> float:
        loss = paddle.nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
        return float(loss)

    return step


def _cached_step(network, batch: int) -> Callable[[], float]:
    freeze(network, "trunk")
    rest, rng = Rest(network, len(network.units())), np.random.default_rng(0)
    rest.train()
    trained = [p for p in network.parameters() if not p.stop_gradient]
    optimizer = paddle.optimizer.Momentum(0.01, 0.9, parameters=trained, weight_decay=4e-5)
    width = [layer for layer in network.units()[-1].sublayers() if hasattr(layer, "_out_channels")][-1]._out_channels
    features = rng.normal(size=(1000, width, 1, 1)).astype("float32")
    labels = rng.integers(0, 1000, 1000)

    def step() -> float:
        chosen = rng.integers(0, len(features), batch)
        loss = paddle.nn.functional.cross_entropy(
            rest(paddle.to_tensor(features[chosen])), paddle.to_tensor(labels[chosen])
        )
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
        return float(loss)

    return step
