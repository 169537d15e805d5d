"""A frozen leading part computed once trains as one computed in every step."""

import cv2
import numpy as np
import paddle
import pytest

from ppmobilenet.config import load_config
from ppmobilenet.errors import UserError
from ppmobilenet.training import feature_cache, trainer
from ppmobilenet.zoo import create_model

CONFIG = """
Global: {{output_dir: "{out}", device: cpu, epochs: 3, seed: 5, print_batch_step: 100, cpu_kernels: {kernels}}}
Arch: {{name: MobileNetV2_x0_25, class_num: 3, pretrained: "{weights}"}}
Loss: {{Train: [CELoss: {{weight: 1.0}}], Eval: [CELoss: {{weight: 1.0}}]}}
Optimizer: {{name: Momentum, momentum: 0.9, lr: {{name: Cosine, learning_rate: 0.05}}}}
DataLoader:
  Train:
    dataset: {{name: ImageNetDataset, image_root: "{data}", cls_label_path: "{data}/list.txt", transform_ops: {train}}}
    sampler: {{name: DistributedBatchSampler, batch_size: 8, shuffle: True}}
    loader: {{num_workers: 0}}
  Eval:
    dataset: {{name: ImageNetDataset, image_root: "{data}", cls_label_path: "{data}/list.txt", transform_ops: {views}}}
    sampler: {{name: DistributedBatchSampler, batch_size: 5}}
    loader: {{num_workers: 0}}
Metric: {{Train: [TopkAcc: {{topk: [1]}}], Eval: [TopkAcc: {{topk: [1]}}]}}
"""
NORMALISE = "NormalizeImage: {scale: 1.0/255.0, mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5], order: ''}"
VIEWS = f"[DecodeImage: {{to_rgb: True}}, ResizeImage: {{size: 64}}, {NORMALISE}]"
RANDOM = f"[DecodeImage: {{to_rgb: True}}, RandCropImage: {{size: 64}}, RandFlipImage: {{flip_code: 1}}, {NORMALISE}]"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for i in range(20):
        image = rng.integers(0, 120, (70, 66, 3))
        image[..., i % 3] += 100
        cv2.imwrite(str(folder / f"{i}.png"), image.astype(np.uint8))
    (folder / "list.txt").write_text("".join(f"{i}.png {i % 3}\n" for i in range(20)))
    paddle.seed(1)
    model = create_model("MobileNetV2_x0_25", class_num=3, init="kaiming_fan_out")
    paddle.save(model.state_dict(), str(folder / "start.pdparams"))
    return folder


def train(data, out, *overrides, transforms=VIEWS, kernels="auto", random_init=False):
    """Train and return (result, weights, the log)."""
    text = CONFIG.format(
        data=data, out=out, weights=data / "start.pdparams", train=transforms, views=VIEWS, kernels=kernels
    )
    path = out.with_suffix(".yaml")
    path.write_text(text)
    result = trainer.train(load_config(path, list(overrides)), random_init=random_init)
    return result, paddle.load(str(out / "latest.pdparams")), (out / "train.log").read_text(encoding="utf-8")


@pytest.mark.parametrize("kernels", ("auto", '"off"'))
@pytest.mark.parametrize("freeze", ("trunk", '["conv1", "conv[2-6]"]'))
def test_same_result_as_without_a_cache(data, tmp_path, freeze, kernels):
    freeze = f"Arch.freeze={freeze}"
    plain, weights, _ = train(data, tmp_path / "plain", freeze, kernels=kernels)
    cached, ours, text = train(data, tmp_path / "cached", freeze, "Arch.cache_features=True", kernels=kernels)
    assert "frozen and computed once" in text
    start = paddle.load(str(data / "start.pdparams"))
    assert list(ours) == list(weights)
    for key, value in weights.items():
        np.testing.assert_allclose(ours[key].numpy(), value.numpy(), atol=1e-4, err_msg=key)
    assert np.abs(ours["out.weight"].numpy() - start["out.weight"].numpy()).max() > 1e-2
    assert cached["loss"] == pytest.approx(plain["loss"], abs=1e-4)
    assert cached["evaluated"] == 20


