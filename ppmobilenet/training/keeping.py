"""What is kept of a training while it goes on."""

from __future__ import annotations

import signal

from ppmobilenet.data.loader import Batch
from ppmobilenet.errors import Stopped
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


class RunKeeper(Keeper):
    """Keeps a run: checkpoints, tables, and the wish to stop."""

    def __init__(self, setting: Setting, writer: checkpoint.Writer, stop: Stop, record: Record):
        self._setting, self._writer, self._stop, self._record = setting, writer, stop, record

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
        if asked:
            self._leave(state)
        every, setting = self._setting.run.save_steps, self._setting
        if every and state.update % every == 0 and state.step_in_epoch < setting.steps:
            self.save(state, ["latest"], 0.0)

    def save(self, state: TrainState, names: list[str], metric: float) -> None:
        """Write a checkpoint."""
        share_statistics(state.model, self._setting.world)
        if self._setting.first:
            self._writer.save(checkpoint.snapshot(state, metric, names))

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
