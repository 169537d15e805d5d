"""Photos -> names, with a model (:class:`Classifier`) or an exported package (:class:`Predictor`).

Nothing here imports paddle: with the ONNX backend a board needs only numpy, OpenCV, PyYAML and onnxruntime.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from ppmobilenet.errors import DataError, UserError
from ppmobilenet.field.answers import Failure, Prediction
from ppmobilenet.field.backends import Run, open_backend, sample_input, usable
from ppmobilenet.field.decision import Decision
from ppmobilenet.field.engines.base import Engine
from ppmobilenet.field.engines.pool import EnginePool
from ppmobilenet.field.package import Package, open_package
from ppmobilenet.field.preprocessing import Ops
from ppmobilenet.field.sources import Source, check_channels, read
from ppmobilenet.field.streaming import WAITING, in_order
from ppmobilenet.machine import usable_cores
from ppmobilenet.photos.names import list_photos
from ppmobilenet.photos.operators import build
from ppmobilenet.telling import log


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
        decision: what becomes of what ``run`` gives; default: logits, and every best answer counts.
        topk: answers a photo.
        channels: the order of the channels in arrays: ``"RGB"``, or ``"BGR"`` as OpenCV's functions give; None: RGB,
            with one warning where an array comes.
    """

    def __init__(
        self,
        ops: Ops,
        run: Run,
        labels: Sequence[str] = (),
        decision: Decision | None = None,
        topk: int = 5,
        channels: str | None = None,
    ):
        names = [next(iter(op)) for op in ops]
        self._from_bytes = build(ops)
        self._from_pixels = build([op for op, name in zip(ops, names) if name != "DecodeImage"])
        self._takes = "RGB" if all((op.get("DecodeImage") or {}).get("to_rgb", True) for op in ops) else "BGR"
        self.run, self.labels, self.decision, self.topk = run, list(labels), decision or Decision(), topk
        self.channels, self._warned = check_channels(channels), False

    def preprocess(self, source: Source, channels: str | None = None) -> np.ndarray:
        """Return the model's input for one photo, without the batch axis.

        Args:
            source: path, encoded bytes, open binary file, Pillow's image, or pixels: uint8 ``[H, W, 3]``.
            channels: the order of the channels in pixels, ``"RGB"`` or ``"BGR"``; default the predictor's.

        Raises:
            DataError: the photo cannot be read or decoded; names it.
        """
        return self._preprocess(source, 0, check_channels(channels))[1]

    def _preprocess(self, source: Source, number: int, channels: str | None) -> tuple[str, np.ndarray]:
        name, content, own = read(source, number)
        if isinstance(content, np.ndarray):
            if content.dtype != np.uint8 or content.ndim != 3 or content.shape[2] != 3 or not content.size:
                raise DataError(
                    f"pixels must be uint8 [H, W, 3], these are {content.dtype} {list(content.shape)}", where=name
                )
            if (own or self._order_of_arrays(channels)) != self._takes:
                content = np.ascontiguousarray(content[:, :, ::-1])
            return name, np.ascontiguousarray(self._from_pixels(content))
        try:
            return name, np.ascontiguousarray(self._from_bytes(content))
        except DataError as error:
            # the decoder was given bytes and cannot know the file's name
            raise DataError(error.message, where=name, allowed=error.allowed, hint=error.hint) from error

    def _order_of_arrays(self, channels: str | None) -> str:
        """Return what is known of an array's channels, and say it once where nobody said it: no error would show."""
        said = channels or self.channels
        if said is None and not self._warned:
            self._warned = True
            log.warning(
                "an array is taken for RGB; frames of OpenCV (imread, VideoCapture) are BGR and need channels='BGR' "
                "(channels='RGB' takes this line away)"
            )
        return said or "RGB"

    def probabilities(self, batch: np.ndarray) -> np.ndarray:
        """Return ``[N, class_num]`` probabilities for preprocessed input ``[N, ...]``."""
        return self.decision.probabilities(self.run(batch))

    def answer(self, probabilities: np.ndarray, name: str) -> Prediction:
        """Return the answer that one photo's ``[class_num]`` probabilities are."""
        return self.decision.answer(probabilities, self.labels, name, self.topk)

    def stream(
        self,
        sources: Iterable[Source],
        batch_size: int = 1,
        workers: int | None = None,
        channels: str | None = None,
    ) -> Iterator[Prediction | Failure]:
        """Answer photo after photo, in order, each as soon as it is answered.

        Decoding runs in threads while the model runs. A photo that cannot be used yields a :class:`Failure` in its
        place and costs no other photo.

        Args:
            sources: as :meth:`preprocess` takes them; may be endless, and is read in a thread of its own.
            batch_size: photos a run of the model; fewer where the next photo is not there yet.
            workers: decoding threads; default one a processor.
            channels: the order of the channels in arrays; default the predictor's.
        """
        _check_positive(batch_size=batch_size, workers=workers)
        check_channels(channels)
        workers = workers or usable_cores()
        batch: list[tuple[str, np.ndarray | UserError]] = []

        def prepare(number: int, source: Source) -> tuple[str, np.ndarray | UserError]:
            try:
                return self._preprocess(source, number, channels)
            except DataError as error:
                return str(error.where if error.where is not None else f"photo {number}"), error

        for prepared in in_order(sources, prepare, workers, 2 * (workers + batch_size)):
            if prepared is not WAITING:
                batch.append(prepared)
            if prepared is WAITING or sum(isinstance(entry, np.ndarray) for _, entry in batch) == batch_size:
                yield from self._answer(batch)
                batch = []
        yield from self._answer(batch)

    def _answer(self, batch: Sequence[tuple[str, np.ndarray | UserError]]) -> Iterator[Prediction | Failure]:
        good = [entry for _, entry in batch if isinstance(entry, np.ndarray)]
        if len({entry.shape for entry in good}) > 1:  # without a crop, photos of different sizes
            rows = iter([self.probabilities(entry[None])[0] for entry in good])
        else:
            rows = iter(self.probabilities(np.stack(good)) if good else ())
        for name, entry in batch:
            if isinstance(entry, np.ndarray):
                yield self.answer(next(rows), name)
            else:
                yield Failure(name, entry)

    def __call__(self, source: Source | Sequence[Source], batch_size: int = 1, channels: str | None = None):
        """Predict one photo, or several: a list, an iterator, a uint8 array ``[N, H, W, 3]``, a folder.

        Args:
            source: see :meth:`preprocess`.
            batch_size: photos a run of the model.
            channels: the order of the channels in arrays, ``"RGB"`` or ``"BGR"``; default the predictor's.

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
            sources = list(source) if isinstance(source, np.ndarray) else source
            return list(self.stream(sources, batch_size, channels=channels))
        name, tensor = self._preprocess(source, 0, check_channels(channels))
        return self.answer(self.probabilities(tensor[None])[0], name)


def _open(package: Package, backend: str, threads: int, precision: str) -> Engine:
    return open_backend(package, backend, threads, precision)[2]


def _lane_backend(package: Package, asked: str, wide: Engine, precision: str) -> str | None:
    """Return the engine that is opened several times, with one thread each; None if it would bring nothing.

    The OpenVINO engine runs one call at a time in a process, so with ``"auto"`` ONNX Runtime takes that part where it
    can: the second fastest on each of N processors is faster than the fastest that uses all N for one photo.
    """
    if asked == "auto" and wide.backend != "lite" and wide.threads > 1 and "onnxruntime" in usable(package, precision):
        return "onnxruntime"
    return None if wide.alone else wide.backend


class Predictor(Classifier):
    """An exported package, ready to answer, from any number of threads.

    A thread that is alone is answered by an engine that uses ``threads`` threads; threads that call at the same time
    get an engine of one thread each, up to one a processor. In a forked child the engines are opened anew at the first
    call.

    Args:
        package: the folder that ``ppmobilenet export`` (or PaddleClas) wrote, or an opened :class:`Package`.
        backend: ``"auto"`` (the fastest measured on this machine, remembered), ``"openvino"`` (Paddle Inference's
            OpenVINO engine), ``"paddle"``, ``"onnxruntime"`` or ``"lite"``.
        threads: threads for one inference; default all processors of this process.
        precision: ``"fp32"`` or ``"int8"``.
        topk: answers a photo; default what the package says.
        channels: the order of the channels in arrays: ``"RGB"``, or ``"BGR"`` as OpenCV's functions give; None: RGB,
            with one warning where an array comes. Files, bytes and Pillow's images need no word.

    Attributes:
        package: the opened :class:`Package`.

    Raises:
        UserError: no such folder, backend or form; an engine that is not installed or does not start.
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
        channels: str | None = None,
    ):
        _check_positive(threads=threads, topk=topk)
        check_channels(channels)
        self.package = package if isinstance(package, Package) else open_package(Path(package))
        self.threads = threads or usable_cores()
        # of the package and not of the predictor, which would hold itself alive
        open_wide = functools.partial(_open, self.package, backend, self.threads, precision)
        engine = open_wide()
        lane = _lane_backend(self.package, backend, engine, precision)
        open_lane = functools.partial(_open, self.package, lane, 1, precision) if lane else None
        self.engines = EnginePool(engine, open_wide, open_lane, limit=max(self.threads, usable_cores()))
        if missing := self.package.missing():
            others = f" and {len(missing) - 1} more" if missing[1:] else ""
            log.warning("%s: %s%s missing; answers come from %s", package, missing[0], others, self.form["name"])
        meta, decision = self.package.meta, Decision.of(self.package.meta)
        if decision.output == "unknown":  # PaddleClas exports with softmax inside unless told otherwise: noise tells
            answer = engine(sample_input(self.package))
            is_share = answer.min() >= 0 and np.allclose(answer.sum(axis=-1), 1, atol=1e-3)
            decision = Decision("probabilities" if is_share else "logits")
        super().__init__(self.package.ops, self.engines, meta["labels"], decision, topk or meta["topk"], channels)

    @property
    def backend(self) -> str:
        """The name of the backend in use."""
        return self.engines.wide.backend

    @property
    def form(self) -> Mapping:
        """The package's form that it runs."""
        return self.engines.wide.form

    def stream(
        self,
        sources: Iterable[Source],
        batch_size: int = 1,
        workers: int | None = None,
        channels: str | None = None,
    ) -> Iterator[Prediction | Failure]:
        """Answer photo after photo, in order, each as soon as it is answered.

        With ``batch_size`` 1 every processor takes whole photos, from file to name, with an engine of one thread:
        nothing waits for anything, which is the fastest way through a folder. Larger batches, and the OpenVINO engine,
        are fed by decoding threads while the engine runs with all its threads.

        Args:
            sources: as :meth:`preprocess` takes them; may be endless, and is read in a thread of its own.
            batch_size: photos a run of the model; fewer where the next photo is not there yet.
            workers: threads that take photos; default ``threads``.
            channels: the order of the channels in arrays; default the predictor's.
        """
        _check_positive(batch_size=batch_size, workers=workers)
        check_channels(channels)
        workers = workers or self.threads
        if batch_size != 1 or workers == 1 or not self.engines.has_lanes:
            yield from super().stream(sources, batch_size, workers, channels)
            return

        def whole(number: int, source: Source) -> Prediction | Failure:
            try:
                name, tensor = self._preprocess(source, number, channels)
            except DataError as error:
                return Failure(str(error.where if error.where is not None else f"photo {number}"), error)
            probabilities = self.decision.probabilities(self.engines(tensor[None], lane=True))
            return self.answer(probabilities[0], name)

        for answered in in_order(sources, whole, workers, 4 * workers):
            if answered is not WAITING:
                yield answered

    def _preprocess(self, source: Source, number: int, channels: str | None) -> tuple[str, np.ndarray]:
        name, tensor = super()._preprocess(source, number, channels)
        expected = tuple(self.package.meta["input"]["shape"][1:])
        if self.package.meta["files"] and tensor.shape != expected:
            raise DataError(
                f"preprocessing made {list(tensor.shape)} of it, and the model takes {list(expected)}",
                where=name,
                hint="export with transforms that give photos of any size one size (CropImage, ResizeImage.size)",
            )
        return name, tensor
