"""List file, or one folder per class -> the samples of a data set."""

from __future__ import annotations

import logging
import os
import re
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ppmobilenet.errors import DataError
from ppmobilenet.registry import DATASETS

log = logging.getLogger("ppmobilenet")

PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff")
MAX_LABEL = 2**31 - 1
SHOWN = 5  # faults of a list that are printed; the rest are counted


class Samples(Sequence):
    """(path, label) pairs in few bytes each, so that a list of a million lines stays small.

    Attributes:
        root: the folder that the paths start from.
        labels: int32 [N].
        lines: int32 [N], the line of the list file that each sample stands in (0: no list file).
        source: the list file, or the folder.
    """

    def __init__(self, root: Path, source: Path, paths: list[str], labels: list[int], lines: list[int]):
        encoded = [path.encode("utf-8", "surrogateescape") for path in paths]
        self.root, self.source = root, source
        self._text = b"".join(encoded)
        self._ends = np.cumsum([len(path) for path in encoded], dtype=np.int64)
        self.labels = np.asarray(labels, np.int32)
        self.lines = np.asarray(lines, np.int32)

    def __len__(self) -> int:
        return len(self.labels)

    def path(self, index: int) -> str:
        """Return the absolute or working-folder path of one photo."""
        return os.path.join(self.root, self.name(index))

    def name(self, index: int) -> str:
        """Return the path of one photo as the list has it, below ``root``."""
        start = int(self._ends[index - 1]) if index else 0
        return self._text[start : int(self._ends[index])].decode("utf-8", "surrogateescape")

    def where(self, index: int) -> str:
        """Return the place a sample is named at, for messages: ``train_list.txt:17``."""
        line = int(self.lines[index])
        return f"{self.source}:{line}" if line else self.path(index)

    def __getitem__(self, index: int) -> tuple[str, int]:
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        return self.path(index), int(self.labels[index])

    def __iter__(self) -> Iterator[tuple[str, int]]:
        return (self[i] for i in range(len(self)))


def read_list(
    path: str | os.PathLike,
    image_root: str | os.PathLike,
    *,
    delimiter: str | None = None,
    class_num: int | None = None,
    relabel: bool | Sequence[int] = False,
    check_files: bool = True,
) -> Samples:
    """Read a list file, one photo a line: ``path label``.

    The label is what follows the last delimiter, so a path may hold spaces. Blank lines, a byte order mark and CRLF
    are harmless.

    Args:
        path: the list file, UTF-8.
        image_root: the folder that the paths start from.
        delimiter: between path and label; default a space or a tab.
        class_num: if given, labels are 0 to class_num - 1.
        relabel: number the labels that occur anew from 0, in ascending order; or the labels to number, of another list.
        check_files: every photo must exist.

    Raises:
        DataError: with file and line, what stands there and what is allowed; the first five faults are shown.
    """
    path, root = Path(path), Path(image_root)
    paths, labels, lines, faults = scan_list(path, root, delimiter, None if relabel else class_num, check_files)
    if faults:
        shown = "\n  ".join(f"{path}:{line}: {fault}" for line, fault in faults[:SHOWN])
        more = f"\n  and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
        raise DataError(
            shown + more, hint="correct the list, each line is `path label`; ppmobilenet check-dataset --fix can do it"
        )
    if not paths:
        raise DataError("the list holds no photo", where=path, allowed="one photo a line: path label")
    if relabel:
        new = {old: i for i, old in enumerate(sorted(set(labels if relabel is True else relabel)))}
        for label, line in zip(labels, lines):
            if label not in new:
                raise DataError(f"no photo of the training list has the label {label}", where=f"{path}:{line}")
        labels = [new[label] for label in labels]
    return Samples(root, path, paths, labels, lines)


