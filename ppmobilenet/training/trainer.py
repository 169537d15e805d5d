"""Batches -> weights. :func:`train` reads from top to bottom; an epoch is :func:`train_epoch`."""

from __future__ import annotations

import logging
import os
import random
import signal
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import paddle
from paddle import nn

from ppmobilenet.data.before import check_before_training
from ppmobilenet.data.build import build_loader
from ppmobilenet.data.classes import check_labels
from ppmobilenet.data.loader import Batch, Loader
from ppmobilenet.errors import NumericsError, Stopped, UserError
from ppmobilenet.kernels import accelerate
from ppmobilenet.models.zoo import build_model
from ppmobilenet.training import checkpoint
from ppmobilenet.training.device import (
    Precision,
    images_of,
    set_device,
    share_statistics,
    start_processes,
    sum_over_processes,
)
from ppmobilenet.training.ema import ModelEma
from ppmobilenet.training.evaluator import evaluate_model, line
from ppmobilenet.training.feature_cache import cache_features
from ppmobilenet.training.freezing import freeze, norms, train_mode
from ppmobilenet.training.inputs import check_images
from ppmobilenet.training.losses import Loss, build_loss
from ppmobilenet.training.metrics import TopkAcc, Totals, build_metrics
from ppmobilenet.training.optim import Schedule, build_optimizer, build_schedule
from ppmobilenet.training.runfolder import Progress, Record, duration, logged, owned, timed
from ppmobilenet.training.scalars import Scalars
from ppmobilenet.training.start import Start, find_start, load_start
from ppmobilenet.training.state import TrainState
from ppmobilenet.training.stopping import Stop, listening

log = logging.getLogger("ppmobilenet")


