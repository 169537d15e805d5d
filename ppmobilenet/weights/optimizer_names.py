"""Optimizer state (``.pdopt``) of MobileNetV1 between PaddleClas's automatic names and ours.

PaddleClas names no parameter of its V1: Paddle numbers them (``conv2d_0.w_0``, ``batch_norm_26.b_0``), and those are
the keys of its ``.pdopt``. Ours have the names of the static-graph release (``conv1_weights``). Layers stand in the
same order in both, so the n-th convolution is the n-th convolution. V2's names are equal and need none of this.

The last number of a key (``conv1_weights_velocity_0``) counts the optimizers of the process that made the accumulator:
take an optimizer's first step inside ``paddle.utils.unique_name.guard()`` and it is 0, as in a process of its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from ppmobilenet.errors import UserError

# end of our name -> (kind of layer, end of the automatic name); the first that fits
_KINDS = (
    (re.compile(r"fc\d+_weights$"), "linear", "w_0"),
    (re.compile(r"fc\d+_offset$"), "linear", "b_0"),
    (re.compile(r"_weights$"), "conv2d", "w_0"),
    (re.compile(r"_bn_scale$"), "batch_norm", "w_0"),
    (re.compile(r"_bn_offset$"), "batch_norm", "b_0"),
    (re.compile(r"_bn_mean$"), "batch_norm", "w_1"),
    (re.compile(r"_bn_variance$"), "batch_norm", "w_2"),
)
# a key of a .pdopt: parameter name, then the accumulator's (``_velocity_0``, ``_fp32_master_0_moment1_0``)
_OURS = re.compile(r"(.+?_(?:weights|bn_scale|bn_offset|bn_mean|bn_variance|offset))(_.+)?")
_AUTOMATIC = re.compile(r"(conv2d|batch_norm|linear)_(\d+)\.([wb]_\d)(_.+)?")


def automatic_names(names: Sequence[str]) -> dict[str, str]:
    """Return our parameter names with the automatic ones: ``{"conv1_weights": "conv2d_0.w_0", ...}``.

    Args:
        names: all parameter names of the network, in its order: ``[p.name for p in model.parameters()]``.
    """
    counts: dict[tuple[str, str], int] = {}
    table = {}
    for name in names:
        kind, end = next((kind, end) for pattern, kind, end in _KINDS if pattern.search(name))
        index = counts.get((kind, end), 0)
        counts[kind, end] = index + 1
        table[name] = f"{kind}_{index}.{end}"
    return table


def to_automatic(state: Mapping, names: Sequence[str]) -> dict:
    """Return a ``.pdopt`` with our keys under the names that PaddleClas's V1 has in a fresh process.

    Args:
        state: ``optimizer.state_dict()``; entries that belong to no parameter (``LR_Scheduler``) stay as they are.
        names: as in :func:`automatic_names`.
    """
    table = automatic_names(names)

    def rename(key: str) -> str:
        found = _OURS.fullmatch(key)
        return table[found[1]] + (found[2] or "") if found and found[1] in table else key

    return _renamed(state, rename)


def from_automatic(state: Mapping, names: Sequence[str]) -> dict:
    """Return a ``.pdopt`` of PaddleClas's V1 under our names; one that has our names already comes back as it is.

    The numbers need not start at 0: another network may have been built first in the process that wrote the file.

    Args:
        state: the file's content, for example from ``read_pickle``.
        names: as in :func:`automatic_names`.

    Raises:
        UserError: the file holds another number of layers than the network has.
    """
    keys = [key for part in (state, *_nested(state).values()) for key in part]
    numbers: dict[str, set[int]] = {}
    for found in filter(None, map(_AUTOMATIC.fullmatch, keys)):
        numbers.setdefault(found[1], set()).add(int(found[2]))
    if not numbers:
        return dict(state)
    ours = {automatic: name for name, automatic in automatic_names(names).items()}
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
