"""PaddleClas's transforms of training, by their names and parameters, beside the operators of ``photos``.

All randomness comes from the generator that a transform is called with, so a sample is the same whichever worker makes
it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import cv2
import numpy as np

from ppmobilenet.photos.chain import PIXELS
from ppmobilenet.photos.operators import Compose, Resizer, build, pair
from ppmobilenet.registry import TRANSFORMS


def build_transforms(ops: Sequence[Mapping[str, Mapping | None]], where: str = "transform_ops") -> Compose:
    """Build a list that may name every registered transform, as :func:`ppmobilenet.photos.operators.build` does."""
    return build(ops, where, TRANSFORMS)


@TRANSFORMS.register()
class RandCropImage:
    """Random resized crop with PaddleClas's distribution (aspect ratio uniform unless ``use_log_aspect``).

    Args:
        size: of the result, a number or [width, height].
        scale: smallest and largest part of the area, default [0.08, 1.0].
        ratio: narrowest and widest aspect ratio, default [3/4, 4/3].
    """

    def __init__(
        self,
        size: int | list,
        progress_size: list | None = None,
        scale: list | None = None,
        ratio: list | None = None,
        interpolation: str | None = None,
        use_log_aspect: bool = False,
        backend: str = "cv2",
    ):
        self.size = pair(size)
        self.scale = tuple(scale or (0.08, 1.0))
        self.ratio = tuple(ratio or (3 / 4, 4 / 3))
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f"scale {scale!r}; allowed: 0 < smallest <= largest")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError(f"ratio {ratio!r}; allowed: 0 < narrowest <= widest")
        self.use_log_aspect = use_log_aspect
        self.resize = Resizer(interpolation, backend)
        self.takes = self.resize.takes

    def box(self, width: int, height: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
        """Draw the crop of a photo of this size: (left, top, width, height)."""
        if self.use_log_aspect:
            aspect = math.exp(rng.uniform(math.log(self.ratio[0]), math.log(self.ratio[1])))
        else:
            aspect = rng.uniform(*self.ratio)
        bound = min(width / height / aspect, height / width * aspect)
        area = width * height * rng.uniform(min(self.scale[0], bound), min(self.scale[1], bound))
        # a photo of a few pixels may come out as none
        w = min(width, max(1, int(math.sqrt(area * aspect))))
        h = min(height, max(1, int(math.sqrt(area / aspect))))
        return int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1)), w, h

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        left, top, w, h = self.box(image.shape[1], image.shape[0], rng)
        return self.resize(image[top : top + h, left : left + w], self.size, rng)


@TRANSFORMS.register()
class RandFlipImage:
    """Flip every second image: ``flip_code`` 1 left-right, 0 top-bottom, -1 both."""

    takes = PIXELS

    def __init__(self, flip_code: int = 1):
        if flip_code not in (-1, 0, 1):
            raise ValueError(f"flip_code {flip_code!r}; allowed: -1, 0, 1")
        self.flip_code = flip_code

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return cv2.flip(image, self.flip_code) if rng.random() < 0.5 else image
