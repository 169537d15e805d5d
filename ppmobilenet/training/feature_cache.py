"""The frozen leading part of a network, computed once: what it answers for each photo is kept in a mapped file.

A frozen trunk gives the same features for the same view of a photo in every epoch. Training then needs the rest of
the network only: for a frozen ``trunk`` that is the classifier.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import paddle
from paddle import nn

from ppmobilenet import files
from ppmobilenet.data.lists import Samples
from ppmobilenet.data.loader import Batch, Loader
from ppmobilenet.data.samplers import DistributedBatchSampler, Share
from ppmobilenet.data.transforms import build_transforms
from ppmobilenet.errors import UserError
from ppmobilenet.kernels import run_units
from ppmobilenet.telling import log
from ppmobilenet.training.device import sum_over_processes
from ppmobilenet.training.runfolder import Progress

LARGE = 8 << 30  # bytes of features that are worth a word


class Rest(nn.Layer):
    """What follows the frozen part: features [N, C, h, w] -> what the network returns.

    Holds the whole network, so that its parameters, modes and gradients are the network's own.
    """

    def __init__(self, network: nn.Layer, frozen_units: int):
        super().__init__()
        self.network, self._frozen_units = network, frozen_units

    def forward(self, features):
        return self.network.head(run_units(self.network, self.network.units()[self._frozen_units :], features))


class CachedLoader:
    """Gives a loader's batches in its order, with features in place of images.

    Attributes:
        dataset, sampler, batch_size, rank, world_size, seed, bad_samples: the loader's.
    """

    def __init__(self, loader: Loader, features: np.ndarray, readable: np.ndarray):
        self._loader, self._features, self._readable = loader, features, readable
        self.dataset, self.sampler, self.batch_size = loader.dataset, loader.sampler, loader.batch_size
        self.rank, self.world_size, self.seed = loader.rank, loader.world_size, loader.seed
        self.bad_samples = loader.bad_samples
        self._epoch, self._start = 0, 0

    def __len__(self) -> int:
        return len(self._loader)

    def set_epoch(self, epoch: int, start_step: int = 0) -> None:
        """Choose the epoch that the next iteration gives, and the step it begins with."""
        self._epoch, self._start = epoch, start_step

    def __iter__(self) -> Iterator[Batch]:
        labels = self.dataset.samples.labels
        share = Share(self.rank, self.world_size)
        for draw in self.sampler.batches(labels, share, self.seed, self._epoch, self._start):
            indices = draw.indices[self._readable[draw.indices]]
            if len(indices):
                yield Batch(np.asarray(self._features[indices]), labels[indices].astype(np.int64), indices)

    def close(self) -> None:
        """Nothing runs; the features stay in their file for the next run."""


def frozen_units(model: nn.Layer) -> int:
    """Return how many of the network's leading units have no trained parameter."""
    count = 0
    for unit in model.units():
        if any(not p.stop_gradient for p in unit.parameters()):
            break
        count += 1
    return count


def cache_features(
    model: nn.Layer, train: Loader, evaluation: Loader | None, folder: Path, views: Sequence[Mapping]
) -> tuple[Rest, CachedLoader, CachedLoader | None]:
    """Compute the frozen leading part of a network for all photos, or find it computed.

    Training views come from the training transforms if those leave nothing to chance, otherwise from ``views``: a
    photo has one set of features only, so there is no augmentation.

    Args:
        model: with its frozen layers frozen, on its kernels if it has any.
        train: the training loader.
        evaluation: the evaluation loader, or None.
        folder: where ``features-*.npy`` are kept, one file for each list and process.
        views: transforms without chance, those of evaluation.

    Returns:
        The rest of the network, and loaders of features for it.

    Raises:
        UserError: no leading part is frozen, or a loader's resolution changes.
    """
    count = frozen_units(model)
    if count == 0:
        raise UserError(
            "cache_features needs a frozen part in front, and the first layer is trained",
            where="Arch.cache_features",
            hint="-o Arch.freeze=trunk, or patterns that begin with the first layer",
        )
    for loader in (train, evaluation):
        if loader is not None and not isinstance(loader.sampler, DistributedBatchSampler):
            raise UserError("features of several resolutions cannot be kept", where="Arch.cache_features")
    log.info("cache_features: the first %d of %d blocks are frozen and computed once", count, len(model.units()))
    ops = train.dataset.transform_ops
    if leaves_to_chance(ops, train.dataset.samples.path(0)):
        log.info("cache_features: training views are those of evaluation, for the training transforms are random")
        ops = views
    cached = CachedLoader(train, *features_of(model, count, train, ops, folder / "features-train"))
    if evaluation is not None:
        views, name = evaluation.dataset.transform_ops, folder / "features-eval"
        evaluation = CachedLoader(evaluation, *features_of(model, count, evaluation, views, name))
    return Rest(model, count), cached, evaluation


class _Watched:
    """A random generator that knows whether it was asked."""

    def __init__(self):
        self.asked, self._generator = False, np.random.default_rng(0)

    def __getattr__(self, name):
        self.asked = True
        return getattr(self._generator, name)


def leaves_to_chance(ops: Sequence[Mapping], path: str) -> bool:
    """Whether transforms ask for random numbers, tried on one photo."""
    watched = _Watched()
    build_transforms(ops)(path, watched)
    return watched.asked


