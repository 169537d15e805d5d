"""The report at the end of a training and of an evaluation, through the commands."""

from __future__ import annotations

import importlib.util
import json
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest

from ppmobilenet.cli import main
from ppmobilenet.config import load_config
from ppmobilenet.data import dataset
from ppmobilenet.data.build import lists_of
from ppmobilenet.data.class_names import class_names
from ppmobilenet.errors import UserError
from ppmobilenet.models.network import Network
from ppmobilenet.report.predictions import FILE_NAME, Predictions
from ppmobilenet.training.scalars import HYPERPARAMETERS


@pytest.fixture(scope="module")
def words(tmp_path_factory, repo) -> list[str]:
    """Options that make the fine-tune YAML a training on 18 pictures of three colours."""
    root = tmp_path_factory.mktemp("colours")
    rng = np.random.default_rng(0)
    for i, name in enumerate(("blue", "green", "red")):
        (root / "photos" / name).mkdir(parents=True)
        for j in range(6):
            picture = rng.integers(0, 60, (80, 80, 3), np.uint8)
            picture[..., i] += 180
            cv2.imwrite(str(root / "photos" / name / f"{j}.png"), picture)
    options = ["-c", str(repo / "configs" / "quick_start" / "MobileNetV2_finetune.yaml")]
    for text in (
        f"Global.output_dir={root / 'run'}", "Global.epochs=2", "Global.resolution=64", "Global.save_interval=-1",
        "Arch.name=MobileNetV2_x0_25", "Arch.class_num=3", "Arch.pretrained=False", "Global.print_batch_step=1",
        *(f"DataLoader.{mode}.dataset.image_root={root / 'photos'}" for mode in ("Train", "Eval")),
        *(f"DataLoader.{mode}.dataset.cls_label_path=null" for mode in ("Train", "Eval")),
        *(f"DataLoader.{mode}.sampler.batch_size=6" for mode in ("Train", "Eval")),
        *(f"DataLoader.{mode}.loader.num_workers=0" for mode in ("Train", "Eval")),
    ):  # fmt: skip
        options += ["-o", text]
    return options


BOARDS = [name for name in ("visualdl", "tensorboardX") if importlib.util.find_spec(name)]


@pytest.fixture(scope="module")
def counts():
    """How often the photos' folder was looked through, and networks were built, in the run below."""
    return {"lists": 0, "networks": 0}


@pytest.fixture(scope="module")
def run(words, counts):
    asked = [f"Global.use_{name.lower().rstrip('x')}=True" for name in BOARDS]
    find, initialize = dataset.find_photos, Network.__init__

    def found(*args):
        counts["lists"] += 1
        return find(*args)

    def built(*args, **kwargs):
        counts["networks"] += 1
        initialize(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dataset, "find_photos", found)
        patch.setattr(Network, "__init__", built)
        assert main(["train", *words, "--random-init", *(word for text in asked for word in ("-o", text))]) == 0
    return next(word.partition("=")[2] for word in words if word.startswith("Global.output_dir"))


def test_a_run_reads_each_list_and_builds_its_network_once(run, counts):
    """Looking at the data, training, the last evaluation and the report share them."""
    assert counts == {"lists": 2, "networks": 1}


def test_training_ends_with_its_report(run):
    folder = Path(run)
    found = json.loads((folder / "report" / "report.json").read_text())
    assert found["title"] == "MobileNetV2_x0_25, run"
    assert [row["epoch"] for row in found["curves"]] == [1, 2] and found["curves"][0]["images_per_second"] > 0
    assert [row["name"] for row in found["per_class"]] == ["blue", "green", "red"]
    assert found["summary"]["photos"] == 18 and found["cost"]["resolution"] == [64, 64]
    table = Predictions.load(folder / FILE_NAME)
    assert table.about["weights"].endswith("run/best_model.pdparams") and table.about["seconds"] > 0
    page = (folder / "report" / "report.html").read_text()
    assert "Where it looked" in page and page.count("data:image/jpeg") > 6


