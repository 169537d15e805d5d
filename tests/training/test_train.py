"""What a run leaves behind, what it refuses, and how it ends."""

from __future__ import annotations

import csv
import json
import logging
import math
import os
import shutil
import signal
import subprocess
import sys
import types
from pathlib import Path

import cv2
import numpy as np
import paddle
import pytest
from training_helpers import VAL

from ppmobilenet.cli import main
from ppmobilenet.config import load_config
from ppmobilenet.errors import DataError, NumericsError, Stopped, UserError
from ppmobilenet.training import checkpoint, trainer
from ppmobilenet.training.evaluator import Evaluator, evaluate
from ppmobilenet.training.keeping import RunKeeper
from ppmobilenet.training.runfolder import owned
from ppmobilenet.weights.files import read_pickle, read_weights
from ppmobilenet.zoo import create_model


def rows(folder, name="metrics.csv"):
    with open(folder / name, newline="") as file:
        return list(csv.DictReader(file))


# the schedule that reads here is not the one that wrote
@pytest.mark.filterwarnings("ignore:There are some unused values in state_dict:UserWarning")
def test_files_are_paddleclas_and_paddle_reads_them(tiny_config, tmp_path):
    trainer.train(tiny_config("Global.use_visualdl=False"))
    out = tmp_path / "out"
    for name in ("latest", "best_model", "epoch_1", "epoch_2"):
        for suffix in ("pdparams", "pdopt", "pdstates"):
            assert (out / f"{name}.{suffix}").stat().st_size
    # as PaddleClas's save_load reads them
    best = paddle.load(str(out / "best_model.pdparams"))
    nested = paddle.load(str(out / "best_model/model.pdparams"))
    assert {k for k in best if k != "StructuredToParameterName@@"} == set(
        create_model("MobileNetV2_x0_25").state_dict()
    )
    assert nested.keys() == best.keys()
    states = paddle.load(str(out / "latest.pdstates"))
    assert states["epoch"] == 2 and 0 <= states["metric"] <= 1
    loaded = paddle.load(str(out / "latest.pdopt"))
    assert isinstance(loaded, list) and len(loaded) == 1
    peer = create_model("MobileNetV2_x0_25", class_num=3)
    optimizer = paddle.optimizer.Momentum(
        paddle.optimizer.lr.LinearWarmup(paddle.optimizer.lr.CosineAnnealingDecay(0.1, 5), 5, 0.0, 0.1),
        parameters=peer.parameters(),
    )
    optimizer.set_state_dict(loaded[0])
    with paddle.utils.unique_name.guard():
        paddle.nn.functional.cross_entropy(peer(paddle.randn([2, 3, 32, 32])), paddle.to_tensor([0, 1])).backward()
        optimizer.step()
    assert rows(out)[1]["epoch"] == "2" and rows(out)[1]["eval_top1"]
    assert "step 5/5" in (out / "train.log").read_text(encoding="utf-8")
    assert "Global" in (out / "config.yaml").read_text(encoding="utf-8")


def test_resumes_what_paddleclas_wrote(tiny_config, tmp_path):
    """PaddleClas's current layout, and the one with the Arch's name that its documents show; no manifest."""
    model = create_model("MobileNetV2_x0_25", class_num=3)
    optimizer = paddle.optimizer.Momentum(paddle.optimizer.lr.StepDecay(0.1, 2), parameters=model.parameters())
    with paddle.utils.unique_name.guard():
        paddle.nn.functional.cross_entropy(model(paddle.randn([2, 3, 32, 32])), paddle.to_tensor([0, 1])).backward()
        optimizer.step()
    folder = tmp_path / "theirs/MobileNetV2_x0_25"
    folder.mkdir(parents=True)
    paddle.save(model.state_dict(), str(folder / "latest.pdparams"))
    paddle.save([optimizer.state_dict()], str(folder / "latest.pdopt"))
    paddle.save({"metric": 0.25, "epoch": 1}, str(folder / "latest.pdstates"))
    result = trainer.train(tiny_config(f"Global.checkpoints={tmp_path}/theirs/latest"))
    assert result["epochs"] == 2 and [row["epoch"] for row in rows(tmp_path / "out")] == ["2"]


