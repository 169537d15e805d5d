"""What a config says, for rooms that take no config: operators, class names, photos, the network as a function."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import paddle
from paddle import nn

from ppmobilenet.config import Config
from ppmobilenet.config.parts import SHARDS, Dataset, Source
from ppmobilenet.data.build import lists_of
from ppmobilenet.data.class_names import class_names
from ppmobilenet.data.label_lists import read_several
from ppmobilenet.data.lists import Samples, read_list
from ppmobilenet.data.shards.dataset import ShardListed
from ppmobilenet.errors import DataError, UserError
from ppmobilenet.field import infer
from ppmobilenet.field.decision import Decision
from ppmobilenet.field.package import Package
from ppmobilenet.field.predictor import Classifier
from ppmobilenet.field.preprocessing import Ops, deployment_ops, spell_out
from ppmobilenet.field.verify import Model
from ppmobilenet.machine import usable_cores
from ppmobilenet.photos.decode import read_bytes
from ppmobilenet.photos.names import list_photos
from ppmobilenet.photos.operators import build
from ppmobilenet.photos.shards import is_shards
from ppmobilenet.telling import bar, tell
from ppmobilenet.training.start import find_start, model_with_weights
from ppmobilenet.weights.files import read_pickle
from ppmobilenet.workshop import certainty
from ppmobilenet.workshop.certainty import Certainty
from ppmobilenet.workshop.golden_record import synthetic_photo
from ppmobilenet.workshop.making import PackageSpec
from ppmobilenet.workshop.program import Deployed

BATCH = 16  # photos that go through a network at once


def package_spec(config: Config, to: str | Sequence[str], with_board: bool = False) -> PackageSpec:
    """Return what a config says of the package to be made of its network.

    Raises:
        UserError: an unknown form, labels that do not fit, or transforms that do not give ``Global.image_shape``.
    """
    ops = evaluation_ops(config)
    spec = PackageSpec(config.arch.name, ops, (), to, with_board=with_board)
    _check_image_shape(config, ops)
    spec.labels = _labels(config)
    spec.photos = example_photos(config)
    spec.softmax_inside = config.arch.infer_add_softmax
    spec.topk = config.infer.post.topk
    spec.decision = config.decision
    return spec


def _decision(config: Config) -> Decision:
    """Return how a network's own logits are read."""
    output = {"kind": "logits", "class_num": config.arch.class_num}
    return Decision.of({"output": output, "decision": config.decision})


def _labels(config: Config) -> list[str]:
    return class_names(config.labels, lists_of(config.train, config.eval), config.arch.class_num)


def _as_function(network: nn.Layer) -> Model:
    """Return ``batch -> output`` on arrays of a network, which is put into eval mode."""
    network.eval()

    def run(batch: np.ndarray) -> np.ndarray:
        with paddle.no_grad():
            return network(paddle.to_tensor(batch)).numpy()

    return run


def trained_model(config: Config, package: Package) -> Model:
    """Return the config's network as a function of a package's input: pixels, if normalisation is in the graph."""
    given, normalise = package.meta["input"], None
    if given["dtype"] == "uint8":
        normalise = next(op for op in spell_out(evaluation_ops(config)) if op["op"] == "NormalizeImage")
    return _as_function(Deployed(model_with_weights(config), False, normalise, given["layout"]))


def infer_job(
    config: Config,
    source: str | None = None,
    infer_list: str | None = None,
    topk: int | None = None,
    random_init: bool = False,
) -> infer.Job:
    """Prepare to predict with trained weights, as PaddleClas's ``tools/infer.py`` does.

    Uses ``Infer.infer_imgs``, ``infer_list``, ``batch_size``, ``save_dir`` and ``PostProcess`` (``topk``,
    ``class_id_map_file``). The preprocessing is that of ``DataLoader.Eval``, with which the accuracy was measured;
    where ``Infer.transforms`` says otherwise, that is said.
    """
    given, typed = config.infer, source
    source = typed or given.infer_imgs
    if not source:
        raise UserError(
            "which photos?", where="Infer.infer_imgs", hint="-o Infer.infer_imgs=photo.jpg, or -i photo.jpg"
        )
    if given.infer_list and not infer_list and (typed or Path(source).is_file()):
        tell(f"note: all of {source}: Infer.infer_list {given.infer_list} is passed over; --infer-list takes a list")
    else:
        infer_list = infer_list or given.infer_list
    photos, film = infer.what_is_there(source, infer_list)
    ops = evaluation_ops(config)
    if given.transforms and spell_out(deployment_ops(given.transforms)) != spell_out(ops):
        tell("note: Infer.transforms differ from those of DataLoader.Eval; the latter are used, as in evaluation")
    network = model_with_weights(config, random_init)
    classifier = Classifier(
        ops, _as_function(network), _labels(config), _decision(config), topk=topk or given.post.topk
    )
    save = given.save_dir
    if save and Path(save).suffix not in infer.SAVED_AS:
        save = save.rstrip("/") + ".json"  # PaddleClas takes save_dir for a file's name
    return infer.Job(classifier, photos, given.batch_size, save, watch=film)


