"""What 0.1.0 wrote goes on working: a run's checkpoint and configuration, and an exported package.

``golden/written_by_0.1.0.tar.gz`` holds ``run/`` (MobileNetV1 at scale 0.1, two classes, two epochs at 32x32),
``package/`` exported from it, and the sixteen ``photos/`` it was trained on.
"""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

from ppmobilenet import Predictor, load_config
from ppmobilenet.cli import main


@pytest.fixture
def written(tmp_path, monkeypatch) -> Path:
    with tarfile.open(Path(__file__).parent / "golden" / "written_by_0.1.0.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    monkeypatch.chdir(tmp_path)  # the configuration's paths are relative, as its author typed them
    return tmp_path


def test_its_checkpoint_goes_on_and_its_weights_are_evaluated(written):
    command = ["eval", "-c", "run/config.yaml", "-o", "Global.pretrained_model=run/latest", "--json", "eval.json"]
    assert main(command) == 0
    evaluated = json.loads((written / "eval.json").read_text(encoding="utf-8"))
    assert evaluated["top1"] == 1.0
    assert evaluated["loss"] == pytest.approx(0.422778, abs=1e-4)
    going_on = ["-o", "Global.checkpoints=run/latest", "-o", "Global.epochs=3"]
    assert main(["train", "-c", "run/config.yaml", *going_on, "--no-report", "--json", "train.json"]) == 0
    assert json.loads((written / "train.json").read_text(encoding="utf-8"))["step"] == 12  # eight were done
    logged = (written / "run" / "train.log").read_text(encoding="utf-8")
    assert "resumed from run/latest: epoch 3, step 8, best metric 1.00000 of epoch 2" in logged


@pytest.mark.parametrize("backend", ["paddle", "onnxruntime"])
def test_its_package_verifies_and_answers_as_then(written, backend):
    if backend == "onnxruntime":
        pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    assert main(["verify", "package"]) == 0
    answer = Predictor("package", backend=backend)(written / "package" / "golden" / "image.jpg")
    recorded = np.fromfile(written / "package" / "golden" / "output.bin", "<f4")
    assert answer.label_names == [["sky", "sand"][i] for i in answer.class_ids]
    assert answer.scores == pytest.approx([recorded[i] for i in answer.class_ids], abs=1e-5)


def test_its_configuration_reads_as_then(written):
    config = load_config("run/config.yaml")
    assert config["Arch"].to_dict() == {"name": "MobileNetV1", "class_num": 2, "scale": 0.1}