def test_average_is_what_is_saved_and_judged(tiny_config, tmp_path):
    trainer.train(tiny_config("EMA.decay=0.5", "Global.epochs=1"))
    out = tmp_path / "out"
    average, trained = read_weights(out / "latest.pdparams"), read_weights(out / "latest.pdema")
    assert any(not np.array_equal(average[key], trained[key]) for key in average)
    result = evaluate(tiny_config(f"Global.pretrained_model={out}/latest"))
    assert f"{result['top1']:.6g}" == rows(out)[0]["eval_top1"]


def test_accumulated_gradients_are_those_of_the_big_batch(tiny_config, tmp_path):
    """With frozen statistics the gradient of 2 x 4 photos is that of 8."""
    same = ("Global.epochs=1", "Arch.freeze_norm=True", "Loss.Train.0.CELoss.epsilon=0.0", "Arch.class_num=3")
    size = "DataLoader.Train.sampler.batch_size"
    trainer.train(tiny_config(*same, f"{size}=8", out="big"), random_init=True)
    trainer.train(tiny_config(*same, f"{size}=4", "Global.update_freq=2", out="small"), random_init=True)
    big, small = read_weights(tmp_path / "big/latest.pdparams"), read_weights(tmp_path / "small/latest.pdparams")
    for key in big:
        np.testing.assert_allclose(big[key], small[key], rtol=1e-3, atol=1e-5, err_msg=key)


def test_frozen_layers_stay(tiny_config, tmp_path):
    paddle.seed(7)
    trainer.train(tiny_config("Global.epochs=1", "Arch.freeze=trunk", "Global.save_interval=1"), random_init=True)
    first = read_weights(tmp_path / "out/epoch_1.pdparams")
    assert not np.array_equal(first["out.bias"], np.zeros(3))
    np.testing.assert_array_equal(first["conv9._batch_norm._mean"], 0)
    with pytest.raises(UserError, match="no layer fits 'convolution9'") as wrong:
        trainer.train(tiny_config("Arch.freeze=[convolution9]"), random_init=True)
    assert "conv9" in str(wrong.value)


def test_evaluates_every_photo_once(tiny_config, tmp_path, capfd):
    trainer.train(tiny_config("Global.epochs=1"))
    result = evaluate(tiny_config(f"Global.pretrained_model={tmp_path}/out/latest"))
    last = capfd.readouterr().out.strip().splitlines()[-1]
    assert last.endswith(f"top1: {result['top1']:.5f}, top3: 1.00000, evaluated {VAL}/{VAL}")
    config = ["-c", str(tmp_path / "c.yaml"), "-o", f"Global.pretrained_model={tmp_path}/out/latest"]
    (tmp_path / "c.yaml").write_text((tmp_path / "out/config.yaml").read_text())
    assert main(["eval", *config, "--no-report", "--json"]) == 0
    assert json.loads(capfd.readouterr().out) == result


def test_no_weights_no_evaluation(tiny_config):
    with pytest.raises(UserError, match="--random-init"):
        evaluate(tiny_config())
    assert evaluate(tiny_config(), random_init=True)["evaluated"] == VAL


@pytest.mark.skipif(paddle.is_compiled_with_cuda(), reason="this machine may have a GPU")
def test_gpu_without_a_gpu_says_what_to_type(tiny_yaml, capfd):
    for command in ("train", "eval"):
        assert main([command, "-c", str(tiny_yaml), "-o", "Global.device=gpu", "-o", "Arch.pretrained=True"]) == 2
        error = capfd.readouterr().err
        assert "-o Global.device=cpu" in error and "Traceback" not in error


def test_mixed_precision_is_off_where_it_does_not_exist(tiny_config, tmp_path):
    trainer.train(tiny_config("Global.epochs=1", "AMP.use_amp=True", "AMP.level=O2"))
    assert "no mixed precision" in (tmp_path / "out/train.log").read_text()


def test_visualdl_scalars(tiny_config, tmp_path):
    pytest.importorskip("visualdl")
    trainer.train(tiny_config("Global.epochs=1", "Global.use_visualdl=True"))
    assert any(path.stat().st_size for path in (tmp_path / "out/vdl").iterdir())


