"""What is kept of a training while it goes on."""

from __future__ import annotations

import signal
from dataclasses import dataclass

import paddle

from ppmobilenet.data.loader import Batch
from ppmobilenet.errors import LostProcess, Stopped
from ppmobilenet.telling import log
from ppmobilenet.training import checkpoint
from ppmobilenet.training.device import share_statistics
from ppmobilenet.training.runfolder import Record
from ppmobilenet.training.setting import Setting
from ppmobilenet.training.state import TrainState
from ppmobilenet.training.stopping import Stop


class Keeper:
    """Hears of an epoch's steps; this one keeps nothing of them.

    Attributes:
        asked: the number of a signal that asks to stop, or 0.
    """

    asked = 0

    def begins(self, state: TrainState, batch: Batch) -> None:
        """The first batch of an epoch."""

    def step(self, state: TrainState, **figures) -> None:
        """What is logged of a step."""

    def may_change(self) -> None:
        """Return when the weights may change."""

    def changed(self, state: TrainState, asked: bool) -> None:
        """The weights have changed; ``asked``: one of the processes was asked to stop."""


@dataclass(frozen=True)
class Change:
    """What a step changes beside the weights, as it was when these changed last.

    Attributes:
        numbers: of the state.
        statistics: of batch norm, key -> values.
    """

    numbers: dict
    statistics: dict[str, paddle.Tensor]

    @classmethod
    def of(cls, state: TrainState) -> Change:
        """Remember a state."""
        found = state.model.state_dict().items()
        return cls(state.numbers(), {key: tensor.clone() for key, tensor in found if tensor.stop_gradient})

    def restore(self, state: TrainState) -> None:
        """Set the state back."""
        state.set_numbers(self.numbers)
        model = state.model.state_dict()
        for key, tensor in self.statistics.items():
            model[key].set_value(tensor)


class RunKeeper(Keeper):
    """Keeps a run: checkpoints, tables, and the wish to stop."""

    def __init__(self, setting: Setting, writer: checkpoint.Writer, stop: Stop, record: Record):
        self._setting, self._writer, self._stop, self._record = setting, writer, stop, record
        self._last: Change | None = None  # that no save holds
        self._saved: int | None = None  # the step of the last save

    @property
    def asked(self) -> int:
        return self._stop.number

    def begins(self, state: TrainState, batch: Batch) -> None:
        self._record.scalars.batch(batch, self._setting.loader.dataset.transform_ops, state.epoch, state.step)

    def step(self, state: TrainState, **figures) -> None:
        self._record.step(epoch=state.epoch + 1, step=state.step, **figures)

    def may_change(self) -> None:
        self._writer.settle()

    def changed(self, state: TrainState, asked: bool) -> None:
        self._writer.check()
        if self._setting.world > 1 and self._setting.first:
            self._last = Change.of(state)
        if asked:
            self._leave(state)
        every, setting = self._setting.run.save_steps, self._setting
        if every and state.update % every == 0 and state.step_in_epoch < setting.steps:
            self.save(state, ["latest"], 0.0)

    def save(self, state: TrainState, names: list[str], metric: float) -> None:
        """Write a checkpoint."""
        share_statistics(state.model, state.ema.average, self._setting.world)
        if self._setting.first:
            self._writer.save(checkpoint.snapshot(state, metric, names))
        self._last, self._saved = None, state.step

    def lost(self, state: TrainState, error: LostProcess) -> LostProcess:
        """Save what was done when the weights changed last, for another process is gone; return what to tell of it.

        Those are whole: a step that waits for a process that is gone has changed statistics of batch norm and counts,
        and no weight.
        """
        if self._last is not None:
            self._last.restore(state)
            self._writer.save(checkpoint.snapshot(state, 0.0, ["latest"]))
            self._last, self._saved = None, state.step
        self._writer.wait()
        log.info("%s", error.lost)
        if not self._setting.first or self._saved is None:
            return error
        return LostProcess(error.lost, f"everything up to step {self._saved} is saved in {self._setting.folder}")

    def _leave(self, state: TrainState) -> None:
        self.save(state, ["latest"], 0.0)
        self._writer.wait()
        name = signal.Signals(self._stop.number or signal.SIGTERM).name
        log.info("stopped by %s after step %d", name, state.step)
        raise Stopped(
            f"stopped after step {state.step} (epoch {state.epoch + 1}); everything is saved in {self._setting.folder}",
            hint="the same command with -o Global.checkpoints=auto goes on exactly there",
            exit_code=self._stop.exit_code,
        )
