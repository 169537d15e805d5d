"""What training is made of between two steps: exactly what a checkpoint saves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import paddle
from paddle import nn

from ppmobilenet.errors import UserError
from ppmobilenet.models.family import family_of
from ppmobilenet.training.ema import ModelEma
from ppmobilenet.training.metrics import Totals
from ppmobilenet.weights.optimizer_names import from_automatic, to_automatic

# fields that a checkpoint keeps as plain numbers
NUMBERS = (
    *("seed", "epoch", "step", "step_in_epoch", "update", "photos_seen", "best_metric", "best_epoch"),
    *("lr_scale", "rollbacks", "bad_samples", "arrangement"),
)


@dataclass
class TrainState:
    """The training state.

    Random choices need no memory: augmentation depends on (seed, epoch, photo), everything else is seeded anew at each
    step from (seed, rank, step). The learning rate is a function of ``update``.

    Attributes:
        model, optimizer, ema, scaler: hold tensors.
        seed: of the run.
        epoch: whole epochs done.
        step: batches done, in all.
        step_in_epoch: batches done in the epoch under way.
        update: changes of the weights done.
        photos_seen: photos of the epoch under way that all processes have seen.
        best_metric: the best evaluation, -1 before the first.
        best_epoch: when that was.
        lr_scale: 0.5 after a rollback.
        rollbacks: how often the run went back because of NaN or infinity.
        bad_samples: unreadable photos skipped.
        arrangement: of the data set, on which the order of its photos depends; empty: not known.
        totals: sums of the epoch under way.
    """

    model: nn.Layer
    optimizer: paddle.optimizer.Optimizer
    ema: ModelEma
    scaler: paddle.amp.GradScaler
    seed: int
    epoch: int = 0
    step: int = 0
    step_in_epoch: int = 0
    update: int = 0
    photos_seen: int = 0
    best_metric: float = -1.0
    best_epoch: int = 0
    lr_scale: float = 1.0
    rollbacks: int = 0
    bad_samples: int = 0
    arrangement: str = ""
    totals: Totals = field(default_factory=Totals)

    def numbers(self) -> dict:
        """Return all that is no tensor, as plain values."""
        scaler = self.scaler.state_dict() if self.scaler.is_enable() else {}
        return {
            **{name: getattr(self, name) for name in NUMBERS},
            "sums": dict(self.totals.sums),
            "photos": self.totals.photos,
            "scaler": {k: v.numpy() if isinstance(v, paddle.Tensor) else v for k, v in scaler.items()},
        }

    def set_numbers(self, saved: Mapping) -> None:
        """Set what :meth:`numbers` gave."""
        for name in NUMBERS:
            if name in saved:
                setattr(self, name, saved[name])
        self.totals = Totals(saved.get("sums"), saved.get("photos", 0))
        if saved.get("scaler") and self.scaler.is_enable():
            self.scaler.load_state_dict(dict(saved["scaler"]))

    def optimizer_state(self) -> dict:
        """Return the optimizer's state, a pair (name, tensor) for each tensor as Paddle stores it."""
        state = {key: _named(value) for key, value in self.optimizer.state_dict().items()}
        return to_automatic(state, self.model) if self._has_automatic_names() else state

    def _has_automatic_names(self) -> bool:
        """Whether PaddleClas keeps this network's optimizer state under Paddle's numbered names."""
        family = family_of(self.model)
        return family is not None and family.automatic_names

    def set_optimizer_state(self, saved: object, where: object) -> None:
        """Set what :meth:`optimizer_state` gave, or what PaddleClas wrote.

        Raises:
            UserError: the state of another network or optimizer.
        """
        saved = saved[0] if isinstance(saved, (list, tuple)) and len(saved) == 1 else saved
        if not isinstance(saved, Mapping):
            raise UserError("this is no optimizer state of one optimizer", where=where)
        if self._has_automatic_names():
            saved = from_automatic(saved, self.model)
        arrays = {key: value for key, value in saved.items() if key not in ("LR_Scheduler", "master_weights")}
        trained = {p.name: tuple(p.shape) for p in self.model.parameters() if not p.stop_gradient}
        if arrays:
            for name, shape in trained.items():
                mine = [key for key in arrays if key.startswith(f"{name}_")]
                shapes = {np.shape(_array(arrays[key])) for key in mine}
                if not mine or not shapes <= {shape, (1,), ()}:
                    found = f"has shapes {sorted(shapes)}" if mine else "is missing"
                    raise UserError(
                        f"the optimizer state does not fit: {name} of shape {list(shape)} {found}",
                        where=where,
                        hint="resume with the Arch and Optimizer that wrote the checkpoint, or start the optimizer "
                        "anew: Global.pretrained_model instead of Global.checkpoints",
                    )
        state = {key: paddle.to_tensor(_array(value)) for key, value in arrays.items()}
        masters = saved.get("master_weights")
        if masters:
            state["master_weights"] = {key: paddle.to_tensor(_array(value)) for key, value in masters.items()}
        state["LR_Scheduler"] = dict(saved.get("LR_Scheduler") or {})
        try:
            with paddle.utils.unique_name.guard():
                self.optimizer.set_state_dict(state)
        except AssertionError as error:
            raise UserError(f"the optimizer state does not fit: {error}", where=where) from error


def _array(value: object) -> np.ndarray:
    """Paddle stores a tensor as its array, or as a pair (name, array)."""
    return np.asarray(value[1] if isinstance(value, (list, tuple)) and len(value) == 2 else value)


def _named(value: object) -> object:
    if isinstance(value, paddle.Tensor):
        return (value.name, value)
    return {key: _named(inner) for key, inner in value.items()} if isinstance(value, Mapping) else value
