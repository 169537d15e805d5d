"""What a network costs: parameters, multiply-adds and memory, counted from its real layers.

The counts are those of the papers: a multiply-add is one multiplication with its addition, biases and batch norm are
not counted among them (batch norm folds into the convolution before it), and an image is one image. Products of two
maps, attention's, are counted and told apart: a layer that has such says how many in ``products``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from math import ceil

import numpy as np
import paddle
from paddle import nn

from ppmobilenet.errors import UserError
from ppmobilenet.models.family import family_of
from ppmobilenet.paper.published import accuracy
from ppmobilenet.registry import MODELS
from ppmobilenet.zoo import create_model

# MobileNetV1's Table 2, and the order of ours
KINDS = ("conv 1x1", "depthwise 3x3", "conv 3x3", "fc")
# resolution multipliers that the papers sweep
RESOLUTIONS = (128, 160, 192, 224)


@dataclass(frozen=True)
class LayerCost:
    """One convolution or linear layer, or what a layer multiplies beside its layers, for one image.

    Attributes:
        name: where it stands in the model: ``"blocks.0.depthwise_conv.conv"``.
        kind: ``"conv 1x1"``, ``"depthwise 3x3"``, ``"conv 3x3"``, ``"depthwise 5x5"``, ``"fc"``, ``"attention"``.
        input_shape: (channels, height, width); (features,) of a linear layer.
        output_shape: likewise.
        weights: values of the filter alone, as MobileNetV1's Table 2 counts parameters.
        parameters: weights, bias, and scale and offset of the batch norm behind it.
        madds: multiply-adds.
        live: values in memory while it runs: input, output, and the input of the shortcut it stands under; the last
            layer of a gate stands for its multiplication, too: the map, the gate and the product.
        dead_filters: depthwise filters that are zero throughout; None for other kinds.
        unit: the inverted residual it belongs to; a stem in front of the first one belongs to that.
        gate: the squeeze-excitation it belongs to.
    """

    name: str
    kind: str
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    weights: int
    parameters: int
    madds: int
    live: int
    dead_filters: int | None = None
    unit: str | None = None
    gate: str | None = None


@dataclass(frozen=True)
class Cost:
    """A network at one resolution; made by :func:`cost_of`.

    Attributes:
        layers: in the order they run.
        resolution: (height, width) of the image.
    """

    layers: tuple[LayerCost, ...]
    resolution: tuple[int, int]

    @property
    def parameters(self) -> int:
        """Trainable parameters."""
        return sum(layer.parameters for layer in self.layers)

    @property
    def madds(self) -> int:
        """Multiply-adds of one image."""
        return sum(layer.madds for layer in self.layers)

    @property
    def products(self) -> int:
        """Those of them that multiply two maps: attention's, which PaddleClas's figures leave out."""
        return sum(layer.madds for layer in self.layers if layer.kind == "attention")

    @property
    def paper_madds(self) -> int:
        """Multiply-adds of the paper's network, whose first inverted residual (t = 1) has no expansion.

        Published figures of MobileNetV2 (300 million) count that network; Paddle's has a 1x1 convolution more there.
        """
        return self.madds - sum(
            unit[0].madds
            for unit in ([row for row in rows if row.kind != "conv 3x3"] for rows in self._units().values())
            if len(unit) > 1 and unit[0].kind == "conv 1x1" and unit[0].input_shape == unit[0].output_shape
        )

    def split(self) -> list[dict]:
        """Return MobileNetV1's Table 2: per kind of layer, weights and multiply-adds with their shares in percent."""
        weights = sum(layer.weights for layer in self.layers)
        rows = []
        for kind in sorted({layer.kind for layer in self.layers}, key=_kind_order):
            mine = [layer for layer in self.layers if layer.kind == kind]
            row = {"kind": kind, "layers": len(mine)}
            row["madds"] = sum(layer.madds for layer in mine)
            row["madds_percent"] = 100 * row["madds"] / self.madds
            row["weights"] = sum(layer.weights for layer in mine)
            row["weights_percent"] = 100 * row["weights"] / weights
            rows.append(row)
        return rows

    @property
    def branch(self) -> str | None:
        """The first layer whose input is not what came before it: what is held meanwhile, nothing tells.

        A unit with ``shortcut``, a module with ``gates`` and pooling are known; other branches are not.
        """
        chain = [layer for layer in self.layers if not layer.gate]
        for before, layer in zip(chain, chain[1:]):
            pooled = layer.input_shape[0] == before.output_shape[0] and _size(layer.input_shape[1:]) == 1
            if layer.input_shape != before.output_shape and not pooled:
                return layer.name
        return None

    def peak(self, split: int = 1) -> tuple[int, str] | None:
        """Return the most values in memory at one time, for one image, and the layer or unit where that is.

        Eq. 3 of the MobileNetV2 paper: the largest sum of a layer's inputs and outputs, shortcuts included, each
        convolution being one operation with its batch norm and activation.

        Args:
            split: compute each inverted residual in this many slices of its expanded channels (section 5.1 of the
                paper), the stem being a part of the first; so only a slice of the expanded tensors is ever held.
                A unit with a gate is computed undivided: each of its channels depends on all.

        Returns:
            None for a network with a :attr:`branch`.
        """
        if self.branch:
            return None
        undivided = {layer.unit for layer in self.layers if layer.gate} | {None}
        rows = [(layer.live, layer.name) for layer in self.layers if split == 1 or layer.unit in undivided]
        if split > 1:
            for name, unit in self._units().items():
                if name in undivided:
                    continue
                sliced = sum(_sliced(layer.output_shape, split) for layer in unit[:-1])
                rows.append((_size(unit[0].input_shape) + _size(unit[-1].output_shape) + sliced, name))
        return max(rows, key=lambda row: row[0])

    def memory_by_resolution(self, split: int = 1) -> list[dict]:
        """Return the MobileNetV2 paper's Table 3: the largest tensor at each spatial size.

        Unlike the paper it lists the image, and MobileNetV2's last 1x1 convolution (1280 channels) at its size.

        Args:
            split: as in :meth:`peak`; a large number leaves what the paper counts, the bottlenecks alone.
        """
        last_of_unit = {unit[-1].name for unit in self._units().values()}
        largest: dict[tuple[int, int], dict] = {}
        tensors = [("image", (3, *self.resolution), False)]
        for layer in self.layers:
            if layer.gate:
                continue
            if layer.kind == "fc":
                tensors.append(("pooled features", layer.input_shape, False))
            tensors.append((layer.name, layer.output_shape, layer.unit is not None and layer.name not in last_of_unit))
        for name, shape, inner in tensors:
            channels = ceil(shape[0] / split) if inner else shape[0]
            size = (shape[1], shape[2]) if len(shape) == 3 else (1, 1)
            values = channels * size[0] * size[1]
            if size not in largest or values > largest[size]["values"]:
                row = {"height": size[0], "width": size[1], "channels": channels, "values": values, "layer": name}
                largest[size] = row
        return list(largest.values())

    def separable(self) -> list[dict]:
        """Return, for each depthwise convolution and the 1x1 behind it, the cost relative to a standard convolution."""
        rows = []
        chain = [layer for layer in self.layers if not layer.gate]
        for depthwise, pointwise in zip(chain, chain[1:]):
            follows = depthwise.output_shape == pointwise.input_shape
            if follows and depthwise.kind.startswith("depthwise") and pointwise.kind == "conv 1x1":
                m, (n, height, width) = depthwise.input_shape[0], pointwise.output_shape
                k = int(depthwise.kind.split("x")[-1])
                pair = depthwise.madds + pointwise.madds
                rows.append({"layer": depthwise.name, "ratio": pair / (height * width * m * n * k * k)})
        return rows

    def _units(self) -> dict[str, list[LayerCost]]:
        units: dict[str, list[LayerCost]] = {}
        for layer in self.layers:
            if layer.unit:
                units.setdefault(layer.unit, []).append(layer)
        return units

    def to_dict(self, split: int = 1, batch: int = 1, bits: int = 32) -> dict:
        """Return everything as plain values for JSON; memory in bytes of ``bits`` bits for ``batch`` images."""
        scale = batch * bits // 8
        peak, where = self.peak(split) or (None, None)
        unknown = f"{self.branch} takes another map than the one before it gave, so what is held meanwhile is not known"
        by_resolution = self.memory_by_resolution(split)
        return {
            "resolution": list(self.resolution),
            "batch": batch,
            "bits": bits,
            "split": split,
            "parameters": self.parameters,
            "madds": self.madds,
            "products": self.products,
            "paper_madds": self.paper_madds,
            "model_bytes": self.parameters * bits // 8,
            "peak_activation_bytes": None if peak is None else peak * scale,
            "peak_at": where,
            "left_out": {"peak memory": unknown} if peak is None else {},
            "by_kind": self.split(),
            "by_resolution": [{**row, "bytes": row["values"] * scale} for row in by_resolution],
            "separable": self.separable(),
            "dead_filters": {row.name: row.dead_filters for row in self.layers if row.dead_filters},
            "layers": [{**asdict(row), "activation_bytes": _size(row.output_shape) * scale} for row in self.layers],
        }


