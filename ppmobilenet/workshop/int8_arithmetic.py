"""An int8 program computed by its own definition: whole numbers and the exported scales, operator by operator.

Paddle Lite's int8 kernels for ARM follow it: their sums are of whole numbers and therefore exact, and what lies between
two such sums is a scale, a batch norm, an activation and one rounding to the nearest (halves away from zero). The
kernels that Paddle has for x86 do not: oneDNN rounds in other places and to unsigned bytes, so that what they answer
says little of the board. Hence int8 is judged by what is computed here.

:data:`OPERATORS` is the whole of it; a program with an operator that is not in the table is refused by its name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ppmobilenet.errors import UserError
from ppmobilenet.workshop.program import read_operators

Values = Mapping[str, np.ndarray]
EXACT_IN_FLOAT32 = 2**24 // 127**2  # so many products of two int8 numbers, added up, are whole numbers of float32


@dataclass(frozen=True)
class Step:
    """One operator of a program: what it is, the names of what it takes (by slot) and of what it gives."""

    kind: str
    takes: Mapping[str, Sequence[str]]
    gives: str
    attributes: Mapping

    def get(self, values: Values, slot: str, number: int = 0) -> np.ndarray | None:
        names = self.takes.get(slot, ())
        return values[names[number]] if number < len(names) else None


def _column(values: np.ndarray, rank: int, axis: int = 1) -> np.ndarray:
    """One value a channel, shaped to meet a tensor of ``rank`` whose channels lie along ``axis``."""
    shape = [1] * rank
    shape[axis] = -1
    return values.reshape(shape)


# ---------------------------------------------------------------------------------------------------------------------
# rounding


def _steps(step: Step, bits: str = "bit_length") -> int:
    return 2 ** (int(step.attributes.get(bits, 8)) - 1) - 1


def _round(values: np.ndarray, scale: np.ndarray, steps: int, ties_to_even: bool) -> np.ndarray:
    """``values`` in units of ``scale / steps``, as whole numbers of float32 within +-steps."""
    rounded = values * (np.float32(steps) / scale)
    if ties_to_even:
        np.rint(rounded, out=rounded)
    else:
        rounded += np.copysign(np.float32(0.5), rounded)
        np.trunc(rounded, out=rounded)
    return np.clip(rounded, -steps, steps, out=rounded)


def _quantize(step: Step, values: Values) -> np.ndarray:
    scale = step.get(values, "InScale").astype(np.float32).reshape(())
    even = int(step.attributes.get("round_type", 1)) == 0
    return _round(step.get(values, "X"), scale, _steps(step), even)


def _quantize_dequantize(step: Step, values: Values) -> np.ndarray:
    scale = step.get(values, "InScale").astype(np.float32).reshape(())
    return _quantize(step, values) * (scale / np.float32(_steps(step)))


def _quantize_dequantize_channels(step: Step, values: Values) -> np.ndarray:
    weight = step.get(values, "X")
    axis, steps = int(step.attributes.get("quant_axis", 0)), _steps(step)
    others = tuple(d for d in range(weight.ndim) if d != axis)
    scale = np.maximum(np.abs(weight).max(axis=others, keepdims=True), np.float32(1e-30))
    even = int(step.attributes.get("round_type", 1)) == 0
    return _round(weight, scale, steps, even) * (scale / np.float32(steps))


def _dequantize_channels(step: Step, values: Values) -> np.ndarray:
    x, bits = step.get(values, "X"), step.attributes.get("quant_bits", [8])
    channel, tensor = step.get(values, "Scales", 0), step.get(values, "Scales", 1)
    scale = channel.astype(np.float32) / np.float32(2 ** (bits[0] - 1) - 1)
    if tensor is not None:
        scale = scale * (tensor.astype(np.float32).reshape(()) / np.float32(2 ** (bits[1] - 1) - 1))
    # what is dequantized is a layer's output, and its channels are the second axis whatever the weight's axis is
    return x * _column(scale, x.ndim)


# ---------------------------------------------------------------------------------------------------------------------
# layers


def _product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Matrix product; exact for int8 numbers, however many are added up."""
    if a.shape[-1] <= EXACT_IN_FLOAT32:
        return a @ b
    return (a.astype(np.float64) @ b.astype(np.float64)).astype(np.float32)