def features_of(
    model: nn.Layer, count: int, loader: Loader, ops: Sequence[Mapping], name: Path
) -> tuple[np.ndarray, np.ndarray]:
    """Return what the leading part of a network answers for each photo of a list, from the file that keeps it.

    Args:
        model: on its kernels if it has any.
        count: of its leading units. All of them: what the head pools is kept pooled.
        loader: of the list.
        ops: transforms without chance.
        name: start of the file's name; each process has its own.

    Returns:
        Features [N, C, h, w], mapped; and which of the N photos could be read.

    Raises:
        UserError: none could be read.
    """
    samples = loader.dataset.samples
    path = name.with_name(f"{name.name}-{loader.rank}.npy")
    key = _key(model, count, ops, samples)
    found = _found(path, key, len(samples))
    if found is None:
        found = _compute(model, count, loader, ops, path, key)
    else:
        log.info("features: %s holds them already", path)
    return found


def _key(model: nn.Layer, count: int, ops: Sequence[Mapping], samples) -> str:
    """Everything that the features depend on: weights, transforms, photos with their sizes and times."""
    digest = hashlib.sha256(json.dumps([count, list(ops)], sort_keys=True, default=str).encode())
    for unit in model.units()[:count]:
        digest.update(type(unit).__name__.encode())
        for value in unit.state_dict().values():
            digest.update(np.ascontiguousarray(value.numpy()).tobytes())
    add_photos(digest, samples)
    return digest.hexdigest()


def add_photos(digest, samples: Samples) -> None:
    """Have a hash depend on the photos of a list, with their sizes and times."""
    for i in range(len(samples)):
        digest.update(f"{Path(samples.path(i))}\0{samples.stamp(i)}\n".encode("utf-8", "surrogateescape"))


def _found(path: Path, key: str, count: int) -> tuple[np.ndarray, np.ndarray] | None:
    about = path.with_suffix(".json")
    try:
        told = json.loads(about.read_text(encoding="utf-8"))
        if told["key"] != key:
            return None
        features = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, KeyError, TypeError):
        return None  # not there, or not whole: computed anew
    readable = np.ones(count, bool)
    readable[told["unreadable"]] = False
    return (features, readable) if len(features) == count else None


def _compute(model, count, loader, ops, path, key) -> tuple[np.ndarray, np.ndarray]:
    """Run the frozen part once over a list; processes share the work and exchange what they found."""
    dataset = copy.copy(loader.dataset)
    dataset.transform_ops = list(ops)
    once = Loader(
        dataset,
        DistributedBatchSampler(min(32, loader.batch_size)),
        num_workers=loader.num_workers,
        rank=loader.rank,
        world_size=loader.world_size,
        max_bad_samples=loader.max_bad_samples,
    )
    about = path.with_suffix(".json")
    about.unlink(missing_ok=True)  # it is written last: a file without it is unfinished
    path.parent.mkdir(parents=True, exist_ok=True)
    modes = [(layer, layer.training) for layer in (model, *model.sublayers())]
    model.eval()
    features, readable = None, np.zeros(len(dataset), bool)
    progress = Progress("features", len(once), every=max(1, len(once) // 5), show=loader.rank == 0)
    try:
        with paddle.no_grad():
            for batch in once:
                values = run_units(model, model.units()[:count], paddle.to_tensor(batch.images))
                # a head that takes the mean first needs no more than that
                if count == len(model.units()) and getattr(model, "head_takes_mean", True):
                    values = values.mean(axis=[2, 3], keepdim=True)
                if features is None:
                    shape = (len(dataset), *values.shape[1:])
                    if np.prod(shape) * 4 > LARGE:
                        log.warning("features: %.1f GB in %s", np.prod(shape) * 4 / 1e9, path)
                    features = np.lib.format.open_memmap(path, "w+", np.float32, shape)
                features[batch.indices] = values.numpy()
                readable[batch.indices] = True
                progress.step(len(batch.indices))
    finally:
        progress.close()
        once.close()
        for layer, training in modes:
            layer.training = training
    loader.bad_samples += once.bad_samples
    if loader.world_size > 1:
        features, readable = _exchange(features, readable, path, loader.world_size)
    if features is None:
        raise UserError("no photo could be read", where=dataset.samples.source)
    features.flush()
    files.write_text(about, json.dumps({"key": key, "unreadable": np.flatnonzero(~readable).tolist()}))
    return np.load(path, mmap_mode="r", allow_pickle=False), readable


def _exchange(features, readable, path, world):
    """Give every process all rows: each has zeros where another one worked."""
    shape = np.zeros(3) if features is None else np.array(features.shape[1:], np.float64)
    shape = sum_over_processes(shape * (features is not None), world) / max(
        1.0, float(sum_over_processes(np.array([features is not None], np.float64), world)[0])
    )
    if features is None and shape.any():
        features = np.lib.format.open_memmap(path, "w+", np.float32, (len(readable), *map(int, shape)))
    if features is not None:
        for start in range(0, len(readable), 1024):
            rows = slice(start, start + 1024)
            features[rows] = sum_over_processes(np.asarray(features[rows], np.float64), world)
    return features, sum_over_processes(readable.astype(np.float64), world) > 0
