"""Makes batches from paths: in this process, or as the main function of a worker process.

A worker knows nothing but the transforms: each task brings its paths, so a list of a million lines is held once.
It never imports Paddle, which keeps its start short and its memory small.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from typing import NamedTuple

import cv2
import numpy as np

from ppmobilenet.data.transforms import build_transforms
from ppmobilenet.errors import DataError

RESIZING = ("RandCropImage", "ResizeImage", "CropImage")


class Task(NamedTuple):
    """One batch to make: samples, the randomness of each, and a size that overrides the transforms' (multi-scale)."""

    seed: int
    epoch: int
    indices: Sequence[int]
    paths: Sequence[str]
    size: tuple[int, int] | None = None


class Made(NamedTuple):
    """What became of a task: images [n, C, H, W] of the samples ``kept``, and the faults of the others."""

    images: np.ndarray | None
    kept: list[int]
    faults: list[tuple[int, str]]


class Maker:
    """Turns tasks into batches with one list of transforms."""

    def __init__(self, ops: Sequence[Mapping]):
        self._ops = ops
        self._by_size: dict[tuple[int, int] | None, object] = {}

    def _transforms(self, size: tuple[int, int] | None):
        if size not in self._by_size:
            ops = self._ops
            if size is not None:
                ops = [{n: {"size": list(size)} if n in RESIZING else p for n, p in op.items()} for op in ops]
            self._by_size[size] = build_transforms(ops)
        return self._by_size[size]

    def __call__(self, task: Task) -> Made:
        compose = self._transforms(task.size)
        images, kept, faults = [], [], []
        for position, (index, path) in enumerate(zip(task.indices, task.paths)):
            try:
                image = compose(path, np.random.default_rng((task.seed, task.epoch, index)))
            except DataError as error:
                faults.append((position, str(error)))
                continue
            # PaddleClas's datasets transpose at the end, so its lists have no ToCHWImage
            images.append(image if image.shape[0] in (3, 4) and image.shape[2] > 4 else image.transpose(2, 0, 1))
            kept.append(position)
        return Made(np.stack(images) if images else None, kept, faults)


def main(descriptor: int) -> None:
    """Serve tasks that come through an inherited pipe until it is closed."""
    cv2.setNumThreads(0)  # one process a core: threads inside would only contend
    pipe = Connection(descriptor)
    try:
        make = Maker(pipe.recv())
        while True:
            task = pipe.recv()
            made = make(task)
            pipe.send((made.kept, made.faults, made.images is not None))
            if made.images is not None:
                images = np.ascontiguousarray(made.images)
                pipe.send((images.shape, images.dtype.str))
                pipe.send_bytes(images.reshape(-1).view(np.uint8))
    except (EOFError, BrokenPipeError, KeyboardInterrupt):
        pass  # the parent is done, or was stopped: it tells the user


if __name__ == "__main__":
    main(int(sys.argv[1]))
