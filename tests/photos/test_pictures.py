"""Network inputs as pictures again."""

from __future__ import annotations

import numpy as np
import pytest

from ppmobilenet.photos.pictures import contact_sheet, pictures

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
NORMALISE = {"NormalizeImage": {"scale": 1 / 255, "mean": MEAN, "std": STD, "order": ""}}


@pytest.mark.parametrize("to_rgb", [True, False])
def test_pictures_come_back(to_rgb):
    rgb = np.random.default_rng(1).integers(0, 256, (2, 8, 9, 3), np.uint8)
    seen = rgb if to_rgb else rgb[..., ::-1]
    images = ((seen / 255 - MEAN) / STD).transpose(0, 3, 1, 2).astype(np.float32)
    ops = [{"DecodeImage": {"to_rgb": to_rgb}}, NORMALISE, {"ToCHWImage": {}}]
    assert np.array_equal(pictures(images, ops), rgb)


def test_without_normalisation_the_scale_is_unknown():
    assert pictures(np.zeros((1, 3, 4, 4), np.float32), [{"DecodeImage": {}}]) is None


def test_contact_sheet():
    shown = np.stack([np.full((2, 3, 3), i, np.uint8) for i in range(5)])
    sheet = contact_sheet(shown, columns=2)
    assert sheet.shape == (6, 6, 3)
    assert sheet[0, 0, 0] == 0 and sheet[0, 3, 0] == 1 and sheet[2, 0, 0] == 2 and sheet[4, 0, 0] == 4
    assert sheet[4, 3, 0] == 128
    assert contact_sheet(shown[:1]).shape == (2, 3, 3)
