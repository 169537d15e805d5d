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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import nn

from ppmobilenet.config import parts
from ppmobilenet.data.loader import Loader
from ppmobilenet.errors import NumericsError, UserError, nearest
from ppmobilenet.models.family import head_of
from ppmobilenet.training.device import Precision
from ppmobilenet.training.ema import ModelEma
from ppmobilenet.training.freezing import norms
from ppmobilenet.training.keeping import Keeper
from ppmobilenet.training.metrics import TopkAcc, Totals
from ppmobilenet.training.objective import AgreeWith, Objective
from ppmobilenet.training.optim import build_optimizer, build_schedule, meant
from ppmobilenet.training.setting import Setting
from ppmobilenet.training.state import TrainState
from ppmobilenet.training.trainer import train_epoch
from ppmobilenet.workshop.program import legacy_program, read_program, static_mode, writes_json

METHODS = ("ptq", "qat")
# how an activation's range is found -> (Paddle's name, ONNX Runtime's name)
ALGORITHMS = {
    "hist": ("hist", "Percentile"),  # the 99.999th percentile
    "KL": ("KL", "Entropy"),
    "abs_max": ("abs_max", "MinMax"),
    "mse": ("mse", "Percentile"),  # ONNX Runtime has no such search
}
QUANTIZABLE = (nn.Conv2D, nn.Linear)
QUANTIZABLE_OPS = ["conv2d", "depthwise_conv2d", "mul", "matmul_v2"]


@dataclass
class Plan:
    """What int8 forms a package gets.

    Attributes:
        tensors: calibration input, float32 ``[N, 3, H, W]`` as the forms take it.
        method: ``"ptq"`` or ``"qat"``.
        algorithm: of :data:`ALGORITHMS`, for PTQ and for ONNX.
        keep_float: patterns of layers that stay float: names of layers, of what is around them, or of their weights.
        max_layer_error: layers whose own relative error is above it stay float too; None: none.
        trained: with ``"qat"``, the fine-tuned network with its fake quantizers (:func:`fine_tune`).
        errors: filled by :func:`decide`: every layer's own error, worst first.
        kept: filled by :func:`decide`: the layers that stay float.
    """

    tensors: np.ndarray
    method: str = "ptq"
    algorithm: str = "hist"
    keep_float: Sequence[str] = ()
    max_layer_error: float | None = None
    trained: nn.Layer | None = None
    errors: list[LayerError] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)

    def summary(self) -> dict:
        """Return the entry for package.json."""
        worst = [{"layer": e.layer, "error": round(e.error, 6)} for e in self.errors[:10]]
        return {
            "method": self.method,
            "algorithm": self.algorithm,
            "calibration_photos": len(self.tensors),
            "kept_float": self.kept,
            "layers": len(self.errors),
            "worst_layers": worst,
        }


@dataclass(frozen=True)
class LayerError:
    """How much int8 changes one layer's output, given the float input.

    Attributes:
        layer: its name in the network.
        weight: its weight's ParamAttr name.
        kind: ``"depthwise"``, ``"pointwise"``, ``"convolution"`` or ``"linear"``.
        error: ``|int8 output - float output| / |float output|``, Euclidean norms over all photos.
    """

    layer: str
    weight: str
    kind: str
    error: float


def quantizable_layers(network: nn.Layer) -> list[tuple[str, nn.Layer]]:
    """Return the layers that int8 concerns, in the order in which they were made (which is the order they run in)."""
    return [(name, layer) for name, layer in network.named_sublayers() if isinstance(layer, QUANTIZABLE)]


def _kind(layer: nn.Layer) -> str:
    if isinstance(layer, nn.Linear):
        return "linear"
    if layer._groups > 1:
        return "depthwise"
    return "pointwise" if tuple(layer.weight.shape[2:]) == (1, 1) else "convolution"


def _to_int8_and_back(values, scale):
    return paddle.clip(paddle.round(values / scale * 127), -127, 127) * (scale / 127)


