"""Photos -> names, with a model (:class:`Classifier`) or an exported package (:class:`Predictor`).

Nothing here imports paddle: with the ONNX backend a board needs only numpy, OpenCV, PyYAML and onnxruntime.
"""

from __future__ import annotations

import logging
import os
import queue
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Union

import numpy as np

from ppmobilenet.data.photo_files import list_photos
from ppmobilenet.data.transforms import build_transforms
from ppmobilenet.deploy.backends import Run, open_backend, why_not
from ppmobilenet.deploy.package import Package, open_package
from ppmobilenet.deploy.preprocessing import Ops
from ppmobilenet.errors import DataError, UserError
from ppmobilenet.machine import usable_cores
from ppmobilenet.registry import POSTPROCESSES

log = logging.getLogger(__name__)

Source = Union[str, os.PathLike, bytes, np.ndarray, BinaryIO, "PIL.Image.Image"]  # noqa: F821


@dataclass(frozen=True)
class Prediction:
    """The answer for one photo, best class first.

    Attributes:
        source: the path as given, or a description of a photo that is not a file.
        class_ids: class numbers.
        scores: probabilities in [0, 1], in the same order.
        label_names: their names; empty if the model has no labels.
    """

    source: str
    class_ids: list[int]
    scores: list[float]
    label_names: list[str]

    def to_dict(self) -> dict:
        """Return PaddleClas's keys (``class_ids, scores, file_name, label_names``), scores to 5 decimals."""
        return {
            "class_ids": self.class_ids,
            "scores": [round(score, 5) for score in self.scores],
            "file_name": self.source,
            "label_names": self.label_names,
        }

    def __str__(self) -> str:
        names = self.label_names or [f"class {number}" for number in self.class_ids]
        answers = ", ".join(f"{name} {score:.4f}" for name, score in zip(names, self.scores))
        return f"{self.source}: {answers}"


@dataclass(frozen=True)
class Failure:
    """A photo that could not be used, in its place among the others' answers."""

    source: str
    error: UserError

    def to_dict(self) -> dict:
        return {"file_name": self.source, "error": str(self.error)}

    def __str__(self) -> str:
        return f"{self.source}: failed: {self.error}"


@POSTPROCESSES.register()
class Topk:
    """The ``k`` most probable classes (PaddleClas's ``PostProcess.Topk``).

    Args:
        topk: how many; never more than there are classes.
        class_id_map_file: label file, read by whoever knows where the config stands.
        delimiter: between number and name in that file; None means a space.
    """

    def __init__(
        self, topk: int = 1, class_id_map_file: str | None = None, delimiter: str | None = None
    ):  # file and delimiter belong to the config's vocabulary; labels arrive at the call
        self.topk, self.class_id_map_file, self.delimiter = topk, class_id_map_file, delimiter

    def __call__(self, probabilities: np.ndarray, labels: Sequence[str], source: str) -> Prediction:
        """Args: ``probabilities`` ``[class_num]``; ``labels`` one name a class, or empty."""
        best = np.argsort(-probabilities, kind="stable")[: self.topk]
        return Prediction(
            source=source,
            class_ids=[int(number) for number in best],
            scores=[float(probabilities[number]) for number in best],
            label_names=[labels[number] for number in best] if labels else [],
        )


def softmax(logits: np.ndarray) -> np.ndarray:
    """Softmax over the last axis."""
    exponents = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponents / exponents.sum(axis=-1, keepdims=True)


def _read(source: Source, number: int, rgb: bool) -> tuple[str, bytes | np.ndarray]:
    """Return what to call a source and its bytes or pixels, those of Pillow's images in the order asked for."""
    if isinstance(source, np.ndarray):
        return f"array {number}", source
    if hasattr(source, "convert"):  # one of Pillow's
        from PIL import ImageOps

        upright = ImageOps.exif_transpose(source).convert("RGB")
        return str(getattr(source, "filename", "") or f"image {number}"), np.asarray(upright)[:, :, :: 1 if rgb else -1]
    if isinstance(source, (bytes, bytearray, memoryview)):
        return f"bytes {number}", bytes(source)
    if hasattr(source, "read"):
        return str(getattr(source, "name", f"stream {number}")), source.read()
    if not isinstance(source, (str, os.PathLike)):
        raise DataError(
            f"a {type(source).__name__} is no photo",
            where=f"photo {number}",
            allowed="a path, bytes, an open binary file, a uint8 array [H, W, 3], Pillow's image; a list of these",
        )
    name = os.fspath(source)
    try:
        with open(name, "rb") as file:
            return name, file.read()
    except OSError as error:
        raise DataError(f"the photo cannot be read: {error.strerror or error}", where=name) from error


def _check_positive(**numbers: int | None) -> None:
    for name, value in numbers.items():
        if value is not None and value < 1:
            raise UserError(f"{name} {value}", allowed="1 and above")