def cost_of(model: nn.Layer, resolution: int | tuple[int, int] = 224) -> Cost:
    """Run one image of zeros through ``model`` and count what each convolution and linear layer does.

    Args:
        model: any network of convolutions, batch norms and linear layers; it comes back in the mode it was in.
        resolution: side of the image, or (height, width).
    """
    height, width = (resolution, resolution) if isinstance(resolution, int) else resolution
    counter = _Counter()
    hooks = []
    for name, layer in model.named_sublayers():
        if layer._parameters:
            hooks.append(layer.register_forward_post_hook(partial(counter.count, name)))
        if hasattr(layer, "products"):
            hooks.append(layer.register_forward_post_hook(partial(counter.multiply, name)))
        for role in ("shortcut", "gates"):
            if hasattr(layer, role):
                hooks.append(layer.register_forward_pre_hook(partial(counter.enter, name, role)))
                hooks.append(layer.register_forward_post_hook(partial(counter.leave, role)))
    training = model.training
    model.eval()
    try:
        with paddle.no_grad():
            model(paddle.zeros([1, 3, height, width]))
    finally:
        for hook in hooks:
            hook.remove()
        if training:
            model.train()
    return Cost(tuple(LayerCost(**row) for row in counter.rows), (height, width))


class _Counter:
    """Called by a network's layers as they run; ``rows`` become the layers' costs."""

    def __init__(self):
        self.rows: list[dict] = []
        # the blocks that are running, if any: with a shortcut or without, and gates
        self.running: dict[str, list[dict]] = {"shortcut": [], "gates": []}

    def count(self, name, layer, inputs, output):
        if not isinstance(layer, (nn.Conv2D, nn.Linear)):  # a batch norm, a factor of each channel
            own = layer.parameters(include_sublayers=False)
            self.rows[-1]["parameters"] += sum(_size(p.shape) for p in own if not p.stop_gradient)
            return
        unit, gate = (blocks[-1] if blocks else None for blocks in self.running.values())
        shape_in, shape_out = _shape(layer, inputs[0]), _shape(layer, output)
        weights = _size(layer.weight.shape)
        held = sum(block["held"] for block in (unit, gate) if block)
        self.rows.append(
            {
                "name": name,
                "kind": _kind(layer),
                "input_shape": shape_in,
                "output_shape": shape_out,
                "weights": weights,
                "parameters": weights + (0 if layer.bias is None else _size(layer.bias.shape)),
                "madds": weights * _size(shape_out[1:]),
                "live": _size(shape_in) + _size(shape_out) + held,
                "dead_filters": _dead_filters(layer),
                "unit": unit["name"] if unit else None,
                "gate": gate["name"] if gate else None,
            }
        )
        if unit and unit["adds"]:
            unit["held"] = unit["input"]  # the first layer's input is the shortcut's: held from the second on

    def multiply(self, name, layer, inputs, output):
        """Enter what a layer multiplies beside its layers, behind them."""
        maps = _shape(layer, inputs[0]), _shape(layer, output)
        row = {"name": name, "kind": "attention", "weights": 0, "parameters": 0, "madds": layer.products(maps[0])}
        unit = self.running["shortcut"][-1]["name"] if self.running["shortcut"] else None
        self.rows.append({**row, "input_shape": maps[0], "output_shape": maps[1], "live": 0, "unit": unit})

    def enter(self, name, role, layer, inputs):
        if role == "shortcut" and len(self.rows) == 1:
            self.rows[0]["unit"] = name
        size = _size(inputs[0].shape[1:])
        adds = role == "shortcut" and layer.shortcut
        self.running[role].append({"name": name, "input": size, "adds": adds, "held": size if role == "gates" else 0})

    def leave(self, role, layer, inputs, output):
        block = self.running[role].pop()
        if role == "gates" and self.rows and self.rows[-1]["gate"] == block["name"]:
            around = sum(unit["held"] for unit in self.running["shortcut"])
            product = 2 * block["input"] + _size(self.rows[-1]["output_shape"]) + around
            self.rows[-1]["live"] = max(self.rows[-1]["live"], product)