def layer_errors(network: nn.Layer, tensors: np.ndarray) -> list[LayerError]:
    """Measure each layer by itself: float input, quantized input and weight, against its float output.

    Args:
        network: in eval mode, float.
        tensors: some photos, ``[N, 3, H, W]``.

    Returns:
        Worst first.
    """
    layers = quantizable_layers(network)
    inputs: dict[str, paddle.Tensor] = {}
    handles = [
        layer.register_forward_pre_hook(lambda _layer, given, name=name: inputs.__setitem__(name, given[0]))
        for name, layer in layers
    ]
    sums = {name: np.zeros(2) for name, _ in layers}
    try:
        with paddle.no_grad():
            for tensor in tensors:
                network(paddle.to_tensor(tensor[None]))
                for name, layer in layers:
                    sums[name] += _error_and_power(layer, inputs[name])
    finally:
        for handle in handles:
            handle.remove()
    errors = [
        LayerError(name, layer.weight.name, _kind(layer), float(np.sqrt(sums[name][0] / max(sums[name][1], 1e-30))))
        for name, layer in layers
    ]
    return sorted(errors, key=lambda entry: -entry.error)


def _error_and_power(layer: nn.Layer, given) -> np.ndarray:
    """Return the squared norms of (int8 - float) and of the float output, bias left out."""
    weight = layer.weight
    axes = [0] if isinstance(layer, nn.Linear) else [1, 2, 3]
    scale = paddle.clip(weight.abs().max(axis=axes, keepdim=True), min=1e-12)
    coarse_weight = _to_int8_and_back(weight, scale)
    coarse_input = _to_int8_and_back(given, paddle.clip(given.abs().max(), min=1e-12))

    def apply(x, w):
        if isinstance(layer, nn.Linear):
            return F.linear(x, w)
        return F.conv2d(x, w, None, layer._stride, layer._padding, layer._dilation, layer._groups, layer._data_format)

    exact = apply(given, weight)
    return np.array([float(((apply(coarse_input, coarse_weight) - exact) ** 2).sum()), float((exact**2).sum())])


def layers_meant(network: nn.Layer, patterns: Sequence[str]) -> list[str]:
    """Return the names of the layers that patterns mean, by layer or weight name.

    Raises:
        UserError: a pattern matches no layer, or they leave nothing to quantize.
    """
    weights = {name: layer.weight.name for name, layer in quantizable_layers(network)}
    kept: dict[str, None] = {}
    for pattern in patterns:
        matched = meant(pattern, [(name, name) for name in weights], head_of(network))
        matched = matched or [name for name, weight in weights.items() if fnmatchcase(weight, pattern)]
        if not matched:
            tops = sorted({name.split(".")[0] for name in weights})
            near = nearest(pattern, [*tops, *weights, *weights.values()])
            raise UserError(
                f"no layer fits {pattern!r}",
                where="--keep-float",
                allowed="trunk, head, or patterns of layer or weight names: " + ", ".join(tops),
                hint=f"did you mean {near!r}?" if near else None,
            )
        kept.update(dict.fromkeys(matched))
    if len(kept) == len(weights):
        raise UserError("every layer would stay float: nothing is left to quantize", where="--keep-float")
    return list(kept)


def decide(network: nn.Layer, plan: Plan) -> None:
    """Measure the layers' errors and fill ``plan.errors`` and ``plan.kept``.

    Raises:
        UserError: a pattern matches no layer, or nothing would be quantized.
    """
    kept = dict.fromkeys(layers_meant(network, plan.keep_float))
    plan.errors = layer_errors(network, plan.tensors[:8])
    if plan.max_layer_error is not None:
        kept.update(dict.fromkeys(e.layer for e in plan.errors if e.error > plan.max_layer_error))
    if not writes_json():
        raise UserError(
            f"int8 needs Paddle 3, this is {paddle.__version__}: its quantizers are the ones that were seen to work",
            hint="quantize with Paddle 3; the int8 package then runs anywhere",
        )
    if len(kept) == len(plan.errors):
        raise UserError(
            f"every layer's error is above {plan.max_layer_error:g}: nothing is left to quantize",
            where="--max-layer-error",
            hint=f"the errors go from {plan.errors[-1].error:.4f} to {plan.errors[0].error:.4f}",
        )
    plan.kept = list(kept)


