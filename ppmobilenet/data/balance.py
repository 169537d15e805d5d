"""Weights that make up for classes of unequal size, for the loss; the sampler is ``ClassBalancedBatchSampler``."""

from __future__ import annotations

import numpy as np


def class_weights(labels: np.ndarray, class_num: int, balance: float = 1.0) -> np.ndarray:
    """Return float32 [class_num]: each class's number of photos to the power ``-balance``.

    They are scaled so that the mean over the photos is 1: the loss keeps its size and the learning rate its meaning.
    Classes without photos get 0.

    Args:
        labels: class numbers of the training photos.
        class_num: how many classes there are.
        balance: 1: every class counts the same; 0.5: by the square root; 0: every photo counts the same.
    """
    counts = np.bincount(labels, minlength=class_num)[:class_num].astype(np.float64)
    weights = np.where(counts > 0, np.maximum(counts, 1) ** -balance, 0)
    return (weights * counts.sum() / (weights * counts).sum()).astype(np.float32)
