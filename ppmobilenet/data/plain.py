"""A folder of photos as batches, where there is no config."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np

from ppmobilenet.data.transforms import build_transforms
from ppmobilenet.errors import UserError
from ppmobilenet.photos.names import list_photos

# the Eval list of PaddleClas's MobileNet recipes, and its datasets' transpose
EVAL_OPS = (
    {"DecodeImage": {"to_rgb": True, "channel_first": False}},
    {"ResizeImage": {"resize_short": 256}},
    {"CropImage": {"size": 224}},
    {"NormalizeImage": {"order": ""}},
    {"ToCHWImage": {}},
)


def batches_of(folder: str | os.PathLike, size: int = 16) -> Iterator[np.ndarray]:
    """Yield the photos of a folder, preprocessed as PaddleClas evaluates, float32 [N, 3, 224, 224].

    Raises:
        UserError: no photo in it.
        DataError: a photo that cannot be read.
    """
    if not os.path.isdir(folder):
        raise UserError("is no folder of photos", where=folder)
    photos = list_photos(folder)
    prepare = build_transforms(EVAL_OPS)
    for start in range(0, len(photos), size):
        yield np.stack([prepare(photo) for photo in photos[start : start + size]])
