"""The names of the classes: of a label file, or of the folders that the photos lie in."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from ppmobilenet.config.parts import Labels
from ppmobilenet.data.dataset import Listed
from ppmobilenet.errors import DataError
from ppmobilenet.photos.labels import check_count, find_label_file, label_names, read_labels


def class_names(labels: Labels, lists: Mapping[str, Listed], class_num: int) -> list[str]:
    """Return the class names of the label file, else those of the photos' folders.

    Where there is neither, a class is called ``class N``.

    Raises:
        UserError, DataError: the file is not there, or not of these classes.
    """
    path = label_file(labels, lists)
    if path is not None:
        return label_names(read_labels(path, labels.delimiter), class_num, where=path)
    folders = list(labels.names) or _folders(lists)
    return folders if len(folders) == class_num else [f"class {number}" for number in range(class_num)]


def label_file(labels: Labels, lists: Mapping[str, Listed]) -> Path | None:
    """Return the label file that a config means; None where it names none, or one that is not there and not needed."""
    if not labels.file:
        return None
    there = Path(labels.file).expanduser().is_file() or (labels.beside / labels.file).is_file()
    needed = labels.typed or not _folders(lists)
    return find_label_file(labels.file, labels.beside) if there or needed else None


def check_labels(labels: Labels, lists: Mapping[str, Listed], class_num: int) -> None:
    """Refuse, before a training, the label file with which its export would fail or name classes wrongly.

    Raises:
        UserError, DataError: it is missing, has another form, or names more or fewer classes than ``class_num``.
    """
    path = label_file(labels, lists)
    if path is not None and class_num:
        check_count(read_labels(path, labels.delimiter), class_num, path)


def _folders(lists: Mapping[str, Listed]) -> list[str]:
    """Return the names of the folders that are the classes, where a data set has no list."""
    for listed in (lists.get("validation"), lists.get("train")):
        if listed is not None and listed.path is None:
            with suppress(DataError):  # no folder, or no classes in it: then they have no names
                return listed.class_names
    return []
