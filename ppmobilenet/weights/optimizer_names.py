"""Optimizer state (``.pdopt``) between PaddleClas's automatic parameter names and ours.

Of some families (:attr:`ppmobilenet.models.Family.automatic_names`) PaddleClas names no parameter: Paddle numbers them
(``conv2d_0.w_0``, ``batch_norm_26.b_0``), and those are the keys of its ``.pdopt``. Ours have names of their own
(``conv1_weights``). Layers stand in the same order in both, so the n-th convolution is the n-th convolution.

The last number of a key (``conv1_weights_velocity_0``) counts the optimizers of the process that made the accumulator:
take an optimizer's first step inside ``paddle.utils.unique_name.guard()`` and it is 0, as in a process of its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ppmobilenet.errors import UserError

if TYPE_CHECKING:
    from paddle import nn

# end of a layer's class name -> what Paddle calls its parameters, in the layer's order: attribute -> end of the name
_KINDS = {
    "Conv2D": ("conv2d", {"weight": "w_0", "bias": "b_0"}),
    "Linear": ("linear", {"weight": "w_0", "bias": "b_0"}),
    "BatchNorm2D": ("batch_norm", {"weight": "w_0", "bias": "b_0", "_mean": "w_1", "_variance": "w_2"}),
}
# a key of a .pdopt: parameter name, then the accumulator's (``_velocity_0``, ``_fp32_master_0_moment1_0``)
_AUTOMATIC = re.compile(r"(conv2d|batch_norm|linear|create_parameter)_(\d+)\.([wb]_\d)(_.+)?")


def automatic_names(network: nn.Layer) -> dict[str, str]:
    """Return a network's parameter names with the automatic ones: ``{"conv1_weights": "conv2d_0.w_0", ...}``."""
    counts: dict[str, int] = {}
    table = {}
    for layer in network.sublayers(include_self=True):
        kind, ends = _KINDS.get(type(layer).__name__, ("create_parameter", None))
        own = dict(layer.named_parameters(include_sublayers=False))
        if ends is None:  # parameters of a layer's own making are numbered one by one
            named = [(parameter, "w_0") for parameter in own.values()]
        else:
            named = [(own[attribute], end) for attribute, end in ends.items() if attribute in own]
        for i, (parameter, end) in enumerate(named):
            if ends is None or i == 0:
                counts[kind] = counts.get(kind, -1) + 1
            table[parameter.name] = f"{kind}_{counts[kind]}.{end}"
    return table


def to_automatic(state: Mapping, network: nn.Layer) -> dict:
    """Return a ``.pdopt`` with our keys under the names that PaddleClas's network has in a fresh process.

    Args:
        state: ``optimizer.state_dict()``; entries that belong to no parameter (``LR_Scheduler``) stay as they are.
        network: whose parameters these are.
    """
    table = automatic_names(network)

    def rename(key: str) -> str:
        ends = (key[:cut] for cut in range(len(key), 0, -1) if cut == len(key) or key[cut] == "_")
        name = next((start for start in ends if start in table), None)
        return key if name is None else table[name] + key[len(name) :]

    return _renamed(state, rename)


def from_automatic(state: Mapping, network: nn.Layer) -> dict:
    """Return a ``.pdopt`` of PaddleClas's under our names; one that has our names already comes back as it is.

    The numbers need not start at 0: another network may have been built first in the process that wrote the file.

    Args:
        state: the file's content, for example from ``read_pickle``.
        network: that the state is for.

    Raises:
        UserError: the file holds another number of layers than the network has.
    """
    keys = [key for part in (state, *_nested(state).values()) for key in part]
    numbers: dict[str, set[int]] = {}
    for found in filter(None, map(_AUTOMATIC.fullmatch, keys)):
        numbers.setdefault(found[1], set()).add(int(found[2]))
    if not numbers:
        return dict(state)
    ours = {automatic: name for name, automatic in automatic_names(network).items()}
    position = {}
    for kind, found_numbers in numbers.items():
        expected = sum(automatic.startswith(f"{kind}_") and automatic.endswith("w_0") for automatic in ours)
        if len(found_numbers) != expected:
            raise UserError(
                f"the optimizer state holds {len(found_numbers)} layers named {kind}_N, the network has {expected}",
                hint="resume with the Arch that wrote the checkpoint, or start the optimizer anew by giving the "
                "weights as Global.pretrained_model instead of Global.checkpoints",
            )
        position.update({(kind, number): i for i, number in enumerate(sorted(found_numbers))})

    def rename(key: str) -> str:
        found = _AUTOMATIC.fullmatch(key)
        if not found:
            return key
        kind, number, end, accumulator = found.groups()
        return ours[f"{kind}_{position[kind, int(number)]}.{end}"] + (accumulator or "")

    return _renamed(state, rename)


def _nested(state: Mapping) -> dict[str, Mapping]:
    """The parts of a state that are keyed by parameter name themselves: float32 copies of fp16 weights."""
    return {key: state[key] for key in ("master_weights",) if isinstance(state.get(key), Mapping)}


def _renamed(state: Mapping, rename) -> dict:
    nested = _nested(state)
    return {
        rename(key): {rename(k): v for k, v in value.items()} if key in nested else value
        for key, value in state.items()
    }
