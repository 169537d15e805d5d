"""Augmentation: probabilities and strengths as PaddleClas defines them, nothing random but the given generator."""

from __future__ import annotations

from collections import Counter

import cv2
import numpy as np
import pytest

from ppmobilenet.data import augment, policies
from ppmobilenet.data.batch_ops import CutmixOperator, MixupOperator, build_batch_transforms
from ppmobilenet.data.transforms import build_transforms
from ppmobilenet.errors import DataError, UserError
from ppmobilenet.registry import TRANSFORMS


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    return cv2.GaussianBlur(noise, (0, 0), 3)


@pytest.fixture
def calls(monkeypatch):
    """What the policies call: (operation, amount) of each."""
    seen: list = []

    def recorded(name, operation):
        def call(image, amount, fill, by):
            seen.append((name, amount))
            return operation(image, amount, fill, by)

        return call

    monkeypatch.setattr(policies, "OPERATIONS", {n: recorded(n, op) for n, op in policies.OPERATIONS.items()})
    return seen


OPS = [
    {"AutoAugment": {}},
    {"RandAugment": {"num_layers": 3, "magnitude": 9}},
    {"TimmAutoAugment": {"config_str": "rand-m9-mstd0.5-inc1", "interpolation": "random"}},
    {"TimmAutoAugment": {"config_str": "rand-m7-n3-w0"}},
    {"TimmAutoAugment": {"config_str": "original-mstd0.5"}},
    {"TimmAutoAugment": {"config_str": "v0r"}},
    {"ColorJitter": {"brightness": 0.4, "contrast": 0.4, "saturation": [0.5, 1.5], "hue": 0.1}},
    {"RandomRotation": {"degrees": 30, "prob": 1, "interpolation": "bilinear", "expand": False}},
    {"Pad": {"padding": 4}},
    {"RandomCropImage": {"size": [40, 30]}},
    {"RandomErasing": {"EPSILON": 1, "mode": "pixel"}},
]


@pytest.mark.parametrize("op", OPS, ids=lambda op: "-".join(map(str, (*op, *op.values()))))
def test_the_generator_is_the_only_randomness(photo, op):
    transform = build_transforms([op])
    runs = [[transform(photo.copy(), np.random.default_rng(s)) for s in range(12)] for _ in range(2)]
    assert all(np.array_equal(a, b) for a, b in zip(*runs))
    assert all(a.dtype == np.uint8 and a.ndim == 3 for a in runs[0])
    if "Pad" not in op:
        assert any(not np.array_equal(runs[0][0], other) for other in runs[0][1:])


def test_auto_augment_draws_25_policies_evenly(photo, calls):
    transform, rng = policies.AutoAugment(), np.random.default_rng(0)
    for _ in range(2500):
        transform(photo[:8, :8], rng)
    drawn = Counter(name for name, _ in calls)
    for name in ("equalize", "rotate", "posterize", "shearX"):
        expected = sum(p for policy in policies.POLICY for n, p, _ in policy if n == name) / 25 * 2500
        assert abs(drawn[name] - expected) < 5 * np.sqrt(expected), name
    amounts = {name: {a for n, a in calls if n == name} for name in drawn}
    assert amounts["posterize"] == {4, 5, 6} | {5}  # levels 8, 7, 6, 5 of 8 bits down to 4
    assert {round(a, 3) for a in amounts["rotate"]} == {10.0, 26.667, 30.0}
    assert {round(a, 3) for a in amounts["shearX"]} == {-0.167, 0.167}
    assert {round(a, 1) for a in amounts["color"]} <= {1.0, 1.2, 0.8, 1.4, 0.6, 1.8, 0.2}


def test_rand_augment_draws_fourteen_operations_evenly(photo, calls):
    transform, rng = policies.RandAugment(num_layers=2, magnitude=5), np.random.default_rng(0)
    for _ in range(1400):
        transform(photo[:8, :8], rng)
    drawn = Counter(name for name, _ in calls)
    assert len(drawn) == 14 and all(abs(n - 200) < 70 for n in drawn.values())
    assert {a for n, a in calls if n == "rotate"} == {15.0}
    assert {a for n, a in calls if n == "posterize"} == {2.0}
    assert {a for n, a in calls if n == "solarize"} == {128.0}
    assert {round(a, 3) for n, a in calls if n == "brightness"} == {0.55, 1.45}
    assert {round(a, 3) for n, a in calls if n == "shearY"} == {-0.15, 0.15}


