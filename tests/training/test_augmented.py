"""Training with mixed photos, class weights and balanced sampling; nothing depends on the number of workers."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest
from training_helpers import YAML, losses, write_photos

from ppmobilenet.config import load_config
from ppmobilenet.config.fields import Term
from ppmobilenet.errors import DataError, UserError
from ppmobilenet.training import setting
from ppmobilenet.training.losses import CELoss, build_loss
from ppmobilenet.training.trainer import train


@pytest.fixture
def run(tmp_path):
    (tmp_path / "photos").mkdir()
    lines = write_photos(tmp_path / "photos", 18, 0)
    (tmp_path / "train_list.txt").write_text("".join(lines))
    (tmp_path / "val_list.txt").write_text("".join(write_photos(_folder(tmp_path / "val"), 6, 1)))

    def run(name: str, *overrides: str) -> dict[int, str]:
        path = tmp_path / "c.yaml"
        path.write_text(YAML.format(out=tmp_path / name, data=tmp_path))
        train(load_config(path, ["Global.epochs=1", *overrides]))
        return losses(tmp_path / name)

    return run


def _folder(path):
    path.mkdir()
    return path


def test_workers_do_not_change_an_augmented_run(run):
    mixing = "[{OpSampler: {MixupOperator: {alpha: 0.2, prob: 0.5}, CutmixOperator: {prob: 0.5}}}]"
    overrides = [
        f"DataLoader.Train.dataset.batch_transform_ops={mixing}",
        "DataLoader.Train.sampler={name: ClassBalancedBatchSampler, batch_size: 6, balance: 1.0}",
        "Loss.Train=[{CELoss: {epsilon: 0.1, class_weight: balanced}}]",
    ]
    first = run("a", *overrides)
    assert len(first) == 3 and first == run("b", *overrides, "DataLoader.Train.loader.num_workers=2")


def test_normalising_on_the_device_trains_the_same(run, monkeypatch):
    """What a GPU does with uint8 batches, on the CPU."""
    build, seen = setting.build_loader, []

    def as_on_a_gpu(*args, **kwargs):
        loader = build(*args, **{**kwargs, "on_device": True})
        seen.append(next(iter(loader)))
        return loader

    overrides = ["DataLoader.Train.loader.num_workers=1", f"Global.use_visualdl={bool(find_spec('visualdl'))}"]
    host = run("host", *overrides)
    monkeypatch.setattr(setting, "build_loader", as_on_a_gpu)
    device = run("device", *overrides)
    assert seen[0].images.dtype == np.uint8 and seen[0].images.shape[3] == 3
    assert [float(v) for v in device.values()] == pytest.approx([float(v) for v in host.values()], abs=1e-4)


def test_an_operator_that_cannot_work_is_named_with_the_photo(run):
    ops = (
        "[{DecodeImage: {to_rgb: True}}, {RandCropImage: {size: 32}}, {NormalizeImage: {order: ''}}, "
        "{RandomErasing: {EPSILON: 1, mean: [0, 0]}}]"
    )
    for pipeline in ("exact", "fast"):
        with pytest.raises(UserError) as error:
            run(
                pipeline,
                f"DataLoader.Train.dataset.transform_ops={ops}",
                "DataLoader.Train.dataset.max_bad_samples=9",  # these are no bad photos
                f"DataLoader.Train.pipeline={pipeline}",
                "DataLoader.Train.loader.num_workers=1",
            )
        text = str(error.value)
        assert error.value.exit_code == 2
        assert "train_list.txt:" in text and "RandomErasing fails on an image of shape [32, 32, 3]" in text


def test_lists_are_examined_before_the_first_step(run, tmp_path):
    (tmp_path / "val_list.txt").write_text("val/000.png 0\n")
    with (tmp_path / "train_list.txt").open("a") as file:
        file.write("photos/001.png 2\n")
    with pytest.raises(
        DataError, match="train_list.txt:19: label 2, but .*train_list.txt:2 gives the same photo label 1"
    ):
        run("a")
    assert run("b", "Global.check_data=off")
    (tmp_path / "photos/003.png").write_bytes(b"")
    (tmp_path / "train_list.txt").write_text("".join(f"photos/{i:03}.png {i % 3}\n" for i in range(9)))
    with pytest.raises(DataError, match="train_list.txt:4: .*003.png: the photo is empty"):
        run("c", "Global.check_data=full")
    assert run("d", "Global.check_data=full", "DataLoader.Train.dataset.max_bad_samples=1")


def test_spare_classes_are_said_before_the_first_step_and_a_label_list_that_disagrees_stops(run, tmp_path, capfd):
    assert run("a", "Arch.class_num=5")
    assert "photos of 3 classes, and class_num is 5: -o Arch.class_num=3" in capfd.readouterr().err
    (tmp_path / "label_list.txt").write_text("0 red\n1 green\n2 blue\n")
    named = f"Infer.PostProcess.class_id_map_file={tmp_path}/label_list.txt"
    with pytest.raises(UserError, match="names 3 classes, and Arch.class_num is 5"):
        run("b", "Arch.class_num=5", named)
    assert not list((tmp_path / "b").glob("*.pdparams")) and run("c", named)


def test_class_weights():
    import paddle

    logits, labels = paddle.to_tensor(np.random.default_rng(0).random((4, 3), np.float32)), np.array([0, 1, 2, 2])
    each = [float(CELoss()(logits[i : i + 1], paddle.to_tensor(labels[i : i + 1]))) for i in range(4)]
    weighted = build_loss([Term("CELoss", {"class_weight": [1.0, 2.0, 0.5]})], class_num=3)
    expected = (each[0] + 2 * each[1] + 0.5 * (each[2] + each[3])) / 4
    assert float(weighted(logits, paddle.to_tensor(labels))) == pytest.approx(expected, rel=1e-5)
    balanced = build_loss([Term("CELoss", {"class_weight": "balanced"})], labels, 3)
    expected = (4 / 3 * (each[0] + each[1]) + 2 / 3 * (each[2] + each[3])) / 4
    assert float(balanced(logits, paddle.to_tensor(labels))) == pytest.approx(expected, rel=1e-5)
    with pytest.raises(UserError, match="2 numbers"):
        build_loss([Term("CELoss", {"class_weight": [1, 2]})], class_num=3)
