"""What the classes of a config are called: by its label file, else by the photos' folders."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from ppmobilenet.data.dataset import scan_folders
from ppmobilenet.errors import DataError
from ppmobilenet.photos.labels import check_count, find_label_file, label_names, read_labels


def class_names(config: Mapping, class_num: int) -> list[str]:
    """Return the class names from ``Infer.PostProcess.class_id_map_file``, else those of the photos' folders.

    Where there is neither, a class is called ``class N``.
    """
    path = label_file(config)
    if path is None:
        folders = _class_folders(config)
        return folders if len(folders) == class_num else [f"class {number}" for number in range(class_num)]
    return label_names(read_labels(path, config.get("Infer.PostProcess.delimiter")), class_num, where=path)


def label_file(config: Mapping) -> Path | None:
    """Return the label file that a config means; None where it names none, or one that is not there and not needed."""
    named = config.get("Infer.PostProcess.class_id_map_file")
    if not named:
        return None
    beside = Path(config.source).parent if getattr(config, "source", None) else None
    needed = config.typed("Infer.PostProcess.class_id_map_file") or not _class_folders(config)
    there = Path(named).expanduser().is_file() or (beside is not None and (beside / named).is_file())
    return find_label_file(named, beside) if needed or there else None


def check_labels(config: Mapping) -> None:
    """Refuse, before a training, the label file with which its export would fail or name classes wrongly.

    Raises:
        UserError, DataError: it is missing, has another form, or names more or fewer classes than ``Arch.class_num``.
    """
    path, class_num = label_file(config), int(config.get("Arch.class_num") or 0)
    if path is not None and class_num:
        check_count(read_labels(path, config.get("Infer.PostProcess.delimiter")), class_num, path)


def _class_folders(config: Mapping) -> list[str]:
    """Return the names of the folders that are the classes, where a data set of the config has no list."""
    for mode in ("Eval", "Train"):
        root = config.get(f"DataLoader.{mode}.dataset.image_root")
        if root and not config.get(f"DataLoader.{mode}.dataset.cls_label_path"):
            with suppress(DataError):  # no folder, or no classes in it: then they have no names
                return scan_folders(root)[1]
    return []
