"""Exponential moving average of weights and batch norm statistics (PaddleClas's ``EMA.decay``)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import paddle
from paddle import nn


class ModelEma:
    """The average of a network's state; off (``decay`` None), every call does nothing.

    Attributes:
        decay: share of the old average at each update.
        average: key -> tensor; empty when off.
    """

    def __init__(self, model: nn.Layer, decay: float | None):
        self.decay = decay
        self.average = {} if decay is None else {key: value.clone() for key, value in model.state_dict().items()}

    @paddle.no_grad()
    def update(self, model: nn.Layer) -> None:
        """Move the average towards the network's present state."""
        if not self.average:
            return
        now = model.state_dict()
        for key, mean in self.average.items():
            paddle.assign(self.decay * mean + (1.0 - self.decay) * now[key].detach(), mean)

    def load(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Set the average."""
        for key, mean in self.average.items():
            mean.set_value(arrays[key])

    @contextmanager
    def applied(self, model: nn.Layer) -> Iterator[None]:
        """Let the network have the averaged weights inside the block."""
        if not self.average:
            yield
            return
        state = model.state_dict()
        kept = {key: value.clone() for key, value in state.items()}
        try:
            for key, mean in self.average.items():
                state[key].set_value(mean)
            yield
        finally:
            for key, value in kept.items():
                state[key].set_value(value)
