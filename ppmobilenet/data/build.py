"""What ``DataLoader`` of a config describes -> a data set, a loader."""

from __future__ import annotations

import os

from ppmobilenet.config.parts import SHARDS, Dataset, EvalSource, Source, TrainSource
from ppmobilenet.data.batch_ops import build_batch_transforms
from ppmobilenet.data.cache import build_cache
from ppmobilenet.data.dataset import ImageNetDataset, Listed, Unlabelled
from ppmobilenet.data.loader import Loader
from ppmobilenet.data.samplers import DistributedBatchSampler, Share
from ppmobilenet.data.shards.dataset import ShardDataset, ShardListed
from ppmobilenet.data.shards.order import ShardSampler
from ppmobilenet.data.transforms import build_transforms
from ppmobilenet.errors import UserError
from ppmobilenet.registry import DATASETS, SAMPLERS
from ppmobilenet.telling import log


def lists_of(train: TrainSource, evaluation: EvalSource, delimiter: str | None = None) -> dict[str, Listed]:
    """Return the lists of a config, ``train`` and ``validation``, as far as it has them; each is read once.

    Args:
        train: ``DataLoader.Train``, which numbers the classes of the other.
        evaluation: ``DataLoader.Eval``.
        delimiter: in place of the config's.
    """
    lists: dict[str, Listed] = {}
    for name, source in (("train", train), ("validation", evaluation)):
        if source and source.dataset:
            dataset = source.dataset
            between = delimiter or dataset.delimiter
            if dataset.name == SHARDS:
                lists[name] = ShardListed(dataset.image_root)
                continue
            several = dataset.name == "MultiLabelDataset"
            lists[name] = Listed(
                dataset.cls_label_path, dataset.image_root, between, lists.get("train"), several=several
            )
    return lists


def build_dataset(dataset: Dataset, class_num: int | None, listed: Listed | None = None) -> ImageNetDataset:
    """Build what ``DataLoader.<mode>.dataset`` describes: the list is read and checked, no photo is opened."""
    return DATASETS.resolve(dataset.name)(**dataset.parameters, class_num=class_num or None, listed=listed)


def build_loader(
    source: Source,
    class_num: int | None,
    listed: Listed | None = None,
    *,
    rank: int = 0,
    world_size: int = 1,
    seed: int = 0,
    on_device: bool = False,
) -> Loader:
    """Build what ``DataLoader.Train`` or ``DataLoader.Eval`` describes.

    Args:
        source: the config's part.
        class_num: of the network.
        listed: the source's list, of :func:`lists_of`.
        rank: of this process.
        world_size: number of processes.
        seed: of shuffling and augmentation.
        on_device: the fast pipeline's batches stay uint8 [N, H, W, 3] for ``Batch.normalization``.

    Raises:
        UserError, DataError: a wrong parameter; a fault of the list, with file and line.
    """
    training, unlabelled = source.mode != "Eval", source.mode == "UnLabelTrain"
    if unlabelled:
        shards = source.dataset.name == SHARDS
        place = source.dataset.cls_label_path, source.dataset.image_root, source.dataset.delimiter
        listed = ShardListed(source.dataset.image_root, labelled=False) if shards else Unlabelled(*place)
    dataset = build_dataset(source.dataset, class_num, listed)
    sampler = _build_sampler(source, dataset)
    _check_transforms(dataset, f"{source.at}.dataset.transform_ops")
    steps = sampler.steps(len(dataset), Share(rank, world_size), seed)
    if training and steps == 0:
        raise UserError(
            f"{len(dataset)} photos make no full batch of {sampler.batch_size}",
            where=f"{source.at}.sampler",
            hint="a smaller batch_size, or drop_last: False",
        )
    if dataset.decoded_cache:
        dataset.decoded_cache = os.path.join(dataset.decoded_cache, source.mode.lower())  # each list has its own
        _fill_cache(dataset, f"{source.at}.dataset", rank)
    mixing = dataset.batch_transform_ops if training else None
    loader = Loader(
        dataset,
        sampler,
        num_workers=min(source.loader.num_workers, steps),
        rank=rank,
        world_size=world_size,
        seed=seed,
        max_bad_samples=dataset.max_bad_samples if training else 0,
        pipeline=source.pipeline,
        cache=dataset.decoded_cache,
        batch_transforms=build_batch_transforms(mixing, class_num, f"{source.at}.dataset.batch_transform_ops"),
        on_device=on_device,
        use_shared_memory=source.loader.use_shared_memory,
    )
    loader.unlabelled = unlabelled
    return loader


def _build_sampler(source: Source, dataset: ImageNetDataset):
    sampler = source.sampler
    try:
        built = SAMPLERS.resolve(sampler.name)(**sampler.parameters)
    except (TypeError, ValueError) as error:
        raise UserError(str(error), where=f"{source.at}.sampler") from error
    if not isinstance(dataset, ShardDataset):
        return built
    if type(built) is DistributedBatchSampler:
        return ShardSampler(built, dataset.windows)
    log.info("%s draws from all shards at once: DistributedBatchSampler reads shard by shard", sampler.name)
    return built


def _check_transforms(dataset: ImageNetDataset, place: str) -> None:
    build_transforms(dataset.transform_ops, where=place)  # a mistake is said with its place
    if "DecodeImage" not in [next(iter(op)) for op in dataset.transform_ops]:
        raise UserError(
            "there is no DecodeImage, so photos stay bytes",
            where=place,
            hint="let the list begin with `- DecodeImage: {to_rgb: True, channel_first: False}`",
        )


def _fill_cache(dataset: ImageNetDataset, place: str, rank: int) -> None:
    """Bring the cache of decoded photos up to date, once a machine."""
    first = next(iter(dataset.transform_ops), {}).get("DecodeImage")
    if first is None or (first or {}).get("to_rgb", True) is not True or (first or {}).get("backend", "cv2") != "cv2":
        raise UserError(
            "decoded_cache keeps what DecodeImage with to_rgb: True and backend: cv2 gives",
            where=f"{place}.transform_ops.0",
            hint="leave decoded_cache out",
        )
    if rank:
        return  # the first process fills it; the others decode what is not there yet
    paths = [path for path, _ in dataset.samples]
    cache = build_cache(dataset.decoded_cache, paths, int(dataset.decoded_cache_gb * 1e9))
    kept = sum(path in cache for path in paths)
    log.info("%d of %d photos are kept decoded in %s", kept, len(paths), dataset.decoded_cache)
