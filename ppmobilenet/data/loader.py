"""Data set -> batches, by worker processes, in an order that depends on (seed, epoch) and nothing else."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from multiprocessing import Pipe
from typing import NamedTuple

import numpy as np

from ppmobilenet.data.dataset import ImageNetDataset
from ppmobilenet.data.worker import Made, Maker, Task
from ppmobilenet.errors import DataError, UserError
from ppmobilenet.registry import DATASETS, SAMPLERS

log = logging.getLogger("ppmobilenet")

AHEAD = 2  # batches that each worker may be ahead
RESTARTS = 3  # of a worker process that died
TIME_LIMIT = 300.0  # seconds for one batch; a worker that needs longer hangs


class Batch(NamedTuple):
    """images: float32 [N, 3, H, W]; labels: int64 [N]; indices: int64 [N], places in ``loader.dataset.samples``."""

    images: np.ndarray
    labels: np.ndarray
    indices: np.ndarray


@SAMPLERS.register()
class DistributedBatchSampler:
    """Batches of ``batch_size`` samples for each rank.

    With ``shuffle`` (training) the ranks get equally many samples, the first ones again where they do not divide.
    Without (evaluation) every sample belongs to exactly one rank, once.
    """

    def __init__(self, batch_size: int, shuffle: bool = False, drop_last: bool = False):
        if batch_size < 1:
            raise ValueError(f"batch_size {batch_size!r}; allowed: 1 and above")
        self.batch_size, self.shuffle, self.drop_last = batch_size, shuffle, drop_last

    def share(self, count: int, rank: int, world_size: int) -> int:
        """Return how many samples one rank gets of ``count``."""
        return -(-count // world_size) if self.shuffle else len(range(rank, count, world_size))

    def steps(self, count: int, rank: int, world_size: int) -> int:
        share = self.share(count, rank, world_size)
        return share // self.batch_size if self.drop_last else -(-share // self.batch_size)

    def batches(self, count: int, rank: int, world_size: int, seed: int, epoch: int, start: int) -> Iterator:
        """Yield (indices, size) from step ``start`` on; size is None."""
        order = np.arange(count)
        if self.shuffle:
            order = np.random.default_rng((seed, epoch)).permutation(count)
            order = np.resize(order, self.share(count, 0, world_size) * world_size)
        mine = order[rank::world_size]
        for step in range(start, self.steps(count, rank, world_size)):
            yield mine[step * self.batch_size : (step + 1) * self.batch_size], None


@SAMPLERS.register()
class MultiScaleSampler:
    """Batches that differ in resolution, large photos in small batches (PaddleClas's multi_scale recipes).

    Args:
        scales: resolutions, numbers or [width, height].
        first_bs: batch size at the first of them; the others hold about as many pixels.
        divided_factor: resolutions are rounded down to multiples of it.
        is_training: False uses the first resolution only.
        shuffle: draw samples in random order.
        seed: of the drawing; default the run's.
    """

    def __init__(
        self,
        scales: list,
        first_bs: int,
        divided_factor: int = 32,
        is_training: bool = True,
        shuffle: bool = True,
        seed: int | None = None,
    ):
        sizes = [(s, s) if isinstance(s, int) else tuple(s) for s in scales]
        if not sizes or any(min(size) < divided_factor for size in sizes):
            raise ValueError(f"scales {scales!r}; allowed: resolutions from divided_factor {divided_factor} up")
        pixels = sizes[0][0] * sizes[0][1] * first_bs
        rounded = [(w // divided_factor * divided_factor, h // divided_factor * divided_factor) for w, h in sizes]
        self.choices = [(size, max(1, int(pixels / (size[0] * size[1])))) for size in rounded]
        if not is_training:
            self.choices = [(sizes[0], first_bs)]
        self.batch_size, self.shuffle, self.seed = first_bs, shuffle, seed

    def _plan(self, count: int, world_size: int, seed: int) -> list:
        """The sizes and lengths of an epoch's batches: the same every epoch and on every rank."""
        rng = np.random.default_rng((self.seed if self.seed is not None else seed, 1))
        plan, left = [], -(-count // world_size)
        while left > 0:
            size, batch = self.choices[rng.integers(len(self.choices))]
            plan.append((size, min(batch, left)))
            left -= batch
        return plan

    def steps(self, count: int, rank: int, world_size: int, seed: int = 0) -> int:
        return len(self._plan(count, world_size, seed))

    def batches(self, count: int, rank: int, world_size: int, seed: int, epoch: int, start: int) -> Iterator:
        """Yield (indices, size) from step ``start`` on."""
        order = np.arange(count)
        if self.shuffle:
            order = np.random.default_rng((seed, epoch)).permutation(count)
        mine = np.resize(order, -(-count // world_size) * world_size)[rank::world_size]
        at = 0
        for step, (size, length) in enumerate(self._plan(count, world_size, seed)):
            if step >= start:
                yield mine[at : at + length], size
            at += length


class _Worker:
    """One worker process and the tasks it has not answered yet."""

    def __init__(self, ops: list):
        self._ops = ops
        self.pending: deque[Task] = deque()
        self.restarts = 0
        self._start()

    def _start(self) -> None:
        self.pipe, child = Pipe()
        here = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        env = {**os.environ, "PYTHONPATH": os.pathsep.join([here, os.environ.get("PYTHONPATH", "")]).strip(os.pathsep)}
        command = [sys.executable, "-m", "ppmobilenet.data.worker", str(child.fileno())]
        self.process = subprocess.Popen(
            command, pass_fds=[child.fileno()], env=env, stdin=subprocess.DEVNULL, start_new_session=True
        )
        child.close()
        self.pipe.send(self._ops)

    def give(self, task: Task) -> None:
        self.pending.append(task)
        try:
            self.pipe.send(task)
        except (BrokenPipeError, ConnectionResetError):
            pass  # found and mended in take()

    def take(self) -> Made:
        """Return the answer to the oldest task; a worker that died is started anew with all its tasks."""
        while True:
            try:
                if not self.pipe.poll(TIME_LIMIT):
                    raise DataError(
                        f"a data worker gave no batch within {TIME_LIMIT:.0f} s",
                        where=self.pending[0].paths[0],
                        hint="is the disk or network drive with the photos alive?",
                    )
                kept, faults, any_image = self.pipe.recv()
                images = None
                if any_image:
                    shape, dtype = self.pipe.recv()
                    images = np.empty(shape, dtype)
                    self.pipe.recv_bytes_into(images.reshape(-1).view(np.uint8))
            except (EOFError, OSError):
                self._restart()
                continue
            self.pending.popleft()
            return Made(images, kept, faults)

    def _restart(self) -> None:
        code = self.process.wait()
        self.restarts += 1
        if self.restarts > RESTARTS:
            raise DataError(
                f"a data worker died {self.restarts} times (exit code {code})",
                where=self.pending[0].paths[0],
                hint="out of memory? fewer loader.num_workers, or a smaller batch_size",
            )
        log.warning("a data worker died (exit code %s); starting another", code)
        self.pipe.close()
        self._start()
        for task in self.pending:
            self.pipe.send(task)

    def close(self) -> None:
        self.pipe.close()
        self.process.terminate()
        self.process.wait()


class Loader:
    """Iterate to get an epoch's :class:`Batch` es.

    Attributes:
        dataset: with ``samples`` and ``class_num``.
        batch_size: samples of a full batch on this rank.
        num_workers: processes that read; 0 reads in this one.
        bad_samples: photos skipped so far.
    """

    def __init__(
        self,
        dataset: ImageNetDataset,
        sampler,
        *,
        num_workers: int = 0,
        rank: int = 0,
        world_size: int = 1,
        seed: int = 0,
        max_bad_samples: int = 0,
    ):
        self.dataset, self.sampler = dataset, sampler
        self.rank, self.world_size, self.seed = rank, world_size, seed
        self.max_bad_samples, self.bad_samples = max_bad_samples, 0
        self.batch_size = sampler.batch_size
        self.num_workers = num_workers
        self._epoch, self._start = 0, 0
        self._workers: list[_Worker] = []
        extra = {"seed": seed} if isinstance(sampler, MultiScaleSampler) else {}
        self._steps = sampler.steps(len(dataset), rank, world_size, **extra)

    def __len__(self) -> int:
        return self._steps

    def set_epoch(self, epoch: int, start_step: int = 0) -> None:
        """Choose the epoch that the next iteration gives, and the step it begins with."""
        self._epoch, self._start = epoch, start_step

    def __iter__(self) -> Iterator[Batch]:
        tasks = self._tasks()
        if self.num_workers == 0:
            make = Maker(self.dataset.transform_ops)
            for task in tasks:
                yield from self._batch(task, make(task))
            return
        if not self._workers:
            self._workers = [_Worker(self.dataset.transform_ops) for _ in range(self.num_workers)]
        try:
            queue: deque[_Worker] = deque()
            for number, task in enumerate(tasks):
                worker = self._workers[number % self.num_workers]
                worker.give(task)
                queue.append(worker)
                if len(queue) >= AHEAD * self.num_workers:
                    first = queue.popleft()
                    task = first.pending[0]
                    yield from self._batch(task, first.take())
            while queue:
                first = queue.popleft()
                task = first.pending[0]
                yield from self._batch(task, first.take())
        finally:
            if any(worker.pending for worker in self._workers):
                self.close()  # left in the middle of an epoch: answers are still under way

    def _tasks(self) -> Iterator[Task]:
        samples = self.dataset.samples
        for indices, size in self.sampler.batches(
            len(samples), self.rank, self.world_size, self.seed, self._epoch, self._start
        ):
            indices = [int(i) for i in indices]
            yield Task(self.seed, self._epoch, indices, [samples.path(i) for i in indices], size)

    def _batch(self, task: Task, made: Made) -> Iterator[Batch]:
        for position, message in made.faults:
            place = self.dataset.samples.where(task.indices[position])
            self.bad_samples += 1
            if self.bad_samples > self.max_bad_samples:
                raise DataError(
                    message,
                    where=place,
                    hint=None if not self.max_bad_samples else f"more than max_bad_samples={self.max_bad_samples}",
                )
            log.warning("skipped %d of at most %d: %s: %s", self.bad_samples, self.max_bad_samples, place, message)
        if made.images is None:  # a step without photos would let processes wait for each other
            raise DataError(
                "none of the photos of a batch can be read", where=self.dataset.samples.where(task.indices[0])
            )
        indices = np.asarray([task.indices[position] for position in made.kept], np.int64)
        yield Batch(made.images, self.dataset.samples.labels[indices].astype(np.int64), indices)

    def close(self) -> None:
        """End the worker processes; the next iteration starts new ones."""
        for worker in self._workers:
            worker.close()
        self._workers = []

    def __del__(self):
        if getattr(self, "_workers", None):
            self.close()


def build_dataset(config, mode: str):
    """Build ``DataLoader.<mode>.dataset`` of a config: the list is read and checked, no photo is opened."""
    dataset = dict(config["DataLoader"][mode]["dataset"])
    dataset.pop("batch_transform_ops", None)
    kind = DATASETS.resolve(dataset.pop("name"), where=f"DataLoader.{mode}.dataset.name")
    return kind(**dataset, class_num=config.get("Arch.class_num") or None)


def build_loader(config, mode: str, *, rank: int = 0, world_size: int = 1, seed: int = 0) -> Loader:
    """Build what ``DataLoader.<mode>`` of a config describes.

    Args:
        config: a checked config.
        mode: ``"Train"`` or ``"Eval"``.
        rank: of this process.
        world_size: number of processes.
        seed: of shuffling and augmentation.

    Raises:
        UserError, DataError: a wrong parameter; a fault of the list, with file and line.
    """
    section = config["DataLoader"][mode]
    sampler = dict(section["sampler"])
    built = build_dataset(config, mode)
    name = sampler.pop("name", "DistributedBatchSampler")
    loader = dict(section.get("loader") or {})
    try:
        built_sampler = SAMPLERS.resolve(name, where=f"DataLoader.{mode}.sampler.name")(**sampler)
    except (TypeError, ValueError) as error:
        raise UserError(str(error), where=f"DataLoader.{mode}.sampler") from error
    if mode == "Train" and getattr(built_sampler, "drop_last", False):
        if built_sampler.steps(len(built), rank, world_size) == 0:
            raise UserError(
                f"{len(built)} photos make no full batch of {built_sampler.batch_size}",
                where=f"DataLoader.{mode}.sampler",
                hint="a smaller batch_size, or drop_last: False",
            )
    return Loader(
        built,
        built_sampler,
        num_workers=min(loader.get("num_workers", 0), len(built)),
        rank=rank,
        world_size=world_size,
        seed=seed,
        max_bad_samples=built.max_bad_samples if mode == "Train" else 0,
    )