def test_a_folder_has_one_owner(tiny_config, tmp_path):
    folder = tmp_path / "out"
    code = (
        "import sys, pathlib; from ppmobilenet.training.runfolder import owned\n"
        "with owned(pathlib.Path(sys.argv[1])): print('mine', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout.readline() == "mine\n"
    try:
        with pytest.raises(UserError, match=f"another run .*process {other.pid} on "):
            trainer.train(tiny_config())
    finally:
        other.kill()
        other.wait()
        other.stdin.close()
        other.stdout.close()
    with owned(folder):  # what a killed process leaves is taken over
        assert str(os.getpid()) in (folder / "run.lock").read_text()


def break_step(monkeypatch, steps: set[int]) -> None:
    """Let the loss be NaN the first time that each of these steps comes."""
    original = trainer._refuse_non_finite
    left = set(steps)

    def refuse(loss, state, *rest):
        if state.step in left:
            left.remove(state.step)
            loss = math.nan
        original(loss, state, *rest)

    monkeypatch.setattr(trainer, "_refuse_non_finite", refuse)


def test_nan_stops_the_run(tiny_config, tmp_path, monkeypatch):
    break_step(monkeypatch, {7})
    with pytest.raises(NumericsError) as stopped:
        trainer.train(tiny_config())
    text = str(stopped.value)
    assert stopped.value.exit_code == 5
    assert "step 8" in text and "learning rate" in text and "train/0" in text
    assert (tmp_path / "out/epoch_1.pdparams").is_file()


def test_nan_goes_back_once_at_half_the_rate(tiny_config, tmp_path, monkeypatch):
    break_step(monkeypatch, {7})
    result = trainer.train(tiny_config("Global.on_nan=rollback", "Optimizer.lr.name=ConstLR"))
    assert result["epochs"] == 2
    rates = [float(row["lr"]) for row in rows(tmp_path / "out", "steps.csv")]
    assert len(rates) == 10 and rates[5:] == [0.01] * 5
    assert read_pickle(tmp_path / "out/latest.pdstates")["ppmobilenet"]["rollbacks"] == 1
    break_step(monkeypatch, {2, 8})
    with pytest.raises(NumericsError):
        trainer.train(tiny_config("Global.on_nan=rollback", out="twice"))


def test_weights_that_are_not_finite_are_never_saved(tiny_config, tmp_path, monkeypatch):
    """The loss was finite and the last step still broke the weights."""
    original = trainer._change_weights

    def change(state):
        original(state)
        if state.step == 5:
            # a running variance: training does not look at it, so the loss stays as it is
            state.model.state_dict()["conv9._batch_norm._variance"].set_value(paddle.full([1280], math.nan))

    monkeypatch.setattr(trainer, "_change_weights", change)
    with pytest.raises(NumericsError, match="conv9._batch_norm._variance"):
        trainer.train(tiny_config("Global.eval_during_train=False"))
    assert not list((tmp_path / "out").glob("*.pdparams"))


def test_ties_leave_the_older_best(tiny_config, tmp_path, monkeypatch):
    answers = iter([0.5, 0.5, 0.75])
    fixed = {"loss": 1.0, "evaluated": VAL, "listed": VAL}
    monkeypatch.setattr(Evaluator, "__call__", lambda *a: {"top1": next(answers), **fixed})
    result = trainer.train(tiny_config("Global.epochs=2"))
    assert result["best_epoch"] == 1
    assert paddle.load(str(tmp_path / "out/best_model.pdstates"))["epoch"] == 1
    trainer.train(tiny_config("Global.epochs=3", "Global.checkpoints=auto"))
    assert paddle.load(str(tmp_path / "out/best_model.pdstates"))["epoch"] == 3


def test_bad_photos_stop_training_beyond_a_number_and_evaluation_at_once(tiny, tiny_config, tmp_path):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/a.png").write_bytes(b"<html>not found</html>")
    for split in ("train", "val"):
        text = (tiny / f"{split}_list.txt").read_text()
        (tmp_path / f"{split}.txt").write_text(text.replace(f"{split}/001.png", f"{tmp_path}/broken/a.png"))
    bad = f"DataLoader.Train.dataset.cls_label_path={tmp_path}/train.txt"
    with pytest.raises(DataError, match=r"train\.txt:2"):
        trainer.train(tiny_config(bad, out="strict"))
    trainer.train(tiny_config(bad, "DataLoader.Train.dataset.max_bad_samples=2", out="lenient"))
    assert "skipped 1 of at most 2" in (tmp_path / "lenient/train.log").read_text()
    with pytest.raises(DataError, match=r"val\.txt:2"):
        evaluate(tiny_config(f"DataLoader.Eval.dataset.cls_label_path={tmp_path}/val.txt"), random_init=True)


def test_only_the_newest_epochs_are_kept(tiny_config, tmp_path):
    trainer.train(tiny_config("Global.epochs=4", "Global.keep_checkpoints=2"))
    kept = sorted(path.stem for path in (tmp_path / "out").glob("epoch_*.pdparams"))
    assert kept == ["epoch_3", "epoch_4"]
    assert len(list((tmp_path / "out/checkpoints").iterdir())) == checkpoint.KEPT


def test_an_epoch_that_goes_on_with_other_photos_is_said(tiny, tiny_config, tmp_path, monkeypatch, capsys):
    """In the middle of an epoch the order of the rest hangs on how many photos there are, and on how they lie."""
    real, updates = RunKeeper.changed, []

    def once_then_stop(self, state, asked):
        real(self, state, asked)
        updates.append(state.step)
        if len(updates) == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(RunKeeper, "changed", once_then_stop)
    with pytest.raises(Stopped):
        trainer.train(tiny_config("Global.epochs=1"))
    shutil.copytree(tmp_path / "out", tmp_path / "other")
    trainer.train(tiny_config("Global.epochs=1", "Global.checkpoints=auto"))
    said = capsys.readouterr()
    assert "resumed from" in said.out and "the photos lie otherwise" not in said.out + said.err
    lines = (tiny / "train_list.txt").read_text().splitlines()
    (tmp_path / "fewer.txt").write_text("\n".join(lines[:-1]) + "\n")
    fewer = f"DataLoader.Train.dataset.cls_label_path={tmp_path / 'fewer.txt'}"
    trainer.train(tiny_config("Global.epochs=1", "Global.checkpoints=auto", fewer, out="other"))
    said = capsys.readouterr()
    assert "the photos lie otherwise than when this run was stopped" in said.out + said.err


def test_a_run_in_a_read_only_place(tiny_config, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="(?s)this folder cannot be written.*another one: -o Global.output_dir"):
        trainer.train(tiny_config(out="file"))


def test_log_goes_back_to_what_it_was(tiny_config):
    log = logging.getLogger("ppmobilenet")
    before = log.level, list(log.handlers), log.propagate
    trainer.train(tiny_config("Global.epochs=1"))
    assert (log.level, log.handlers, log.propagate) == before


def test_the_epoch_loop_is_short():
    """At most 48 lines, its text included, as the house demands."""
    import inspect

    assert len(inspect.getsource(trainer.train_epoch).splitlines()) <= 48
    assert isinstance(trainer.train_epoch, types.FunctionType)


REPO = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("path", sorted((REPO / "configs").rglob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_config_takes_a_step(path, tiny, tmp_path, monkeypatch):
    lines = (tiny / "train_list.txt").read_text().splitlines()[:2]
    (tmp_path / "two.txt").write_text("\n".join(lines))
    overrides = [
        *("Global.device=cpu", f"Global.output_dir={tmp_path}/out", "Global.epochs=1", "Global.resolution=32"),
        *("Global.cpu_kernels=off", "Arch.pretrained=False", "Global.save_interval=-1"),
    ]
    for mode in ("Train", "Eval"):
        overrides += [
            f"DataLoader.{mode}.dataset.image_root={tiny}",
            f"DataLoader.{mode}.dataset.cls_label_path={tmp_path}/two.txt",
            f"DataLoader.{mode}.sampler.batch_size=2",
            f"DataLoader.{mode}.loader.num_workers=0",
        ]
    config = load_config(path, overrides)
    if "quick_start" in path.parts:  # these name a file of the user's
        names = "".join(f"{i} class {i}\n" for i in range(config.get("Arch.class_num")))
        (tmp_path / "label_list.txt").write_text(names)
        config = load_config(path, [*overrides, f"Infer.PostProcess.class_id_map_file={tmp_path}/label_list.txt"])
    result = trainer.train(config, random_init=True)
    assert result["step"] == 1 and result["evaluated"] == 2


def test_grey_photo_trains(tiny, tiny_config, tmp_path):
    cv2.imwrite(str(tmp_path / "grey.png"), np.full((40, 30), 99, np.uint8))
    lines = (tiny / "train_list.txt").read_text().splitlines()[:7]
    (tmp_path / "grey.txt").write_text("\n".join([*lines, f"{tmp_path}/grey.png 1"]))
    trainer.train(tiny_config("Global.epochs=1", f"DataLoader.Train.dataset.cls_label_path={tmp_path}/grey.txt"))