def sweep(family: str, alphas: Sequence[float] = (), resolutions: Sequence[int] = RESOLUTIONS, **kwargs) -> list[dict]:
    """Return the cost at each width multiplier alpha and resolution, with the published accuracy where there is one.

    Args:
        family: a name of :func:`ppmobilenet.list_models` that leaves the scale open.
        alphas: width multipliers; default the published ones.
        resolutions: sides of the image, rho times 224.
        **kwargs: of :func:`ppmobilenet.create_model`.
    """
    open_scale = [name for name in MODELS if "scale" in MODELS.parameters(name)]
    if family not in open_scale:
        allowed = " or ".join(sorted(open_scale))
        raise UserError(f"no sweep of {family!r}", allowed=allowed, hint="it varies the scale itself")
    rows = []
    for alpha in alphas or family_of(family).scales(family):
        model = create_model(family, scale=alpha, **kwargs)
        for resolution in resolutions:
            cost = cost_of(model, resolution)
            peak = cost.peak()
            best = max(accuracy(family, alpha, resolution), key=lambda row: row.top1, default=None)
            rows.append(
                {
                    "model": family,
                    "alpha": alpha,
                    "rho": resolution / 224,
                    "resolution": resolution,
                    "parameters": cost.parameters,
                    "madds": cost.madds,
                    "peak_activation_bytes": peak and peak[0] * 4,
                    "top1": best.top1 if best else None,
                    "source": best.source if best else None,
                }
            )
    return rows


def _size(shape) -> int:
    return int(np.prod(shape))


def _sliced(shape, split: int) -> int:
    return ceil(shape[0] / split) * _size(shape[1:])


def _shape(layer, tensor) -> tuple[int, ...]:
    """Shape of one image's tensor, channels first."""
    shape = tuple(tensor.shape[1:])
    return (shape[-1], *shape[:-1]) if getattr(layer, "_data_format", "NCHW") == "NHWC" else shape


def _kind(layer) -> str:
    if isinstance(layer, nn.Linear):
        return "fc"
    c_in, (_, per_group, height, width) = layer._in_channels, layer.weight.shape
    depthwise = per_group == 1 and c_in > 1
    return f"{'depthwise' if depthwise else 'conv'} {height}x{width}"


def _kind_order(kind: str) -> tuple[int, str]:
    return (KINDS.index(kind) if kind in KINDS else len(KINDS), kind)


def _dead_filters(layer) -> int | None:
    if not _kind(layer).startswith("depthwise"):
        return None
    weights = layer.weight.numpy()
    return int(np.sum(~weights.reshape(len(weights), -1).any(axis=1)))