# ---------------------------------------------------------------------------------------------------------------------
# PTQ


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
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
    if algorithm not in ALGORITHMS:
        raise UserError(f"unknown algorithm {algorithm!r}", where="--algorithm", allowed=", ".join(ALGORITHMS))
    with static_mode() as executor, _quiet():
        from paddle.static.quantization import PostTrainingQuantization

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
            tensor.set(_clearly_float(np.array(tensor)), paddle.CPUPlace())
        out.mkdir(exist_ok=True)
        quantizer.save_quantized_model(str(out), model_filename=model.name, params_filename=parameters.name)


def _clearly_float(weight: np.ndarray) -> np.ndarray:
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


# ---------------------------------------------------------------------------------------------------------------------
# QAT


def fine_tune(
    network: nn.Layer,
    teacher: nn.Layer,
    loader: Loader,
    *,
    epochs: int = 2,
    learning_rate: float = 1e-4,
    keep_float: Iterable[str] = (),
    log: Callable[[str], None] = print,
) -> nn.Layer:
    """Train a network with int8 rounding in its forward pass to answer as the float one does.

    It is trained like any other network, with the objective :class:`AgreeWith` the float one: no labels are needed.
    Batch norm keeps its statistics (they are folded into the int8 weights later).

    Args:
        network: the float network; changed in place and returned.
        teacher: another copy of it.
        loader: of training photos.
        epochs: passes.
        learning_rate: at the start; falls to zero along a cosine.
        keep_float: names of layers that stay float.
        log: where a line an epoch goes.
    """
    from paddle.quantization.imperative.qat import ImperativeQuantAware

    kept = set(keep_float)
    for name, layer in quantizable_layers(network):
        layer.skip_quant = name in kept
    aware = ImperativeQuantAware(
        weight_quantize_type="channel_wise_abs_max", activation_quantize_type="moving_average_abs_max"
    )
    aware.quantize(network)
    network._int8_saver = aware
    teacher.eval()
    agree = AgreeWith(teacher)
    state, setting = _qat_run(network, loader, agree, epochs, learning_rate)
    while state.epoch < epochs:
        train_epoch(state, setting, Keeper())
        loss, state.totals = state.totals.means()["loss"], Totals()
        state.epoch, state.step_in_epoch = state.epoch + 1, 0
        log(f"QAT epoch {state.epoch}/{epochs}: loss {loss:.4f}, agrees with float {agree.agreement():.1%}")
    for name, layer in quantizable_layers(network):
        if name in kept:
            layer.weight.set_value(_clearly_float(layer.weight.numpy()))
    network.eval()
    return network


def _qat_run(
    network: nn.Layer, loader: Loader, objective: Objective, epochs: int, learning_rate: float
) -> tuple[TrainState, Setting]:
    schedule = build_schedule(
        parts.Schedule.of({"name": "Cosine", "learning_rate": learning_rate}), epochs, len(loader), loader.batch_size
    )
    optimizer = build_optimizer(parts.Optimizer.of({"name": "Momentum", "momentum": 0.9}), network, schedule)
    precision = Precision(parts.Amp(), "cpu")
    setting = Setting(
        name="",
        run=parts.Run(epochs=epochs),
        steps=len(loader),
        update_freq=1,
        loader=loader,
        network=network,
        forward=network,
        resting=tuple(norms(network)),
        schedule=schedule,
        objective=objective,
        metric=TopkAcc(1),
        precision=precision,
        diverged="a lower --lr",
    )
    return TrainState(network, optimizer, ModelEma(network, None), precision.scaler, seed=0), setting


def save_trained(layer: nn.Layer, network: nn.Layer, out: Path, shape: Sequence, dtype: str) -> None:
    """Write the program of a network that :func:`fine_tune` returned, wrapped in ``layer`` as it is deployed."""
    with legacy_program(), _quiet():
        network._int8_saver._quantize_outputs.save_quantized_model(
            layer,
            str(out / "inference"),
            [paddle.static.InputSpec(list(shape), dtype, name="x")],
            clip_extra=False,
        )
    (out / "inference.pdiparams.info").unlink(missing_ok=True)


