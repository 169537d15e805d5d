"""What becomes int8: the settings, the photos to calibrate on, each layer's own error, the layers that stay float."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import nn

from ppmobilenet.errors import UserError, nearest
from ppmobilenet.models.family import classifier_of
from ppmobilenet.training.optim import meant
from ppmobilenet.workshop.program import writes_json

METHODS = ("ptq", "qat")
# how an activation's range is found -> (Paddle's name, ONNX Runtime's name)
ALGORITHMS = {
    "hist": ("hist", "Percentile"),  # the 99.999th percentile
    "KL": ("KL", "Entropy"),
    "abs_max": ("abs_max", "MinMax"),
    "mse": ("mse", "Percentile"),  # ONNX Runtime has no such search
}
QUANTIZABLE = (nn.Conv2D, nn.Linear)


@dataclass(frozen=True)
class Int8Settings:
    """How a network becomes int8.

    Attributes:
        method: ``"ptq"`` (post-training) or ``"qat"`` (quantization-aware fine-tuning on the training list).
        algorithm: how activation ranges are found, of :data:`ALGORITHMS`, for PTQ and for ONNX.
        photos: how many to calibrate on.
        images: a folder to calibrate on, instead of the training list.
        keep_float: patterns of layers that stay float: names of layers, of what is around them, or of their weights;
            ``gates`` means those of squeeze-excitation.
        max_layer_error: layers whose own relative error is above it stay float too; None: none.
        epochs: of QAT.
        learning_rate: of QAT.

    Raises:
        UserError: an unknown method or algorithm.
    """

    method: str = "ptq"
    algorithm: str = "hist"
    photos: int = 64
    images: str | None = None
    keep_float: Sequence[str] = ()
    max_layer_error: float | None = None
    epochs: int = 2
    learning_rate: float = 1e-4

    def __post_init__(self):
        for option, value, allowed in (("method", self.method, METHODS), ("algorithm", self.algorithm, ALGORITHMS)):
            if value not in allowed:
                raise UserError(f"unknown {option} {value!r}", where=f"--{option}", allowed=", ".join(allowed))


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


@dataclass
class Plan:
    """What int8 forms a package gets.

    Attributes:
        tensors: calibration input, float32 ``[N, 3, H, W]`` as the forms take it.
        settings: what was asked for.
        order: the names of all layers, in running order.
        errors: every layer's own error, worst first.
        kept: the layers that stay float.
        trained: with ``"qat"``, the fine-tuned network with its fake quantizers (:func:`.qat.fine_tune`).
    """

    tensors: np.ndarray
    settings: Int8Settings
    order: list[str]
    errors: list[LayerError]
    kept: list[str]
    trained: nn.Layer | None = None

    @property
    def kept_weights(self) -> list[str]:
        """The names of the weights of the layers that stay float."""
        weights = {error.layer: error.weight for error in self.errors}
        return [weights[name] for name in self.kept]

    @property
    def kept_positions(self) -> list[int]:
        """The places of these layers in running order."""
        return [self.order.index(name) for name in self.kept]

    def summary(self) -> dict:
        """Return the entry for package.json."""
        worst = [{"layer": e.layer, "error": round(e.error, 6)} for e in self.errors[:10]]
        return {
            "method": self.settings.method,
            "algorithm": self.settings.algorithm,
            "calibration_photos": len(self.tensors),
            "kept_float": self.kept,
            "layers": len(self.errors),
            "worst_layers": worst,
        }


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


def gate_layers(network: nn.Layer) -> list[str]:
    """Return the names of the layers inside of what ``gates`` a map: squeeze-excitation."""
    gates = tuple(f"{name}." for name, layer in network.named_sublayers() if getattr(layer, "gates", False))
    return [name for name, _ in quantizable_layers(network) if gates and name.startswith(gates)]


def layers_meant(network: nn.Layer, patterns: Sequence[str]) -> list[str]:
    """Return the names of the layers that patterns mean: ``gates``, ``trunk``, ``head``, or by layer or weight name.

    Raises:
        UserError: a pattern matches no layer, or they leave nothing to quantize.
    """
    weights = {name: layer.weight.name for name, layer in quantizable_layers(network)}
    kept: dict[str, None] = {}
    for pattern in patterns:
        if pattern == "gates":  # those that there are, in a network without any none
            kept.update(dict.fromkeys(gate_layers(network)))
            continue
        matched = meant(pattern, [(name, name) for name in weights], classifier_of(network))
        matched = matched or [name for name, weight in weights.items() if fnmatchcase(weight, pattern)]
        if not matched:
            tops = sorted({name.split(".")[0] for name in weights})
            near = nearest(pattern, [*tops, *weights, *weights.values()])
            raise UserError(
                f"no layer fits {pattern!r}",
                where="--keep-float",
                allowed="trunk, head, gates, or patterns of layer or weight names: " + ", ".join(tops),
                hint=f"did you mean {near!r}?" if near else None,
            )
        kept.update(dict.fromkeys(matched))
    if len(kept) == len(weights):
        raise UserError("every layer would stay float: nothing is left to quantize", where="--keep-float")
    return list(kept)


def plan_layers(network: nn.Layer, tensors: np.ndarray, settings: Int8Settings) -> Plan:
    """Measure the layers' errors and decide which of them stay float.

    Args:
        network: float; put into eval mode.
        tensors: calibration input ``[N, 3, H, W]``.
        settings: what was asked for.

    Raises:
        UserError: a pattern matches no layer, or nothing would be quantized.
    """
    kept = dict.fromkeys(layers_meant(network, settings.keep_float))
    network.eval()
    errors, most = layer_errors(network, tensors[:8]), settings.max_layer_error
    if most is not None:
        kept.update(dict.fromkeys(e.layer for e in errors if e.error > most))
    if not writes_json():
        raise UserError(
            f"int8 needs Paddle 3, this is {paddle.__version__}: its quantizers are the ones that were seen to work",
            hint="quantize with Paddle 3; the int8 package then runs anywhere",
        )
    if len(kept) == len(errors):
        raise UserError(
            f"every layer's error is above {most:g}: nothing is left to quantize",
            where="--max-layer-error",
            hint=f"the errors go from {errors[-1].error:.4f} to {errors[0].error:.4f}",
        )
    return Plan(tensors, settings, [name for name, _ in quantizable_layers(network)], errors, list(kept))
