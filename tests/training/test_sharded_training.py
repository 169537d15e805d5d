"""A training on shards is the one on single files; stopped in an epoch it goes on exactly, whoever reads the photos."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from training_helpers import losses

from ppmobilenet.cli import main
from ppmobilenet.data.shards.pack import pack
from ppmobilenet.data.shards.plan import Wanted
from ppmobilenet.errors import DataError, Stopped, UserError
from ppmobilenet.photos.shards import Shards
from ppmobilenet.training import trainer
from ppmobilenet.weights.files import read_weights


@pytest.fixture(scope="module")
def shards(tiny, tmp_path_factory) -> Path:
    """The tiny data set in shards: ``train`` and ``val`` in one folder."""
    folder = tmp_path_factory.mktemp("shards")
    for side in ("train", "val"):
        done = pack(Wanted(tiny / f"{side}_list.txt", tiny, 20_000, None), folder / side, 2)
        assert done.shards > 2 and done.bad == 0
    return folder


def assert_same(one: Path, other: Path) -> None:
    assert losses(one) == losses(other)
    first, second = (read_weights(folder / "latest.pdparams") for folder in (one, other))
    assert all((first[key] == second[key]).all() for key in first) and first.keys() == second.keys()


def test_it_is_the_training_on_single_files(tiny_config, shards, tmp_path):
    trainer.train(tiny_config(out="files"))
    of_shards = tiny_config(f"Global.data={shards}", out="shards")
    assert of_shards.train.dataset.name == of_shards.eval.dataset.name == "ShardDataset"
    result = trainer.train(of_shards)
    assert_same(tmp_path / "files", tmp_path / "shards")
    assert result["evaluated"] == 13


def test_stopped_in_an_epoch_it_goes_on_exactly_with_any_number_of_workers(tiny_config, shards, tmp_path, monkeypatch):
    window = ("DataLoader.Train.dataset.window=12", "DataLoader.Train.dataset.streams=3")
    words = (f"Global.data={shards}", "DataLoader.Train.dataset.name=ShardDataset", *window)
    trainer.train(tiny_config(*words, out="whole"))
    reseed = trainer._reseed

    def stop(state, rank):
        if state.step == 7:  # of 5 an epoch
            os.kill(os.getpid(), signal.SIGTERM)
        reseed(state, rank)

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "_reseed", stop)
        with pytest.raises(Stopped):
            trainer.train(tiny_config(*words, "DataLoader.Train.loader.num_workers=2", out="parts"))
    assert 5 < max(losses(tmp_path / "parts")) < 10
    trainer.train(tiny_config(*words, "DataLoader.Train.loader.num_workers=1", "Global.checkpoints=auto", out="parts"))
    assert_same(tmp_path / "whole", tmp_path / "parts")
    trainer.train(tiny_config(f"Global.data={shards}", out="one window"))
    assert losses(tmp_path / "one window") != losses(tmp_path / "whole")


@pytest.mark.slow
def test_two_processes_share_shards_as_they_share_files(tiny_yaml, shards, repo, tmp_path):
    command = [sys.executable, "-m", "paddle.distributed.launch", "--nproc_per_node", "2"]
    words = [str(repo / "tools/train.py"), "-c", str(tiny_yaml), "-o", "DataLoader.Train.sampler.batch_size=4"]
    for name, more in (("files", []), ("shards", ["-o", f"Global.data={shards}"])):
        more = [*more, "-o", f"Global.output_dir={tmp_path / name}"]
        log = ["--log_dir", str(tmp_path / f"log-{name}")]
        done = subprocess.run([*command, *log, *words, *more], capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "evaluated 13/13" in (tmp_path / name / "train.log").read_text()
    assert_same(tmp_path / "files", tmp_path / "shards")


def test_what_follows_a_training_reads_shards(tiny_yaml, shards, tmp_path, capsys):
    words = ["-c", str(tiny_yaml), "-o", f"Global.data={shards}", "-o", "Global.epochs=1"]
    assert main(["train", *words]) == 0
    page = (tmp_path / "out/report/report.html").read_text()
    assert "data:image" in page and "photo not found" not in page
    assert main(["eval", "-c", str(tmp_path / "out")]) == 0
    capsys.readouterr()
    answers = ["-i", str(shards / "val"), "--save", str(tmp_path / "answers.jsonl")]
    assert main(["infer", "-c", str(tmp_path / "out"), *answers]) == 0
    rows = (tmp_path / "answers.jsonl").read_text().splitlines()
    assert len(rows) == 13 and all(str(member) in row for member, row in zip(Shards(shards / "val"), rows))
    package = tmp_path / "package"
    assert main(["export", "-c", str(tmp_path / "out"), "--output", str(package), "--calibrate"]) == 0


def test_shards_that_do_not_fit_are_refused_before_the_first_step(tiny_config, tiny, shards, tmp_path):
    with pytest.raises(DataError, match=r"index.json: 13 photos .*class_num 2(.|\n)*class_num=3"):
        trainer.train(tiny_config(f"Global.data={shards}", "Arch.class_num=2"))
    with pytest.raises(UserError, match="unknown key DataLoader.Train.dataset.relabel(.|\n)*of ShardDataset"):
        tiny_config(f"Global.data={shards}", "DataLoader.Train.dataset.relabel=True")
    with pytest.raises(DataError, match="there is no index of shards here(.|\n)*ppmobilenet pack"):
        name = "DataLoader.Train.dataset.name=ShardDataset"
        trainer.train(tiny_config(name, f"DataLoader.Train.dataset.image_root={tiny}"))
    with pytest.raises(UserError, match="window 0"):
        trainer.train(tiny_config(f"Global.data={shards}", "DataLoader.Train.dataset.window=0"))


def test_photos_without_labels_are_learned_from_a_teacher(tiny, tiny_config, tmp_path):
    lines = (tiny / "val_list.txt").read_text().splitlines()
    (tmp_path / "paths.txt").write_text("".join(f"{line.split()[0]}\n" for line in lines))
    pack(Wanted(tmp_path / "paths.txt", tiny, 20_000, labelled=False), tmp_path / "bare", 1)
    side = "DataLoader.UnLabelTrain"
    words = [
        *("Teacher.name=MobileNetV1_x0_25", "Loss.Train=[DistillationKLDivLoss]", "Global.epochs=1"),
        *(f"{side}.dataset.name=ShardDataset", f"{side}.dataset.image_root={tmp_path / 'bare'}"),
        f"{side}.dataset.transform_ops=[DecodeImage: {{}}, RandCropImage: {{size: 32}}, NormalizeImage: {{order: ''}}]",
        *(f"{side}.sampler.batch_size=4", f"{side}.sampler.shuffle=True", f"{side}.loader.num_workers=0"),
    ]
    assert trainer.train(tiny_config(*words), random_init=True)["step"] == 5
    with pytest.raises(DataError, match="packed without labels"):
        words = ["DataLoader.Train.dataset.name=ShardDataset", f"DataLoader.Train.dataset.image_root={tmp_path}/bare"]
        trainer.train(tiny_config(*words))
