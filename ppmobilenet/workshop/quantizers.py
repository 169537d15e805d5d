"""Float network -> int8: after training (PTQ) or with a short fine-tune (QAT), for Paddle Inference, Lite and ONNX.

Only the routes that were seen to work on Paddle 2.6 to 3.3 are used: the static ``PostTrainingQuantization`` and
``ImperativeQuantAware``, both in the old program format, and ONNX Runtime's static quantizer.

Weights are quantized for each output channel, activations for each tensor, symmetrically to [-127, 127]
(Krishnamoorthi 2018, "Quantizing deep convolutional networks for efficient inference", section 3).
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import paddle
from paddle.static.quantization import PostTrainingQuantization

from ppmobilenet.errors import UserError
from ppmobilenet.workshop.int8_plan import ALGORITHMS
from ppmobilenet.workshop.program import read_program, static_mode

QUANTIZABLE_OPS = ["conv2d", "depthwise_conv2d", "mul", "matmul_v2"]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Paddle's quantizers draw progress bars and log at INFO."""
    loggers = [
        logging.getLogger(name)
        for name in ("paddle.static.quantization.post_training_quantization", "paddle.static.io")
    ]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        for logger, level in zip(loggers, levels):
            logger.setLevel(level)


def post_training(model: Path, parameters: Path, out: Path, tensors: np.ndarray, algorithm: str, skip: Iterable[str]):
    """Quantize a legacy program; writes ``inference.pdmodel`` and ``inference.pdiparams`` into ``out``.

    Args:
        model: the ``.pdmodel``, saved with ``clip_extra=False``.
        parameters: its ``.pdiparams``, in the same folder.
        out: a new folder.
        tensors: calibration input ``[N, ...]``.
        algorithm: of :data:`ALGORITHMS`.
        skip: names of weights whose layers stay float.
    """
    skip = list(skip)
    with static_mode() as executor, quiet():
        quantizer = PostTrainingQuantization(
            executor=executor,
            scope=paddle.static.global_scope(),
            model_dir=str(model.parent),  # without a slash at the end, which it takes for a missing name
            model_filename=model.name,
            params_filename=parameters.name,
            data_loader=lambda: ({"x": tensor[None]} for tensor in tensors),
            batch_size=1,
            batch_nums=len(tensors),
            algo=ALGORITHMS[algorithm][0],
            quantizable_op_type=QUANTIZABLE_OPS,
            weight_quantize_type="channel_wise_abs_max",
            onnx_format=False,  # Paddle Lite reads only this kind
            skip_tensor_list=skip or None,
        )
        quantizer.quantize()
        for name in skip:
            tensor = paddle.static.global_scope().find_var(name).get_tensor()
            tensor.set(clearly_float(np.array(tensor)), paddle.CPUPlace())
        out.mkdir(exist_ok=True)
        quantizer.save_quantized_model(str(out), model_filename=model.name, params_filename=parameters.name)


def clearly_float(weight: np.ndarray) -> np.ndarray:
    """Return a weight of a layer that stays float, with one value changed by next to nothing if all are whole numbers.

    Paddle Inference takes such a weight for int8 and then misses its scale. The identity convolutions that stand for a
    missing expansion in converted weights are such.
    """
    if (weight != np.round(weight)).any():
        return weight
    weight = weight.copy()
    at = np.abs(weight).argmin()
    weight.flat[at] = weight.flat[at] * (1 + 1e-6) or 1e-30
    return weight


def count_quantized(model: Path) -> int:
    """Return how many layers of a quantized ``.pdmodel`` have int8 weights."""
    # the static quantizer dequantizes each layer's output, the eager one simulates on each layer's weight
    kinds = ("fake_channel_wise_dequantize_max_abs", "fake_channel_wise_quantize_dequantize_abs_max")
    return sum(op.type in kinds for block in read_program(model).blocks for op in block.ops)


def onnx_int8(path: Path, out: Path, tensors: np.ndarray, algorithm: str, keep: Sequence[int], layers: int) -> int:
    """Quantize an ONNX model to QDQ form with ONNX Runtime.

    Args:
        path: the float model.
        out: the file to write.
        tensors: calibration input.
        algorithm: of :data:`ALGORITHMS`.
        keep: positions (in running order) of the layers that stay float.
        layers: how many layers the network has, to be sure that positions mean the same.

    Returns:
        How many layers have int8 weights.
    """
    import onnx  # optional, as the next
    from onnxruntime import quantization

    graph = onnx.load(str(path)).graph
    constants = {tensor.name for tensor in graph.initializer}
    constants |= {node.output[0] for node in graph.node if node.op_type == "Constant"}
    products = [node for node in graph.node if node.op_type in ("Conv", "Gemm", "MatMul")]
    weighted = [node for node in products if node.input[1] in constants]
    between_maps = [node.name for node in products if node.input[1] not in constants]  # attention's: they stay float
    if len(weighted) != layers:
        raise UserError(f"the ONNX graph has {len(weighted)} weighted layers, the network {layers}", where=path)

    class Reader(quantization.CalibrationDataReader):
        def __init__(self):
            self.rows = iter(tensors)

        def get_next(self):
            row = next(self.rows, None)
            return None if row is None else {"x": row[None]}

    method = getattr(quantization.CalibrationMethod, ALGORITHMS[algorithm][1])
    logging.getLogger().addFilter(_no_advice)
    try:
        with quiet():
            quantization.quantize_static(
                str(path),
                str(out),
                Reader(),
                quant_format=quantization.QuantFormat.QDQ,
                per_channel=True,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
                # weights of 7 bits: processors without VNNI add pairs of uint8 x int8 products in 16 bits and cut off
                # what is too much; uint8 weights are right there too, and were measured five times as slow
                reduce_range=True,
                calibrate_method=method,
                nodes_to_exclude=[*between_maps, *(weighted[position].name for position in keep)],
            )
    finally:
        logging.getLogger().removeFilter(_no_advice)
    written = onnx.load(str(out))
    int8 = {t.name for t in written.graph.initializer if t.data_type == onnx.TensorProto.INT8 and len(t.dims) >= 2}
    return sum(node.op_type == "DequantizeLinear" and node.input[0] in int8 for node in written.graph.node)


def _no_advice(record: logging.LogRecord) -> bool:
    return "pre-processing before quantization" not in record.getMessage()