def scan_list(
    path: Path, root: Path, delimiter: str | None = None, class_num: int | None = None, check_files: bool = True
) -> tuple[list[str], list[int], list[int], list[tuple[int, str]]]:
    """Read a list file without stopping at faults; the arguments are those of :func:`read_list`.

    Returns:
        Paths, labels and line numbers of the good lines; (line number, what is wrong) of the others.

    Raises:
        DataError: the file itself cannot be read.
    """
    text = _read_text(path)
    paths: list[str] = []
    labels: list[int] = []
    lines: list[int] = []
    faults: list[tuple[int, str]] = []
    folders: dict[str, frozenset[str]] = {}
    for number, line in enumerate(lines_of(text), 1):
        line = line.strip()
        if not line:
            continue
        fields = line.rsplit(delimiter, 1)
        fault = None
        name, label = (fields[0].rstrip(), fields[1]) if len(fields) == 2 else (line, "")
        value = _as_label(label)
        if value is None:
            fault = _label_fault(line, label, delimiter)
        elif value < 0:
            fault = f"the label {label} is negative; labels count from 0"
        elif class_num is not None and value >= class_num:
            fault = f"the label {label} is not below class_num {class_num}; allowed: 0 to {class_num - 1}"
        elif value > MAX_LABEL:
            fault = f"the label {label} is too large; allowed: 0 to {MAX_LABEL}"
        elif check_files and not _exists(root, name, folders):
            fault = _missing(root, name)
        if fault:
            faults.append((number, fault))
            continue
        paths.append(name)
        labels.append(value)
        lines.append(number)
    return paths, labels, lines, faults


def lines_of(text: str) -> list[str]:
    """Split at line feeds and carriage returns only: a name may hold what Unicode calls a line end."""
    return re.split(r"\r\n|\r|\n", text)


def _read_text(path: Path) -> str:
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise DataError("the list file does not exist", where=path, hint="check cls_label_path") from error
    except IsADirectoryError as error:
        raise DataError("this is a folder, not a list file", where=path) from error
    except OSError as error:
        raise DataError(f"the list file cannot be read: {error.strerror or error}", where=path) from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise DataError(
            f"byte {data[error.start]:#x} is not UTF-8", where=f"{path}:{line}", hint="save the list as UTF-8"
        ) from error


def _as_label(text: str) -> int | None:
    return int(text) if re.fullmatch(r"[-+]?[0-9]{1,4000}", text) else None  # int() alone takes 1_0 and other scripts


def _label_fault(line: str, label: str, delimiter: str | None) -> str:
    if line.startswith("#"):
        return "a comment; a list file has none, each line is: path label"
    if not label:
        return f"no label in {line!r}"
    try:
        float(label)
    except ValueError:
        between = "a space" if delimiter is None else repr(delimiter)
        return f"the label {label!r} is not a whole number (path and label are separated by {between})"
    return f"the label {label!r} is not a whole number"


def _exists(root: Path, name: str, folders: dict[str, frozenset[str]]) -> bool:
    """Whether a photo is there, with one directory listing for all photos of a folder."""
    folder, _, base = name.rpartition("/")
    if folder not in folders:
        try:
            with os.scandir(os.path.join(root, folder)) as entries:
                folders[folder] = frozenset(entry.name for entry in entries)
        except (OSError, ValueError):  # not there; or a NUL in its name
            folders[folder] = frozenset()
    return base in folders[folder] or os.path.exists(os.path.join(root, name))


def _missing(root: Path, name: str) -> str:
    full = os.path.join(root, name)
    for form in ("NFC", "NFD"):
        other = unicodedata.normalize(form, name)
        if other != name and os.path.exists(os.path.join(root, other)):
            return f"{full} does not exist, but the same name in Unicode's form {form} does: write it that way"
    if not os.path.isdir(root):
        return f"{full} does not exist; image_root {str(root)!r} is no folder"
    return f"{full} does not exist"


def scan_folders(root: str | os.PathLike, class_num: int | None = None) -> tuple[Samples, list[str]]:
    """Read a folder with one folder per class; classes are numbered in the order of their sorted names.

    Returns:
        The samples and the class names.

    Raises:
        DataError: no class folder, or none with photos, or more classes than ``class_num``.
    """
    root = Path(root)
    if not root.is_dir():
        raise DataError("image_root is no folder", where=root)
    names = sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    paths: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(names):
        found = sorted(p for p in (root / name).rglob("*") if p.suffix.lower() in PHOTO_SUFFIXES and p.is_file())
        paths += [str(p.relative_to(root)) for p in found]
        labels += [label] * len(found)
    if not paths:
        raise DataError(
            "no photos in class folders",
            where=root,
            allowed="root/CLASS/photo.jpg, or a list file in cls_label_path",
        )
    if class_num is not None and len(names) > class_num:
        raise DataError(f"there are {len(names)} class folders, class_num is {class_num}", where=root)
    return Samples(root, root, paths, labels, [0] * len(paths)), names


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
    ):
        self.class_names = None
        if cls_label_path is None:
            self.samples, self.class_names = scan_folders(image_root, class_num)
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
