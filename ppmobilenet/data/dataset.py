"""List file, or one folder per class -> the samples of a data set."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from ppmobilenet.data.label_lists import read_several
from ppmobilenet.data.lists import Samples, Scanned, read_list, read_paths, scan_list
from ppmobilenet.errors import DataError
from ppmobilenet.photos.names import Found, find_photos
from ppmobilenet.registry import DATASETS

# part of a data set -> what its folder is called
SIDES = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "eval", "dev"),
    "test": ("test", "testing"),
}


def scan_folders(
    root: str | os.PathLike,
    class_num: int | None = None,
    names: Sequence[str] | None = None,
    found: Found | None = None,
) -> tuple[Samples, list[str]]:
    """Read a folder with one folder per class; classes are numbered in the order of their sorted names.

    A folder without a photo, hidden, or left there by an archive is no class.

    Args:
        root: the folder.
        class_num: if given, the most classes that there may be.
        names: of the classes in their order, where another folder has numbered them.
        found: of :func:`find_photos`, where the folder was looked through before.

    Returns:
        The samples and the class names.

    Raises:
        DataError: no photo in a class folder, more classes than ``class_num``, one that is not in ``names``; or these
            are the folders of a training and a validation set.
    """
    root = Path(root)
    if not root.is_dir():
        raise DataError("image_root is no folder", where=root)
    found = found or find_photos(root)
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
    check_names(root, present)
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


def check_names(root: Path, names: Sequence[str]) -> None:
    """Refuse names of class folders that a label list, or a package, would not give back as they are.

    Raises:
        DataError: a control character, bytes that are no UTF-8, or two that differ by spaces around them only.
    """
    hint = "rename the folder: its name is the class's"
    for name in names:
        bad = [c for c in name if unicodedata.category(c) in ("Cc", "Zl", "Zp")]
        if bad:
            said = f"a class folder's name holds the control character {bad[0]!r}: {name!r}"
            raise DataError(said, where=root, hint=hint)
        if any(unicodedata.category(c) == "Cs" for c in name):
            raise DataError(f"a class folder's name is not UTF-8: {name!r}", where=root, hint=hint)
    bare = Counter(name.strip() for name in names)
    alike = sorted((name for name in names if bare[name.strip()] > 1), key=str.strip)
    if alike:
        raise DataError(
            f"class folders differ in nothing but spaces around their names: {alike[0]!r} and {alike[1]!r}",
            where=root,
            hint=f"put their photos together if they are one class; else {hint}",
        )


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


class Listed:
    """Where photos and labels are listed: a list file, or one folder per class. Whoever asks, it is read once.

    Args:
        path: the list file; None: class folders.
        root: the folder of the photos.
        delimiter: between path and label.
        training: the training set's, which numbers the classes of this one.
        several: a photo has several labels.
    """

    def __init__(
        self,
        path: str | os.PathLike | None,
        root: str | os.PathLike,
        delimiter: str | None = None,
        training: Listed | None = None,
        several: bool = False,
    ):
        self.several = several
        self.path, self.root = None if path is None else Path(path), Path(root)
        self.delimiter, self._training = delimiter, training

    @cached_property
    def scanned(self) -> Scanned:
        """What :func:`scan_list` finds in the file."""
        return scan_list(self.path, self.root, self.delimiter, several=self.several)

    @cached_property
    def _found(self) -> Found | None:
        return find_photos(self.root) if self.root.is_dir() else None

    @cached_property
    def class_names(self) -> list[str]:
        """The names of the class folders, in their order."""
        return self.folders()[1]

    @cached_property
    def _labels(self) -> list[int]:
        """The labels that occur in the file, whether its photos are on this machine or not."""
        known = vars(self).get("scanned") or scan_list(self.path, self.root, self.delimiter, check_files=False)
        return sorted(set(known[1]))

    def folders(self, class_num: int | None = None, names: Sequence[str] | None = None) -> tuple[Samples, list[str]]:
        """Return what :func:`scan_folders` does."""
        return scan_folders(self.root, class_num, names, self._found)

    def samples(
        self, class_num: int | None = None, relabel: bool | Sequence[int] = False
    ) -> tuple[Samples, list[str] | None]:
        """Return the photos with their labels, and the names of class folders; see :func:`read_list`."""
        training = self._training
        if self.several:
            return read_several(self.path, self.root, class_num=class_num, scanned=self.scanned), None
        if self.path is None:
            return self.folders(class_num, training.class_names if training and training.path is None else None)
        if relabel and training and training.path:
            # numbered by itself, a list that lacks a class would give the classes behind it other numbers
            relabel = training._labels
        return read_list(self.path, self.root, class_num=class_num, relabel=relabel, scanned=self.scanned), None


class Unlabelled(Listed):
    """Photos of which nobody says what they show: a folder, or a list with a path a line.

    A label behind a path is passed over.
    """

    def samples(
        self, class_num: int | None = None, relabel: bool | Sequence[int] = False
    ) -> tuple[Samples, list[str] | None]:
        """Return the photos; the label of each is 0, which nothing asks for."""
        if self.path is not None:
            return read_paths(self.path, self.root, self.delimiter), None
        found = self._found.names if self._found else []
        if not found:
            raise DataError("there is no photo in this folder", where=self.root)
        return Samples(self.root, self.root, list(found), [0] * len(found), [0] * len(found)), None


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
        listed: the same list or folder, where it may have been read before.

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
        listed: Listed | None = None,
    ):
        listed = listed or Listed(cls_label_path, image_root, delimiter)
        self.samples, self.class_names = listed.samples(class_num, relabel)
        self.transform_ops = transform_ops or []
        self.batch_transform_ops = batch_transform_ops or []
        self.max_bad_samples = max_bad_samples
        self.decoded_cache, self.decoded_cache_gb = decoded_cache, decoded_cache_gb
        labels = self.samples.labels
        self.class_num = class_num or (labels.shape[1] if self.samples.several else int(labels.max()) + 1)

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def arrangement(self) -> str:
        """What the order of an epoch depends on, beside the seed."""
        return f"{len(self)} photos"


@DATASETS.register()
class MultiScaleDataset(ImageNetDataset):
    """The same with :class:`MultiScaleSampler`: crop and resize take the size that the batch was drawn with."""

    multi_scale = True


@DATASETS.register()
class MultiLabelDataset(ImageNetDataset):
    """Photos with several labels each: ``path 0,1,0`` a line, a label for each class, -1 where nobody knows.

    Args:
        image_root, cls_label_path, transform_ops, delimiter, max_bad_samples, batch_transform_ops, decoded_cache,
            decoded_cache_gb: those of :class:`ImageNetDataset`.
        label_ratio: PaddleClas's switch for what ``weight_ratio`` of a loss needs; the loss asks for it by itself.
        class_num: labels of a photo.
        listed: the same list, where it may have been read before.
    """

    def __init__(
        self,
        image_root: str,
        cls_label_path: str,
        transform_ops: list | None = None,
        delimiter: str | None = None,
        max_bad_samples: int = 0,
        batch_transform_ops: list | None = None,
        decoded_cache: str | None = None,
        decoded_cache_gb: float = 4.0,
        label_ratio: bool = False,
        *,
        class_num: int | None = None,
        listed: Listed | None = None,
    ):
        super().__init__(
            *(image_root, cls_label_path, transform_ops, delimiter, False, max_bad_samples, batch_transform_ops),
            *(decoded_cache, decoded_cache_gb),
            class_num=class_num,
            listed=listed or Listed(cls_label_path, image_root, delimiter, several=True),
        )
