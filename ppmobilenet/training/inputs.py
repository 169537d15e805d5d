"""What a network is fed, checked before Paddle would speak of operators and filters."""

from __future__ import annotations

from paddle import nn

from ppmobilenet.data.loader import Batch
from ppmobilenet.errors import UserError


def check_images(network: nn.Layer, batch: Batch, split: str) -> None:
    """Refuse a batch whose images are not of the shape that the network's first convolution takes.

    Args:
        network: with ``units()``; anything else (the rest behind cached features) takes what it takes.
        batch: as the loader gives it.
        split: ``"Train"`` or ``"Eval"``, for the message.

    Raises:
        UserError: with the shape that was found.
    """
    if batch.normalization is not None or not hasattr(network, "units"):
        return
    first = next((layer for layer in network.units()[0].sublayers() if isinstance(layer, nn.Conv2D)), None)
    shape = list(batch.images.shape)
    if first is not None and (len(shape) != 4 or shape[1] != first._in_channels):
        raise UserError(
            f"the transforms give batches of shape {shape}",
            where=f"DataLoader.{split}.dataset.transform_ops",
            allowed=f"[photos, {first._in_channels}, height, width]",
            hint="ToCHWImage puts the channels first: let it stand once, behind every resize and crop",
        )
