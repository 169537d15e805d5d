"""Makes batches from paths: in this process, or as the main function of a worker process.

A worker knows nothing but the transforms: each task brings its paths, so a list of a million lines is held once.
It never imports Paddle, which keeps its start short and its memory small. Batches go back through memory that the
parent made (a memfd, which the size of /dev/shm does not limit), or through the pipe where that is not to be had.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from typing import NamedTuple

import cv2
import numpy as np

from ppmobilenet.data.cache import DecodedCache
from ppmobilenet.data.fast import Normalization, build_fast
from ppmobilenet.data.transforms import build_transforms
from ppmobilenet.errors import DataError, UserError
from ppmobilenet.photos.shards import will_read

RESIZING = ("RandCropImage", "ResizeImage", "CropImage")


class Recipe(NamedTuple):
    """How images are made: transforms, ``exact`` or ``fast``, and the folder of a decoded-photo cache."""

    ops: Sequence[Mapping]
    pipeline: str = "exact"
    cache: str | None = None


class Task(NamedTuple):
    """One batch to make: samples, the randomness of each, and a size that overrides the transforms' (multi-scale).

    ``times`` counts how often a sample came before in the epoch: each time it is augmented anew.
    """

    seed: int
    epoch: int
    indices: Sequence[int]
    times: Sequence[int]
    paths: Sequence[str]
    size: tuple[int, int] | None = None
    slot: int = 0


class Made(NamedTuple):
    """What became of a task.

    Attributes:
        images: of the samples ``kept``.
        kept: their positions in the task.
        faults: of photos: (position, what is wrong).
        fatal: the same where it is not the photo but what is to be done to every one.
    """

    images: np.ndarray | None
    kept: list[int]
    faults: list[tuple[int, str]]
    fatal: tuple[int, str] | None = None


def generator(seed: int, epoch: int, index: int, times: int = 0) -> np.random.Generator:
    """Return the randomness of one sample: it depends on these numbers and nothing else."""
    return np.random.default_rng((seed, epoch, index, times) if times else (seed, epoch, index))


class Maker:
    """Turns tasks into batches with one recipe.

    Attributes:
        normalization: what is left to do to the uint8 [N, H, W, 3] batches it makes; None: they are [N, C, H, W] and
            done.
    """

    def __init__(self, recipe: Recipe):
        self._recipe = recipe
        self._cache = DecodedCache(recipe.cache) if recipe.cache else None
        self._by_size: dict = {}
        self.normalization: Normalization | None = self._transforms(None)[1]

    def _transforms(self, size: tuple[int, int] | None):
        if size not in self._by_size:
            ops = self._recipe.ops
            if size is not None:
                ops = [{n: {"size": list(size)} if n in RESIZING else p for n, p in op.items()} for op in ops]
            built = build_fast(ops) if self._recipe.pipeline == "fast" else (build_transforms(ops), None)
            self._by_size[size] = built
        return self._by_size[size]

    def __call__(self, task: Task, allocate: Callable[[tuple, np.dtype], np.ndarray] = np.empty) -> Made:
        """Make a batch in memory that ``allocate(shape, dtype)`` gives."""
        compose, left = self._transforms(task.size)
        will_read(task.paths)
        images, kept, faults = [], [], []
        for position, (index, times, path) in enumerate(zip(task.indices, task.times, task.paths)):
            source = self._cache.get(path) if self._cache else None
            try:
                image = compose(path if source is None else source, generator(task.seed, task.epoch, index, times))
            except DataError as error:
                faults.append((position, str(error)))
                continue
            except UserError as error:
                return Made(None, kept, faults, (position, str(error)))
            if left is None and not (image.shape[0] in (3, 4) and image.shape[2] > 4):
                image = image.transpose(2, 0, 1)  # as PaddleClas's datasets do: its lists have no ToCHWImage
            if images and image.shape != images[0].shape:
                faults.append(
                    (
                        position,
                        f"{path}: {image.shape} after the transforms, others of the batch are {images[0].shape}\n"
                        "  what to do: end transform_ops with a crop or a resize to one size",
                    )
                )
                continue
            images.append(image)
            kept.append(position)
        if not images:
            return Made(None, kept, faults)
        return Made(np.stack(images, out=allocate((len(images), *images[0].shape), images[0].dtype)), kept, faults)


class Memory:
    """A shared file of memory that grows; both sides map it."""

    def __init__(self, descriptor: int):
        self.descriptor = descriptor
        self._map: mmap.mmap | None = None

    def view(self, shape: tuple, dtype: np.dtype, grow: bool = False) -> np.ndarray:
        """Return an array over its beginning.

        Raises:
            OSError: ``grow``, and there is not that much memory.
        """
        length = int(np.prod(shape)) * np.dtype(dtype).itemsize
        if self._map is None or len(self._map) < length:
            if grow:
                os.posix_fallocate(self.descriptor, 0, length)  # unlike ftruncate it fails now, not at the first write
            self._map = mmap.mmap(self.descriptor, length)
        return np.frombuffer(self._map, np.uint8, length).view(dtype).reshape(shape)


def main(pipe_descriptor: int, *descriptors: int) -> None:
    """Serve tasks that come through an inherited pipe until it is closed."""
    cv2.setNumThreads(0)  # one process a core: threads inside would only contend
    pipe = Connection(pipe_descriptor)
    memories = [Memory(d) for d in descriptors]

    def allocate(shape: tuple, dtype: np.dtype) -> np.ndarray:
        nonlocal shared
        if memories:
            try:
                shared = True
                return memories[task.slot].view(shape, dtype, grow=True)
            except OSError:
                pass
        shared = False
        return np.empty(shape, dtype)

    try:
        make = Maker(pipe.recv())
        while True:
            task: Task = pipe.recv()
            shared = False
            made = make(task, allocate)
            images = made.images
            form = None if images is None else (images.shape, images.dtype.str, shared)
            pipe.send((made.kept, made.faults, made.fatal, form))
            if images is not None and not shared:
                pipe.send_bytes(images.reshape(-1).view(np.uint8))
    except (EOFError, BrokenPipeError, ConnectionResetError, KeyboardInterrupt):
        pass  # the parent is done, or was stopped: it tells the user