def test_timm_strings(photo, calls):
    transform, rng = policies.TimmAutoAugment(config_str="rand-m9-mstd0.5-inc1"), np.random.default_rng(0)
    for _ in range(3000):
        transform(photo[:8, :8], rng)
    drawn = Counter(name for name, _ in calls)
    # two of fifteen operations, each applied every second time
    assert len(drawn) == 15 and abs(sum(drawn.values()) - 3000) < 200
    assert all(abs(n - 200) < 75 for n in drawn.values())
    turns = np.array([abs(a) for n, a in calls if n == "rotate"])
    assert abs(turns.mean() - 27) < 0.5 and abs(turns.std() - 1.5) < 0.4 and turns.max() <= 30
    assert {a for n, a in calls if n == "posterize"} <= {0, 1, 2}  # 4 bits less 4 * 0.9
    brightness = np.array([a for n, a in calls if n == "brightness"])
    assert abs(np.abs(brightness - 1).mean() - 0.81) < 0.02 and 0.3 < (brightness > 1).mean() < 0.7
    calls.clear()
    transform = policies.TimmAutoAugment(config_str="rand-m5-n3-w0", prob=0.5)
    for _ in range(2000):
        transform(photo[:8, :8], rng)
    drawn = Counter(name for name, _ in calls)
    assert not {"posterize", "invert"} & set(drawn) and abs(sum(drawn.values()) - 1500) < 150
    assert drawn["rotate"] > 4 * drawn["color"]


def test_erasing_has_the_stated_size_and_chance():
    image, rng = np.ones((100, 80, 3), np.float32), np.random.default_rng(0)
    erase = augment.RandomErasing(EPSILON=0.25, sl=0.02, sh=0.4, r1=0.3, mean=[0, 0, 0])
    results = [erase(image, rng) for _ in range(2000)]
    parts = np.array([(r == 0).all(2).mean() for r in results])
    assert abs((parts > 0).mean() - 0.25) < 0.04 and image.min() == 1
    hit = parts[parts > 0]
    assert hit.min() > 0.015 and hit.max() < 0.42 and abs(hit.mean() - 0.2) < 0.03
    noise = augment.RandomErasing(EPSILON=1, mode="pixel")(np.full((100, 80, 3), 9, np.float32), rng)
    assert abs(noise[noise != 9].mean()) < 0.1 and abs(noise[noise != 9].std() - 1) < 0.1
    colour = augment.RandomErasing(EPSILON=1, mode="rand")(np.full((100, 80, 3), 9, np.float32), rng)
    assert len(np.unique(colour.reshape(-1, 3), axis=0)) == 2


def test_jitter_rotation_pad_and_crop(photo):
    rng = np.random.default_rng(0)
    bright = [augment.ColorJitter(brightness=0.5)(photo, rng).mean() / photo.mean() for _ in range(200)]
    assert 0.48 < min(bright) < 0.6 and 1.4 < max(bright) < 1.52
    assert np.array_equal(augment.ColorJitter(prob=0, brightness=0.5)(photo, rng), photo)
    turned = augment.RandomRotation(prob=1, degrees=[90, 90], expand=True)(photo, rng)
    assert turned.shape == (64, 48, 3)
    half = sum(np.array_equal(augment.RandomRotation(degrees=[45, 45])(photo, rng), photo) for _ in range(400))
    assert 150 < half < 250
    padded = augment.Pad(padding=3, fill=7)(photo)
    assert padded.shape == (54, 70, 3) and (padded[:3] == 7).all() and np.array_equal(padded[3:-3, 3:-3], photo)
    grid = np.dstack([np.add.outer(np.zeros(48), np.arange(64)), np.add.outer(np.arange(48), np.zeros(64))] * 2)
    places = {tuple(augment.RandomCropImage([60, 46])(grid, rng)[0, 0, :2]) for _ in range(400)}
    assert places == {(x, y) for x in range(5) for y in range(3)}


