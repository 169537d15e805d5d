"""`ppmobilenet report` on a run's folder and on an exported package."""

from __future__ import annotations

import json
import os
import shutil

import cv2
import numpy as np
import pytest

from ppmobilenet.cli import main
from ppmobilenet.config import load_config
from ppmobilenet.field.preprocessing import deployment_ops
from ppmobilenet.report import gather
from ppmobilenet.report.predictions import FILE_NAME, Collector
from ppmobilenet.workshop.making import PackageSpec, make_package
from ppmobilenet.zoo import create_model

NAMES = ("shirt", "dress", "hat")
OPS = [
    {"DecodeImage": {"to_rgb": True, "channel_first": False}},
    {"ResizeImage": {"resize_short": 72}},
    {"CropImage": {"size": 64}},
    {"NormalizeImage": {"scale": 1 / 255, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "order": ""}},
]


@pytest.fixture(scope="module")
def model():
    return create_model("MobileNetV1_x0_25", class_num=3, init="kaiming_fan_out")


@pytest.fixture(scope="module")
def run(model, repo, tmp_path_factory):
    """A run's folder as training and evaluation leave it: effective YAML, CSVs, weights, predictions."""
    folder = tmp_path_factory.mktemp("work") / "clothes"
    photos = folder / "photos"
    photos.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(9):
        cv2.imwrite(str(photos / f"{i}.png"), rng.integers(0, 255, (80, 90, 3), np.uint8))
    config = load_config(
        repo / "configs" / "quick_start" / "MobileNetV2_finetune.yaml",
        ["Arch.name=MobileNetV1_x0_25", "Arch.class_num=3", "Arch.pretrained=False", "Global.resolution=64"],
    )
    config.dump(folder / "config.yaml")
    (folder / "metrics.csv").write_text(
        "epoch,step,lr,train_loss,train_top1,eval_loss,eval_top1,seconds\n1,4,0.1,1.2,0.4,1.1,0.5,61\n2,8,0.05,0.9,0.6,,,59\n"
    )
    (folder / "steps.csv").write_text("epoch,step,lr,loss,images_per_second\n1,1,0.1,1.3,7.5\n1,2,0.1,1.2,8.5\n")
    np.savez(folder / "best.npz", **{key: value.numpy() for key, value in model.state_dict().items()})
    collector = Collector(NAMES)
    labels = np.arange(9) % 3
    scores = rng.dirichlet(np.ones(3), 9)
    scores[np.arange(9), np.where(np.arange(9) < 4, (labels + 1) % 3, labels)] += 1  # four wrong, five right
    collector.add(scores / 2, labels, np.arange(9))
    table = collector.finish(
        [str(photos / f"{i}.png") for i in range(9)], weights=str(folder / "best.npz"), seconds=3.0
    )
    table.save(folder / FILE_NAME)
    return folder


