"""A run that was stopped and resumed is the run that was not: bit for bit on the CPU."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import paddle
import pytest
from training_helpers import losses

from ppmobilenet.errors import Stopped
from ppmobilenet.training import trainer
from ppmobilenet.training.evaluator import evaluate
from ppmobilenet.weights.files import read_weights
from ppmobilenet.zoo import create_model

REPO = Path(__file__).resolve().parents[2]


def weights(folder: Path, name: str = "latest") -> dict[str, np.ndarray]:
    return read_weights(folder / f"{name}.pdparams")


def assert_same_run(one: Path, other: Path) -> None:
    assert losses(one) == losses(other)
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    for key, array in first.items():
        np.testing.assert_array_equal(array, second[key], err_msg=key)
    without_time = [
        [line.rpartition(",")[0] for line in (folder / "metrics.csv").read_text().splitlines()]
        for folder in (one, other)
    ]
    assert without_time[0] == without_time[1]


def stop_at(step: int, monkeypatch) -> None:
    """Send SIGTERM to this process in the middle of a step."""
    original = trainer._reseed

    def reseed(state, rank):
        if state.step == step:
            os.kill(os.getpid(), signal.SIGTERM)
        original(state, rank)

    monkeypatch.setattr(trainer, "_reseed", reseed)


VARIANTS = {
    "momentum": (),
    "adamw and average": ("Optimizer.name=AdamW", "Optimizer.regularizer.coeff=0.01", "EMA.decay=0.9"),
    "dropout": ("Arch.dropout=0.5",),
    "worker processes": ("DataLoader.Train.loader.num_workers=2",),
    "accumulation": ("Global.update_freq=2",),
    "compiled kernels": ("Global.cpu_kernels=auto",),
    "V1 with rmsprop": ("Arch.name=MobileNetV1_x0_25", "Optimizer.name=RMSProp", "Optimizer.lr.learning_rate=0.001"),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_stopped_in_an_epoch_and_resumed(variant, tiny_config, tmp_path, monkeypatch):
    extra = VARIANTS[variant]
    trainer.train(tiny_config(*extra, out="whole"))
    with monkeypatch.context() as patch:
        # 5 steps an epoch (4 with accumulation): in the middle of the second one
        stop_at(7 if "accumulation" not in variant else 5, patch)
        with pytest.raises(Stopped, match="checkpoints=auto") as stopped:
            trainer.train(tiny_config(*extra, out="parts"))
    assert stopped.value.exit_code == 143
    assert max(losses(tmp_path / "parts")) < max(losses(tmp_path / "whole"))
    trainer.train(tiny_config(*extra, "Global.checkpoints=auto", out="parts"))
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_two_and_two_epochs_are_four(tiny_config, tmp_path):
    """The schedule is that of four epochs, so the first part is a run of four that is cut off."""
    trainer.train(tiny_config("Global.epochs=4", out="whole"))
    source = tmp_path / "whole"
    part = tmp_path / "part"
    part.mkdir()
    for suffix in ("pdparams", "pdopt", "pdstates", "manifest.json"):
        (part / f"epoch_2.{suffix}").write_bytes((source / f"epoch_2.{suffix}").read_bytes())
    for name in ("steps.csv", "metrics.csv"):
        (part / name).write_bytes((source / name).read_bytes())  # their later rows belong to lost work
    trainer.train(tiny_config("Global.epochs=4", f"Global.checkpoints={part}/epoch_2", out="part"))
    assert_same_run(source, part)


def test_best_metric_survives(tiny_config, tmp_path):
    first = trainer.train(tiny_config())
    again = trainer.train(tiny_config("Global.checkpoints=auto"))
    assert (again["best_metric"], again["best_epoch"]) == (first["best_metric"], first["best_epoch"])
    assert again["step"] == first["step"]


def launch(*words: str) -> subprocess.CompletedProcess:
    """Run tools/train.py in two data-parallel processes."""
    command = [sys.executable, "-m", "paddle.distributed.launch", "--nproc_per_node", "2", "--log_dir", words[0]]
    return subprocess.run(
        [*command, str(REPO / "tools/train.py"), *words[1:]], capture_output=True, text=True, timeout=300
    )


def two_go_on_exactly(yaml: Path, words: list[str], tmp_path: Path) -> Path:
    """Train in two processes, and again from the first epoch's end, with the same result; return the run's folder."""
    base = ("-c", str(yaml), *(w for word in words for w in ("-o", word)))
    base = (*base, "-o", "DataLoader.Train.sampler.batch_size=4")
    whole = launch(str(tmp_path / "log"), *base, "-o", f"Global.output_dir={tmp_path}/whole")
    assert whole.returncode == 0, whole.stdout + whole.stderr
    assert "evaluated 13/13" in (tmp_path / "whole/train.log").read_text()
    part = tmp_path / "part"
    part.mkdir()
    for path in [*(tmp_path / "whole").glob("epoch_1.*"), *(tmp_path / "whole").glob("teacher-*")]:
        (part / path.name).write_bytes(path.read_bytes())
    for name in ("steps.csv", "metrics.csv"):
        (part / name).write_bytes((tmp_path / "whole" / name).read_bytes())
    resumed = launch(
        str(tmp_path / "log2"), *base, "-o", f"Global.output_dir={part}", "-o", f"Global.checkpoints={part}/epoch_1"
    )
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert_same_run(tmp_path / "whole", part)
    return tmp_path / "whole"


def test_two_processes_stopped_and_resumed(tiny_yaml, tmp_path, tiny_config):
    whole = two_go_on_exactly(tiny_yaml, ["EMA.decay=0.6"], tmp_path)
    with open(whole / "metrics.csv", newline="") as file:
        judged = list(csv.DictReader(file))
    for epoch, row in enumerate(judged, 1):  # what two processes judged together is what is saved
        saved = f"Global.pretrained_model={whole}/epoch_{epoch}"
        assert evaluate(tiny_config(saved))["loss"] == pytest.approx(float(row["eval_loss"]), abs=1e-5)


@pytest.mark.slow
def test_two_processes_learn_from_a_teacher_and_go_on_exactly(tiny, tiny_yaml, tmp_path):
    """Each process keeps the answers to the photos that it drew; photos without labels are shared out, too."""
    unlabelled = {
        "dataset.name": "ImageNetDataset",
        "dataset.image_root": tiny / "val",
        "dataset.transform_ops": "[DecodeImage: {}, RandCropImage: {size: 32}, NormalizeImage: {order: ''}]",
        **{"sampler.batch_size": 3, "sampler.shuffle": True, "loader.num_workers": 0},
    }
    words = ["Teacher.name=MobileNetV1_x0_25", "Teacher.views=2", "Loss.Train=[DistillationKLDivLoss]", "EMA.decay=0.9"]
    words += [f"Teacher.pretrained={tmp_path}/teacher.pdparams", "Global.epochs=3"]
    words += [f"DataLoader.UnLabelTrain.{key}={value}" for key, value in unlabelled.items()]
    paddle.save(create_model("MobileNetV1_x0_25", class_num=3).state_dict(), str(tmp_path / "teacher.pdparams"))
    whole = two_go_on_exactly(tiny_yaml, words, tmp_path)
    assert len(list(whole.glob("teacher-*.npy"))) == 4


@pytest.mark.slow
def test_two_processes_learn_several_labels_and_go_on_exactly(tiny, tiny_yaml, tmp_path):
    words = ["Global.use_multilabel=True", "Loss.Train=[MultiLabelLoss: {weight_ratio: True, size_sum: True}]"]
    words += ["Loss.Eval=[MultiLabelLoss]", "Metric.Train=[AccuracyScore]", "Metric.Eval=[ATTRMetric]"]
    words += ["EMA.decay=0.9", "Global.epochs=3"]
    for mode, listed in (("Train", "train"), ("Eval", "val")):
        lines = [line.split() for line in (tiny / f"{listed}_list.txt").read_text().splitlines()]
        labels = [",".join(str(int(label == str(k))) for k in range(3)) for _, label in lines]
        (tmp_path / f"{listed}.txt").write_text("".join(f"{name}\t{own}\n" for (name, _), own in zip(lines, labels)))
        words += [f"DataLoader.{mode}.dataset.name=MultiLabelDataset"]
        words += [f"DataLoader.{mode}.dataset.cls_label_path={tmp_path}/{listed}.txt"]
    whole = two_go_on_exactly(tiny_yaml, words, tmp_path)
    assert "mA" in (whole / "metrics.csv").read_text()


@pytest.mark.slow
def test_one_of_two_processes_is_told_to_stop_in_an_epoch(tiny_yaml, tmp_path):
    """Both stop after the same step, and the resumed run is the undisturbed one."""
    base = ("-c", str(tiny_yaml), "-o", "DataLoader.Train.sampler.batch_size=4", "-o", "Global.epochs=6")
    whole = launch(str(tmp_path / "log"), *base, "-o", f"Global.output_dir={tmp_path}/whole")
    assert whole.returncode == 0, whole.stdout + whole.stderr
    part = ("-o", f"Global.output_dir={tmp_path}/part")
    command = [sys.executable, "-m", "paddle.distributed.launch", "--nproc_per_node", "2"]
    process = subprocess.Popen(
        [*command, "--log_dir", str(tmp_path / "log2"), str(REPO / "tools/train.py"), *base, *part],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    steps = tmp_path / "part/steps.csv"
    while process.poll() is None and (not steps.is_file() or len(losses(tmp_path / "part")) < 12):
        time.sleep(0.01)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(children[-1]), signal.SIGTERM)
    assert process.wait(timeout=120) == 143
    assert 12 <= max(losses(tmp_path / "part")) < 30
    resumed = launch(str(tmp_path / "log3"), *base, *part, "-o", "Global.checkpoints=auto")
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert_same_run(tmp_path / "whole", tmp_path / "part")
