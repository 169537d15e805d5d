"""Paddle Inference, with oneDNN and with its OpenVINO engine: the one module of the field that imports paddle."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import sys
import threading
import warnings
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from ppmobilenet.errors import UserError
from ppmobilenet.field.engines.base import Engine, started, why_not_in_fork
from ppmobilenet.field.package import Package
from ppmobilenet.machine import writable_folder

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", message="No ccache found")
    from paddle import inference


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Paddle's int8 passes print two dozen lines to the error stream, past Python and past its own log settings."""
    if sys.stderr:
        sys.stderr.flush()
    saved, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        yield
    finally:
        ctypes.CDLL(None).fflush(None)  # what C++ has not written yet belongs to the silence, too
        os.dup2(saved, 2)
        os.close(saved)
        os.close(null)


class PaddleInference(Engine):
    """Paddle Inference with oneDNN.

    One call at a time, with all threads: engines of one thread each, cloned from one another, answered two callers more
    slowly than this does one (3.3.1, two processors), and under load one failed with a bare ``std::exception``.
    """

    backend, library, alone = "paddle", "Paddle Inference", True
    # its error codes come as these besides
    refusals = (*Engine.refusals, IndexError, MemoryError, SystemError)
    _opening = threading.Lock()  # one model at a time: _silent changes the whole process's error stream

    def _open(self) -> None:
        # in a child it mostly answered, and once stood still for ever
        if reason := why_not_in_fork(PaddleInference.library):
            raise UserError(f"{self.library} cannot start here: {reason}")
        started(PaddleInference.library)
        model, parameters = self._model_files()
        config = inference.Config(str(model), str(parameters))
        config.disable_glog_info()
        config.set_cpu_math_library_num_threads(self.threads)
        if model.suffix == ".json":
            config.enable_new_ir(True)
            config.enable_new_executor(True)  # without it, enable_memory_optim raises for this kind
        config.enable_memory_optim()
        self._configure(config)
        with self._opening, _silent() if self.form["precision"] == "int8" else contextlib.nullcontext():
            self._predictor = inference.create_predictor(config)
        self._take_slots()

    def _model_files(self) -> tuple[Path, Path]:
        return self.files[0], self.files[1]

    def _configure(self, config) -> None:
        config.enable_mkldnn()
        if self.form["precision"] == "int8" and hasattr(config, "enable_mkldnn_int8"):
            config.enable_mkldnn_int8()

    def _take_slots(self) -> None:
        self._given = self._predictor.get_input_handle(self._predictor.get_input_names()[0])
        self._answer = self._predictor.get_output_handle(self._predictor.get_output_names()[0])

    def _run(self, batch: np.ndarray) -> np.ndarray:
        self._given.copy_from_cpu(batch)
        self._predictor.run()
        return self._answer.copy_to_cpu()


class OpenVino(PaddleInference):
    """Paddle Inference's OpenVINO engine.

    Its compiled model belongs to the process, not to the predictor (3.3.1): a second one of the same file takes the
    first one's place, and the first then ends the process with a segmentation fault. So there is one for a file in the
    process, by :meth:`open`.
    """

    backend, library = "openvino", "Paddle Inference's OpenVINO engine"
    _running = threading.Lock()
    _opened: weakref.WeakValueDictionary[tuple, OpenVino] = weakref.WeakValueDictionary()

    @classmethod
    def open(cls, package: Package, form: Mapping, threads: int) -> OpenVino:
        """Return the process's engine for this form, opened now if nobody holds it; it keeps its number of threads."""
        with cls._running:
            files = package.files_of(form)
            key = tuple((str(file.resolve()), file.stat().st_mtime_ns) for file in files)
            engine = cls._opened.get(key)
            if engine is None:
                engine = cls(package, form, threads)
                cls._opened[key] = engine
            return engine

    def _open(self) -> None:
        super()._open()
        # it compiles at its first run: now, while no other runs
        self._run(np.zeros((1, *self._declared), self._dtype))

    def _model_files(self) -> tuple[Path, Path]:
        self._compiled, *files = _openvino_place(self.files[0], self.files[1])
        return tuple(files)

    def _configure(self, config) -> None:
        config.set_optim_cache_dir(str(self._compiled))
        config.enable_openvino_engine(inference.PrecisionType.Float32)

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        with self._running:
            return super().__call__(batch)


def _openvino_place(model: Path, parameters: Path) -> tuple[Path, Path, Path]:
    """Return a folder for compiled models, and links to a model's two files under one name.

    Paddle's OpenVINO engine looks for ``<model>.pdiparams`` whatever it is told, keeps compiled models by their path,
    and would put them into a folder ``__cache__`` of the working directory.
    """
    compiled = writable_folder("openvino")
    if model.stem == parameters.stem:
        return compiled, model, parameters
    # by content's age as well as by place, so that a package exported anew into its folder is compiled anew
    known = [(str(file.resolve()), file.stat().st_mtime_ns, file.stat().st_size) for file in (model, parameters)]
    links = compiled / hashlib.sha256(repr(known).encode()).hexdigest()[:16]
    links.mkdir(exist_ok=True)
    for file in (model, parameters):
        new = links / f"{os.getpid()}{file.suffix}"
        new.unlink(missing_ok=True)
        new.symlink_to(file.resolve())
        os.replace(new, links / f"model{file.suffix}")
    return compiled, links / "model.pdmodel", links / "model.pdiparams"


def _after_fork() -> None:
    """A lock that another thread held at the fork would stay locked in the child for ever."""
    PaddleInference._opening, OpenVino._running = threading.Lock(), threading.Lock()
    OpenVino._opened = weakref.WeakValueDictionary()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
