"""How a layout's key names are written down. Read by :mod:`.naming`; the rows are in :mod:`.layouts`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

# neutral role <- the end of the key, for a convolution, one with bias and no batch norm, a batch norm, the classifier
_WEIGHT_BIAS = {".weight": "weight", ".bias": "bias"}
DOTTED = {
    "conv": _WEIGHT_BIAS,
    "plain": _WEIGHT_BIAS,
    "norm": {
        ".weight": "scale",
        ".bias": "offset",
        "._mean": "mean",
        "._variance": "variance",
        ".running_mean": "mean",
        ".running_var": "variance",
        ".num_batches_tracked": "steps",
        ".gamma": "gamma",
    },
    "head": _WEIGHT_BIAS,
}
PARAM_ATTR = {
    "conv": {"_weights": "weight"},
    "plain": {"_weights": "weight", "_offset": "bias"},
    "norm": {"_bn_scale": "scale", "_bn_offset": "offset", "_bn_mean": "mean", "_bn_variance": "variance"},
    "head": {"_weights": "weight", "_offset": "bias"},
}
# all others: 1; a 1x1 convolution may stand as a linear layer
DIMENSIONS = {"conv": {"weight": (4,)}, "plain": {"weight": (2, 4)}, "norm": {"steps": (0,)}, "head": {"weight": (2,)}}

# <s> stage and <i> unit order the blocks, <s:4> is stage 4 alone; <b> is V1's "2_1" ... "5_6", "6"; <u> PaddleClas V2's
# unit; <p> any prefix
PLACES = {
    "<s>": r"(?P<s>\d+)",
    "<i>": r"(?P<i>\d+)",
    "<b>": r"(?P<s>[2-6])(?:_(?P<i>\d+))?",
    "<u>": r"(?:_first_block|\w*?conv\d+_(?P<i>\d+))",
    "<p>": r"\w*?",
    "<x>": r"\d+",
}
# of our batch norms
EPSILON = 1e-5
# names that are read by position
AUTOMATIC = "paddle-automatic"


@dataclass(frozen=True)
class Scheme:
    """Where one layout keeps its tensors.

    Attributes:
        name: as reports show it and ``--scheme`` takes it.
        text: whose layout it is.
        layers: (neutral unit, key); ``{a,b}`` in a key are the ends of the convolution's and of the batch norm's
            (empty: there is none), a key without is both's. The first row that matches a file's key wins.
        heads: the classifier's key, or several.
        torch: PyTorch's: classifier weights are [out, in], batch norm statistics ``running_mean``.
        ends: how keys end.
        activation: that its networks compute with, where it is not the family's.
        epsilon: of its batch norms.
        computes: what else its networks compute with, where a model says so of itself, too (``model.computes``): for
            :attr:`.layouts.Layouts.adapt`.
    """

    name: str
    text: str
    layers: tuple[tuple[str, str], ...]
    heads: tuple[str, ...]
    torch: bool = False
    ends: Mapping = field(default_factory=lambda: DOTTED, hash=False)
    activation: str | None = None
    epsilon: float = EPSILON
    computes: Mapping[str, float] = field(default_factory=dict, hash=False)