def trained_accuracy(config: Config) -> list[dict]:
    """Return the accuracy that training measured, from the ``.pdstates`` beside the weights, if it is there."""
    start = find_start(config.weights)
    path = start.file().with_suffix(".pdstates") if start is not None else None
    states = read_pickle(path) if path is not None and path.is_file() else None
    if not isinstance(states, dict) or not states.get("metric", 0) > 0:
        return []
    deciding = config.metric.eval[0].name
    figure = "top1" if deciding in ("TopkAcc", "DistillationTopkAcc") else deciding
    row = {"form": "trained", figure: round(float(states["metric"]), 5), "epoch": int(states.get("epoch", 0))}
    return [{**row, "source": "evaluation during training"}]


def evaluation_ops(config: Config) -> list[dict]:
    """Return the Eval transforms as a predictor applies them. They, not ``Infer.transforms``, are what was measured."""
    return deployment_ops(config.eval.dataset.transform_ops)


def listed_photos(source: Source) -> Sequence[tuple[str, int]]:
    """Return (path, label) of each photo of a data set's list.

    Raises:
        DataError: there is no list.
    """
    dataset, listed = source.dataset, source.dataset.cls_label_path
    if dataset.name == SHARDS:
        return _samples(dataset)
    if not listed or not Path(listed).is_file():
        raise DataError(
            f"the list {listed!r} does not exist",
            where=f"{source.at}.dataset.cls_label_path",
            hint="photos are measured here: set the data set's paths with -o"
            + (", or give --images DIR to calibrate on" if source.mode == "Train" else ""),
        )
    return _samples(dataset)


def _samples(dataset: Dataset) -> Samples:
    if dataset.name == SHARDS:
        return ShardListed(dataset.image_root).samples()[0]
    read = read_several if dataset.name == "MultiLabelDataset" else read_list
    root = Path(dataset.image_root or "")
    return read(Path(dataset.cls_label_path), root, delimiter=dataset.delimiter, check_files=False)


def calibration_tensors(config: Config, count: int = 64, images: str | None = None) -> np.ndarray:
    """Return preprocessed photos ``[N, 3, H, W]``: evenly spaced over the training list (or a folder).

    They go through the evaluation transforms, as photos will on the board.
    """
    paths = list_photos(images) if images else [path for path, _ in listed_photos(config.train)]
    chosen = [paths[i] for i in np.unique(np.linspace(0, len(paths) - 1, min(count, len(paths))).astype(int))]
    transform = build(evaluation_ops(config))
    with ThreadPoolExecutor(usable_cores()) as pool:
        made = pool.map(lambda path: np.ascontiguousarray(transform(path)), chosen)
        return np.stack(list(bar(made, "calibration photos", len(chosen))))


def measured_decision(config: Config, network: nn.Layer, wanted: Certainty) -> dict:
    """Return what package.json says as ``decision``, measured on the evaluation's list with a trained network.

    Raises:
        UserError: photos have several labels.
    """
    if config.run.use_multilabel:
        raise UserError(
            "a temperature and being unsure are of one label a photo",
            where="--calibrate, --unsure-at",
            hint="set the labels' own thresholds: -o Infer.PostProcess.threshold=[...]",
        )
    samples = listed_photos(config.eval)
    strangers = list_photos(wanted.none_of_these) if wanted.none_of_these else None
    logits = _logits_of(config, network, [path for path, _ in samples], "validation photos")
    others = None if strangers is None else _logits_of(config, network, strangers, "none of these")
    return certainty.decide(logits, np.array([label for _, label in samples]), wanted, others)


def _logits_of(config: Config, network: nn.Layer, paths: Sequence[str], what: str) -> np.ndarray:
    """Return a network's logits of photos, which go through the evaluation transforms."""
    transform, run = build(evaluation_ops(config)), _as_function(network)
    with ThreadPoolExecutor(usable_cores()) as pool:

        def batch_of(some: Sequence[str]) -> np.ndarray:
            return np.stack(list(pool.map(lambda path: np.ascontiguousarray(transform(path)), some)))

        batches = [paths[start : start + BATCH] for start in range(0, len(paths), BATCH)]
        return np.concatenate([run(batch_of(some)) for some in bar(batches, what)])


def example_photos(config: Config, count: int = 4) -> list[bytes]:
    """Return a few real photos of the config: from the evaluation list, else from ``Infer.infer_imgs``."""
    dataset, photos = config.eval.dataset, config.infer.infer_imgs
    paths: Iterable[str] = ()
    listed = dataset.cls_label_path and Path(dataset.cls_label_path).is_file() and dataset.image_root
    if listed or (dataset.name == SHARDS and is_shards(dataset.image_root)):
        paths = (sample[0] for sample in _samples(dataset))
    elif photos and Path(photos).exists():
        paths = list_photos(photos)
    return list(itertools.islice(_contents(paths), count))


def _contents(paths: Iterable[str]) -> Iterator[bytes]:
    """Yield the bytes of those photos that are there."""
    for path in paths:
        with contextlib.suppress(DataError):
            yield read_bytes(path)


def _check_image_shape(config: Config, ops: Ops) -> None:
    """Refuse a ``Global.image_shape`` that is not what the transforms make."""
    declared = config.run.image_shape
    if not declared:
        return
    shape = list(build(ops)(synthetic_photo()).shape)
    if list(declared) != shape:
        raise UserError(
            f"Global.image_shape says {list(declared)}, the Eval transforms make {shape}",
            where="Global.image_shape",
            hint=f"-o Global.image_shape={str(shape).replace(' ', '')}, or set both with -o Global.resolution=...",
        )
