"""Layers that are not trained."""

from __future__ import annotations

from collections.abc import Sequence

from paddle import nn

from ppmobilenet.errors import UserError, did_you_mean
from ppmobilenet.models.family import classifier_of
from ppmobilenet.telling import log
from ppmobilenet.training.optim import meant


def freeze(model: nn.Layer, patterns: str | Sequence[str] | None) -> list[nn.Layer]:
    """Stop training the layers that ``Arch.freeze`` names.

    Args:
        model: the network.
        patterns: ``trunk`` (all but the classifier), ``head``, or patterns of layer names: ``conv1``, ``conv[2-4]*``.

    Returns:
        The frozen batch norms. Their running statistics stay, too, if they are put in evaluation mode.

    Raises:
        UserError: a pattern that fits no layer, or that leaves nothing to train.
    """
    if not patterns:
        return []
    patterns = [patterns] if isinstance(patterns, str) else list(patterns)
    tops = [name for name, layer in model.named_children() if layer.parameters()]
    trained = [p for p in model.parameters() if not p.stop_gradient]
    for pattern in patterns:
        hit = meant(pattern, model.named_parameters(), classifier_of(model))
        if not hit:
            raise UserError(
                f"no layer fits {pattern!r}",
                where="Arch.freeze",
                allowed="trunk, head, or patterns of layer names: " + ", ".join(tops),
                hint=did_you_mean(pattern, ["trunk", *tops]),
            )
        for parameter in hit:
            parameter.stop_gradient = True
            parameter.trainable = False
    frozen = sum(p.stop_gradient for p in trained)
    if frozen == len(trained):
        raise UserError("every layer is frozen: there is nothing to train", where="Arch.freeze")
    log.info("%d of %d parameters are frozen", frozen, len(trained))
    return [layer for layer in norms(model) if all(p.stop_gradient for p in layer.parameters())]


def norms(model: nn.Layer) -> list[nn.Layer]:
    """Return all batch norms of a network."""
    # nn.BatchNorm2D and SyncBatchNorm derive from it, the legacy nn.BatchNorm does not
    return [layer for layer in model.sublayers() if "BatchNorm" in type(layer).__name__]


def train_mode(model: nn.Layer, resting: Sequence[nn.Layer]) -> None:
    """Put a network in training mode, all but the layers ``resting``: those keep their statistics."""
    model.train()
    for layer in resting:
        layer.eval()
