"""What VisualDL and TensorBoard show of a run. Without either, every call does nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from paddle import nn

from ppmobilenet.data.loader import Batch
from ppmobilenet.photos.pictures import contact_sheet, pictures

SHOWN_PICTURES = 16
SHOWN_EPOCHS = 3  # whose first batch is shown: pictures are large

# what tells runs apart, where a config has it; VisualDL's table shows nothing under a name with a dot
HYPERPARAMETERS = {
    "arch": "Arch.name",
    "scale": "Arch.scale",
    "dropout": "Arch.dropout",
    "optimizer": "Optimizer.name",
    "momentum": "Optimizer.momentum",
    "schedule": "Optimizer.lr.name",
    "learning_rate": "Optimizer.lr.learning_rate",
    "warmup_epoch": "Optimizer.lr.warmup_epoch",
    "weight_decay": "Optimizer.regularizer.coeff",
    "label_smoothing": "Loss.Train.0.CELoss.epsilon",
    "batch_size": "DataLoader.Train.sampler.batch_size",
    "epochs": "Global.epochs",
    "seed": "Global.seed",
    "update_freq": "Global.update_freq",
    "ema": "EMA.decay",
}


class Scalars:
    """Writes a run for VisualDL (``vdl``) and TensorBoard (``tensorboard``) in the run's folder.

    Args:
        folder: of the run; None for the other processes, which write nothing.
        visualdl: ``Global.use_visualdl``.
        tensorboard: ``Global.use_tensorboard``.
    """

    def __init__(self, folder: Path | None, visualdl: bool = False, tensorboard: bool = False):
        self._visualdl = self._tensorboard = None
        if folder is not None and visualdl:
            from visualdl import LogWriter

            self._visualdl = LogWriter(logdir=str(folder / "vdl"))
        if folder is not None and tensorboard:
            from tensorboardX import SummaryWriter

            self._tensorboard = SummaryWriter(str(folder / "tensorboard"))
        self._writers = [writer for writer in (self._visualdl, self._tensorboard) if writer is not None]

    def row(self, group: str, row: Mapping) -> None:
        """Show a row's numbers as ``group/name`` at ``row["step"]``."""
        for writer in self._writers:
            for name, value in row.items():
                if name not in ("epoch", "step") and value not in ("", None):
                    writer.add_scalar(f"{group}/{name}", float(value), row["step"])

    def norms(self, model: nn.Layer, step: int) -> None:
        """Show the scales of each batch norm as a histogram: channels whose scale is near 0 do nothing."""
        for writer in self._writers:
            for name, layer in model.named_sublayers():
                if isinstance(layer, (nn.BatchNorm2D, nn.SyncBatchNorm)):
                    # float64: scales that all are nearly 1 leave float32 no room for ten bins
                    scales = layer.weight.astype("float32").numpy().astype("float64")
                    writer.add_histogram(f"bn_scale/{name}", scales, step)

    def batch(self, batch: Batch, ops: Sequence[Mapping], epoch: int, step: int) -> None:
        """Show the first pictures of a batch as the network gets them, in the first epochs.

        Args:
            batch: of the training loader.
            ops: the transforms that made them.
            epoch: from 0.
            step: of the run.
        """
        if not self._writers or epoch >= SHOWN_EPOCHS:
            return
        images = np.asarray(batch.images[:SHOWN_PICTURES])
        shown = pictures(batch.normalization(images) if batch.normalization else images, ops)
        if shown is None:
            return
        for writer in self._writers:
            writer.add_image("batch/after_augmentation", contact_sheet(shown), step, dataformats="HWC")

    def result(self, given: Mapping[str, float | int | str], metrics: Mapping[str, float], step: int) -> None:
        """Show what a run was given of :data:`HYPERPARAMETERS` beside its final metrics, for comparing runs."""
        named = {f"final/{name}": float(value) for name, value in metrics.items()}
        if self._visualdl is not None:
            self._visualdl.add_hparams(given, list(named))
            for name, value in named.items():
                self._visualdl.add_scalar(name, value, step)
        if self._tensorboard is not None:
            # add_hparams opens a file of its own: in the same folder and second it would be the one we write
            self._tensorboard.add_hparams(given, named, name="hparams", global_step=step)

    def close(self) -> None:
        for writer in self._writers:
            writer.close()