# ---------------------------------------------------------------------------------------------------------------------
# ONNX


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
    import onnx
    from onnxruntime import quantization

    weighted = [node for node in onnx.load(str(path)).graph.node if node.op_type in ("Conv", "Gemm", "MatMul")]
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
        with _quiet():
            quantization.quantize_static(
                str(path),
                str(out),
                Reader(),
                quant_format=quantization.QuantFormat.QDQ,
                per_channel=True,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
                calibrate_method=method,
                nodes_to_exclude=[weighted[position].name for position in keep],
            )
    finally:
        logging.getLogger().removeFilter(_no_advice)
    written = onnx.load(str(out))
    int8 = {t.name for t in written.graph.initializer if t.data_type == onnx.TensorProto.INT8 and len(t.dims) >= 2}
    return sum(node.op_type == "DequantizeLinear" and node.input[0] in int8 for node in written.graph.node)


def _no_advice(record: logging.LogRecord) -> bool:
    return "pre-processing before quantization" not in record.getMessage()


def write_forms(
    folder: Path,
    layer: nn.Layer,
    network: nn.Layer,
    plan: Plan,
    to: Sequence[str],
    shape: Sequence,
    dtype: str,
    log: Callable[[str], None] = print,
) -> list[Mapping]:
    """Write the int8 forms that go with the float ones into a package folder.

    Args:
        folder: holds ``inference.pdmodel`` (and ``inference.onnx`` if ONNX is wanted).
        layer: the deployed form of the float network (:class:`ppmobilenet.workshop.forms.Deployed`).
        network: the float network itself.
        plan: filled by :func:`decide`.
        to: the forms that the package gets.
        shape: of the input.
        dtype: of the input.
        log: where lines go.

    Raises:
        NumericsError: nothing was quantized.
    """
    from ppmobilenet.field.engines import lite_env
    from ppmobilenet.workshop import lite
    from ppmobilenet.workshop.onnx import tidy

    names = [name for name, _ in quantizable_layers(network)] or [e.layer for e in plan.errors]
    weights = {e.layer: e.weight for e in plan.errors}
    out = folder / "int8"
    out.mkdir()
    if plan.method == "qat":
        float_network, layer.model = layer.model, plan.trained
        try:
            save_trained(layer, plan.trained, out, shape, dtype)
        finally:
            layer.model = float_network
    else:
        skip = [weights[name] for name in plan.kept]
        post_training(
            folder / "inference.pdmodel", folder / "inference.pdiparams", out, plan.tensors, plan.algorithm, skip
        )
    done = count_quantized(out / "inference.pdmodel")
    log(f"int8: {done} of {len(plan.errors)} layers quantized by {plan.method.upper()}")
    if done == 0:
        raise NumericsError("nothing was quantized in the Paddle program", hint="report this with the config, please")
    forms: list[Mapping] = [
        {
            "name": "pdmodel-int8",
            "engine": "paddle",
            "precision": "int8",
            "files": ["int8/inference.pdmodel", "int8/inference.pdiparams"],
            "quantized_layers": done,
        }
    ]
    for name in to:
        if name == "lite-x86":
            log("lite-x86: no int8 form, Paddle Lite's int8 kernels are for ARM")
        if not name.startswith("lite-arm") or name.endswith("fp16"):
            continue
        target = name.split("-")[1]
        try:
            files = out / "inference.pdmodel", out / "inference.pdiparams"
            forms.append(lite.convert(*files, folder, target, "int8", log))
        except lite_env.NoLite as error:
            log(f"{name}-int8: left out: {error}")
            continue
        whole = folder / f"{target}_fp32.nb"
        if whole.is_file():
            ratio = (folder / f"{target}_int8.nb").stat().st_size / whole.stat().st_size
            log(f"lite-{target}-int8: {ratio:.2f}x the size of fp32")
            if ratio > 0.9:
                raise NumericsError(f"the int8 .nb is {ratio:.2f}x the float one: nothing was quantized in it")
    if (folder / "inference.onnx").is_file() and "onnx" in to:
        positions = [names.index(name) for name in plan.kept]
        done = onnx_int8(
            folder / "inference.onnx", out / "inference.onnx", plan.tensors, plan.algorithm, positions, len(plan.errors)
        )
        log(f"onnx-int8: {done} of {len(plan.errors)} layers quantized")
        if done == 0:
            raise NumericsError("nothing was quantized in the ONNX model")
        forms.append(
            {
                "name": "onnx-int8",
                "engine": "onnxruntime",
                "precision": "int8",
                "files": ["int8/inference.onnx"],
                "quantized_layers": done,
                **tidy(out / "inference.onnx"),
            }
        )
    return forms
