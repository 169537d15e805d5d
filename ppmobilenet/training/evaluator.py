"""Accuracy of a network on a list of photos: every photo exactly once, over any number of processes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import nn

from ppmobilenet.data.build import build_loader
from ppmobilenet.data.loader import Loader
from ppmobilenet.errors import NumericsError
from ppmobilenet.kernels import accelerate
from ppmobilenet.training.device import Precision, set_device, start_processes, sum_over_processes
from ppmobilenet.training.inputs import check_images
from ppmobilenet.training.losses import Loss, build_loss
from ppmobilenet.training.metrics import TopkAcc, Totals, build_metrics
from ppmobilenet.training.runfolder import Progress, logged
from ppmobilenet.training.start import model_with_weights

log = logging.getLogger("ppmobilenet")

# receives probabilities [n, classes], labels [n] and places in the list [n] of each batch
Collect = Callable[[np.ndarray, np.ndarray, np.ndarray], None]


def evaluate_model(
    model: nn.Layer,
    loader: Loader,
    loss: Loss,
    metric: TopkAcc,
    precision: Precision,
    world: int = 1,
    show: bool = True,
    collect: Collect | None = None,
) -> dict[str, float]:
    """Evaluate a network on a loader's photos; it is in training mode again afterwards if it was.

    Returns:
        ``{"loss": ..., "top1": ..., "top5": ..., "evaluated": 1000, "listed": 1000}``, over all processes.

    Raises:
        NumericsError: a score is not finite.
        DataError: a photo cannot be read.
    """
    was_training = model.training
    model.eval()
    totals = Totals()
    progress = Progress("evaluate", len(loader), every=max(1, len(loader) // 5), show=show)
    loader.set_epoch(0)
    with paddle.no_grad():
        for batch in loader:
            check_images(model, batch, "Eval")
            with precision.cast(training=False):
                scores = model(paddle.to_tensor(batch.images)).astype("float32")
            labels = paddle.to_tensor(batch.labels)
            logits = scores.numpy()
            if not np.isfinite(logits).all():
                bad = int(np.argmin(np.isfinite(logits).all(axis=1)))
                raise NumericsError(
                    "the network's answer holds NaN or infinity",
                    where=loader.dataset.samples.path(int(batch.indices[bad])),
                    hint="the training that made the weights had diverged: take an earlier checkpoint",
                )
            totals.add(len(batch.labels), float(loss(scores, labels)), metric.count(logits, batch.labels))
            if collect is not None:
                collect(F.softmax(scores, axis=-1).numpy(), batch.labels, batch.indices)
            progress.step(len(batch.labels), **totals.means())
    progress.close()
    if was_training:
        model.train()
    return whole(totals, metric, world, len(loader.dataset))


def whole(totals: Totals, metric: TopkAcc, world: int, listed: int) -> dict[str, float]:
    """Add the processes' totals and return the result of an evaluation."""
    names = ["loss", *(f"top{k}" for k in metric.topk)]
    sums = sum_over_processes(np.array([totals.photos, *(totals.sums.get(name, 0.0) for name in names)]), world)
    photos = int(sums[0])
    result: dict[str, float] = {name: float(value) / max(1, photos) for name, value in zip(names, sums[1:])}
    return {**result, "evaluated": photos, "listed": listed}


def line(result: Mapping[str, float]) -> str:
    """Return the last line of an evaluation: ``top1: 0.50500, top5: 0.76100, evaluated 1000/1000``."""
    tops = [f"{name}: {value:.5f}" for name, value in result.items() if name.startswith("top")]
    return ", ".join([*tops, f"evaluated {result['evaluated']}/{result['listed']}"])


def evaluate(config: Mapping, *, random_init: bool = False, collect: Collect | None = None) -> dict[str, float]:
    """Evaluate what a config describes (``ppmobilenet eval``).

    Args:
        config: as :func:`ppmobilenet.load_config` gives it.
        random_init: evaluate without trained weights.
        collect: receives every batch's answers, see :data:`Collect`.

    Returns:
        See :func:`evaluate_model`.

    Raises:
        UserError, DataError, DamagedFileError, NumericsError: what is wrong, and where.
    """
    device = set_device(config.get("Global.device"))
    rank, world = start_processes()
    with logged(None, rank):
        model = model_with_weights(config, random_init)
        if device == "cpu":
            log.info("%s", accelerate(model, config.get("Global.cpu_kernels")).message)
        loader = build_loader(config, "Eval", rank=rank, world_size=world)
        metric = build_metrics(config.get("Metric.Eval"), int(config.get("Arch.class_num")))
        loss = build_loss(config.get("Loss.Eval"))
        precision = Precision(config.get("AMP"), device)
        try:
            result = evaluate_model(model, loader, loss, metric, precision, world, rank == 0, collect)
        finally:
            loader.close()
        log.info("loss: %.5f", result["loss"])
        log.info("%s", line(result))
    return result
