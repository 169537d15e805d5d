"""Data set -> batches, by worker processes, in an order that depends on (seed, epoch) and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from multiprocessing import Pipe
from typing import NamedTuple

import numpy as np

from ppmobilenet.data.dataset import ImageNetDataset
from ppmobilenet.data.fast import Normalization, decodes_parts
from ppmobilenet.data.samplers import Draw, Share
from ppmobilenet.data.worker import Made, Maker, Memory, Recipe, Task
from ppmobilenet.errors import DataError, UserError
from ppmobilenet.telling import log

AHEAD = 2  # batches that each worker may be ahead
RESTARTS = 3  # of a worker process that died
# a worker runs this very package, not one that lies in the working folder
HERE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
WORKER = """
import sys
sys.path.insert(0, sys.argv[1])
from ppmobilenet.data.worker import main
main(*map(int, sys.argv[2:]))
"""
TIME_LIMIT = 300.0  # seconds for one batch; a worker that needs longer hangs


class Batch(NamedTuple):
    """What the model is fed.

    Attributes:
        images: float32 [N, 3, H, W]; with ``on_device`` and the fast pipeline uint8 [N, H, W, 3].
        labels: int64 [N]; after mixing float32 [N, classes].
        indices: int64 [N], places in ``loader.dataset.samples``.
        normalization: what is left to do to uint8 images, see ``training.device.images_of``.
        answers: a teacher's, float32, one row a photo.

    Photos without a label stand behind the others: then there are fewer labels and indices than images.
    """

    images: np.ndarray
    labels: np.ndarray
    indices: np.ndarray
    normalization: Normalization | None = None
    answers: np.ndarray | None = None


class _Worker:
    """One worker process and the tasks it has not answered yet."""

    def __init__(self, recipe: Recipe, share_memory: bool):
        self._recipe = recipe
        self.pending: deque[Task] = deque()
        self.restarts = 0
        self._given = 0
        self.memories = [Memory(os.memfd_create(f"batch{i}")) for i in range(AHEAD)] if share_memory else []
        self._start()

    def _start(self) -> None:
        self.pipe, child = Pipe()
        descriptors = [child.fileno(), *(memory.descriptor for memory in self.memories)]
        command = [sys.executable, "-c", WORKER, HERE, *map(str, descriptors)]
        self.process = subprocess.Popen(command, pass_fds=descriptors, stdin=subprocess.DEVNULL, start_new_session=True)
        child.close()
        self.pipe.send(self._recipe)

    def give(self, task: Task) -> None:
        # at most AHEAD are pending, so the slot's last batch has been taken
        task = task._replace(slot=self._given % AHEAD)
        self._given += 1
        self.pending.append(task)
        try:
            self.pipe.send(task)
        except (BrokenPipeError, ConnectionResetError):
            pass  # found and mended in take()

    def take(self) -> Made:
        """Return the answer to the oldest task; a worker that died is started anew with all its tasks.

        The images are valid until AHEAD more tasks were given.
        """
        while True:
            task = self.pending[0]
            try:
                if not self.pipe.poll(TIME_LIMIT):
                    raise DataError(
                        f"a data worker gave no batch within {TIME_LIMIT:g} s; its first photo is {task.paths[0]}",
                        hint="is the disk or network drive with the photos alive?",
                    )
                kept, faults, fatal, form = self.pipe.recv()
                images = None
                if form:
                    shape, dtype, shared = form
                    if shared:
                        images = self.memories[task.slot].view(shape, dtype)
                    else:
                        images = np.empty(shape, dtype)
                        self.pipe.recv_bytes_into(images.reshape(-1).view(np.uint8))
                        if self.memories:
                            log.warning("no shared memory for a batch of %d bytes: it came by pipe", images.nbytes)
                            self.memories = []
            except (EOFError, OSError):
                self._restart()
                continue
            self.pending.popleft()
            return Made(images, kept, faults, fatal)

    def _restart(self) -> None:
        code = self.process.wait()
        self.restarts += 1
        if self.restarts > RESTARTS:
            raise DataError(
                f"a data worker died {self.restarts} times (exit code {code}); "
                f"the first photo of its batch is {self.pending[0].paths[0]}",
                hint="out of memory? fewer loader.num_workers, or a smaller batch_size",
            )
        log.warning("a data worker died (exit code %s); starting another", code)
        self.pipe.close()
        self._start()
        for task in self.pending:
            self.pipe.send(task)

    def close(self) -> None:
        self.pipe.close()
        self.process.kill()  # it holds nothing that could be lost
        self.process.wait()
        for memory in self.memories:
            os.close(memory.descriptor)


class Loader:
    """Iterate to get an epoch's :class:`Batch` es.

    Attributes:
        dataset: with ``samples`` and ``class_num``.
        batch_size: samples of a full batch on this rank.
        num_workers: processes that read; 0 reads in this one.
        rank, world_size, seed: as given.
        views: after so many epochs the same views of the photos come again; 0: never.
        unlabelled: its photos have no labels.
    """

    views = 0
    unlabelled = False

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
        pipeline: str = "exact",
        cache: str | None = None,
        batch_transforms: list | None = None,
        on_device: bool = False,
        use_shared_memory: bool = True,
    ):
        self.dataset, self.sampler = dataset, sampler
        self.rank, self.world_size, self.seed = rank, world_size, seed
        self.max_bad_samples = max_bad_samples
        self._bad: set[int] = set()
        self._bad_before = 0
        self.batch_size = sampler.batch_size
        self._recipe = Recipe(dataset.transform_ops, pipeline, cache)
        self._make = Maker(self._recipe)
        self._batch_transforms = batch_transforms or []
        if pipeline == "fast" and not decodes_parts():
            log.info("simplejpeg is not installed: OpenCV decodes whole photos, more slowly (pip install simplejpeg)")
        self._on_device = on_device and not self._batch_transforms  # photos are mixed as float32
        self.num_workers = num_workers
        self._share_memory = use_shared_memory and hasattr(os, "memfd_create")
        if num_workers and use_shared_memory and not self._share_memory:
            log.info("this system has no memfd: batches come through pipes")
        self._epoch, self._start = 0, 0
        self._workers: list[_Worker] = []
        self._steps = sampler.steps(len(dataset), Share(rank, world_size), seed)

    def __len__(self) -> int:
        return self._steps

    @property
    def mixes(self) -> bool:
        """Whether photos of a batch are mixed."""
        return bool(self._batch_transforms)

    @property
    def view(self) -> int:
        """Which view of the photos this epoch shows."""
        return self._epoch % self.views if self.views else self._epoch

    @property
    def bad_samples(self) -> int:
        """Photos that could not be read so far, each counted once; a resumed run sets what it had counted."""
        return max(self._bad_before, len(self._bad))

    @bad_samples.setter
    def bad_samples(self, count: int) -> None:
        self._bad_before = count

    def set_epoch(self, epoch: int, start_step: int = 0) -> None:
        """Choose the epoch that the next iteration gives, and the step it begins with."""
        self._epoch, self._start = epoch, start_step

    def __iter__(self) -> Iterator[Batch]:
        for step, (task, made) in enumerate(self._made(), self._start):
            yield self._batch(task, made, step)

    def _made(self) -> Iterator[tuple[Task, Made]]:
        """Yield each task of the epoch with what became of it, in order."""
        if self.num_workers == 0:
            for task in self._tasks():
                yield task, self._make(task)
            return
        if not self._workers:
            self._workers = [_Worker(self._recipe, self._share_memory) for _ in range(self.num_workers)]
        queue: deque[_Worker] = deque()
        try:
            for number, task in enumerate(self._tasks()):
                if len(queue) == AHEAD * self.num_workers:
                    first = queue.popleft()
                    yield first.pending[0], first.take()
                worker = self._workers[number % self.num_workers]
                worker.give(task)
                queue.append(worker)
            while queue:
                first = queue.popleft()
                yield first.pending[0], first.take()
        finally:
            if any(worker.pending for worker in self._workers):
                self.close()  # left in the middle of an epoch: answers are still under way

    def _tasks(self) -> Iterator[Task]:
        samples = self.dataset.samples
        draw: Draw
        share = Share(self.rank, self.world_size)
        for draw in self.sampler.batches(samples.labels, share, self.seed, self._epoch, self._start):
            indices = draw.indices.tolist()
            paths = [samples.path(i) for i in indices]
            times = [0] * len(indices) if self.views else draw.times.tolist()
            yield Task(self.seed, self.view, indices, times, paths, draw.size)

    def _batch(self, task: Task, made: Made, step: int) -> Batch:
        for position, message in made.faults:
            self._fault(task.indices[position], message)
        if made.fatal:
            position, message = made.fatal
            raise UserError(message, where=self.dataset.samples.where(task.indices[position]))
        if made.images is None:  # a step without photos would let processes wait for each other
            raise DataError(
                "none of the photos of a batch can be read", where=self.dataset.samples.where(task.indices[0])
            )
        indices = np.asarray([task.indices[position] for position in made.kept], np.int64)
        labels = self.dataset.samples.labels[indices].astype(np.int64)
        self._refuse_labels(labels, indices)
        # both ways copy: the memory behind made.images is used again
        left = self._make.normalization
        images = left(made.images) if left and not self._on_device else np.array(made.images)
        rng = np.random.default_rng((self.seed, self._epoch, step, self.rank, 1))
        for transform in self._batch_transforms:
            images, labels = transform(images, labels, rng)
        return Batch(images, labels, indices, left if self._on_device else None)

    def _refuse_labels(self, labels: np.ndarray, indices: np.ndarray) -> None:
        """Name the photo whose label is of no class: a list was read whole, an index of shards is read as it comes."""
        beyond = np.flatnonzero((labels < 0) | (labels >= self.dataset.class_num)) if labels.ndim == 1 else ()
        if len(beyond) and not self.unlabelled:
            raise DataError(
                f"the label is {labels[beyond[0]]}",
                where=self.dataset.samples.where(int(indices[beyond[0]])),
                allowed=f"0 to {self.dataset.class_num - 1}",
                hint="the index of the shards was changed or damaged: copy it again; check-dataset looks through it",
            )

    def _fault(self, index: int, message: str) -> None:
        """Count a photo that could not be used; raise when there are more of them than allowed."""
        if index in self._bad:
            return  # said before, in an earlier epoch
        self._bad.add(index)
        place = self.dataset.samples.where(index)
        if self.bad_samples > self.max_bad_samples:
            more = f"more than max_bad_samples={self.max_bad_samples}" if self.max_bad_samples else None
            raise DataError(message, where=place, hint=more)
        log.warning("skipped %d of at most %d: %s: %s", self.bad_samples, self.max_bad_samples, place, message)

    def close(self) -> None:
        """End the worker processes; the next iteration starts new ones."""
        for worker in self._workers:
            worker.close()
        self._workers = []

    def __del__(self):
        if getattr(self, "_workers", None):
            self.close()
