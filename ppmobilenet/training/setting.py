"""What a run is given and never changes, made from its configuration step by step."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import paddle
from paddle import nn

from ppmobilenet.config import Config
from ppmobilenet.config.parts import Optimizer, Run
from ppmobilenet.data.before import check_before_training
from ppmobilenet.data.build import build_loader
from ppmobilenet.data.class_names import check_labels
from ppmobilenet.data.dataset import Listed
from ppmobilenet.data.loader import Loader
from ppmobilenet.errors import UserError
from ppmobilenet.kernels import accelerate
from ppmobilenet.telling import log
from ppmobilenet.training.answers import Joined, keep_answers
from ppmobilenet.training.device import Precision, sum_over_processes
from ppmobilenet.training.ema import ModelEma
from ppmobilenet.training.evaluator import Evaluator, build_evaluator
from ppmobilenet.training.feature_cache import cache_features
from ppmobilenet.training.freezing import freeze, norms
from ppmobilenet.training.losses import build_loss, build_terms
from ppmobilenet.training.metrics import Metrics, TopkAcc, build_metrics
from ppmobilenet.training.objective import LearnFrom, Objective, Supervised
from ppmobilenet.training.optim import Schedule, build_optimizer, build_schedule
from ppmobilenet.training.scalars import HYPERPARAMETERS
from ppmobilenet.training.solved_head import solve_head
from ppmobilenet.training.start import Start, load_start
from ppmobilenet.training.state import TrainState
from ppmobilenet.training.teacher import Teacher, build_teacher
from ppmobilenet.zoo import create_model

LOWER_RATE = (
    "a lower Optimizer.lr.learning_rate, a longer warmup_epoch, or Global.on_nan=rollback; "
    "the last checkpoint is good: Global.checkpoints=auto"
)


@dataclass(frozen=True)
class Setting:
    """What a run is given and never changes; what does change is a :class:`TrainState`.

    Attributes:
        name: of the network.
        run: ``Global``.
        steps: of an epoch.
        update_freq: steps that make one change of the weights.
        loader: of the training photos, or of their features.
        network: the state's model, or what follows its frozen part if the loaders give features.
        forward: the same, wrapped where there are more processes.
        resting: batch norms that keep their statistics.
        objective: what is minimised.
        metric: of the training photos.
        evaluator: None where nothing is evaluated while training.
        optimizer: ``Optimizer``, to build it anew.
        diverged: what to do about a loss that is not finite.
        hyperparameters: what tells runs apart.
        best_names: what the best weights are saved as.
        shares_after: gradients travel to the other processes after the backward pass, not in it.
    """

    name: str
    run: Run
    steps: int
    update_freq: int
    loader: Loader
    network: nn.Layer
    forward: nn.Layer
    resting: tuple[nn.Layer, ...]
    schedule: Schedule
    objective: Objective
    metric: TopkAcc | Metrics
    precision: Precision
    rank: int = 0
    world: int = 1
    evaluator: Evaluator | None = None
    optimizer: Optimizer | None = None
    diverged: str = LOWER_RATE
    hyperparameters: Mapping[str, float | int | str] = field(default_factory=dict)
    best_names: tuple[str, ...] = ("best_model",)
    shares_after: bool = False

    @property
    def first(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    @property
    def folder(self) -> Path:
        return Path(self.run.output_dir)


def require_what_is_kept(config: Config, start: Start | None, random_init: bool) -> None:
    """Refuse to keep what was never learned: frozen layers, or batch norm's statistics, without weights."""
    kept = {"Arch.freeze_norm": config.arch.freeze_norm, "Arch.freeze": config.arch.freeze}
    keeps = next((key for key, value in kept.items() if value), None)
    if keeps is None or start is not None or random_init:
        return
    what = "batch norm's statistics" if keeps == "Arch.freeze_norm" else "the frozen layers"
    # the published files are of the network as its name says it
    free = ("class_num", "scale", "data_format", "init", "dropout", "dropout_prob", "drop_rate", "drop_path_rate")
    changed = [f"Arch.{name}" for name in config.arch.parameters if name not in free]
    published = f"for the published weights{' (not with ' + ', '.join(changed) + ')' if changed else ''}, "
    raise UserError(
        f"{keeps} keeps {what} as they were learned before, and no weights are named: it would keep random numbers",
        where=config.where(keeps),
        hint="-o Global.pretrained_model=FILE, or -o Arch.pretrained=True "
        f"{published}or -o {keeps}=null to train all of it, or --random-init if random weights are what you want",
    )


