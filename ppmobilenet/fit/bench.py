"""A network with its learned weights, and the photos as its classifier would get them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from paddle import nn

from ppmobilenet.config import Config
from ppmobilenet.config.parts import Source
from ppmobilenet.data.build import build_loader
from ppmobilenet.data.dataset import Listed
from ppmobilenet.data.lists import Samples
from ppmobilenet.kernels import accelerate
from ppmobilenet.training.device import set_device
from ppmobilenet.training.solved_head import Linear, listed_inputs, set_classifier
from ppmobilenet.training.start import find_start, load_start
from ppmobilenet.weights.writing import write_weights
from ppmobilenet.zoo import create_model


class Bench:
    """A network as its weights come, and features of lists of photos.

    Args:
        config: with ``Arch``, the weights and both lists.
        folder: keeps the features.

    Attributes:
        network: the network.
        folder: that keeps the features.
    """

    def __init__(self, config: Config, folder: Path):
        set_device(config.run.device)
        self.network: nn.Layer = create_model(config.arch.name, **config.arch.parameters)
        start = find_start(config.weights)
        load_start(self.network, start, new_head=True)
        if config.run.device == "cpu":
            accelerate(self.network, config.run.cpu_kernels)
        self._config, self.folder = config, folder

    def inputs(self, source: Source, name: str, listed: Listed | None = None) -> tuple[np.ndarray, np.ndarray, Samples]:
        """Return what the classifier gets of a list's photos [n, D], which could be read [N], and the list.

        Args:
            source: ``DataLoader.Train`` or ``DataLoader.Eval``.
            name: ``"train"`` or ``"eval"``: of the file that keeps the features.
            listed: the photos, in place of all that the source names.
        """
        with _loader(source, self._config.arch.class_num, listed) as loader:
            views = self._config.eval.dataset.transform_ops
            inputs, readable = listed_inputs(self.network, loader, views, self.folder / f"features-{name}")
            return inputs, readable, loader.dataset.samples

    def write(self, path: Path, linear: Linear) -> None:
        """Write the network with this classifier as a weight file."""
        set_classifier(self.network, linear)
        state = self.network.state_dict()
        arrays, names = {k: v.numpy() for k, v in state.items()}, {k: v.name for k, v in state.items()}
        write_weights(arrays, path, names)


@contextmanager
def _loader(source: Source, class_num: int, listed: Listed | None) -> Iterator:
    loader = build_loader(source, class_num, listed)
    try:
        yield loader
    finally:
        loader.close()