def test_class_folders_name_the_classes_of_a_package(run):
    """The recipe's label file is not there, and there is no list beside which one could lie."""

    def named(*typed):
        config = load_config(run, typed)
        return class_names(config.labels, lists_of(config.train, config.eval), 3)

    assert named() == ["blue", "green", "red"]
    with pytest.raises(UserError, match="the label file"):
        named("Infer.PostProcess.class_id_map_file=mine.txt")


def test_evaluation_ends_with_its_line_and_its_report(words, run, capsys, tmp_path):
    more = ["-o", f"Global.pretrained_model={run}/best_model", "-o", f"Global.output_dir={tmp_path / 'eval'}"]
    assert main(["eval", *words, *more, "--json", str(tmp_path / "eval.json")]) == 0
    done = capsys.readouterr()
    assert "evaluated 18/18" in done.out.strip().splitlines()[-1]
    assert f"report: {tmp_path / 'eval' / 'report' / 'report.html'}" in done.err
    found = json.loads((tmp_path / "eval" / "report" / "report.json").read_text())
    result = json.loads((tmp_path / "eval.json").read_text())
    assert found["summary"]["top1"] == pytest.approx(result["top1"])
    assert "effective configuration" in (tmp_path / "eval" / "report" / "report.html").read_text()
    assert "curves" not in found


def test_no_report_writes_none(words, run, tmp_path):
    more = ["-o", f"Global.pretrained_model={run}/best_model", "-o", f"Global.output_dir={tmp_path / 'eval'}"]
    assert main(["eval", *words, *more, "--no-report"]) == 0
    assert not (tmp_path / "eval").exists()


SHOWN = {
    "step/loss", "step/lr", "step/images_per_second", "step/data_wait", "epoch/train_loss", "epoch/eval_top1",
    "bn_scale/conv1._batch_norm", "batch/after_augmentation", "final/best_metric",
}  # fmt: skip


def test_visualdl_shows_the_run(run):
    pytest.importorskip("visualdl")
    from visualdl import LogReader

    file = next((Path(run) / "vdl").glob("vdlrecords*"))
    reader = LogReader(file_path=str(file))
    tags = {tag for tags in reader.get_tags().values() for tag in tags}
    assert tags >= SHOWN
    losses = reader.get_data("scalar", "step/loss")
    assert [record.id for record in losses] == [1, 2, 3, 4, 5, 6] and all(0 < r.value < 10 for r in losses)
    assert len(reader.get_data("histogram", "bn_scale/conv1._batch_norm")) == 2
    sheet = cv2.imdecode(
        np.frombuffer(reader.get_data("image", "batch/after_augmentation")[0].image.encoded_image_string, np.uint8), 1
    )
    assert sheet.shape == (128, 256, 3)  # six pictures of 64 pixels
    given = {item.name for item in reader.get_data("hyper_parameters", "hparam")[0].hparam.hparamInfos}
    assert {"arch", "learning_rate", "batch_size"} <= given
    assert not any("." in name for name in given), "VisualDL's table leaves such a column empty"


def test_tensorboard_shows_the_run(run):
    pytest.importorskip("tensorboardX")
    from tensorboardX.proto.event_pb2 import Event

    tags, losses = set(), []
    for file in (Path(run) / "tensorboard").rglob("events.out.tfevents*"):
        data = file.read_bytes()
        while data:  # a record: its length, a checksum, the event, a checksum
            (length,) = struct.unpack("<Q", data[:8])
            for value in Event.FromString(data[12 : 12 + length]).summary.value:
                tags.add(value.tag)
                losses += [value.simple_value] if value.tag == "step/loss" else []
            data = data[16 + length :]
    assert tags >= SHOWN
    assert len(losses) == 6


def test_hyperparameters_are_the_ones_that_stand_in_the_config(repo):
    config = load_config(repo / "configs" / "quick_start" / "MobileNetV2_finetune.yaml")
    found = config.given(HYPERPARAMETERS)
    assert found["arch"] == "MobileNetV2" and found["momentum"] == 0.9
    assert found["label_smoothing"] == 0.1 and "scale" not in found