def prepare(
    config: Config,
    start: Start | None,
    lists: Mapping[str, Listed],
    device: str,
    rank: int,
    world: int,
    random_init: bool = False,
) -> tuple[TrainState, Setting]:
    """Build everything that a run needs; with ``random_init`` a teacher too may go without weights."""
    run, arch = config.run, config.arch
    seed = _seed(run.seed, world, rank)
    paddle.seed(seed)
    model, resting = _network(config, start)
    teacher = _teacher(config, device, random_init) if config.teacher else None
    if rank == 0:
        _look_at_data(config, lists)
    share = {"rank": rank, "world_size": world, "seed": seed, "on_device": device != "cpu"}
    loader = build_loader(config.train, arch.class_num, lists.get("train"), **share)
    precision, evaluator = Precision(config.amp, device), None
    if run.eval_during_train:
        evaluator = build_evaluator(config, precision, lists.get("validation"), rank=rank, world=world)
    steps, update_freq = _steps(loader, run.update_freq, world)
    schedule = build_schedule(
        config.optimizer.lr, run.epochs, steps // update_freq, loader.batch_size * world * update_freq
    )
    optimizer = build_optimizer(config.optimizer, model, schedule)
    model = _on_device(model, config, device)
    if arch.solve_head and (start is None or start.checkpoint is None):
        solve_head(model, loader, config.eval.dataset.transform_ops, Path(run.output_dir), arch.solve_head)
    ema = ModelEma(model, config.ema.decay if config.ema else None)
    model, optimizer = precision.decorate(model, optimizer)
    network, loader, evaluator = _trained_part(model, config, loader, evaluator)
    network = _compiled(network, device) if run.to_static else network
    objective, loader = _objective(config, loader, network, teacher, share)
    setting = Setting(
        name=arch.name,
        run=run,
        steps=steps,
        update_freq=update_freq,
        loader=loader,
        network=network,
        forward=paddle.DataParallel(network) if world > 1 else network,
        resting=resting,
        schedule=schedule,
        objective=objective,
        metric=build_metrics(config.metric.train, arch.class_num),
        precision=precision,
        rank=rank,
        world=world,
        evaluator=evaluator,
        optimizer=config.optimizer,
        hyperparameters=config.given(HYPERPARAMETERS),
        # PaddleClas's name of the same: there, best_model holds the teacher too
        best_names=("best_model", "best_model_student") if teacher else ("best_model",),
        shares_after=world > 1 and device == "cpu",
    )
    log.info("%d photos, %d steps an epoch, %d epochs; seed %d", len(loader.dataset), steps, run.epochs, seed)
    return TrainState(model, optimizer, ema, precision.scaler, seed), setting


def _look_at_data(config: Config, lists: Mapping[str, Listed]) -> None:
    """Say what is wrong with labels, lists and photos before the first step."""
    run = config.run
    check_labels(config.labels, lists, config.arch.class_num)
    if run.check_data != "off":
        examined = {name: lists[name] for name in lists if name == "train" or run.eval_during_train}
        place = config.where("Arch.class_num")
        check_before_training(examined, config.train, config.arch, full=run.check_data == "full", place=place)


def _compiled(network: nn.Layer, device: str) -> nn.Layer:
    if device != "cpu":
        return paddle.jit.to_static(network)
    log.info("Global.to_static: a CPU gains nothing by it; computing eagerly")
    return network


def _network(config: Config, start: Start | None) -> tuple[nn.Layer, tuple[nn.Layer, ...]]:
    """Return the network with the weights that it starts from, and the batch norms that keep their statistics."""
    arch = config.arch
    model = create_model(arch.name, **arch.parameters)
    if start is not None:
        log.info("weights of %s (%s)", start.key, config.where(start.key))
        report = load_start(model, start, new_head=True)
        if report.bn_folded and not arch.freeze_norm:
            log.warning(
                "%s: its batch norm is folded away, and training starts badly that has batch norm learn: "
                "-o Arch.freeze_norm=True keeps its statistics; or recalibrate it first: "
                "ppmobilenet convert-weights %s --unfold-bn PHOTOS -o NEW.pdparams",
                *(report.path, report.path),
            )
    frozen = freeze(model, arch.freeze)
    return model, tuple(norms(model) if arch.freeze_norm else frozen)


def _on_device(model: nn.Layer, config: Config, device: str) -> nn.Layer:
    """Return the network with the layers and operators that the device has for it."""
    if device != "cpu":
        return nn.SyncBatchNorm.convert_sync_batchnorm(model) if config.arch.use_sync_bn else model
    if config.arch.use_sync_bn:
        log.info("Arch.use_sync_bn: Paddle has no such operator for CPUs; statistics are each process's own")
    log.info("%s", accelerate(model, config.run.cpu_kernels).message)
    return model


def _trained_part(
    model: nn.Layer, config: Config, loader: Loader, evaluator: Evaluator | None
) -> tuple[nn.Layer, Loader, Evaluator | None]:
    """Return what is computed at each step: all of it, or what follows the features that are kept."""
    if not config.arch.cache_features:
        return model, loader, evaluator
    views = config.eval.dataset.transform_ops if config.eval else None
    judged = evaluator.loader if evaluator else None
    network, loader, judged = cache_features(model, loader, judged, Path(config.run.output_dir), views)
    return network, loader, replace(evaluator, loader=judged) if evaluator else None


def _teacher(config: Config, device: str, random_init: bool) -> Teacher:
    if config.arch.cache_features:
        raise UserError(
            "features of a frozen trunk are kept in place of photos, which a Teacher would have to see",
            where=config.where("Arch.cache_features"),
            hint="-o Arch.cache_features=False; the teacher's answers are kept where views come again: Teacher.views",
        )
    ops, kernels = config.train.dataset.transform_ops, config.run.cpu_kernels
    return build_teacher(
        config.teacher, config.arch.class_num, ops, device=device, cpu_kernels=kernels, random=random_init
    )


def _objective(
    config: Config, loader: Loader, network: nn.Layer, teacher: Teacher | None, share: Mapping
) -> tuple[Objective, Loader]:
    """Return what is minimised, and the loader of what it asks for: a teacher's answers, photos without labels."""
    given = config.loss.train, loader.dataset.samples.labels, config.arch.class_num
    if teacher is None:
        return Supervised(build_loss(*given)), loader
    objective = LearnFrom(teacher, build_terms(*given), network)
    loaders = [loader]
    if config.unlabelled:
        loaders.append(build_loader(config.unlabelled, config.arch.class_num, **share))
        log.info("%d photos without labels join, for losses that ask a teacher only", len(loaders[-1].dataset))
    folder, views = Path(config.run.output_dir), config.teacher.views
    loaders = [keep_answers(loader, objective.asked, folder, views) for loader in loaders]
    return objective, Joined(*loaders) if config.unlabelled else loaders[0]


def _seed(seed: int | None, world: int, rank: int) -> int:
    """The run's seed: the config's, or one drawn by the first process for all."""
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