class Classifier:
    """Preprocessing, a function on batches, and names: what every way of predicting shares.

    Args:
        ops: the deployment transforms in PaddleClas's shape; the only source of preprocessing.
        run: ``run(batch) -> output`` on arrays.
        labels: one name a class, or empty.
        output: what ``run`` gives: ``"probabilities"``, ``"logits"``, or ``"unknown"`` (told by the numbers).
        topk: answers a photo.
    """

    def __init__(self, ops: Ops, run: Run, labels: Sequence[str] = (), output: str = "logits", topk: int = 5):
        names = [next(iter(op)) for op in ops]
        self._from_bytes = build_transforms(ops)
        self._from_pixels = build_transforms([op for op, name in zip(ops, names) if name != "DecodeImage"])
        self._rgb = all((op.get("DecodeImage") or {}).get("to_rgb", True) for op in ops)
        self.run, self.labels, self.output = run, list(labels), output
        self._top = Topk(topk)

    def preprocess(self, source: Source) -> np.ndarray:
        """Return the model's input for one photo, without the batch axis.

        Args:
            source: path, encoded bytes, open binary file, Pillow's image, or pixels: uint8 ``[H, W, 3]`` in the order
                that the package's DecodeImage gives (RGB unless ``to_rgb: False``).

        Raises:
            DataError: the photo cannot be read or decoded; names it.
        """
        return self._preprocess(source, 0)[1]

    def _preprocess(self, source: Source, number: int) -> tuple[str, np.ndarray]:
        name, content = _read(source, number, self._rgb)
        if isinstance(content, np.ndarray):
            if content.dtype != np.uint8 or content.ndim != 3 or content.shape[2] != 3 or not content.size:
                raise DataError(
                    f"pixels must be uint8 [H, W, 3], these are {content.dtype} {list(content.shape)}", where=name
                )
            return name, np.ascontiguousarray(self._from_pixels(content))
        try:
            return name, np.ascontiguousarray(self._from_bytes(content))
        except DataError as error:
            # the decoder was given bytes and cannot know the file's name
            raise DataError(error.message, where=name, allowed=error.allowed, hint=error.hint) from error

    def probabilities(self, batch: np.ndarray) -> np.ndarray:
        """Return ``[N, class_num]`` probabilities for preprocessed input ``[N, ...]``."""
        return self._as_probabilities(self.run(batch))

    def _as_probabilities(self, answer: np.ndarray) -> np.ndarray:
        if self.output == "unknown":  # PaddleClas exports with softmax inside unless told otherwise
            looks = answer.min() >= 0 and np.allclose(answer.sum(axis=-1), 1, atol=1e-3)
            self.output = "probabilities" if looks else "logits"
        return answer if self.output == "probabilities" else softmax(answer)

    def stream(
        self, sources: Iterable[Source], batch_size: int = 1, workers: int | None = None
    ) -> Iterator[Prediction | Failure]:
        """Answer photo after photo, in order; decoding runs in threads while the model runs.

        A photo that cannot be used yields a :class:`Failure` in its place and costs no other photo.

        Args:
            sources: as :meth:`preprocess` takes them; may be endless.
            batch_size: photos a run of the model.
            workers: decoding threads; default one a processor.
        """
        _check_positive(batch_size=batch_size, workers=workers)
        workers = workers or usable_cores()
        waiting: deque = deque()
        batch: list[tuple[str, np.ndarray | UserError]] = []
        numbered = enumerate(sources)

        def prepare(number: int, source: Source) -> tuple[str, np.ndarray | UserError]:
            try:
                return self._preprocess(source, number)
            except DataError as error:
                return str(error.where if error.where is not None else f"photo {number}"), error

        with ThreadPoolExecutor(workers) as pool:
            try:
                while True:
                    while len(waiting) < 2 * (workers + batch_size):
                        item = next(numbered, None)
                        if item is None:
                            break
                        waiting.append(pool.submit(prepare, *item))
                    if not waiting:
                        break
                    batch.append(waiting.popleft().result())
                    if sum(isinstance(entry, np.ndarray) for _, entry in batch) == batch_size:
                        yield from self._answer(batch)
                        batch = []
                yield from self._answer(batch)
            finally:
                for future in waiting:
                    future.cancel()

    def _answer(self, batch: Sequence[tuple[str, np.ndarray | UserError]]) -> Iterator[Prediction | Failure]:
        good = [entry for _, entry in batch if isinstance(entry, np.ndarray)]
        rows = iter(self.probabilities(np.stack(good)) if good else ())
        for name, entry in batch:
            if isinstance(entry, np.ndarray):
                yield self._top(next(rows), self.labels, name)
            else:
                yield Failure(name, entry)

    def __call__(self, source: Source | Sequence[Source], batch_size: int = 1):
        """Predict one photo, or several: a list, an iterator, a uint8 array ``[N, H, W, 3]``, a folder.

        Returns:
            A :class:`Prediction` for one photo; for several a list, in order, in which a photo that cannot be used is
            a :class:`Failure`.

        Raises:
            DataError: the one photo cannot be used.
        """
        if isinstance(source, (str, os.PathLike)) and os.path.isdir(source):
            return list(self.stream(list_photos(source), batch_size))
        several = isinstance(source, (list, tuple)) or (hasattr(source, "__next__") and not hasattr(source, "read"))
        if several or (isinstance(source, np.ndarray) and source.ndim == 4):
            return list(self.stream(source, batch_size))
        name, tensor = self._preprocess(source, 0)
        return self._top(self.probabilities(tensor[None])[0], self.labels, name)