@dataclass(frozen=True)
class Setting:
    """What a run is given and never changes; what does change is a :class:`TrainState`."""

    config: Mapping
    folder: Path
    rank: int
    world: int
    epochs: int
    steps: int  # of an epoch
    update_freq: int
    loader: Loader
    eval_loader: Loader | None
    network: nn.Layer  # the state's model, or what follows its frozen part if the loaders give features
    forward: nn.Layer  # the same, wrapped where there are more processes
    resting: tuple[nn.Layer, ...]  # batch norms that keep their statistics
    schedule: Schedule
    loss: Loss
    eval_loss: Loss
    metric: TopkAcc
    eval_metric: TopkAcc
    precision: Precision
    save_steps: int | None

    @property
    def first(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0


def train(config: Mapping, *, random_init: bool = False) -> dict[str, float]:
    """Train what a config describes (``ppmobilenet train``).

    Args:
        config: as :func:`ppmobilenet.load_config` gives it.
        random_init: train without weights what keeps something of them, frozen layers or batch norm's statistics.

    Returns:
        The last evaluation, with ``best_metric``, ``best_epoch``, ``epochs`` and ``step``.

    Raises:
        UserError, DataError, DamagedFileError, NumericsError: what is wrong, and where.
        Stopped: by a signal; everything done is saved.
    """
    device = set_device(config.get("Global.device"))
    rank, world = start_processes()
    folder = Path(config.get("Global.output_dir"))
    with owned(folder) if rank == 0 else nullcontext(), logged(folder, rank), listening() as stop:
        log.info("training on %s, %d process%s, into %s", device, world, "es" * (world > 1), folder)
        start = find_start(config, training=True)
        _require_what_is_kept(config, start, random_init)
        state, setting = _prepare(config, start, folder, device, rank, world)
        try:
            resumed = _resume(state, setting, start.checkpoint if start else None)
            if rank == 0:
                config.dump(folder / "config.yaml")  # not before: what cannot start leaves an earlier run's as it was
            with checkpoint.Writer(folder, config.get("Global.keep_checkpoints")) as writer:
                result = _with_rollback(state, setting, writer, stop, resumed)
        finally:
            setting.loader.close()
            if setting.eval_loader is not None:
                setting.eval_loader.close()
    return result


def _require_what_is_kept(config: Mapping, start: Start | None, random_init: bool) -> None:
    """Refuse to keep what was never learned: frozen layers, or batch norm's statistics, without weights."""
    keeps = next((key for key in ("Arch.freeze_norm", "Arch.freeze") if config.get(key)), None)
    if keeps is None or start is not None or random_init:
        return
    what = "batch norm's statistics" if keeps == "Arch.freeze_norm" else "the frozen layers"
    raise UserError(
        f"{keeps} keeps {what} as they were learned before, and no weights are named: it would keep random numbers",
        where=config.where(keeps),
        hint="-o Global.pretrained_model=FILE, or -o Arch.pretrained=True for the published weights, "
        f"or -o {keeps}=null to train all of it, or --random-init if random weights are what you want",
    )


def _prepare(
    config: Mapping, start: Start | None, folder: Path, device: str, rank: int, world: int
) -> tuple[TrainState, Setting]:
    """Build everything that a run needs."""
    seed = _seed(config, world, rank)
    paddle.seed(seed)
    model = build_model(config["Arch"])
    if start is not None:
        log.info("weights of %s (%s)", start.key, config.where(start.key))
        load_start(model, start, new_head=True)
    frozen = freeze(model, config.get("Arch.freeze"))
    resting = norms(model) if config.get("Arch.freeze_norm") else frozen
    if rank == 0:
        check_labels(config)
        check_before_training(config)
    loader = build_loader(config, "Train", rank=rank, world_size=world, seed=seed, on_device=device != "cpu")
    evaluating = config.get("Global.eval_during_train")
    eval_loader = build_loader(config, "Eval", rank=rank, world_size=world) if evaluating else None
    steps, update_freq = _steps(loader, config.get("Global.update_freq"), world)
    epochs = config.get("Global.epochs")
    global_batch = loader.batch_size * world * update_freq
    schedule = build_schedule(config["Optimizer"]["lr"], epochs, steps // update_freq, global_batch)
    optimizer = build_optimizer(config["Optimizer"], model, schedule)
    precision = Precision(config.get("AMP"), device)
    ema = ModelEma(model, config.get("EMA.decay") if config.get("EMA") else None)
    if config.get("Arch.use_sync_bn"):
        if device == "cpu":
            log.info("Arch.use_sync_bn: Paddle has no such operator for CPUs; statistics are each process's own")
        else:
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    if device == "cpu":
        log.info("%s", accelerate(model, config.get("Global.cpu_kernels")).message)
    model, optimizer = precision.decorate(model, optimizer)
    network = model
    if config.get("Arch.cache_features"):
        views = config.get("DataLoader.Eval.dataset.transform_ops")
        network, loader, eval_loader = cache_features(model, loader, eval_loader, folder, views)
    if config.get("Global.to_static"):
        if device == "cpu":
            log.info("Global.to_static: a CPU gains nothing by it; computing eagerly")
        else:
            network = paddle.jit.to_static(network)
    class_num = int(config.get("Arch.class_num"))
    state = TrainState(model, optimizer, ema, precision.scaler, seed)
    setting = Setting(
        config=config,
        folder=folder,
        rank=rank,
        world=world,
        epochs=epochs,
        steps=steps,
        update_freq=update_freq,
        loader=loader,
        eval_loader=eval_loader,
        network=network,
        forward=paddle.DataParallel(network) if world > 1 else network,
        resting=tuple(resting),
        schedule=schedule,
        loss=build_loss(
            config.get("Loss.Train"), loader.dataset.samples.labels, int(config.get("Arch.class_num") or 0)
        ),
        eval_loss=build_loss(config.get("Loss.Eval")),
        metric=build_metrics(config.get("Metric.Train"), class_num),
        eval_metric=build_metrics(config.get("Metric.Eval"), class_num),
        precision=precision,
        save_steps=config.get("Global.save_steps"),
    )
    log.info(
        "%d photos, %d steps an epoch, %d epochs; seed %d",
        *(len(loader.dataset), steps, epochs, seed),
    )
    return state, setting


def _seed(config: Mapping, world: int, rank: int) -> int:
    """The run's seed: the config's, or one drawn by the first process for all."""
    seed = config.get("Global.seed")
    if seed is None:
        drawn = int.from_bytes(os.urandom(4), "little") // 2 if rank == 0 else 0
        seed = int(sum_over_processes(np.array([drawn], np.float64), world)[0])
    return seed


def _steps(loader: Loader, update_freq: int, world: int) -> tuple[int, int]:
    """Steps of an epoch, equally many in every process, and steps that make one change of the weights."""
    # the fewest of all processes: an unshuffled list need not divide evenly
    all_steps = np.zeros(world)
    all_steps[loader.rank] = len(loader)
    steps = int(sum_over_processes(all_steps, world).min())
    if steps < update_freq:
        log.warning("Global.update_freq is %d, an epoch has only %d steps: using 1", update_freq, steps)
        update_freq = 1
    if steps == 0:
        raise UserError(
            "an epoch has no step", where="DataLoader.Train", hint="fewer processes or a smaller batch_size"
        )
    return steps // update_freq * update_freq, update_freq


def _resume(state: TrainState, setting: Setting, found: checkpoint.Found | None) -> bool:
    """Set the state to the checkpoint that ``Global.checkpoints`` names; return whether there was one."""
    wanted = setting.config.get("Global.checkpoints")
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
    checkpoint.restore(state, found)
    position = min(setting.steps, state.photos_seen // (setting.loader.batch_size * setting.world))
    if state.step_in_epoch != position and state.photos_seen:
        log.warning("the global batch was another one: going on near where the epoch was left, not exactly there")
    state.step_in_epoch = position // setting.update_freq * setting.update_freq
    state.step = state.epoch * setting.steps + state.step_in_epoch
    state.update = state.step // setting.update_freq
    seed = setting.config.get("Global.seed")
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
    if state.epoch >= setting.epochs:
        log.warning(
            "nothing left to do: %d epochs are done and Global.epochs is %d. To go on: -o Global.epochs=%d, or more; "
            "to train anew: another Global.output_dir, or -o Global.checkpoints=null, which replaces this run",
            *(state.epoch, setting.epochs, state.epoch + setting.epochs),
        )
    return True


def _with_rollback(
    state: TrainState, setting: Setting, writer: checkpoint.Writer, stop: Stop, resumed: bool
) -> dict[str, float]:
    """Run all epochs; once, after NaN or infinity, go back to the last save at half the rate if that is wanted."""
    wanted = setting.config.get("Global.on_nan") == "rollback"
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
        found = checkpoint.find("auto", setting.folder, setting.config["Arch"]["name"])
        if found is None:
            raise
        state.optimizer.clear_grad()
        # a new one: what this one remembers is spoilt, and there may be nothing saved to replace it with
        optimizer = build_optimizer(setting.config["Optimizer"], state.model, setting.schedule)
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
    names = list(dict.fromkeys(["loss", *_names(setting.metric), *_names(setting.eval_metric)]))
    folder = setting.folder if setting.first else None
    scalars = Scalars(folder, setting.config.get("Global.use_visualdl"), setting.config.get("Global.use_tensorboard"))
    record = Record(folder, names, state.step if resumed else None, scalars)
    result: dict[str, float] = {}
    try:
        while state.epoch < setting.epochs:
            began = time.monotonic()
            train_epoch(state, setting, writer, stop, record)
            state.epoch, state.step_in_epoch, state.photos_seen = state.epoch + 1, 0, 0
            means, state.totals = state.totals.means(), Totals()
            share_statistics(state.model, setting.world)
            result = _evaluate(state, setting)
            saved_as = ["latest", *_epoch_name(state.epoch, setting), *_best(state, result, setting)]
            _save(state, setting, writer, saved_as, _judged(result, setting))
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
            log.info("epoch %d/%d: %s, %s", state.epoch, setting.epochs, _said(means, result), duration(seconds))
        writer.wait()
        scalars.result(setting.config, {"best_metric": state.best_metric, **result}, state.step)
    finally:
        record.close()
    best = f"best metric {state.best_metric:.5f} in epoch {state.best_epoch}" if state.best_epoch else "not evaluated"
    log.info("done: %s; see %s", best, setting.folder)
    return {
        **result,
        "best_metric": state.best_metric,
        "best_epoch": state.best_epoch,
        "epochs": state.epoch,
        "step": state.step,
    }


def train_epoch(state: TrainState, setting: Setting, writer: checkpoint.Writer, stop: Stop, record: Record) -> None:
    """Train one epoch, from the step that the state stands at to its end.

    Raises:
        NumericsError: before a loss that is not finite changes a weight.
        Stopped: a signal asked for it; the state is saved.
    """
    train_mode(state.model, setting.resting)
    setting.loader.set_epoch(state.epoch, state.step_in_epoch)
    title = f"epoch {state.epoch + 1}/{setting.epochs}"
    after = (setting.epochs - state.epoch - 1) * setting.steps
    every = setting.config.get("Global.print_batch_step")
    progress = Progress(title, setting.steps, state.step_in_epoch, every, setting.first, after)
    for step, (waited, batch) in zip(range(state.step_in_epoch, setting.steps), timed(setting.loader)):
        if step == 0:
            record.scalars.batch(batch, setting.loader.dataset.transform_ops, state.epoch, state.step)
        check_images(setting.network, batch, "Train")
        rate = setting.schedule.at(state.update, state.lr_scale)
        _reseed(state, setting.rank)
        labels = paddle.to_tensor(batch.labels)
        # gradients that are only added up need not travel yet
        adding = (state.step_in_epoch + 1) % setting.update_freq and setting.world > 1
        with setting.forward.no_sync() if adding else nullcontext():
            with setting.precision.cast():
                logits = setting.forward(images_of(batch))
            loss = setting.loss(logits, labels)
            counts = setting.metric.count(logits.numpy(), batch.labels)
            photos, mean, counts, asked = _together(setting, batch, float(loss), counts, stop)
            _refuse_non_finite(mean, state, setting, batch, rate)
            state.scaler.scale(loss / setting.update_freq).backward()
        state.totals.add(photos, mean, counts)
        state.step, state.step_in_epoch = state.step + 1, state.step_in_epoch + 1
        state.photos_seen += setting.loader.batch_size * setting.world
        speed = progress.step(photos, loss=mean, lr=rate)
        if state.step % every == 0:
            figures = {"lr": rate, "loss": mean, "images_per_second": f"{speed:.1f}", "data_wait": f"{waited:.4f}"}
            record.step(epoch=state.epoch + 1, step=state.step, **figures)
        if state.step_in_epoch % setting.update_freq:
            continue
        writer.settle()
        _change_weights(state)
        state.bad_samples = setting.loader.bad_samples
        writer.check()
        if asked:
            progress.close()
            _stop(state, setting, writer, stop)
        if setting.save_steps and state.update % setting.save_steps == 0 and state.step_in_epoch < setting.steps:
            _save(state, setting, writer, ["latest"], 0.0)
    progress.close()


def _reseed(state: TrainState, rank: int) -> None:
    """Make the random choices of a step (dropout) depend on (seed, rank, step) only, so a resumed run repeats them."""
    number = int(np.random.SeedSequence((state.seed, rank, state.step)).generate_state(1)[0]) >> 1
    paddle.seed(number)
    np.random.seed(number)
    random.seed(number)


def _together(setting: Setting, batch: Batch, loss: float, counts: Mapping[str, int], stop: Stop):
    """Add up a step over all processes: (photos, mean loss, right answers, whether one was asked to stop)."""
    n = len(batch.labels)
    mine = np.array([n, n * loss, stop.number, *counts.values()], np.float64)
    photos, total, asked, *right = sum_over_processes(mine, setting.world)
    return int(photos), float(total) / photos, {k: int(v) for k, v in zip(counts, right)}, bool(asked)


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
        hint="a lower Optimizer.lr.learning_rate, a longer warmup_epoch, or Global.on_nan=rollback; "
        "the last checkpoint is good: Global.checkpoints=auto",
    )


def _change_weights(state: TrainState) -> None:
    # accumulators are named after the parameter and a number that counts up in a process: 0 in every run
    with paddle.utils.unique_name.guard():
        state.scaler.step(state.optimizer)
    state.scaler.update()
    state.optimizer.clear_grad()
    state.update += 1
    state.ema.update(state.model)


def _stop(state: TrainState, setting: Setting, writer: checkpoint.Writer, stop: Stop) -> None:
    _save(state, setting, writer, ["latest"], 0.0)
    writer.wait()
    log.info("stopped by %s after step %d", signal.Signals(stop.number or signal.SIGTERM).name, state.step)
    raise Stopped(
        f"stopped after step {state.step} (epoch {state.epoch + 1}); everything is saved in {setting.folder}",
        hint="the same command with -o Global.checkpoints=auto goes on exactly there",
        exit_code=stop.exit_code,
    )


def _save(state: TrainState, setting: Setting, writer: checkpoint.Writer, names: list[str], metric: float) -> None:
    share_statistics(state.model, setting.world)
    if setting.first:
        writer.save(checkpoint.snapshot(state, metric, names))


def _evaluate(state: TrainState, setting: Setting) -> dict[str, float]:
    """Evaluate if it is this epoch's turn: the average of the weights where there is one, for that is what is saved."""
    config = setting.config
    due = state.epoch % config.get("Global.eval_interval") == 0 and state.epoch >= config.get("Global.start_eval_epoch")
    if setting.eval_loader is None or not due and state.epoch < setting.epochs:
        return {}
    with state.ema.applied(state.model):  # no save is under way: it came before the last change of the weights
        return evaluate_model(
            setting.network,
            setting.eval_loader,
            setting.eval_loss,
            setting.eval_metric,
            setting.precision,
            setting.world,
            setting.first,
        )


def _judged(result: Mapping[str, float], setting: Setting) -> float:
    """The figure that decides which epoch is best: the first of the config's metrics."""
    return result.get(f"top{setting.eval_metric.topk[0]}", 0.0)


def _best(state: TrainState, result: Mapping[str, float], setting: Setting) -> list[str]:
    """Note a new best; a tie leaves the older one."""
    if not result or not _judged(result, setting) > state.best_metric:
        return []
    state.best_metric, state.best_epoch = _judged(result, setting), state.epoch
    return ["best_model"]


def _epoch_name(epoch: int, setting: Setting) -> list[str]:
    interval = setting.config.get("Global.save_interval")
    return [f"epoch_{epoch}"] if interval > 0 and epoch % interval == 0 else []


def _names(metric: TopkAcc) -> list[str]:
    return [f"top{k}" for k in metric.topk]


def _said(means: Mapping[str, float], result: Mapping[str, float]) -> str:
    text = "train " + ", ".join(f"{name} {value:.5f}" for name, value in means.items())
    return f"{text}; eval loss {result['loss']:.5f}, {line(result)}" if result else text
