"""What ``DataLoader`` of a config describes -> a data set, a loader."""

from __future__ import annotations

import os
from pathlib import Path

from ppmobilenet.data.batch_ops import build_batch_transforms
from ppmobilenet.data.cache import build_cache
from ppmobilenet.data.dataset import ImageNetDataset, scan_folders
from ppmobilenet.data.lists import scan_list
from ppmobilenet.data.loader import Loader
from ppmobilenet.data.samplers import Share
from ppmobilenet.data.transforms import build_transforms
from ppmobilenet.errors import UserError
from ppmobilenet.registry import DATASETS, SAMPLERS
from ppmobilenet.telling import log


def build_dataset(config, mode: str) -> ImageNetDataset:
    """Build ``DataLoader.<mode>.dataset`` of a config: the list is read and checked, no photo is opened."""
    dataset = dict(config["DataLoader"][mode]["dataset"])
    kind = DATASETS.resolve(dataset.pop("name"), where=f"DataLoader.{mode}.dataset.name")
    train = config.get("DataLoader.Train.dataset")
    if mode != "Train" and dataset.get("relabel") and train and train.get("cls_label_path"):
        # numbered by itself, a list that lacks a class would give the classes behind it other numbers
        _, labels, _, _ = scan_list(Path(train["cls_label_path"]), Path(), train.get("delimiter"), check_files=False)
        dataset["relabel"] = sorted(set(labels))
    if mode != "Train" and not dataset.get("cls_label_path") and train and not train.get("cls_label_path"):
        dataset["class_names"] = scan_folders(train["image_root"])[1]  # the same for class folders
    return kind(**dataset, class_num=config.get("Arch.class_num") or None)


def build_loader(
    config, mode: str, *, rank: int = 0, world_size: int = 1, seed: int = 0, on_device: bool = False
) -> Loader:
    """Build what ``DataLoader.<mode>`` of a config describes.

    Args:
        config: a checked config.
        mode: ``"Train"`` or ``"Eval"``.
        rank: of this process.
        world_size: number of processes.
        seed: of shuffling and augmentation.
        on_device: the fast pipeline's batches stay uint8 [N, H, W, 3] for ``Batch.normalization``.

    Raises:
        UserError, DataError: a wrong parameter; a fault of the list, with file and line.
    """
    place = f"DataLoader.{mode}"
    section = config["DataLoader"][mode]
    sampler = dict(section["sampler"])
    name = sampler.pop("name", "DistributedBatchSampler")
    if "batch_size" in SAMPLERS.parameters(name):
        sampler.setdefault("batch_size", config.get(f"{place}.sampler.batch_size"))
    try:
        built_sampler = SAMPLERS.resolve(name, where=f"{place}.sampler.name")(**sampler)
    except (TypeError, ValueError) as error:
        raise UserError(str(error), where=f"{place}.sampler") from error
    built = build_dataset(config, mode)
    build_transforms(built.transform_ops, where=f"{place}.dataset.transform_ops")  # a mistake is said with its place
    if "DecodeImage" not in [next(iter(op)) for op in built.transform_ops]:
        raise UserError(
            "there is no DecodeImage, so photos stay bytes",
            where=f"{place}.dataset.transform_ops",
            hint="let the list begin with `- DecodeImage: {to_rgb: True, channel_first: False}`",
        )
    if mode == "Train" and built_sampler.steps(len(built), Share(rank, world_size), seed) == 0:
        raise UserError(
            f"{len(built)} photos make no full batch of {built_sampler.batch_size}",
            where=f"{place}.sampler",
            hint="a smaller batch_size, or drop_last: False",
        )
    pipeline = section.get("pipeline") or ("fast" if mode == "Train" else "exact")
    if built.decoded_cache:
        built.decoded_cache = os.path.join(built.decoded_cache, mode.lower())  # each list has its own
        _fill_cache(built, f"{place}.dataset", rank)
    loader = dict(section.get("loader") or {})
    return Loader(
        built,
        built_sampler,
        num_workers=min(loader.get("num_workers", 0), built_sampler.steps(len(built), Share(rank, world_size), seed)),
        rank=rank,
        world_size=world_size,
        seed=seed,
        max_bad_samples=built.max_bad_samples if mode == "Train" else 0,
        pipeline=pipeline,
        cache=built.decoded_cache,
        batch_transforms=build_batch_transforms(
            built.batch_transform_ops if mode == "Train" else None,
            config.get("Arch.class_num"),
            f"{place}.dataset.batch_transform_ops",
        ),
        on_device=on_device,
        use_shared_memory=loader.get("use_shared_memory", True),
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