@pytest.mark.parametrize(
    "network,freeze",
    [
        # the head pools by maxima before it takes the mean, so its features are whole maps
        (["Arch.name=MobileNetV3_small_x0_35", "Arch.max_pool=True", "Arch.dropout_prob=0"], "trunk"),
        (["Arch.name=MobileNetV3_small_x0_35", "Arch.dropout_prob=0"], '["conv", "blocks.[0-8]"]'),
        (["Arch.name=MobileNetV4_conv_small"], "trunk"),
    ],
)
def test_heads_of_several_layers(data, tmp_path, network, freeze):
    words = [*network, "Arch.pretrained=False", f"Arch.freeze={freeze}", "Global.epochs=1"]
    plain, weights, _ = train(data, tmp_path / "plain", *words, kernels='"off"', random_init=True)
    cached, ours, text = train(
        data, tmp_path / "cached", *words, "Arch.cache_features=True", kernels='"off"', random_init=True
    )
    assert "frozen and computed once" in text and cached["loss"] == pytest.approx(plain["loss"], abs=1e-4)
    for key, value in weights.items():
        np.testing.assert_allclose(ours[key].numpy(), value.numpy(), atol=1e-4, err_msg=key)


def test_found_again_and_not_when_something_changed(data, tmp_path):
    out, options = tmp_path / "out", ("Arch.freeze=trunk", "Arch.cache_features=True")
    train(data, out, *options)
    first = (out / "features-train-0.npy").stat().st_mtime_ns
    assert np.load(out / "features-train-0.npy").shape == (20, 1280, 1, 1)
    _, weights, text = train(data, out, *options)
    assert "holds them already" in text and (out / "features-train-0.npy").stat().st_mtime_ns == first
    wider = VIEWS.replace("size: 64", "size: 96")
    train(data, out, *options, transforms=wider)
    assert (out / "features-train-0.npy").stat().st_mtime_ns != first
    (out / "features-train-0.npy").write_bytes(b"cut")
    _, again, _ = train(data, out, *options)
    for key, value in weights.items():
        np.testing.assert_array_equal(again[key].numpy(), value.numpy())


def test_resumes(data, tmp_path):
    options = ("Arch.freeze=trunk", "Arch.cache_features=True")
    _, whole, _ = train(data, tmp_path / "whole", *options)
    train(data, tmp_path / "parts", *options, "Global.epochs=3", "Global.save_interval=1")
    config = load_config(tmp_path / "parts.yaml", [*options, f"Global.checkpoints={tmp_path}/parts/epoch_2"])
    trainer.train(config)
    parts = paddle.load(str(tmp_path / "parts" / "latest.pdparams"))
    for key, value in whole.items():
        np.testing.assert_array_equal(parts[key].numpy(), value.numpy(), err_msg=key)


def test_random_views_become_those_of_evaluation(data, tmp_path):
    options = ("Arch.freeze=trunk", "Arch.cache_features=True")
    _, ours, text = train(data, tmp_path / "random", *options, transforms=RANDOM)
    assert "training views are those of evaluation" in text
    _, plain, text = train(data, tmp_path / "plain", *options)
    assert "training views" not in text
    for key, value in plain.items():
        np.testing.assert_array_equal(ours[key].numpy(), value.numpy())


def test_nothing_frozen(data, tmp_path):
    with pytest.raises(UserError, match="Arch.freeze=trunk"):
        train(data, tmp_path / "out", "Arch.cache_features=True")
    with pytest.raises(UserError, match="the first layer is trained"):
        train(data, tmp_path / "out", "Arch.freeze=conv2", "Arch.cache_features=True")


def test_unreadable_photo(data, tmp_path):
    (data / "broken.png").write_bytes(b"no photo")
    lines = (data / "list.txt").read_text()
    (data / "broken.txt").write_text(lines + "broken.png 1\n")
    options = ["Arch.freeze=trunk", "Arch.cache_features=True"]
    options.append(f"DataLoader.Train.dataset.cls_label_path={data}/broken.txt")
    with pytest.raises(UserError, match=r"broken\.txt:21"):
        train(data, tmp_path / "strict", *options)
    _, _, text = train(data, tmp_path / "lenient", *options, "DataLoader.Train.dataset.max_bad_samples=1")
    assert "skipped 1 of at most 1" in text


def test_leading_units():
    model = create_model("MobileNetV1_x0_25", class_num=2)
    assert feature_cache.frozen_units(model) == 0
    for unit in model.units()[:4]:
        for p in unit.parameters():
            p.stop_gradient = True
    assert feature_cache.frozen_units(model) == 4