def _padding(step: Step, size: Sequence[int], kernel: Sequence[int], strides: Sequence[int]) -> list[tuple[int, int]]:
    """Pixels before and after, for both axes."""
    kind = step.attributes.get("padding_algorithm", "EXPLICIT")
    if kind == "VALID":
        return [(0, 0), (0, 0)]
    if kind == "SAME":
        missing = [max((-(-n // s) - 1) * s + k - n, 0) for n, k, s in zip(size, kernel, strides)]
        return [(n // 2, n - n // 2) for n in missing]
    pads = list(step.attributes["paddings"])
    pads = [pads[0], pads[0], pads[1], pads[1]] if len(pads) == 2 else pads
    return [(pads[0], pads[1]), (pads[2], pads[3])]


def _convolution(step: Step, values: Values) -> np.ndarray:
    x, weight = step.get(values, "Input"), step.get(values, "Filter").astype(np.float32, copy=False)
    attributes, (out, inner, height, width) = step.attributes, weight.shape
    strides, dilations, groups = attributes["strides"], attributes["dilations"], int(attributes["groups"])
    if attributes.get("data_format", "NCHW") not in ("NCHW", "AnyLayout"):
        raise UserError(f"the int8 program has a convolution in {attributes['data_format']} layout", allowed="NCHW")
    reach = [(k - 1) * d + 1 for k, d in zip((height, width), dilations)]
    pads = _padding(step, x.shape[2:], reach, strides)
    if any(map(any, pads)):
        x = np.pad(x, [(0, 0), (0, 0), *pads])
    rows, columns = ((n - r) // s + 1 for n, r, s in zip(x.shape[2:], reach, strides))

    def shifted(i: int, j: int) -> np.ndarray:
        """What the weight at row i, column j meets."""
        top, left = i * dilations[0], j * dilations[1]
        return x[:, :, top : top + (rows - 1) * strides[0] + 1 : strides[0],
                 left : left + (columns - 1) * strides[1] + 1 : strides[1]]  # fmt: skip

    taps = [(i, j) for i in range(height) for j in range(width)]
    if inner == 1 and groups == x.shape[1] == out:  # depthwise: far quicker as one product a tap than as a matrix
        total = np.zeros((len(x), out, rows, columns), np.float32)
        part = np.empty_like(total)
        for i, j in taps:
            total += np.multiply(shifted(i, j), _column(weight[:, 0, i, j], 4), out=part)
        result = total
    else:
        patches = np.stack([shifted(i, j) for i, j in taps], axis=2) if len(taps) > 1 else shifted(0, 0)
        patches = patches.reshape(len(x), groups, inner * len(taps), rows * columns)
        result = _product(weight.reshape(groups, out // groups, -1), patches).reshape(len(x), out, rows, columns)
    bias = step.get(values, "Bias")
    return result if bias is None else result + _column(bias, 4)


def _matmul(step: Step, values: Values) -> np.ndarray:
    x, y = step.get(values, "X"), step.get(values, "Y").astype(np.float32, copy=False)
    if step.kind == "mul":
        return _product(x.reshape(*x.shape[: int(step.attributes.get("x_num_col_dims", 1))], -1), y)
    x = x.swapaxes(-1, -2) if step.attributes.get("trans_x") else x
    return _product(x, y.swapaxes(-1, -2) if step.attributes.get("trans_y") else y)


def _batch_norm(step: Step, values: Values) -> np.ndarray:
    x = step.get(values, "X")
    scale, offset, mean, variance = (step.get(values, slot) for slot in ("Scale", "Bias", "Mean", "Variance"))
    factor = scale / np.sqrt(variance + np.float32(step.attributes["epsilon"]))
    result = x * _column(factor, x.ndim)
    result += _column(offset - mean * factor, x.ndim)
    return result


def _pool(step: Step, values: Values) -> np.ndarray:
    x, attributes = step.get(values, "X"), step.attributes
    over_all = attributes.get("global_pooling") or (attributes.get("adaptive") and list(attributes["ksize"]) == [1, 1])
    if not over_all:
        raise UserError("the int8 program pools over windows; only pooling over the whole plane is computed here")
    return (x.mean if attributes["pooling_type"] == "avg" else x.max)(axis=(2, 3), keepdims=True)


def _elementwise(operation: np.ufunc) -> Callable:
    def apply(step: Step, values: Values) -> np.ndarray:
        x, y, axis = step.get(values, "X"), step.get(values, "Y"), int(step.attributes.get("axis", -1))
        if axis >= 0 and y.ndim < x.ndim:
            y = y.reshape(*y.shape, *[1] * (x.ndim - axis - y.ndim))
        return operation(x, y)

    return apply


def _activation(function: Callable[[np.ndarray, Mapping], np.ndarray]) -> Callable:
    return lambda step, values: function(step.get(values, "X"), step.attributes)


def _gate(x: np.ndarray, slope: float, offset: float) -> np.ndarray:
    return np.clip(x * np.float32(slope) + np.float32(offset), 0, 1)


def _flatten(x: np.ndarray, attributes: Mapping) -> np.ndarray:
    start, stop = (axis % x.ndim for axis in (attributes["start_axis"], attributes["stop_axis"]))
    return x.reshape(*x.shape[:start], -1, *x.shape[stop + 1 :])


def _squeeze(x: np.ndarray, attributes: Mapping) -> np.ndarray:
    axes = [axis % x.ndim for axis in attributes["axes"]]
    return x.squeeze(tuple(axis for axis in axes or range(x.ndim) if x.shape[axis] == 1))


def _softmax(x: np.ndarray, attributes: Mapping) -> np.ndarray:
    shares = np.exp(x - x.max(axis=attributes["axis"], keepdims=True))
    return shares / shares.sum(axis=attributes["axis"], keepdims=True)


def _dropout(x: np.ndarray, attributes: Mapping) -> np.ndarray:
    if attributes.get("dropout_implementation") == "upscale_in_train":
        return x
    return x * np.float32(1 - attributes["dropout_prob"])


def _scale(x: np.ndarray, attributes: Mapping) -> np.ndarray:
    scale, bias = np.float32(attributes["scale"]), np.float32(attributes["bias"])
    return x * scale + bias if attributes.get("bias_after_scale", True) else (x + bias) * scale


def _reshape(x: np.ndarray, attributes: Mapping) -> np.ndarray:
    return x.reshape([x.shape[i] if n == 0 else n for i, n in enumerate(attributes["shape"])])


OPERATORS: dict[str, Callable[[Step, Values], np.ndarray]] = {
    # int8, after training
    "fake_quantize_range_abs_max": _quantize,
    "fake_quantize_moving_average_abs_max": _quantize,
    "fake_channel_wise_dequantize_max_abs": _dequantize_channels,
    # int8, after quantization-aware training
    "fake_quantize_dequantize_moving_average_abs_max": _quantize_dequantize,
    "fake_channel_wise_quantize_dequantize_abs_max": _quantize_dequantize_channels,
    # layers
    "conv2d": _convolution,
    "depthwise_conv2d": _convolution,
    "matmul_v2": _matmul,
    "mul": _matmul,
    "batch_norm": _batch_norm,
    "pool2d": _pool,
    "elementwise_add": _elementwise(np.add),
    "elementwise_mul": _elementwise(np.multiply),
    # activations
    "relu": _activation(lambda x, _: np.maximum(x, 0)),
    "relu6": _activation(lambda x, a: np.clip(x, 0, np.float32(a.get("threshold", 6)))),
    "hard_sigmoid": _activation(lambda x, a: _gate(x, a["slope"], a["offset"])),
    "hard_swish": _activation(
        lambda x, a: x * np.clip(x + np.float32(a["offset"]), 0, a["threshold"]) / np.float32(a["scale"])
    ),
    "sigmoid": _activation(lambda x, _: 1 / (1 + np.exp(-x))),
    "swish": _activation(lambda x, a: x / (1 + np.exp(-np.float32(a.get("beta", 1)) * x))),
    "softmax": _activation(_softmax),
    # shapes
    "flatten_contiguous_range": _activation(_flatten),
    "reshape2": _activation(_reshape),
    "squeeze2": _activation(_squeeze),
    "transpose2": _activation(lambda x, a: x.transpose(a["axis"])),
    "scale": _activation(_scale),
    "dropout": _activation(_dropout),
}
_RESULT_SLOTS = ("Out", "Output", "Y")  # of an operator's outputs, the one that is its result


class Int8Program:
    """A quantized program, ready to be computed.

    Args:
        model: the ``.pdmodel``.
        parameters: its ``.pdiparams``.

    Raises:
        UserError: it has an operator whose arithmetic is not known here.
    """

    def __init__(self, model: Path, parameters: Path):
        operators, self._constants = read_operators(model, parameters)
        self._steps = []
        for kind, takes, gives, attributes in operators:
            if kind == "feed":
                self._input = gives["Out"][0]
            elif kind == "fetch":
                self._output = takes["X"][0]
            elif kind in OPERATORS:
                slot = next(slot for slot in _RESULT_SLOTS if gives.get(slot))
                self._steps.append(Step(kind, takes, gives[slot][0], attributes))
            else:
                raise UserError(
                    f"the arithmetic of the operator {kind!r} is not known, so what int8 costs on a board cannot be "
                    "computed",
                    where=model,
                    allowed=", ".join(sorted(OPERATORS)),
                    hint="measure the package on the board, or export without int8",
                )
        last = {name: number for number, step in enumerate(self._steps) for name in sum(step.takes.values(), [])}
        self._done_with = [[name for name, at in last.items() if at == number] for number in range(len(self._steps))]

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        """Compute the output for input ``[N, ...]`` as the program declares it."""
        values = {**self._constants, self._input: np.asarray(batch, np.float32)}
        for step, done_with in zip(self._steps, self._done_with):
            values[step.gives] = OPERATORS[step.kind](step, values)
            for name in done_with:
                if name != self._output:
                    del values[name]
        return values[self._output]
