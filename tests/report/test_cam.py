"""Class activation maps: exact, and on the cat where there is a cat."""

from __future__ import annotations

import numpy as np
import pytest

from ppmobilenet.errors import UserError
from ppmobilenet.photos.decode import decode_image
from ppmobilenet.report import cam
from ppmobilenet.zoo import create_model

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


@pytest.mark.parametrize("kwargs", [{}, {"data_format": "NHWC"}])
@pytest.mark.parametrize("name", ["MobileNetV1_x0_25", "MobileNetV2_x0_25"])
def test_the_mean_of_a_map_is_the_logit(name, kwargs):
    model = create_model(name, class_num=5, init="kaiming_fan_out", **kwargs)
    images = np.random.default_rng(0).normal(0, 1, (3, 3, 70, 64)).astype(np.float32)
    classes = np.array([4, 0, 2])
    maps, logits = cam.class_activation(model, images, classes)
    assert maps.shape == (3, 3, 2)
    bias = (model.fc if "V1" in name else model.out).bias.numpy()
    expected = maps.mean(axis=(1, 2)) + bias[classes]
    np.testing.assert_allclose(expected, logits[np.arange(3), classes], rtol=1e-4, atol=1e-6)
    best, logits = cam.class_activation(model, images)
    np.testing.assert_allclose(best.mean(axis=(1, 2)) + bias[logits.argmax(1)], logits.max(1), rtol=1e-4, atol=1e-6)


def test_a_network_without_classifier_has_none():
    with pytest.raises(UserError, match="one linear classifier"):
        cam.class_activation(create_model("MobileNetV1_x0_25", class_num=0), np.zeros((1, 3, 32, 32), np.float32))


def test_layers_behind_the_pooling_have_none():
    """MobileNetV3 and V4 answer by more than one linear layer of the mean; without it V3 has maps."""
    images = np.random.default_rng(0).normal(0, 1, (2, 3, 64, 64)).astype(np.float32)
    for name in ("MobileNetV3_small_x0_35", "MobileNetV4_conv_small"):
        with pytest.raises(UserError, match="whose answer is one linear layer of the mean of its last features"):
            cam.class_activation(create_model(name, class_num=5), images)
    trunk = create_model("MobileNetV3_small_x0_35", class_num=5, class_expand=0)
    maps, logits = cam.class_activation(trunk, images)
    best = maps.mean(axis=(1, 2)) + trunk.fc.bias.numpy()[logits.argmax(1)]
    np.testing.assert_allclose(best, logits.max(1), rtol=1e-4, atol=1e-6)


def test_overlay_marks_what_speaks_for_the_class():
    picture = np.full((60, 80, 3), 100, np.uint8)
    activation = np.array([[5.0, -3.0], [-1.0, -2.0]])
    shown = cam.overlay(picture, activation)
    assert shown.shape == picture.shape and shown.dtype == np.uint8
    assert shown[5, 5, 0] > 100 and np.abs(shown[55, 75].astype(int) - 100).max() <= 1
    assert np.array_equal(cam.overlay(picture, -np.ones((2, 2))), picture)


@pytest.mark.parametrize("name,classes", [("coral_cat_720p.jpg", range(281, 286)), ("00020010.jpeg", [178])])
def test_real_weights_look_at_the_animal(shared, name, classes):
    """The released V1 on a cat and on a Weimaraner, both in the middle of the photo."""
    import cv2

    model = create_model("MobileNetV1_x0_25", pretrained=shared / "weights" / "MobileNetV1_x0_25.npz")
    picture = decode_image(next((shared / "images").glob(f"*{name}")))
    height, width = picture.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    picture = cv2.resize(picture[top : top + side, left : left + side], (224, 224), interpolation=cv2.INTER_AREA)
    tensor = ((picture / 255 - MEAN) / STD).transpose(2, 0, 1).astype(np.float32)[None]
    maps, logits = cam.class_activation(model, tensor)
    assert int(logits.argmax()) in classes
    rim = np.ones((7, 7), bool)
    rim[1:-1, 1:-1] = False
    assert maps[0, 2:5, 2:5].mean() > 3 * maps[0][rim].mean()
