"""Batches -> weights. :func:`train` reads from top to bottom; an epoch is :func:`train_epoch`."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import numpy as np
import paddle

from ppmobilenet.config import Config
from ppmobilenet.data.build import lists_of
from ppmobilenet.data.dataset import Listed
from ppmobilenet.data.loader import Batch
from ppmobilenet.errors import LostProcess, NumericsError, UserError
from ppmobilenet.telling import aloud, duration, log
from ppmobilenet.training import checkpoint
from ppmobilenet.training.device import (
    add_up_counts,
    images_of,
    set_device,
    share_gradients,
    share_statistics,
    start_processes,
    sum_over_processes,
)
from ppmobilenet.training.evaluator import Ready, build_evaluator, line
from ppmobilenet.training.freezing import train_mode
from ppmobilenet.training.inputs import check_images
from ppmobilenet.training.keeping import Keeper, RunKeeper
from ppmobilenet.training.metrics import Totals
from ppmobilenet.training.optim import build_optimizer
from ppmobilenet.training.peers import watching
from ppmobilenet.training.runfolder import Progress, Record, owned, timed
from ppmobilenet.training.scalars import Scalars
from ppmobilenet.training.setting import Setting, prepare, require_what_is_kept
from ppmobilenet.training.start import Start, find_start, load_start
from ppmobilenet.training.state import TrainState
from ppmobilenet.training.stopping import Stop, listening


def train(
    config: Config, *, random_init: bool = False, then: Callable[[Callable[[], Ready]], None] | None = None
) -> dict[str, float]:
    """Train what a config describes (``ppmobilenet train``).

    Args:
        config: as :func:`ppmobilenet.load_config` gives it.
        random_init: train without weights what keeps something of them, frozen layers or batch norm's statistics.
        then: called after the training, in the first process, with a function that returns the network with its best
            weights and what judges it.

    Returns:
        The last evaluation, with ``best_metric``, ``best_epoch``, ``epochs`` and ``step``.

    Raises:
        UserError, DataError, DamagedFileError, NumericsError: what is wrong, and where.
        Stopped: by a signal; everything done is saved.
        LostProcess: one of several processes is gone.
    """
    device = set_device(config.run.device)
    rank, world = start_processes()
    folder = Path(config.run.output_dir)
    first = rank == 0
    log_file = folder / "train.log" if first else None
    with (
        watching(rank, world, sum_over_processes),
        owned(folder) if first else nullcontext(),
        aloud(file=log_file, show=first),
    ):
        log.info("training on %s, %d process%s, into %s", device, world, "es" * (world > 1), folder)
        lists, loaders = lists_of(config.train, config.eval), []
        try:
            with listening() as stop:
                start = find_start(config.weights, training=True)
                require_what_is_kept(config, start, random_init)
                state, setting = prepare(config, start, lists, device, rank, world, random_init)
                loaders = [setting.loader, *([setting.evaluator.loader] if setting.evaluator else [])]
                resumed = _resume(state, setting, start.checkpoint if start else None)
                _refuse_others_step(state, setting)
                if first:
                    config.dump(folder / "config.yaml")  # not before: what cannot start leaves an earlier run's be
                with checkpoint.Writer(folder, config.run.keep_checkpoints) as writer:
                    result = _with_rollback(state, setting, writer, stop, resumed)
            if then is not None and first:
                then(partial(_best_of, config, state, setting, lists))
        finally:
            for loader in loaders:
                loader.close()
    return result


def _best_of(config: Config, state: TrainState, setting: Setting, lists: Mapping[str, Listed]) -> Ready:
    """Return a run's network with the best weights, the last where nothing was evaluated, and what judges it.

    Raises:
        UserError, DamagedFileError, NumericsError: the weights or the validation list are not there, or not whole.
    """
    if hasattr(setting.network.forward, "rollback"):
        setting.network.forward.rollback()  # a compiled graph shows nobody its layers
    if setting.world > 1:  # no process sees all photos, and a network is all that is wanted
        return Ready(setting.network, None, lists, None, state.model)
    best = setting.folder / "best_model"
    file = best if state.best_epoch and best.with_suffix(".pdparams").is_file() else setting.folder / "latest"
    start = Start("Global.pretrained_model", str(file), setting.name)
    if setting.precision.on and setting.precision.level == "O2":
        state.model.float()  # weights are read as they were saved
    load_start(state.model, start)
    network, evaluator = setting.network, setting.evaluator
    if evaluator is None and config.eval:
        network, evaluator = state.model, build_evaluator(config, setting.precision, lists.get("validation"))
    return Ready(network, start, lists, evaluator, state.model)


def _resume(state: TrainState, setting: Setting, found: checkpoint.Found | None) -> bool:
    """Set the state to the checkpoint that ``Global.checkpoints`` names; return whether there was one."""
    state.arrangement = setting.loader.dataset.arrangement
    wanted = setting.run.checkpoints
    if not wanted:
        if any(setting.folder.glob("*.manifest.json")):
            log.warning(
                "%s holds the checkpoints of an earlier run, and this one starts anew: it will replace them "
                "(-o Global.checkpoints=auto would go on)",
                setting.folder,
            )
        return False
    if found is None:
        log.info("no checkpoint in %s yet: starting anew", setting.folder)
        return False
    here = state.arrangement
    checkpoint.restore(state, found)
    if state.arrangement not in ("", here) and state.step_in_epoch:
        log.warning(
            "the photos lie otherwise than when this run was stopped (other shards, window or streams, or more or less "
            "of them): in the rest of this epoch some come twice, and others not at all"
        )
    state.arrangement = here
    position = min(setting.steps, state.photos_seen // (setting.loader.batch_size * setting.world))
    if state.step_in_epoch != position and state.photos_seen:
        log.warning("the global batch was another one: going on near where the epoch was left, not exactly there")
    state.step_in_epoch = position // setting.update_freq * setting.update_freq
    state.step = state.epoch * setting.steps + state.step_in_epoch
    state.update = state.step // setting.update_freq
    seed = setting.run.seed
    if state.lr_scale != 1:
        log.warning("the rates are %g of those of the schedule, since NaN or infinity once", state.lr_scale)
    if seed not in (None, state.seed):
        log.warning("Global.seed %d is passed over: a resumed run keeps its own, %d", seed, state.seed)
    setting.loader.seed = state.seed
    setting.loader.bad_samples = state.bad_samples
    if setting.first:
        checkpoint.finish_names(setting.folder)
    log.info(
        "resumed from %s: epoch %d, step %d, best metric %.5f of epoch %d",
        *(found, state.epoch + 1, state.step, state.best_metric, state.best_epoch),
    )
    if state.epoch >= setting.run.epochs:
        log.warning(
            "nothing left to do: %d epochs are done and Global.epochs is %d. To go on: -o Global.epochs=%d, or more; "
            "to train anew: another Global.output_dir, or -o Global.checkpoints=null, which replaces this run",
            *(state.epoch, setting.run.epochs, state.epoch + setting.run.epochs),
        )
    return True


def _refuse_others_step(state: TrainState, setting: Setting) -> None:
    """Refuse to go on where the processes stand at different steps: one of them has not found the checkpoint."""
    steps = np.zeros(setting.world)
    steps[setting.rank] = state.step
    steps = sum_over_processes(steps, setting.world).astype(int).tolist()
    if len(set(steps)) > 1:
        raise UserError(
            f"the processes would begin at different steps: {steps}",
            where="Global.checkpoints",
            hint="each looks for it in Global.output_dir: machines need that folder on a file system that they share",
        )


def _with_rollback(
    state: TrainState, setting: Setting, writer: checkpoint.Writer, stop: Stop, resumed: bool
) -> dict[str, float]:
    """Run all epochs; once, after NaN or infinity, go back to the last save at half the rate if that is wanted."""
    wanted = setting.run.on_nan == "rollback"
    if wanted and not resumed and setting.first:
        writer.save(checkpoint.snapshot(state, 0.0, ()))  # something to go back to before the first epoch's end
    try:
        return _epochs(state, setting, writer, stop, resumed)
    except NumericsError as error:
        if not wanted or state.rollbacks:
            raise
        if setting.first:
            writer.wait()
        sum_over_processes(np.zeros(1), setting.world)  # nobody reads before everything is written
        found = checkpoint.find("auto", setting.folder, setting.name)
        if found is None:
            raise
        state.optimizer.clear_grad()
        # a new one: what this one remembers is spoilt, and there may be nothing saved to replace it with
        optimizer = build_optimizer(setting.optimizer, state.model, setting.schedule)
        state.optimizer = setting.precision.decorate(state.model, optimizer)[1]
        checkpoint.restore(state, found)
        state.rollbacks, state.lr_scale = 1, state.lr_scale / 2
        log.warning("%s", error)
        log.warning("back to step %d, at half the learning rate; another time stops the run", state.step)
        return _epochs(state, setting, writer, stop, True)


def _epochs(
    state: TrainState, setting: Setting, writer: checkpoint.Writer, stop: Stop, resumed: bool
) -> dict[str, float]:
    """Train, evaluate and save, from the epoch that the state stands in to the last."""
    run, evaluator = setting.run, setting.evaluator
    names = list(dict.fromkeys(["loss", *setting.metric.names, *(evaluator.metric.names if evaluator else ())]))
    folder = setting.folder if setting.first else None
    scalars = Scalars(folder, run.use_visualdl, run.use_tensorboard)
    record = Record(folder, names, state.step if resumed else None, scalars)
    keeper = RunKeeper(setting, writer, stop, record)
    result: dict[str, float] = {}
    if run.epochs == 0 and not resumed:
        result = _evaluate(state, setting)
        keeper.save(state, ["latest", *_best(state, result, setting)], _judged(result, setting))
    try:
        while state.epoch < run.epochs:
            began = time.monotonic()
            train_epoch(state, setting, keeper)
            state.epoch, state.step_in_epoch, state.photos_seen = state.epoch + 1, 0, 0
            means, state.totals = state.totals.means(setting.metric), Totals()
            share_statistics(state.model, state.ema.average, setting.world)
            result = _evaluate(state, setting)
            saved_as = ["latest", *_epoch_name(state.epoch, setting), *_best(state, result, setting)]
            keeper.save(state, saved_as, _judged(result, setting))
            seconds = time.monotonic() - began
            record.epoch(
                epoch=state.epoch,
                step=state.step,
                lr=f"{setting.schedule.last_lr:.8g}",
                seconds=f"{seconds:.1f}",
                **{f"train_{name}": f"{value:.6g}" for name, value in means.items()},
                **{f"eval_{name}": f"{value:.6g}" for name, value in result.items() if name in names},
            )
            scalars.norms(state.model, state.step)
            log.info("epoch %d/%d: %s, %s", state.epoch, run.epochs, _said(means, result), duration(seconds))
        writer.wait()
        scalars.result(setting.hyperparameters, {"best_metric": state.best_metric, **result}, state.step)
    except LostProcess as error:
        raise keeper.lost(state, error) from error
    finally:
        record.close()
    evaluated = state.best_metric >= 0
    best = f"best metric {state.best_metric:.5f} in epoch {state.best_epoch}" if evaluated else "not evaluated"
    log.info("done: %s; see %s", best, setting.folder)
    return {
        **result,
        "best_metric": state.best_metric,
        "best_epoch": state.best_epoch,
        "epochs": state.epoch,
        "step": state.step,
    }


def train_epoch(state: TrainState, setting: Setting, keeper: Keeper) -> None:
    """Train one epoch, from the step that the state stands at to its end.

    Raises:
        NumericsError: before a loss that is not finite changes a weight.
        Stopped: a signal asked for it; the state is saved.
    """
    train_mode(state.model, setting.resting)
    loader, run, network = setting.loader, setting.run, setting.precision.within(setting.forward)
    loader.set_epoch(state.epoch, state.step_in_epoch)
    title, after = f"epoch {state.epoch + 1}/{run.epochs}", (run.epochs - state.epoch - 1) * setting.steps
    progress = Progress(title, setting.steps, state.step_in_epoch, run.print_batch_step, setting.first, after)
    for step, (waited, batch) in zip(range(state.step_in_epoch, setting.steps), timed(loader)):
        if step == 0:
            keeper.begins(state, batch)
        check_images(setting.network, batch, "Train")
        rate = setting.schedule.at(state.update, state.lr_scale)
        _reseed(state, setting.rank)
        # gradients that are only added up need not travel yet
        waits = setting.shares_after or (setting.world > 1 and (state.step_in_epoch + 1) % setting.update_freq)
        with setting.forward.no_sync() if waits else nullcontext():
            loss, logits = setting.objective(network, images_of(batch), batch)
            counts = setting.metric.count(logits.numpy(), batch.labels)
            photos, mean, counts, asked = _together(setting, batch, float(loss), counts, keeper.asked)
            _refuse_non_finite(mean, state, setting, batch, rate)
            state.scaler.scale(loss / setting.update_freq).backward()
        state.totals.add(photos, mean, counts)
        state.step, state.step_in_epoch = state.step + 1, state.step_in_epoch + 1
        state.photos_seen += loader.batch_size * setting.world
        speed = progress.step(photos, loss=mean, lr=rate)
        if state.step % run.print_batch_step == 0:
            keeper.step(state, lr=rate, loss=mean, images_per_second=f"{speed:.1f}", data_wait=f"{waited:.4f}")
        if state.step_in_epoch % setting.update_freq:
            continue
        if setting.shares_after:
            share_gradients(setting.network, setting.world)
        keeper.may_change()
        _change_weights(state)
        state.bad_samples = loader.bad_samples
        if asked:
            progress.close()
        keeper.changed(state, asked)
    progress.close()


def _reseed(state: TrainState, rank: int) -> None:
    """Make the random choices of a step (dropout) depend on (seed, rank, step) only, so a resumed run repeats them."""
    number = int(np.random.SeedSequence((state.seed, rank, state.step)).generate_state(1)[0]) >> 1
    paddle.seed(number)
    np.random.seed(number)
    random.seed(number)


def _together(setting: Setting, batch: Batch, loss: float, counts: Mapping[str, int | np.ndarray], asked: int):
    """Add up a step over all processes: (photos, mean loss, counts, whether one was asked to stop)."""
    n = len(batch.labels)
    photos, total, asked = sum_over_processes(np.array([n, n * loss, asked], np.float64), setting.world)
    return int(photos), float(total) / photos, add_up_counts(counts, setting.world), bool(asked)


def _refuse_non_finite(loss: float, state: TrainState, setting: Setting, batch: Batch, rate: float) -> None:
    if np.isfinite(loss):
        return
    samples = setting.loader.dataset.samples
    files = [samples.path(int(i)) for i in batch.indices]
    shown = ", ".join(files[:8]) + (f" and {len(files) - 8} more" if len(files) > 8 else "")
    log.error("files of the batch: %s", ", ".join(files))
    raise NumericsError(
        f"the loss is {loss} at step {state.step + 1} (epoch {state.epoch + 1}), learning rate {rate:.6g}; "
        f"the batch: {shown}",
        hint=setting.diverged,
    )


def _change_weights(state: TrainState) -> None:
    # accumulators are named after the parameter and a number that counts up in a process: 0 in every run
    with paddle.utils.unique_name.guard():
        state.scaler.step(state.optimizer)
    state.scaler.update()
    state.optimizer.clear_grad()
    state.update += 1
    state.ema.update(state.model)


def _evaluate(state: TrainState, setting: Setting) -> dict[str, float]:
    """Evaluate if it is this epoch's turn: the average of the weights where there is one, for that is what is saved."""
    run = setting.run
    due = state.epoch % run.eval_interval == 0 and state.epoch >= run.start_eval_epoch
    if setting.evaluator is None or not due and state.epoch < run.epochs:
        return {}
    with state.ema.applied(state.model):  # no save is under way: it came before the last change of the weights
        return setting.evaluator(setting.network)


def _judged(result: Mapping[str, float], setting: Setting) -> float:
    """The figure that decides which epoch is best: the first of the config's metrics."""
    return setting.evaluator.metric.score(result) if result else 0.0


def _best(state: TrainState, result: Mapping[str, float], setting: Setting) -> list[str]:
    """Note a new best; a tie leaves the older one."""
    if not result or not _judged(result, setting) > state.best_metric:
        return []
    state.best_metric, state.best_epoch = _judged(result, setting), state.epoch
    return list(setting.best_names)


def _epoch_name(epoch: int, setting: Setting) -> list[str]:
    interval = setting.run.save_interval
    return [f"epoch_{epoch}"] if interval > 0 and epoch % interval == 0 else []


def _said(means: Mapping[str, float], result: Mapping[str, float]) -> str:
    text = "train " + ", ".join(f"{name} {value:.5f}" for name, value in means.items())
    return f"{text}; eval loss {result['loss']:.5f}, {line(result)}" if result else text
