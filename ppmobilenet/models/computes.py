"""What a layer's forward computes, said as data, so that something else can compute it: see :mod:`ppmobilenet.kernels`.

A class that writes a ``forward`` may say beside it what that is, ``computes = Chain("expand_conv", "linear_conv")``. It
holds for that forward alone: a subclass with a forward of its own has said nothing until it says it anew.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ConvNorm:
    """A convolution without bias, a batch norm, an activation or none.

    The class names the first two in ``CONV`` and ``NORM``; the layer holds the function in ``_activation``.

    Attributes:
        then: attributes that hold the layers called after it, in order; one that is None is left out.
    """

    then: tuple[str, ...] = ()


@dataclass(frozen=True)
class Chain:
    """Layers called one after the other; the input is added at the end if the layer's ``shortcut`` is true.

    Attributes:
        layers: attributes that hold them, in order; one that is None is left out.
    """

    layers: tuple[str, ...]

    def __init__(self, *layers: str):
        object.__setattr__(self, "layers", layers)


@dataclass(frozen=True)
class Gate:
    """Squeeze-excitation: ``x * hardsigmoid(conv2(relu(conv1(avg_pool(x)))), slope=_slope)``."""


@dataclass(frozen=True)
class ChannelScale:
    """``x * gamma``, a factor for each channel."""


@dataclass(frozen=True)
class PathDrop:
    """In training a photo's map becomes zero or is divided by ``1 - _rate``: ``factors(photos)`` draws by what."""
