"""Pictures that differ, for the tests of lists."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest

Image = pytest.importorskip("PIL.Image")


def scene(seed: int, side: int = 64) -> np.ndarray:
    """A picture of soft blots, another for each seed."""
    noise = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return cv2.resize(noise, (side, side), interpolation=cv2.INTER_CUBIC)


def data(pixels: np.ndarray, kind: str = "JPEG", mode: str = "RGB", **options) -> bytes:
    """A picture in a file of some kind."""
    out = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(out, kind, **options)
    return out.getvalue()
