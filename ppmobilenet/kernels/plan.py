"""From layers to the steps of a run: what the engine can take, found by structure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import paddle.nn.functional as F
from paddle import nn

DENSE3, POINTWISE, DEPTHWISE = range(3)  # Kind in src/run.h
NO_RESIDUAL = -2
ACTIVATIONS = {None: 0, F.relu: 1, F.relu6: 2}


class Unsupported(Exception):
    """These layers are not of a kind the engine knows; the message says which and why."""


@dataclass(frozen=True)
class Step:
    """One convolution with its batch norm and activation; ``residual``: the step whose output is added, or -1, -2."""

    conv: nn.Conv2D
    norm: nn.BatchNorm2D
    kind: int
    activation: int
    residual: int

    @property
    def stride(self) -> int:
        return self.conv._stride[0]

    @property
    def c_in(self) -> int:
        return self.conv._in_channels

    @property
    def c_out(self) -> int:
        return self.conv._out_channels

    @property
    def running(self) -> bool:
        """Normalise with the running statistics."""
        fixed = self.norm._use_global_stats
        return not self.norm.training if fixed is None else bool(fixed)

    @property
    def parameters(self):
        return self.conv.weight, self.norm.weight, self.norm.bias


def plan(units: Iterable[nn.Layer]) -> list[Step]:
    """Return the steps of layers that are called one after the other.

    A unit is a convolution with batch norm, or a chain of such layers in the order they were made, with the shortcut
    of an inverted residual where it has one.

    Raises:
        Unsupported: with the first unit that is something else.
    """
    steps: list[Step] = []
    for unit in units:
        layers = _conv_norm_layers(unit)
        start = len(steps) - 1
        shortcut = bool(getattr(unit, "shortcut", False))
        for layer in layers:
            residual = start if shortcut and layer is layers[-1] else NO_RESIDUAL
            steps.append(_step(layer, first=not steps, residual=residual))
        if shortcut and (steps[-1].activation or steps[start + 1].kind != POINTWISE):
            raise Unsupported(f"{type(unit).__name__}: a shortcut around other than expand, filter, project")
    if not steps:
        raise Unsupported("no layers")
    return steps


def _is_conv_norm(layer: nn.Layer) -> bool:
    kinds = [type(child) for child in layer.children()]
    return kinds == [nn.Conv2D, nn.BatchNorm2D] and hasattr(layer, "_activation")


def _conv_norm_layers(unit: nn.Layer) -> list[nn.Layer]:
    layers = [unit] if _is_conv_norm(unit) else list(unit.children())
    for layer in layers:
        if not _is_conv_norm(layer):
            leaves = sorted({type(part).__name__ for part in unit.sublayers(include_self=True) if not part.sublayers()})
            raise Unsupported(f"{type(unit).__name__} holds {', '.join(leaves)}, not pairs of Conv2D and BatchNorm2D")
    return layers


def _step(layer: nn.Layer, *, first: bool, residual: int) -> Step:
    conv, norm = layer.children()
    kernel, stride, padding = tuple(conv._kernel_size), tuple(conv._stride), conv._updated_padding
    padding = (padding,) * 2 if isinstance(padding, int) else tuple(padding)
    plain = (
        conv.bias is None
        and tuple(conv._dilation) == (1, 1)
        and conv._padding_mode == "zeros"
        and conv._data_format == norm._data_format == "NCHW"
        and norm.weight is not None
        and norm.bias is not None
        and layer._activation in ACTIVATIONS
    )
    if plain and conv._groups == 1 and kernel == (1, 1) and stride == (1, 1) and padding == (0, 0):
        kind = POINTWISE
    elif plain and kernel == (3, 3) and padding == (1, 1) and stride in ((1, 1), (2, 2)):
        if conv._groups == conv._in_channels == conv._out_channels:
            kind = DEPTHWISE
        elif conv._groups == 1 and first:
            kind = DENSE3
        else:
            raise Unsupported(f"a 3x3 convolution with {conv._groups} groups inside the network")
    else:
        raise Unsupported(f"a convolution of another kind: {conv}")
    return Step(conv, norm, kind, ACTIVATIONS[layer._activation], residual)
