"""What a config says of the package to be made: preprocessing, class names, photos, accuracy."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pathlib import Path

from ppmobilenet.config import Config
from ppmobilenet.data.build import lists_of
from ppmobilenet.data.class_names import class_names
from ppmobilenet.data.lists import read_list
from ppmobilenet.data.transforms import build_transforms
from ppmobilenet.errors import UserError
from ppmobilenet.field import golden
from ppmobilenet.field.preprocessing import Ops, deployment_ops
from ppmobilenet.photos.names import list_photos
from ppmobilenet.training.start import find_start
from ppmobilenet.weights.files import read_pickle


def trained_accuracy(config: Config) -> list[dict]:
    """Return the accuracy that training measured, from the ``.pdstates`` beside the weights, if it is there."""
    start = find_start(config.weights)
    path = start.file().with_suffix(".pdstates") if start is not None else None
    states = read_pickle(path) if path is not None and path.is_file() else None
    if not isinstance(states, dict) or not states.get("metric", 0) > 0:
        return []
    row = {"form": "trained", "top1": round(float(states["metric"]), 5), "epoch": int(states.get("epoch", 0))}
    return [{**row, "source": "evaluation during training"}]


def deployment_labels(config: Config, class_num: int) -> list[str]:
    """Return the class names of a config, see :func:`class_names`."""
    return class_names(config.labels, lists_of(config.train, config.eval), class_num)


def evaluation_ops(config: Config) -> list[dict]:
    """Return the Eval transforms as a predictor applies them. They, not ``Infer.transforms``, are what was measured."""
    return deployment_ops(config.eval.dataset.transform_ops)


def example_photos(config: Config, count: int = 4) -> list[bytes]:
    """Return a few real photos of the config: from the evaluation list, else from ``Infer.infer_imgs``."""
    dataset, photos = config.eval.dataset, config.infer.infer_imgs
    paths: Iterable[str] = ()
    if dataset.cls_label_path and Path(dataset.cls_label_path).is_file():
        listed, root = dataset.cls_label_path, dataset.image_root
        samples = read_list(listed, root, delimiter=dataset.delimiter, check_files=False)
        paths = (sample[0] for sample in samples)
    elif photos and Path(photos).exists():
        paths = list_photos(photos)
    return [Path(path).read_bytes() for path in itertools.islice(filter(lambda p: Path(p).is_file(), paths), count)]


def check_image_shape(config: Config, ops: Ops) -> None:
    """Refuse a ``Global.image_shape`` that is not what the transforms make."""
    declared = config.run.image_shape
    if not declared:
        return
    shape = list(build_transforms(ops)(golden.synthetic_photo()).shape)
    if list(declared) != shape:
        raise UserError(
            f"Global.image_shape says {list(declared)}, the Eval transforms make {shape}",
            where="Global.image_shape",
            hint=f"-o Global.image_shape={str(shape).replace(' ', '')}, or set both with -o Global.resolution=...",
        )
