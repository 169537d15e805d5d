"""List file, or one folder per class -> the samples of a data set."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ppmobilenet.data.lists import Samples, read_list
from ppmobilenet.errors import DataError
from ppmobilenet.photos.names import find_photos
from ppmobilenet.registry import DATASETS

# part of a data set -> what its folder is called
SIDES = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "eval", "dev"),
    "test": ("test", "testing"),
}


def scan_folders(
    root: str | os.PathLike, class_num: int | None = None, names: Sequence[str] | None = None
) -> tuple[Samples, list[str]]:
    """Read a folder with one folder per class; classes are numbered in the order of their sorted names.

    A folder without a photo, hidden, or left there by an archive is no class.

    Args:
        root: the folder.
        class_num: if given, the most classes that there may be.
        names: of the classes in their order, where another folder has numbered them.

    Returns:
        The samples and the class names.

    Raises:
        DataError: no photo in a class folder, more classes than ``class_num``, one that is not in ``names``; or these
            are the folders of a training and a validation set.
    """
    root = Path(root)
    if not root.is_dir():
        raise DataError("image_root is no folder", where=root)
    found = find_photos(root)
    inside = [name for name in found.names if "/" in name]
    if not inside:
        many = f"; {len(found.names)} photos lie in the folder itself" if found.names else ""
        raise DataError(
            f"no photos in class folders{many}",
            where=root,
            allowed="root/CLASS/photo.jpg, or a list file in cls_label_path",
            hint=found.said(root) or None,
        )
    present = sorted({name.partition("/")[0] for name in inside})
    sides = find_sides(inside)
    if sides:
        raise DataError(
            f"its folders {', '.join(sorted(present))} are the parts of a data set, not classes",
            where=root,
            hint=f"image_root: {root / sides['train']}, or ppmobilenet split-dataset {root} writes lists of them",
        )
    unknown = sorted(set(present) - set(names if names is not None else present))
    if unknown:
        raise DataError(f"no training photo is of the class {unknown[0]!r}", where=root / unknown[0])
    names = present if names is None else list(names)
    if class_num is not None and len(names) > class_num:
        raise DataError(
            f"there are {len(names)} class folders, class_num is {class_num}",
            where=root,
            hint=f"-o Arch.class_num={len(names)}, or take out the folders that are no classes",
        )
    number = {name: i for i, name in enumerate(names)}
    labels = [number[name.partition("/")[0]] for name in inside]
    return Samples(root, root, inside, labels, [0] * len(inside), found.said(root)), names


def find_sides(names: Sequence[str]) -> dict[str, str]:
    """Find ``train/CLASS/photo`` beside ``val/CLASS/photo`` or ``test/CLASS/photo`` among photos' names.

    Returns:
        ``train``, ``val``, ``test``: the folder of each; empty if these are no such folders, but classes.
    """
    classes: dict[str, set[str]] = {}
    for name in names:
        folder, _, rest = name.partition("/")
        inside = classes.setdefault(folder, set())
        if "/" in rest:
            inside.add(rest.partition("/")[0])
    sides = {side: folder for side, called in SIDES.items() for folder in classes if folder.lower() in called}
    if "train" not in sides:
        return {}
    train = classes[sides["train"]]
    held = {side: folder for side, folder in sides.items() if side != "train" and classes[folder] & train}
    return {"train": sides["train"], **held} if held else {}


@DATASETS.register()
class ImageNetDataset:
    """Photos and labels from a list file, or from one folder per class where ``cls_label_path`` is left out.

    Args:
        image_root: the folder that the list's paths start from, or that holds the class folders.
        cls_label_path: the list file, see :func:`read_list`.
        transform_ops: PaddleClas's list of transforms.
        batch_transform_ops: its list of transforms of whole batches (mixup, cutmix).
        delimiter: between path and label.
        relabel: number the labels anew, see :func:`read_list`.
        max_bad_samples: unreadable photos that training skips before it stops.
        decoded_cache: keep decoded photos in this folder, see :mod:`ppmobilenet.data.cache`.
        decoded_cache_gb: how large it may become.
        class_num: of the network; labels are below it.
        class_names: of the class folders, where the training set has numbered them.

    Attributes:
        samples: see :class:`Samples`.
        class_num: highest label + 1, or as given.
        class_names: the folders' names; None with a list file.
    """

    multi_scale = False

    def __init__(
        self,
        image_root: str,
        cls_label_path: str | None = None,
        transform_ops: list | None = None,
        delimiter: str | None = None,
        relabel: bool | Sequence[int] = False,
        max_bad_samples: int = 0,
        batch_transform_ops: list | None = None,
        decoded_cache: str | None = None,
        decoded_cache_gb: float = 4.0,
        *,
        class_num: int | None = None,
        class_names: Sequence[str] | None = None,
    ):
        self.class_names = None
        if cls_label_path is None:
            self.samples, self.class_names = scan_folders(image_root, class_num, class_names)
        else:
            self.samples = read_list(
                cls_label_path, image_root, delimiter=delimiter, class_num=class_num, relabel=relabel
            )
        self.transform_ops = transform_ops or []
        self.batch_transform_ops = batch_transform_ops or []
        self.max_bad_samples = max_bad_samples
        self.decoded_cache, self.decoded_cache_gb = decoded_cache, decoded_cache_gb
        self.class_num = class_num or int(self.samples.labels.max()) + 1

    def __len__(self) -> int:
        return len(self.samples)


@DATASETS.register()
class MultiScaleDataset(ImageNetDataset):
    """The same with :class:`MultiScaleSampler`: crop and resize take the size that the batch was drawn with."""

    multi_scale = True