@pytest.fixture(scope="module")
def package(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "inference"
    accuracy = [
        {"form": "inference", "top1": 0.875, "top5": 1.0, "samples": 341},
        {"form": "trained", "top1": 0.9, "epoch": 3, "source": "evaluation during training"},
        {
            "form": "lite-armv8-int8",
            "processor": "armv8",
            "computed": True,
            "top1": 0.5,
            "agreement": 0.625,
            "samples": 1000,
        },
    ]
    make_package(
        model, PackageSpec(name="MobileNetV1_x0_25", ops=OPS, labels=NAMES), folder, accuracy=lambda package: accuracy
    )
    return folder


def test_a_run(run, capsys):
    assert main(["report", str(run)]) == 0
    page = run / "report" / "report.html"
    assert capsys.readouterr().out.strip() == str(page)
    text = page.read_text()
    for heading in ("Learning curves", "Confusion", "Calibration", "Where it looked", "Time", "Cost", "Configuration"):
        assert f">{heading}</h2>" in text
    assert "MobileNetV1_x0_25, clothes" in text and "weakest class" in text
    assert "effective configuration" in text and "Arch.class_num=3" in text
    found = json.loads((page.parent / "report.json").read_text())
    assert found["times"] == {
        "epochs": "2",
        "training": "2:00",
        "an epoch": "1:00",
        "training, images a second": "8.0",
        "evaluation": "0:03",
        "evaluation, images a second": "3.0",
    }
    assert found["cost"]["resolution"] == [64, 64] and found["cost"]["model"] == "MobileNetV1_x0_25"
    assert found["curves"][1] == {
        "epoch": 2,
        "step": 8,
        "lr": 0.05,
        "train_loss": 0.9,
        "train_top1": 0.6,
        "seconds": 59,
    }


def test_activation_maps_are_of_the_worst_and_the_surest(run):
    content = gather.from_run(run, load_config(run / "config.yaml"))
    rows = content.activations
    assert len(rows) == gather.LOOKED_AT
    assert all(row["overlay"].shape == (64, 64, 3) and row["overlay"].dtype == np.uint8 for row in rows)
    wrong = [row for row in rows if "true:" in row["text"]]
    assert len(wrong) == 3


def test_a_photo_that_is_gone_is_left_out(run, model):
    content = gather.from_run(run, load_config(run / "config.yaml"))
    gone = {row["path"] for row in content.activations[:2]}
    table = content.predictions
    kept = tuple("/nowhere/x.png" if path in gone else path for path in table.paths)
    moved = type(table)(table.names, kept, table.labels, table.classes, table.scores, table.true_scores, table.about)
    rows = gather.activations(model, deployment_ops(OPS), moved)
    assert len(rows) == gather.LOOKED_AT - 2


def test_a_package(package, tmp_path, capsys):
    before = sorted(path.name for path in package.iterdir())
    assert main(["report", str(package)]) == 0
    page = package.parent / "inference_report" / "report.html"
    assert capsys.readouterr().out.strip() == str(page)
    assert sorted(path.name for path in package.iterdir()) == before, "a package holds what its package.json lists"
    found = json.loads((page.parent / "report.json").read_text())
    assert "pdmodel" in {form["name"] for form in found["forms"]}
    assert all(0.8e6 < form["bytes"] < 5e6 and form["max_difference"] < 1e-5 for form in found["forms"])
    assert {row["backend"] for row in found["latencies"]} >= {"paddle"}
    assert all(0 < row["median_ms"] < 1e4 for row in found["latencies"])
    assert found["data"]["top-1 of inference"] == "87.50 % of 341 photos" and found["data"]["input"] == "64x64 float32"
    assert found["data"]["top-1 of trained"] == "90.00 %, evaluation during training"
    board = found["data"]["top-1 of lite-armv8-int8 on armv8, computed"]
    assert board == "50.00 % of 1,000 photos; as float in 62.5 %"
    assert found["cost"]["parameters"] < 250_000
    assert main(["report", str(package), "-o", str(tmp_path / "there"), "--untimed"]) == 0
    assert "Latency" not in (tmp_path / "there" / "report.html").read_text()


def test_other_folders_are_refused(tmp_path, capsys):
    assert main(["report", str(tmp_path)]) == 2
    assert "neither metrics.csv nor predictions.npz" in capsys.readouterr().err
    assert main(["report", str(tmp_path / "none")]) == 2
    assert "not a folder" in capsys.readouterr().err


def test_a_run_shows_the_package_that_was_exported_from_it(run, package, tmp_path):
    folder = tmp_path / "clothes"
    shutil.copytree(run, folder)
    text = (folder / "config.yaml").read_text()
    place = load_config(folder / "config.yaml").get("Global.save_inference_dir")
    assert place in text
    (folder / "config.yaml").write_text(text.replace(place, str(package)))
    weights = folder / "latest.pdparams"
    weights.write_bytes(b"")
    later = (package / "package.json").stat().st_mtime + 60
    os.utime(weights, (later, later))
    gather.report_folder(folder, timed=False)
    assert "forms" not in json.loads((folder / "report/report.json").read_text())  # an older export is another model
    os.utime(weights, (0, 0))
    gather.report_folder(folder)
    found = json.loads((folder / "report/report.json").read_text())
    meta = json.loads((package / "package.json").read_text())
    assert [form["name"] for form in found["forms"]] == [form["name"] for form in meta["forms"]]
    assert found["latencies"]
    assert "Latency on this machine" in (folder / "report/report.html").read_text()