def test_an_image_on_a_larger_one(photo):
    """Padv2 at all four places; person_attribute's own: 192x256 on 212x276, the image in the middle."""
    for mode, (left, top) in {0: (0, 0), 1: (3, 11), 2: (6, 22), -1: (2, 5)}.items():
        pad = augment.Padv2([70, 70], pad_mode=mode, offsets=[2, 5] if mode == -1 else None, fill_value=[9, 8, 7])
        image = pad(photo)
        assert image.shape == (70, 70, 3) and image.dtype == np.uint8
        np.testing.assert_array_equal(image[top : top + 48, left : left + 64], photo)
        assert image.sum() == photo.sum(dtype=np.int64) + (70 * 70 - 48 * 64) * 24
    wide = augment.Padv2([212, 276], pad_mode=1, fill_value=0)(np.full((256, 192, 3), 255, np.uint8))
    assert (np.argwhere(wide[..., 0]).min(axis=0) == (10, 10)).all() and wide.mean() < 255
    with pytest.raises(DataError, match="64x48 before Padv2 to 60x60"):
        augment.Padv2(60)(photo)
    with pytest.raises(ValueError, match="offsets"):
        augment.Padv2(60, pad_mode=-1)


def test_mixup_and_cutmix():
    rng = np.random.default_rng(0)
    images = np.arange(4, dtype=np.float32).reshape(4, 1, 1, 1) * np.ones((4, 3, 20, 30), np.float32)
    labels = np.arange(4)
    parts = []
    for _ in range(300):
        mixed, targets = MixupOperator(class_num=4, alpha=0.2)(images, labels, rng)
        assert mixed.dtype == targets.dtype == np.float32 and np.allclose(targets.sum(1), 1)
        # the value of an image is its class: pixels and labels are mixed alike
        assert np.allclose(mixed[:, 0, 0, 0], targets @ np.arange(4), atol=1e-5)
        mixed, targets = CutmixOperator(class_num=4, alpha=1.0)(images, labels, rng)
        assert np.allclose(mixed.mean((1, 2, 3)), targets @ np.arange(4), atol=1e-4)
        parts.append(targets[labels, labels].min())
    # sides c = sqrt(u) of the image's, u even; c * (1 - c / 4) of them inside on average; all in place 1 time in 24
    assert abs(np.mean(parts) - (1 - (0.5 - 0.2 + 1 / 48) * 23 / 24)) < 0.06


def test_op_sampler_draws_by_prob():
    ops = [{"OpSampler": {"MixupOperator": {"alpha": 0.8, "prob": 0.5}, "CutmixOperator": {"alpha": 1.0, "prob": 0.2}}}]
    (sampler,) = build_batch_transforms(ops, 3, "batch_transform_ops")
    images, labels, rng = (
        np.random.default_rng(1).random((4, 3, 8, 8), np.float32),
        np.arange(4) % 3,
        np.random.default_rng(0),
    )
    kinds = Counter()
    for _ in range(1000):
        mixed, targets = sampler(images, labels, rng)
        kinds["none" if targets.ndim == 1 else "cut" if np.isin(mixed, images).all() else "mix"] += 1
    assert abs(kinds["none"] - 300) < 60 and abs(kinds["mix"] - 500) < 70
    with pytest.raises(UserError, match="add up to 1.2"):
        build_batch_transforms(
            [{"OpSampler": {"MixupOperator": {"prob": 0.6}, "CutmixOperator": {"prob": 0.6}}}], 3, "x"
        )
    with pytest.raises(UserError, match="prob of MixupOperator is None"):
        build_batch_transforms([{"OpSampler": {"MixupOperator": {}}}], 3, "x")
    with pytest.raises(UserError, match="Arch.class_num"):
        build_batch_transforms([{"MixupOperator": {}}], None, "x")
    with pytest.raises(UserError, match="did you mean 'CutmixOperator'"):
        build_batch_transforms([{"CutMixOperator": {}}], 3, "x")


@pytest.mark.parametrize(
    "op, words",
    [
        ({"TimmAutoAugment": {"config_str": "rand-x3"}}, "section 'x3'"),
        ({"TimmAutoAugment": {"config_str": "augmix-m3"}}, "allowed: rand-"),
        ({"RandAugment": {"magnitude": 11}}, "0 to 10"),
        ({"RandomErasing": {"mode": "black"}}, "const, rand, pixel"),
        ({"ColorJitter": {"hue": 0.7}}, "hue 0.7"),
        ({"RandomRotation": {"degrees": -5}}, "degrees -5"),
        ({"Pad": {"padding": 2, "padding_mode": "reflect"}}, "constant"),
    ],
)
def test_wrong_parameters_are_named(op, words):
    with pytest.raises(UserError, match=words):
        build_transforms([op])


def test_every_transform_documents_itself():
    for name in TRANSFORMS:
        assert TRANSFORMS[name].__doc__, name
