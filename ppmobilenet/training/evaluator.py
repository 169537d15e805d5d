"""Accuracy of a network on a list of photos: every photo exactly once, over any number of processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import nn

from ppmobilenet.config import Config
from ppmobilenet.data.build import build_loader, lists_of
from ppmobilenet.data.dataset import Listed
from ppmobilenet.data.loader import Batch, Loader
from ppmobilenet.errors import NumericsError
from ppmobilenet.kernels import accelerate
from ppmobilenet.telling import aloud, log
from ppmobilenet.training.device import Precision, add_up_counts, set_device, start_processes
from ppmobilenet.training.inputs import check_images
from ppmobilenet.training.losses import Loss, build_loss
from ppmobilenet.training.metrics import Metrics, TopkAcc, Totals, build_metrics
from ppmobilenet.training.runfolder import Progress
from ppmobilenet.training.start import Start, network_for_answers, require_start

# receives probabilities [n, classes], labels [n] and places in the list [n] of each batch
Collect = Callable[[np.ndarray, np.ndarray, np.ndarray], None]


@dataclass(frozen=True)
class Evaluator:
    """What networks are judged by: the photos of a list, a loss and a metric.

    Attributes:
        loader: of the list.
        loss: of logits and labels.
        metric: counts right answers.
        precision: to compute in.
        rank, world: this process and the number of processes.
        class_num: numbers of an answer.
        several: a photo has several labels, each with a probability of its own.
    """

    loader: Loader
    loss: Loss
    metric: TopkAcc | Metrics
    precision: Precision
    rank: int = 0
    world: int = 1
    class_num: int = 1
    several: bool = False

    def __call__(self, network: nn.Layer, collect: Collect | None = None) -> dict[str, float]:
        """Evaluate a network; it is in training mode again afterwards if it was.

        Returns:
            ``{"loss": ..., "top1": ..., "top5": ..., "evaluated": 1000, "listed": 1000}``, over all processes.

        Raises:
            NumericsError: a score is not finite.
            DataError: a photo cannot be read.
        """
        was_training = network.training
        network.eval()
        totals, steps = Totals(), len(self.loader)
        progress = Progress("evaluate", steps, every=max(1, steps // 5), show=self.rank == 0)
        self.loader.set_epoch(0)
        with paddle.no_grad():
            for batch in self.loader:
                check_images(network, batch, "Eval")
                with self.precision.cast(training=False):
                    scores = network(paddle.to_tensor(batch.images)).astype("float32")
                logits = scores.numpy()
                self._refuse_non_finite(logits, batch)
                loss = float(self.loss(scores, paddle.to_tensor(batch.labels)))
                totals.add(len(batch.labels), loss, self.metric.count(logits, batch.labels))
                if collect is not None:
                    shares = F.sigmoid(scores) if self.several else F.softmax(scores, axis=-1)
                    collect(shares.numpy(), batch.labels, batch.indices)
                progress.step(len(batch.labels), **totals.means(self.metric))
        progress.close()
        if was_training:
            network.train()
        return self._over_processes(totals)

    def _refuse_non_finite(self, logits: np.ndarray, batch: Batch) -> None:
        if np.isfinite(logits).all():
            return
        bad = int(np.argmin(np.isfinite(logits).all(axis=1)))
        raise NumericsError(
            "the network's answer holds NaN or infinity",
            where=self.loader.dataset.samples.path(int(batch.indices[bad])),
            hint="the training that made the weights had diverged: take an earlier checkpoint",
        )

    def _over_processes(self, totals: Totals) -> dict[str, float]:
        if self.world > 1:
            # a process without photos has counted nothing, and the shapes have to be those of the others
            counts = add_up_counts({**self._nothing(), "loss": 0.0, **totals.sums, "photos": totals.photos}, self.world)
            totals = Totals({k: v for k, v in counts.items() if k != "photos"}, int(counts["photos"]))
        result = totals.means(self.metric)
        return {**result, "evaluated": totals.photos, "listed": len(self.loader.dataset)}

    def _nothing(self) -> dict[str, np.ndarray]:
        labels = self.loader.dataset.samples.labels[:1].astype(np.int64)
        counts = self.metric.count(np.zeros((len(labels), self.class_num), np.float32), labels)
        return {name: value * 0 for name, value in counts.items()}


def build_evaluator(
    config: Config, precision: Precision, listed: Listed | None = None, *, rank: int = 0, world: int = 1
) -> Evaluator:
    """Build what judges a config's network: ``DataLoader.Eval``, ``Loss.Eval`` and ``Metric.Eval``."""
    class_num = config.arch.class_num
    metric = build_metrics(config.metric.eval, class_num)
    loader = build_loader(config.eval, class_num, listed, rank=rank, world_size=world)
    loss = build_loss(config.loss.eval, loader.dataset.samples.labels, class_num, "Loss.Eval")
    return Evaluator(loader, loss, metric, precision, rank, world, class_num, bool(config.run.use_multilabel))


@dataclass(frozen=True)
class Ready:
    """A network with its weights, and what it was or is to be judged by: what a report is made of.

    Attributes:
        network: as it computes here.
        start: the weights it began with; None: random ones.
        lists: of :func:`ppmobilenet.data.build.lists_of`.
        evaluator: None where there is no validation list.
        model: all of it, where ``network`` takes features in place of photos.
    """

    network: nn.Layer
    start: Start | None
    lists: Mapping[str, Listed]
    evaluator: Evaluator | None
    model: nn.Layer


def line(result: Mapping[str, float]) -> str:
    """Return the last line of an evaluation: ``top1: 0.50500, top5: 0.76100, evaluated 1000/1000``."""
    rest = ("loss", "evaluated", "listed")
    figures = [f"{name}: {value:.5f}" for name, value in result.items() if name not in rest]
    return ", ".join([*figures, f"evaluated {result['evaluated']}/{result['listed']}"])


@contextmanager
def ready(config: Config, random_init: bool = False) -> Iterator[Ready]:
    """Have what a config's evaluation needs inside the block, and the log on the console.

    Raises:
        UserError, DataError, DamagedFileError, NumericsError: what is wrong, and where.
    """
    device = set_device(config.run.device)
    rank, world = start_processes()
    with aloud(show=rank == 0):
        start = require_start(config.weights, random_init)
        network = network_for_answers(config.arch, start)
        if device == "cpu":
            log.info("%s", accelerate(network, config.run.cpu_kernels).message)
        lists = lists_of(config.train, config.eval)
        precision = Precision(config.amp, device)
        evaluator = build_evaluator(config, precision, lists.get("validation"), rank=rank, world=world)
        try:
            yield Ready(network, start, lists, evaluator, network)
        finally:
            evaluator.loader.close()


def evaluate(config: Config, *, random_init: bool = False, collect: Collect | None = None) -> dict[str, float]:
    """Evaluate what a config describes (``ppmobilenet eval``).

    Args:
        config: as :func:`ppmobilenet.load_config` gives it.
        random_init: evaluate without trained weights.
        collect: receives every batch's answers, see :data:`Collect`.

    Returns:
        See :class:`Evaluator`.

    Raises:
        UserError, DataError, DamagedFileError, NumericsError: what is wrong, and where.
    """
    with ready(config, random_init) as found:
        result = found.evaluator(found.network, collect)
        tell(result)
    return result


def tell(result: Mapping[str, float]) -> None:
    """Log an evaluation; its result is the last line."""
    log.info("loss: %.5f", result["loss"])
    log.info("%s", line(result))
