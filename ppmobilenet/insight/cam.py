"""Class activation maps (Zhou et al. 2016): where in the photo the answer came from.

Both networks end in average pooling and one linear layer, so a class's logit is the mean of a map over the last
features, plus the class's offset: the map is exact, nothing is approximated.
"""

from __future__ import annotations

import cv2
import numpy as np
import paddle
from paddle import nn

from ppmobilenet.errors import UserError


def class_activation(model: nn.Layer, images: np.ndarray, classes: np.ndarray | None = None) -> tuple[np.ndarray, ...]:
    """Return the maps of a batch.

    Args:
        model: a network that ends in average pooling and a linear classifier; it is put into eval mode.
        images: float32 [N, 3, H, W], normalised.
        classes: [N] whose map to make; default the best answer of each.

    Returns:
        maps [N, h, w], whose mean plus the class's offset is the logit; and the logits [N, K].
    """
    pools = [layer for layer in model.sublayers() if isinstance(layer, nn.AdaptiveAvgPool2D)]
    heads = [layer for layer in model.sublayers() if isinstance(layer, nn.Linear)]
    if len(pools) != 1 or len(heads) != 1:
        raise UserError("class activation maps need a network with one average pooling and one linear classifier")
    seen = []
    hook = pools[0].register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0].numpy()))
    model.eval()
    try:
        with paddle.no_grad():
            logits = model(paddle.to_tensor(images)).numpy()
    finally:
        hook.remove()
    features = seen[0]
    if getattr(pools[0], "_data_format", "NCHW") == "NHWC":
        features = features.transpose(0, 3, 1, 2)
    classes = logits.argmax(axis=1) if classes is None else np.asarray(classes)
    weights = heads[0].weight.numpy()[:, classes]  # [C, N]
    return np.einsum("nchw,cn->nhw", features, weights), logits


def overlay(image: np.ndarray, activation: np.ndarray) -> np.ndarray:
    """Lay a map over its picture.

    Args:
        image: uint8 RGB [H, W, 3], as the network saw it.
        activation: [h, w]; what speaks against the class is left clear.

    Returns:
        uint8 RGB [H, W, 3].
    """
    positive = np.maximum(activation, 0)
    share = positive / positive.max() if positive.max() > 0 else positive
    height, width = image.shape[:2]
    share = np.clip(cv2.resize(share.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC), 0, 1)
    heat = cv2.applyColorMap((255 * share).astype(np.uint8), cv2.COLORMAP_JET)[..., ::-1]
    opacity = 0.6 * share[..., None]
    return (image * (1 - opacity) + heat * opacity).astype(np.uint8)
