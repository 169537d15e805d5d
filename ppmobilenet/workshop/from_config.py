"""What a config says of the package to be made: preprocessing, class names, photos, accuracy."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from ppmobilenet.data.dataset import scan_folders
from ppmobilenet.data.lists import read_list
from ppmobilenet.data.transforms import build_transforms
from ppmobilenet.errors import DataError, UserError
from ppmobilenet.field import golden
from ppmobilenet.field.labels import check_count, find_label_file, label_names, read_labels
from ppmobilenet.field.preprocessing import Ops, deployment_ops
from ppmobilenet.photos.names import list_photos
from ppmobilenet.training.start import find_start
from ppmobilenet.weights.files import read_pickle


def trained_accuracy(config: Mapping) -> list[dict]:
    """Return the accuracy that training measured, from the ``.pdstates`` beside the weights, if it is there."""
    start = find_start(config)
    path = start.file().with_suffix(".pdstates") if start is not None else None
    states = read_pickle(path) if path is not None and path.is_file() else None
    if not isinstance(states, dict) or not states.get("metric", 0) > 0:
        return []
    row = {"form": "trained", "top1": round(float(states["metric"]), 5), "epoch": int(states.get("epoch", 0))}
    return [{**row, "source": "evaluation during training"}]


def deployment_labels(config: Mapping, class_num: int) -> list[str]:
    """Return the class names from ``Infer.PostProcess.class_id_map_file``, else those of the photos' folders.

    Where there is neither, a class is called ``class N``.
    """
    path = label_file(config)
    if path is None:
        folders = _class_folders(config)
        if len(folders) == class_num:
            return folders
    if path is None:
        return [f"class {number}" for number in range(class_num)]
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


def evaluation_ops(config: Mapping) -> list[dict]:
    """Return the Eval transforms as a predictor applies them. They, not ``Infer.transforms``, are what was measured."""
    return deployment_ops(config["DataLoader"]["Eval"]["dataset"]["transform_ops"])


def example_photos(config: Mapping, count: int = 4) -> list[bytes]:
    """Return a few real photos of the config: from the evaluation list, else from ``Infer.infer_imgs``."""
    dataset = config["DataLoader"]["Eval"]["dataset"]
    paths: Iterable[str] = ()
    listed, root = dataset.get("cls_label_path"), dataset.get("image_root")
    if listed and Path(listed).is_file() and root:
        samples = read_list(listed, root, delimiter=dataset.get("delimiter"), check_files=False)
        paths = (sample[0] for sample in samples)
    elif config.get("Infer.infer_imgs") and Path(config.get("Infer.infer_imgs")).exists():
        paths = list_photos(config.get("Infer.infer_imgs"))
    return [Path(path).read_bytes() for path in itertools.islice(filter(lambda p: Path(p).is_file(), paths), count)]


def check_image_shape(config: Mapping, ops: Ops) -> None:
    """Refuse a ``Global.image_shape`` that is not what the transforms make."""
    declared = config.get("Global.image_shape")
    if not declared:
        return
    shape = list(build_transforms(ops)(golden.synthetic_photo()).shape)
    if list(declared) != shape:
        raise UserError(
            f"Global.image_shape says {list(declared)}, the Eval transforms make {shape}",
            where="Global.image_shape",
            hint=f"-o Global.image_shape={str(shape).replace(' ', '')}, or set both with -o Global.resolution=...",
        )
