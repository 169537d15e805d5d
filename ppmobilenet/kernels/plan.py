"""From layers to what computes them: runs of steps that the engine takes, and units left to stock operators.

What a unit computes is what its class says beside its forward (:mod:`ppmobilenet.models.computes`); whether the engine
can do that is asked of the layers as they are now.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from types import FunctionType

import paddle.nn.functional as F
from paddle import nn

from ppmobilenet.models.computes import Chain, ChannelScale, ConvNorm, Gate, PathDrop

DENSE, POINTWISE, DEPTHWISE = range(3)
NO_RESIDUAL = -2
ACTIVATIONS = {None: 0, F.relu: 1, F.relu6: 2, F.hardswish: 3}
SAME = "SAME"  # TensorFlow's padding, which depends on the size of the map

# where the forwards are that are known: a class from elsewhere may look alike and compute something else
OURS, STOCK = "ppmobilenet.models.", "paddle.nn.layer."
CODE = (FunctionType, property, staticmethod, classmethod)
HARMLESS = {"__init__", "__repr__", "extra_repr"}


class Unsupported(Exception):
    """These layers are not of a kind the engine knows; the message says which and why."""


@dataclass(frozen=True)
class Step:
    """One convolution with its batch norm and activation, and what its map is multiplied by and added to.

    ``residual``: the step whose output is added, or -1 (the run's input), -2 (none). ``gate``, ``scale``, ``drop``: the
    layers whose factor follows the activation, None where there is none.
    """

    conv: nn.Conv2D
    norm: nn.BatchNorm2D
    kind: int
    kernel: int
    stride: int
    padding: int | str
    activation: int
    c_in: int
    c_out: int
    residual: int = NO_RESIDUAL
    gate: nn.Layer | None = None
    scale: nn.Layer | None = None
    drop: nn.Layer | None = None

    @property
    def running(self) -> bool:
        """Normalise with the running statistics."""
        fixed = self.norm._use_global_stats
        return not self.norm.training if fixed is None else bool(fixed)

    @functools.cached_property  # a lookup in a layer costs more than the rest of what a step asks of Python
    def trained(self) -> tuple:
        """What may have gradients, None where this step has no such tensor; the order of ``Trained`` in src/run.h."""
        gate = (None,) * 4
        if self.gate is not None:
            gate = tuple(p for conv in (self.gate.conv1, self.gate.conv2) for p in (conv.weight, conv.bias))
        return (self.conv.weight, self.norm.weight, self.norm.bias, *gate, self.scale and self.scale.gamma)

    @functools.cached_property
    def statistics(self) -> tuple:
        """The running mean and variance."""
        return self.norm._mean, self.norm._variance


@dataclass
class Part:
    """Units that follow one another: the steps of all of them; or one unit that has none, and why."""

    units: list[nn.Layer]
    steps: list[Step]
    reason: str = ""


def plan(units: Iterable[nn.Layer], known: Collection[tuple] | None = None) -> list[Part]:
    """Return the parts of layers that are called one after the other, with runs of steps as long as can be.

    Args:
        units: the layers.
        known: see :func:`kinds`; a unit with a layer of another kind is left to stock operators.
    """
    parts: list[Part] = []
    for unit in units:
        steps = parts[-1].steps if parts else []
        try:
            more = _steps(unit, steps, known)
        except Unsupported as reason:
            parts.append(Part([unit], [], str(reason)))
            continue
        if steps:
            parts[-1].units.append(unit)
            steps += more
        else:
            parts.append(Part([unit], more))
    return parts


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
                _check_untouched(child, (OURS, STOCK))
                found = True
        return found

    holds_units(model)


def check_code(layer: nn.Layer, author: type, free: Collection[str] = ()) -> None:
    """Refuse a layer in which something may have been replaced that its author's forward calls.

    Args:
        layer: of the class ``author`` or one derived from it.
        author: the class that wrote the forward.
        free: names that may be replaced.

    Raises:
        Unsupported: with the names.
    """
    kind = type(layer)
    written, changed = _code(kind, author)
    for c, names in changed:
        if not names.isdisjoint(written.difference(free)):
            raise Unsupported(f"{c.__name__} has its own {', '.join(sorted(names.difference(free)))}")
    own = sorted((written - {"forward", *free}).intersection(layer.__dict__))
    if own:
        raise Unsupported(f"{', '.join(own)} of this {kind.__name__} was replaced")


@functools.lru_cache(maxsize=256)
def _code(kind: type, author: type) -> tuple[frozenset[str], list[tuple[type, set[str]]]]:
    """The names of the code that ``author`` and its bases wrote, and what classes from elsewhere put in its place."""
    line = kind.__mro__[: kind.__mro__.index(nn.Layer)]
    at = line.index(author)
    written = {name for c in line[at:] for name, value in vars(c).items() if isinstance(value, CODE)} - HARMLESS
    return frozenset(written), [(c, written & set(vars(c))) for c in line[:at] if not c.__module__.startswith(OURS)]


def kinds(units: Iterable[nn.Layer]) -> frozenset[tuple]:
    """The classes that units are made of, each with its forward."""
    return frozenset(
        (type(layer), type(layer).forward) for unit in units for layer in unit.sublayers(include_self=True)
    )


def _steps(unit: nn.Layer, before: Sequence[Step], known: Collection[tuple] | None) -> list[Step]:
    """The steps of a unit that reads what ``before`` wrote."""
    what = _computes(unit, known)
    if isinstance(what, ConvNorm):
        layers, added = [unit, *_children(unit, what.then)], False
    elif isinstance(what, Chain):
        layers, added = _children(unit, what.layers), bool(getattr(unit, "shortcut", False))
    else:
        raise Unsupported(f"a {type(unit).__name__} by itself")
    steps: list[Step] = []
    for layer in layers:
        kind = what if layer is unit else _computes(layer, known)
        if isinstance(kind, ConvNorm) and (layer is unit or not kind.then):
            steps.append(_convolution(layer, steps[-1] if steps else before[-1] if before else None))
        elif isinstance(kind, (Gate, ChannelScale, PathDrop)) and steps:
            steps[-1] = _with_factor(steps[-1], layer, kind)
        else:
            raise Unsupported(f"a {type(layer).__name__} inside a {type(unit).__name__}")
    if added:
        if len(steps) < 2 or steps[-1].activation or steps[-1].gate is not None:
            raise Unsupported(f"{type(unit).__name__}: a shortcut around one step, or to an activation")
        steps[-1] = replace(steps[-1], residual=len(before) - 1)
    return steps


def _children(unit: nn.Layer, names: Iterable[str]) -> list[nn.Layer]:
    found = [getattr(unit, name, None) for name in names]
    return [layer for layer in found if layer is not None]


def _computes(layer: object, known: Collection[tuple] | None) -> object:
    """What the class of a layer says its forward computes, if nobody has changed or watches the layer."""
    kind = type(layer)
    author = next((c for c in kind.__mro__ if "forward" in vars(c)), None)
    if not isinstance(layer, nn.Layer) or "computes" not in vars(author):
        raise Unsupported(f"{kind.__name__} has a forward of its own")
    if known is not None and (kind, kind.forward) not in known:
        raise Unsupported(f"a {kind.__name__} that was put in later")
    _check_untouched(layer, author.__module__)
    check_code(layer, author)
    return vars(author)["computes"]


def _check_untouched(layer: nn.Layer, home: str | tuple[str, ...]) -> None:
    """Refuse a layer that computes something else than a class of ``home`` does, or that has hooks."""
    kind = type(layer)
    if not kind.forward.__module__.startswith(home) or kind.__call__ is not nn.Layer.__call__:
        raise Unsupported(f"{kind.__name__} has a forward of its own")
    if "forward" in layer.__dict__:
        raise Unsupported(f"the forward of a {kind.__name__} was replaced")
    if layer._forward_pre_hooks or layer._forward_post_hooks:
        raise Unsupported(f"a {kind.__name__} has hooks")


def _part(layer: nn.Layer, name: str, kind: type) -> nn.Layer:
    """A layer of Paddle's inside of one of ours."""
    part = layer._sub_layers.get(name)
    if type(part) is not kind:
        raise Unsupported(f"{type(layer).__name__} holds a {type(part).__name__}, not a {kind.__name__}")
    _check_untouched(part, STOCK)
    return part


def _is_plain(conv: nn.Conv2D) -> bool:
    shape = conv._parameters["weight"].shape
    return (
        tuple(conv._dilation) == (1, 1)
        and conv._padding_mode == "zeros"
        and conv._data_format == "NCHW"
        and len(shape) == 4
        and tuple(shape[2:]) == tuple(conv._kernel_size)
    )


def _padding(conv: nn.Conv2D) -> object:
    """Zeros on every side, ``SAME``, or something else."""
    if conv._padding_algorithm != "EXPLICIT":
        return conv._padding_algorithm
    sides = conv._updated_padding
    sides = {sides} if isinstance(sides, int) else set(sides)
    return sides.pop() if len(sides) == 1 else None


def _convolution(layer: nn.Layer, before: Step | None) -> Step:
    """A convolution with batch norm and activation. Channels are those of the weights, not what it was made with."""
    conv, norm = _part(layer, layer.CONV, nn.Conv2D), _part(layer, layer.NORM, nn.BatchNorm2D)
    kernel, stride, padding = conv._kernel_size[0], conv._stride[0], _padding(conv)
    plain = (
        _is_plain(conv)
        and conv._parameters.get("bias") is None
        and tuple(conv._kernel_size) == (kernel, kernel)
        and tuple(conv._stride) == (stride, stride)
        and norm._data_format == "NCHW"
        and norm._parameters.get("weight") is not None
        and norm._parameters.get("bias") is not None
        and isinstance(norm._epsilon, float)
        and isinstance(norm._momentum, (float, int))
        and layer._activation in ACTIVATIONS
    )
    shape = conv._parameters["weight"].shape
    c_out, c_in = (shape[0], shape[1] * conv._groups) if plain else (0, 0)
    wide = kernel in (3, 5) and stride in (1, 2) and padding in (kernel // 2, SAME)
    if plain and conv._groups == kernel == stride == 1 and padding in (0, SAME):
        kind, padding = POINTWISE, 0
    elif plain and wide and conv._groups == c_in == c_out and c_in > 1:
        kind = DEPTHWISE
    elif plain and wide and conv._groups == 1:
        kind = DENSE
    else:
        raise Unsupported(f"a convolution of another kind: {conv}")
    if before is not None and before.c_out != c_in:
        raise Unsupported(f"a convolution of {c_in} channels after one that gives {before.c_out}")
    activation = ACTIVATIONS[layer._activation]
    return Step(conv, norm, kind, kernel, stride, padding, activation, c_in, c_out)


def _with_factor(step: Step, layer: nn.Layer, kind: object) -> Step:
    """The step, followed by a layer that multiplies its map."""
    factors = [f for f in (step.gate, step.scale, step.drop) if f is not None]
    if isinstance(kind, PathDrop):
        if step.gate is not None or step.drop is not None:
            raise Unsupported("a path dropped twice, or behind a gate")
        return replace(step, drop=layer) if layer.training else step
    if factors:
        raise Unsupported(f"a {type(layer).__name__} after another factor")
    if isinstance(kind, ChannelScale):
        if list(layer.gamma.shape) != [step.c_out] or layer._shape != [1, -1, 1, 1]:
            raise Unsupported(f"a {type(layer).__name__} of another shape")
        return replace(step, scale=layer)
    pool = _part(layer, "avg_pool", nn.AdaptiveAvgPool2D)
    convs = [_part(layer, name, nn.Conv2D) for name in ("conv1", "conv2")]
    plain = all(_is_plain(c) and c.bias is not None and c._groups == c._stride[0] == c._stride[1] == 1 for c in convs)
    squeezed = convs[0].weight.shape[0]
    shapes = [list(c.weight.shape) for c in convs]
    if not (
        plain
        and pool._output_size in (1, [1, 1], (1, 1))
        and pool._data_format == "NCHW"
        and shapes == [[squeezed, step.c_out, 1, 1], [step.c_out, squeezed, 1, 1]]
        and all(_padding(c) in (0, SAME) for c in convs)
        and layer._slope > 0
    ):
        raise Unsupported(f"a {type(layer).__name__} of another kind")
    return replace(step, gate=layer)
