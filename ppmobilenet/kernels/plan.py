"""From layers to the steps of a run: what the engine can take, found by structure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import paddle.nn.functional as F
from paddle import nn

DENSE3, POINTWISE, DEPTHWISE = range(3)  # Kind in src/run.h
NO_RESIDUAL = -2
ACTIVATIONS = {None: 0, F.relu: 1, F.relu6: 2}

# whose forward() the steps stand for: a class from elsewhere may look alike and compute something else
OURS, STOCK = "ppmobilenet.models.", "paddle.nn.layer."


class Unsupported(Exception):
    """These layers are not of a kind the engine knows; the message says which and why."""


@dataclass(frozen=True)
class Step:
    """One convolution with its batch norm and activation; ``residual``: the step whose output is added, or -1, -2."""

    conv: nn.Conv2D
    norm: nn.BatchNorm2D
    kind: int
    stride: int
    activation: int
    residual: int
    c_in: int
    c_out: int

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
    of an inverted residual where it has one. Channels are those of the weights, not what the layer was made with.

    Raises:
        Unsupported: with the first unit that is something else, or that somebody changed or watches.
    """
    steps: list[Step] = []
    for unit in units:
        layers = _conv_norm_layers(unit)
        start = len(steps) - 1
        shortcut = bool(getattr(unit, "shortcut", False))
        for layer in layers:
            residual = start if shortcut and layer is layers[-1] else NO_RESIDUAL
            steps.append(_step(layer, before=steps[-1] if steps else None, residual=residual))
        if shortcut and (steps[-1].activation or steps[start + 1].kind != POINTWISE):
            raise Unsupported(f"{type(unit).__name__}: a shortcut around other than expand, filter, project")
    if not steps:
        raise Unsupported("no layers")
    return steps


def check_around(model: nn.Layer, units: Iterable[nn.Layer]) -> None:
    """Refuse a model in which a layer that holds units (a stage, a list) was changed or is watched.

    What holds none, the head's layers, is called as ever and may be anything.

    Raises:
        Unsupported: with the first such layer.
    """
    inner = {id(unit) for unit in units}

    def holds_units(layer: nn.Layer) -> bool:
        found = False
        for child in layer._sub_layers.values():
            if id(child) in inner:
                found = True
            elif isinstance(child, nn.Layer) and holds_units(child):
                check_untouched(child, (OURS, STOCK))
                found = True
        return found

    holds_units(model)


def form(unit: nn.Layer) -> tuple:
    """What a unit is made of: two units of one form differ in numbers only."""
    return (
        type(unit),
        type(unit).forward,
        *((name, form(child)) for name, child in unit._sub_layers.items()),
    )


def _is_conv_norm(layer: nn.Layer) -> bool:
    kinds = [type(child) for child in layer._sub_layers.values()]
    return kinds == [nn.Conv2D, nn.BatchNorm2D] and hasattr(layer, "_activation")


def _conv_norm_layers(unit: nn.Layer) -> list[nn.Layer]:
    layers = [unit] if _is_conv_norm(unit) else list(unit._sub_layers.values())
    for layer in layers:
        if not isinstance(layer, nn.Layer) or not _is_conv_norm(layer):
            leaves = sorted({type(part).__name__ for part in unit.sublayers(include_self=True) if not part.sublayers()})
            raise Unsupported(f"{type(unit).__name__} holds {', '.join(leaves)}, not pairs of Conv2D and BatchNorm2D")
        check_untouched(layer, OURS)
    if layers != [unit]:
        check_untouched(unit, OURS)
    return layers


def check_untouched(layer: nn.Layer, home: str | tuple[str, ...]) -> None:
    """Refuse a layer that computes something else than a class of ``home`` does, or that has hooks."""
    kind = type(layer)
    if not kind.forward.__module__.startswith(home) or kind.__call__ is not nn.Layer.__call__:
        raise Unsupported(f"{kind.__name__} has a forward of its own")
    if "forward" in layer.__dict__:
        raise Unsupported(f"the forward of a {kind.__name__} was replaced")
    if layer._forward_pre_hooks or layer._forward_post_hooks:
        raise Unsupported(f"a {kind.__name__} has hooks")


def _step(layer: nn.Layer, *, before: Step | None, residual: int) -> Step:
    conv, norm = layer._sub_layers.values()
    for part in (conv, norm):
        check_untouched(part, STOCK)
    kernel, stride, padding = tuple(conv._kernel_size), tuple(conv._stride), conv._updated_padding
    padding = (padding,) * 2 if isinstance(padding, int) else tuple(padding)
    shape = tuple(conv.weight.shape)
    plain = (
        conv.bias is None
        and tuple(conv._dilation) == (1, 1)
        and conv._padding_mode == "zeros"
        and conv._data_format == norm._data_format == "NCHW"
        and norm.weight is not None
        and norm.bias is not None
        and isinstance(norm._epsilon, float)
        and isinstance(norm._momentum, (float, int))
        and layer._activation in ACTIVATIONS
        and len(shape) == 4
        and shape[2:] == kernel
    )
    c_out, c_in = shape[0], shape[1] * conv._groups if len(shape) == 4 else 0
    if plain and conv._groups == 1 and kernel == (1, 1) and stride == (1, 1) and padding == (0, 0):
        kind = POINTWISE
    elif plain and kernel == (3, 3) and padding == (1, 1) and stride in ((1, 1), (2, 2)):
        if conv._groups == c_in == c_out:
            if before is not None and before.residual != NO_RESIDUAL:
                raise Unsupported("a depthwise convolution of a sum")
            kind = DEPTHWISE
        elif conv._groups == 1 and before is None:
            kind = DENSE3
        else:
            raise Unsupported(f"a 3x3 convolution with {conv._groups} groups inside the network")
    else:
        raise Unsupported(f"a convolution of another kind: {conv}")
    if before is not None and before.c_out != c_in:
        raise Unsupported(f"a convolution of {c_in} channels after one that gives {before.c_out}")
    return Step(conv, norm, kind, stride[0], ACTIVATIONS[layer._activation], residual, c_in, c_out)
