"""Class activation maps (Zhou et al. 2016): where in the photo the answer came from.

Where a network ends in average pooling and one linear layer, a class's logit is the mean of a map over the last
features, plus the class's offset: the map is exact. Whether a network ends so is seen by computing it.
"""

from __future__ import annotations

import cv2
import numpy as np
import paddle
from paddle import nn

from ppmobilenet.errors import UserError

NO_MAP = "class activation maps need a network whose answer is one linear layer of the mean of its last features"


def class_activation(model: nn.Layer, images: np.ndarray, classes: np.ndarray | None = None) -> tuple[np.ndarray, ...]:
    """Return the maps of a batch.

    Args:
        model: a network that ends in average pooling and a linear classifier; it is put into eval mode.
        images: float32 [N, 3, H, W], normalised.
        classes: [N] whose map to make; default the best answer of each.

    Returns:
        maps [N, h, w], whose mean plus the class's offset is the logit; and the logits [N, K].

    Raises:
        UserError: the network has more behind its last features than that, so there is no such map.
    """
    seen: dict[type, tuple] = {}

    def see(layer, inputs):
        seen[type(layer)] = (layer, inputs[0])  # the last one that runs: gates inside the network pool, too

    kinds = (nn.AdaptiveAvgPool2D, nn.Linear)
    hooks = [layer.register_forward_pre_hook(see) for layer in model.sublayers() if isinstance(layer, kinds)]
    model.eval()
    try:
        with paddle.no_grad():
            logits = model(paddle.to_tensor(images)).numpy()
    finally:
        for hook in hooks:
            hook.remove()
    if len(seen) < len(kinds):
        raise UserError("class activation maps need a network that ends in average pooling and one linear classifier")
    (pool, features), (classifier, pooled) = (seen[kind] for kind in kinds)
    features, weights = features.numpy(), classifier.weight.numpy()
    if getattr(pool, "_data_format", "NCHW") == "NHWC":
        features = features.transpose(0, 3, 1, 2)
    means = features.mean(axis=(2, 3))
    if means.shape != tuple(pooled.shape) or logits.shape[-1] != weights.shape[-1]:
        raise UserError(NO_MAP)
    # dropout that does not rescale in training has a factor in evaluation
    share = float((means * pooled.numpy()).sum() / max(float((means**2).sum()), 1e-30))
    features, means = features * share, means * share
    expected = means @ weights + (0 if classifier.bias is None else classifier.bias.numpy())
    if not np.allclose(expected, logits, rtol=1e-3, atol=1e-3 * max(float(np.abs(logits).max()), 1e-6)):
        raise UserError(NO_MAP)
    classes = logits.argmax(axis=1) if classes is None else np.asarray(classes)
    return np.einsum("nchw,cn->nhw", features, weights[:, classes]), logits


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
