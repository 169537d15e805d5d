"""A family that is not in the package: squeeze-excitation, 5x5 filters, hard-swish, a classifier of another name.

What somebody writes who adds a network: the network from the shared layers, the family as a value, where its files
keep its tensors. ``registered()`` makes it known and takes it back.
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from functools import partial

from paddle import nn

from ppmobilenet.models import FAMILIES, Family, register
from ppmobilenet.models.family import VARIANTS
from ppmobilenet.models.layers import ConvBNLayer, SqueezeExcitation
from ppmobilenet.models.network import Network
from ppmobilenet.models.widths import scaled_width
from ppmobilenet.weights import layouts
from ppmobilenet.weights.schemes import Scheme

# expansion, channels out, stride
BLOCKS = ((2, 16, 2), (3, 16, 1), (3, 24, 2))


class GatedUnit(nn.Layer):
    """Expand 1x1, depthwise 5x5, gate, project 1x1."""

    def __init__(self, c_in: int, t: int, c_out: int, stride: int, *, name: str, activation: str, data_format: str):
        super().__init__()
        inner, common = c_in * t, {"activation": activation, "data_format": data_format}
        self.shortcut = stride == 1 and c_in == c_out
        self.expand = ConvBNLayer(c_in, 1, inner, 1, 0, name=f"{name}_expand", **common)
        self.filter = ConvBNLayer(inner, 5, inner, stride, 2, num_groups=inner, name=f"{name}_filter", **common)
        self.gate = SqueezeExcitation(inner, max(inner // 4, 1), name=f"{name}_gate", data_format=data_format)
        self.project = ConvBNLayer(
            inner, 1, c_out, 1, 0, name=f"{name}_project", activation=None, data_format=data_format
        )

    def forward(self, x):
        y = self.project(self.gate(self.filter(self.expand(x))))
        return x + y if self.shortcut else y


class GatedNet(Network):
    """A network of gated units."""

    CLASSIFIER = "classifier"
    ALLOWED = ("hardswish", "relu")

    def __init__(
        self,
        scale: float = 1.0,
        class_num: int = 1000,
        prefix_name: str = "",
        data_format: str = "NCHW",
        dropout: float = 0.0,
        activation: str = "hardswish",
        init: str = "paddleclas",
        features_only: bool = False,
        out_indices: tuple[int, ...] = (0, 1),
    ):
        widths = [scaled_width(c, scale, 8) for _, c, _ in BLOCKS]
        super().__init__(
            widths,
            [s for *_, s in BLOCKS],
            class_num=class_num,
            data_format=data_format,
            dropout=dropout,
            activation=activation,
            init=init,
            features_only=features_only,
            out_indices=out_indices,
        )
        common = {"activation": activation, "data_format": data_format}
        self.conv = ConvBNLayer(3, 3, 8, 2, 1, name=f"{prefix_name}conv", **common)
        inputs = [8, *widths]
        self.blocks = nn.Sequential(
            *(
                GatedUnit(inputs[i], t, widths[i], s, name=f"{prefix_name}block{i}", **common)
                for i, (t, _, s) in enumerate(BLOCKS[: self._depth])
            )
        )
        self.build_head(f"{prefix_name}classifier")
        self.initialise()


FAMILY = Family(
    "GatedNet",
    GatedNet,
    {"GatedNet_x2_0": partial(GatedNet, scale=2.0), "GatedNet": GatedNet},
    paper="nowhere",
    automatic_names=True,
)


def guess(stem: int, outs: list[int], shapes: dict) -> dict | None:
    for scale in layouts.scales(outs[-1], BLOCKS[-1][1]):
        if stem == 8 and outs == [scaled_width(c, scale, 8) for _, c, _ in BLOCKS]:
            return {} if scale == 1.0 else {"scale": scale}
    return None


def in_order(kinds: str) -> list[str] | None:
    block = ("expand", "dw", "se1", "se2", "out")
    return layouts.number_blocks([block] * kinds.count("d")) if re.fullmatch("c(pdppp)+", kinds) else None


LAYOUTS = layouts.Layouts(
    "GatedNet",
    (
        Scheme(
            "gated",
            "GatedNet",
            (
                ("stem", "conv.{conv,bn}"),
                ("expand", "blocks.<i>.expand.{conv,bn}"),
                ("dw", "blocks.<i>.filter.{conv,bn}"),
                ("se1", "blocks.<i>.gate.conv1"),
                ("se2", "blocks.<i>.gate.conv2"),
                ("out", "blocks.<i>.project.{conv,bn}"),
            ),
            ("classifier",),
        ),
        Scheme(
            "gated-torch",
            "somebody's PyTorch GatedNet",
            (
                ("stem", "features.0.{0,1}"),
                ("expand", "features.<i>.{0,1}"),
                ("dw", "features.<i>.{2,3}"),
                ("se1", "features.<i>.4.fc1"),
                ("se2", "features.<i>.4.fc2"),
                ("out", "features.<i>.{5,6}"),
            ),
            ("head",),
            torch=True,
        ),
    ),
    guess,
    in_order,
    plain=("se1", "se2"),
    activation="hardswish",
)


@contextmanager
def registered():
    """Add the family by the public calls; take it back at the end, for other tests."""
    before = [(table, set(table)) for table in (FAMILIES, VARIANTS, layouts.LAYOUTS)]
    register(FAMILY)
    layouts.register(LAYOUTS)
    try:
        yield FAMILY
    finally:
        for table, names in before:
            for name in set(table) - names:
                del table[name]
