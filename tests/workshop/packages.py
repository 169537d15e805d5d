"""Networks that answer photos differently, photos, and transforms: what tests of packages are made of."""

from __future__ import annotations

import cv2
import numpy as np
import paddle
import pytest

from ppmobilenet.zoo import create_model

paddle_3 = pytest.mark.skipif(paddle.__version__.startswith("2."), reason="Paddle 2 writes .pdmodel only")
LABELS = [f"name {number}" for number in range(7)]


def ops_for(size: int) -> list[dict]:
    return [
        {"DecodeImage": {"to_rgb": True, "channel_first": False}},
        {"ResizeImage": {"resize_short": size * 8 // 7}},
        {"CropImage": {"size": size}},
        {
            "NormalizeImage": {
                "scale": 1 / 255,
                "mean": [0.485, 0.456, 0.406],
                "std": [0.229, 0.224, 0.225],
                "order": "",
            }
        },
    ]


def lively(name: str, **kwargs) -> paddle.nn.Layer:
    """A network that answers different photos differently, with statistics as after some training."""
    paddle.seed(1)
    model = create_model(name, class_num=len(LABELS), **kwargs)
    rng = np.random.default_rng(1)
    for value in model.parameters():
        if value.ndim == 4:
            spread = (2 / np.prod(value.shape[1:])) ** 0.5
            value.set_value(rng.normal(0, spread, value.shape).astype("float32"))
        elif value.ndim == 2:
            # layers behind the pooling leave less of the differences
            spread = 0.04 if name.startswith(("MobileNetV1", "MobileNetV2")) else 0.15
            value.set_value(rng.normal(0, spread, value.shape).astype("float32"))
    model.train()
    with paddle.no_grad():
        for _ in range(15):
            model(paddle.to_tensor(rng.normal(0, 1, (8, 3, 32, 32)).cumsum(axis=-1).astype("float32") / 3))
    model.eval()
    return model


def photo(width=100, height=80, seed=0, suffix=".png") -> bytes:
    pixels = cv2.resize(np.random.default_rng(seed).integers(0, 255, (6, 8, 3), np.uint8), (width, height))
    return cv2.imencode(suffix, pixels)[1].tobytes()
