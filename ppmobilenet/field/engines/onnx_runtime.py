"""ONNX Runtime."""

from __future__ import annotations

import numpy as np
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as state

from ppmobilenet.field.engines.base import Engine


class OnnxRuntime(Engine):
    """A session of ONNX Runtime, which any number of threads may call at once."""

    backend, library = "onnxruntime", "ONNX Runtime"
    # its exceptions have no common class of their own
    refusals = (
        *Engine.refusals,
        *(kind for kind in vars(state).values() if isinstance(kind, type) and issubclass(kind, Exception)),
    )

    def _open(self) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4  # what it refuses it also raises, and that is told
        self._session = onnxruntime.InferenceSession(str(self.files[0]), options, providers=["CPUExecutionProvider"])
        self._input, self.input_shape = self._session.get_inputs()[0].name, self._session.get_inputs()[0].shape

    def _run(self, batch: np.ndarray) -> np.ndarray:
        return self._session.run(None, {self._input: batch})[0]

    def another(self) -> OnnxRuntime:
        return self