class Predictor(Classifier):
    """An exported package, ready to answer.

    Args:
        package: the folder that ``ppmobilenet export`` (or PaddleClas) wrote, or an opened :class:`Package`.
        backend: ``"auto"`` (the fastest measured on this machine, remembered), ``"openvino"`` (Paddle Inference's
            OpenVINO engine), ``"paddle"``, ``"onnxruntime"`` or ``"lite"``.
        threads: threads for one inference; default all processors of this process.
        precision: ``"fp32"`` or ``"int8"``.
        topk: answers a photo; default what the package says.

    Attributes:
        package: the opened :class:`Package`.
        backend: the name of the backend in use.
        form: the package's form that it runs.

    Raises:
        UserError: no such folder, backend or form; an engine that is not installed.
        DamagedFileError: a file of the package is missing or was changed.

    Example::

        Predictor("inference")("photo.jpg").label_names[0]
    """

    def __init__(
        self,
        package: str | os.PathLike | Package,
        backend: str = "auto",
        threads: int | None = None,
        precision: str = "fp32",
        topk: int | None = None,
    ):
        _check_positive(threads=threads, topk=topk)
        self.package = package if isinstance(package, Package) else open_package(Path(package))
        meta = self.package.meta
        self.backend, self.form, run = open_backend(self.package, backend, threads, precision)
        if missing := self.package.missing():
            others = f" and {len(missing) - 1} more" if missing[1:] else ""
            log.warning("%s: %s%s missing; answers come from %s", package, missing[0], others, self.form["name"])
        super().__init__(self.package.ops, run, meta["labels"], meta["output"]["kind"], topk or meta["topk"])
        self.threads, self._precision = threads or usable_cores(), precision
        self._lane_backend = self._choose_lane_backend(backend)
        self._lanes: queue.SimpleQueue | None = None

    def _choose_lane_backend(self, asked: str) -> str | None:
        """Return the engine that :meth:`stream` opens several times; None if it runs once, with all threads.

        Two of Paddle's OpenVINO engines in two threads of a process end it by a segmentation fault (3.3.1), so with
        ``"auto"`` ONNX Runtime takes that part where it can: the second fastest on each of N processors is faster than
        the fastest that uses all N for one photo.
        """
        if self.threads == 1 or asked in ("openvino", "lite") or self.backend == "lite":
            return None
        if asked == "auto" and why_not(self.package, "onnxruntime", self._precision) is None:
            return "onnxruntime"
        return self.backend if self.backend != "openvino" else None

    def _open_lanes(self) -> queue.SimpleQueue:
        """Open the engine once a thread, each with one thread of its own."""
        if self._lanes is None:
            self._lanes = queue.SimpleQueue()
            for _ in range(self.threads):
                self._lanes.put(open_backend(self.package, self._lane_backend, 1, self._precision)[2])
        return self._lanes

    def stream(
        self, sources: Iterable[Source], batch_size: int = 1, workers: int | None = None
    ) -> Iterator[Prediction | Failure]:
        """Answer photo after photo, in order.

        With ``batch_size`` 1 every processor takes whole photos, from file to name, with an engine of one thread:
        nothing waits for anything, which is the fastest way through a folder. Larger batches, and the OpenVINO engine,
        are fed by decoding threads while the engine runs with all its threads.

        Args:
            sources: as :meth:`preprocess` takes them; may be endless.
            batch_size: photos a run of the model.
            workers: threads that take photos; default ``threads``.
        """
        _check_positive(batch_size=batch_size, workers=workers)
        if batch_size != 1 or self._lane_backend is None:
            yield from super().stream(sources, batch_size, workers)
            return
        lanes = self._open_lanes()

        def answer(number: int, source: Source) -> Prediction | Failure:
            try:
                name, tensor = self._preprocess(source, number)
            except DataError as error:
                return Failure(str(error.where if error.where is not None else f"photo {number}"), error)
            run = lanes.get()
            try:
                return self._top(self._as_probabilities(run(tensor[None]))[0], self.labels, name)
            finally:
                lanes.put(run)

        waiting: deque = deque()
        with ThreadPoolExecutor(workers or self.threads) as pool:
            try:
                for item in enumerate(sources):
                    waiting.append(pool.submit(answer, *item))
                    if len(waiting) > 4 * self.threads:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                for future in waiting:
                    future.cancel()
