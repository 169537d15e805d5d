"""What is put beside the training photos for a teacher: its kept answers, and photos without labels."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ppmobilenet import files
from ppmobilenet.data.loader import Batch, Loader
from ppmobilenet.data.samplers import DistributedBatchSampler
from ppmobilenet.errors import UserError
from ppmobilenet.telling import log
from ppmobilenet.training.device import images_of
from ppmobilenet.training.feature_cache import LARGE, add_photos, leaves_to_chance
from ppmobilenet.training.teacher import Asked


class Answered:
    """A loader's batches with the teacher's answers, each view of a photo answered once.

    The answers stand in a file, NaN where there is none yet, so that a run that goes on, or another one with the same
    teacher, photos and views, finds them.
    """

    def __init__(self, loader: Loader, asked: Asked, path: Path):
        self.loader, self._asked, self._path = loader, asked, path
        self._answers: np.ndarray | None = None

    def __getattr__(self, name: str):
        return getattr(self.loader, name)

    @property
    def seed(self) -> int:
        return self.loader.seed

    @seed.setter
    def seed(self, seed: int) -> None:
        self.loader.seed, self._answers = seed, None  # the views are others

    @property
    def bad_samples(self) -> int:
        return self.loader.bad_samples

    @bad_samples.setter
    def bad_samples(self, count: int) -> None:
        self.loader.bad_samples = count

    def _key(self) -> str:
        """All that the answers depend on."""
        about = [self.loader.views, self.loader.seed, self._asked.digest, list(self.loader.dataset.transform_ops)]
        digest = hashlib.sha256(json.dumps(about, default=str).encode())
        add_photos(digest, self.loader.dataset.samples)
        return digest.hexdigest()

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Batch]:
        for batch in self.loader:
            rows = None
            if self._answers is None:  # the first rows tell how many numbers one has
                rows = self._asked(images_of(batch)).numpy()
                self._answers = _opened(
                    self._path, self._key(), (self.loader.views, len(self.loader.dataset), rows.shape[1])
                )
            kept = self._answers[self.loader.view]
            missing = np.isnan(kept[batch.indices]).any(axis=1)
            if missing.any():
                # the whole batch is asked, and what is known stays: so a run that was killed goes on bit for bit
                rows = self._asked(images_of(batch)).numpy() if rows is None else rows
                kept[batch.indices[missing]] = rows[missing]
            yield batch._replace(answers=np.asarray(kept[batch.indices]))


def _opened(path: Path, key: str, shape: tuple[int, int, int]) -> np.ndarray:
    about = path.with_suffix(".json")
    try:
        if json.loads(about.read_text(encoding="utf-8"))["key"] == key:
            found = np.load(path, mmap_mode="r+", allow_pickle=False)
            if found.shape == shape:
                log.info("teacher: %s holds %.0f %% of its answers", path, 100 * float(~np.isnan(found[..., 0]).mean()))
                return found
    except (OSError, ValueError, KeyError, TypeError):
        pass  # not there, or not whole: asked anew
    about.unlink(missing_ok=True)  # it is written last: a file without it is unfinished
    path.parent.mkdir(parents=True, exist_ok=True)
    if np.prod(shape) * 4 > LARGE:
        log.warning("teacher: %.1f GB of answers in %s", np.prod(shape) * 4 / 1e9, path)
    answers = np.lib.format.open_memmap(path, "w+", np.float32, shape)
    answers[:] = np.nan
    answers.flush()
    files.write_text(about, json.dumps({"key": key}))
    return answers


def keep_answers(loader: Loader, asked: Asked, folder: Path, views: int) -> Loader | Answered:
    """Return the loader with the teacher's answers kept, where the views of its photos come again.

    Args:
        loader: of training photos.
        asked: what is asked of the teacher.
        folder: of the run.
        views: ``Teacher.views``; with 0 they come again only where the transforms leave nothing to chance.
    """
    ops, samples = loader.dataset.transform_ops, loader.dataset.samples
    if not leaves_to_chance(ops, samples.path(0)):
        views = 1
    fixed = isinstance(loader.sampler, DistributedBatchSampler) and not loader.mixes
    if not views or not fixed:
        if views > 1:
            log.warning("Teacher.views: photos that are mixed, or of several sizes, are new each time: no view is kept")
        return loader
    loader.views = views
    name = "unlabelled" if loader.unlabelled else "train"
    path = folder / f"teacher-{name}-{loader.rank}.npy"
    log.info("teacher: each photo is seen in %d view%s, and each is answered once", views, "s" * (views > 1))
    return Answered(loader, asked, path)


class Joined:
    """A loader's batches with photos that have no label behind theirs.

    The photos without labels go round in an order of their own; where they stand depends on the step alone, so that a
    resumed run goes on exactly there.
    """

    def __init__(self, labelled: Loader | Answered, unlabelled: Loader | Answered):
        self.labelled, self.unlabelled = labelled, unlabelled
        self._epoch, self._start = 0, 0
        self._others: Iterator[Batch] | None = None
        self._at = -1  # step of the whole training that the others' next batch is for

    def __getattr__(self, name: str):
        return getattr(self.labelled, name)

    def __len__(self) -> int:
        return len(self.labelled)

    @property
    def seed(self) -> int:
        return self.labelled.seed

    @seed.setter
    def seed(self, seed: int) -> None:
        self.labelled.seed = self.unlabelled.seed = seed
        self._others = None

    @property
    def bad_samples(self) -> int:
        return self.labelled.bad_samples

    @bad_samples.setter
    def bad_samples(self, count: int) -> None:
        self.labelled.bad_samples = count

    def set_epoch(self, epoch: int, start_step: int = 0) -> None:
        """Choose the epoch that the next iteration gives, and the step it begins with."""
        self._epoch, self._start = epoch, start_step
        self.labelled.set_epoch(epoch, start_step)

    def _round(self, at: int) -> Iterator[Batch]:
        epoch, step = divmod(at, len(self.unlabelled))
        while True:
            self.unlabelled.set_epoch(epoch, step)
            yield from self.unlabelled
            epoch, step = epoch + 1, 0

    def __iter__(self) -> Iterator[Batch]:
        at = self._epoch * len(self.labelled) + self._start
        if self._others is None or self._at != at:
            self._others, self._at = self._round(at), at
        for batch in self.labelled:
            other, self._at = next(self._others), self._at + 1
            yield _joined(batch, other)

    def close(self) -> None:
        """End the worker processes of both."""
        self._others = None
        self.labelled.close()
        self.unlabelled.close()


def _joined(batch: Batch, other: Batch) -> Batch:
    if batch.images.shape[1:] != other.images.shape[1:] or batch.images.dtype != other.images.dtype:
        raise UserError(
            f"photos without labels come as {other.images.dtype} {list(other.images.shape[1:])}, the others as "
            f"{batch.images.dtype} {list(batch.images.shape[1:])}",
            where="DataLoader.UnLabelTrain",
            hint="give both the same size and the same pipeline",
        )
    answers = None
    if batch.answers is not None and other.answers is not None:
        answers = np.concatenate([batch.answers, other.answers])
    return batch._replace(images=np.concatenate([batch.images, other.images]), answers=answers)
