"""Every way to say where weights come from, and every command behind it."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import paddle
import pytest
from training_helpers import CLASSES, VAL, YAML

from ppmobilenet.cli import main
from ppmobilenet.config import load_config
from ppmobilenet.errors import UserError
from ppmobilenet.report.predictions import FILE_NAME, Predictions
from ppmobilenet.training import evaluator, trainer
from ppmobilenet.training.setting import require_what_is_kept
from ppmobilenet.training.start import find_start
from ppmobilenet.weights.files import read_weights
from ppmobilenet.weights.naming import IDENTITY_SCALE
from ppmobilenet.weights.writing import write_weights
from ppmobilenet.zoo import create_model


@pytest.fixture(scope="module")
def place(tiny, tmp_path_factory) -> Path:
    """A folder with the tiny YAML, a file of 1000 classes, and a checkpoint of 3."""
    folder = tmp_path_factory.mktemp("starts")
    text = YAML.format(data=tiny, out=folder / "first").replace("MobileNetV2", "MobileNetV1")
    text = text.replace("  epochs: 2", "  epochs: 1")
    (folder / "tiny.yaml").write_text(text)
    paddle.seed(3)
    thousand = create_model("MobileNetV1_x0_25", init="kaiming_fan_out")
    paddle.save(thousand.state_dict(), str(folder / "thousand.pdparams"))
    assert main(["train", "-c", str(folder / "tiny.yaml"), "--no-report"]) == 0
    return folder


PUBLISHED = "Arch.pretrained True"
STARTS = {
    "nothing": [],
    "Global.pretrained_model": ["Global.pretrained_model=PLACE/thousand"],
    "Arch.pretrained file": ["Arch.pretrained=PLACE/thousand.pdparams"],
    PUBLISHED: ["Arch.pretrained=True"],
    "Global.checkpoints": ["Global.checkpoints=PLACE/first/latest", "Global.epochs=2"],
}


@pytest.fixture(scope="module", params=STARTS)
def run(request, place, tmp_path_factory):
    """A run from one of the starts: (its name, its folder, what was printed)."""
    folder = tmp_path_factory.mktemp("run") / "run"
    options = [f"Global.output_dir={folder}", f"Global.save_inference_dir={folder.parent}/package"]
    options += [text.replace("PLACE", str(place)) for text in STARTS[request.param]]
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(said), redirect_stderr(said):
        patch.setattr("ppmobilenet.training.start.published_file", lambda name, **_: place / "thousand.pdparams")
        assert main(["train", "-c", str(place / "tiny.yaml"), *(w for text in options for w in ("-o", text))]) == 0
        yield request.param, folder, said.getvalue()


def test_every_start_trains_reports_evaluates_and_answers(run, tiny, tmp_path, capsys):
    start, folder, said = run
    assert "no report" not in said and "Traceback" not in said
    if start == "Global.checkpoints":
        assert "resumed from" in said
    elif start != "nothing":
        assert "head skipped: 1000 -> 3 classes" in said and "thousand.pdparams" in said
    report = json.loads((folder / "report" / "report.json").read_text())
    table = Predictions.load(folder / FILE_NAME)
    best = next(f for name in ("best_model", "latest") if (f := folder / f"{name}.pdparams").is_file())
    assert report["summary"]["photos"] == VAL and table.about["weights"] == str(best)
    assert main(["report", str(folder)]) == 0
    capsys.readouterr()
    assert main(["eval", "-c", str(folder), "--no-report", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["top1"] == pytest.approx(report["summary"]["top1"])
    photo = tiny / "val" / "000.png"
    assert main(["infer", "-c", str(folder), "-i", str(photo), "--json", str(tmp_path / "a.json")]) == 0
    (answer,) = json.loads((tmp_path / "a.json").read_text())
    index = next(i for i, path in enumerate(table.paths) if path == str(photo))
    assert answer["class_ids"][0] == table.classes[index, 0], "not the weights that were evaluated"
    assert answer["scores"][0] == pytest.approx(float(table.scores[index, 0]), abs=1e-4)


DEPLOYED = [pytest.param(start, marks=() if start == PUBLISHED else pytest.mark.slow) for start in STARTS]


@pytest.mark.parametrize("run", DEPLOYED, indirect=True)
def test_every_start_is_exported_and_quantized(run):
    """Quick for one of them: behind the training they all are a run's folder."""
    folder = run[1]
    package, small = folder.parent / "package", folder.parent / "int8"
    assert main(["export", "-c", str(folder), "--to", "pdmodel"]) == 0
    assert json.loads((package / "package.json").read_text())["class_num"] == CLASSES
    assert main(["verify", str(package), "-c", str(folder)]) == 0, "other weights than the run's"
    words = ["--to", "pdmodel", "--output", str(small), "--photos", "4", "--limit", "4"]
    assert main(["quantize", "-c", str(folder), *words]) == 0
    forms = json.loads((small / "package.json").read_text())["forms"]
    assert {form["precision"] for form in forms} == {"fp32", "int8"}


def test_what_is_typed_comes_first(place, tmp_path):
    """Command line over checkpoint over Global.pretrained_model over Arch.pretrained."""
    text = (place / "tiny.yaml").read_text()

    def start(*typed: str, training: bool = False, **given: str):
        lines = "".join(f"  {key}: {value}\n" for key, value in given.items() if key != "pretrained")
        changed = text.replace("  epochs:", f"{lines}  epochs:")
        if "pretrained" in given:
            changed = changed.replace("Arch:\n", f"Arch:\n  pretrained: {given['pretrained']}\n")
        (tmp_path / "c.yaml").write_text(changed)
        config = load_config(tmp_path / "c.yaml", typed)
        config.dump(tmp_path / "effective.yaml")
        found = find_start(config.weights, training=training)
        kept = find_start(load_config(tmp_path / "effective.yaml").weights, training=training)
        assert kept == found or "auto" in given.values(), "the effective configuration names other weights"
        return (found.key, found.named) if found else None

    latest = str(place / "first" / "latest.pdparams")
    file = {"checkpoints": str(place / "first/latest"), "pretrained_model": "a", "pretrained": "b"}
    assert start() is None
    assert start(pretrained="b") == ("Arch.pretrained", "b")
    assert start(pretrained="b", pretrained_model="a") == ("Global.pretrained_model", "a")
    assert start(**file) == start(**file, training=True) == ("Global.checkpoints", latest)
    for training in (False, True):
        assert start("Arch.pretrained=c", **file, training=training) == ("Arch.pretrained", "c")
        assert start("Arch.pretrained=True", **file, training=training) == ("Arch.pretrained", True)
        typed = ["Global.pretrained_model=c", "Arch.pretrained=d"]
        assert start(*typed, **file, training=training) == ("Global.pretrained_model", "c")
        typed.append("Global.checkpoints=" + file["checkpoints"])
        assert start(*typed, **file, training=training) == ("Global.checkpoints", latest)
    # a run goes on from its own checkpoint, whatever it began with; an answer is asked of what is typed
    file["checkpoints"] = "auto"
    assert start("Global.pretrained_model=c", **file) == ("Global.pretrained_model", "c")
    assert start("Global.pretrained_model=c", **file, training=True)[0] == "Global.checkpoints"
    assert start("Global.checkpoints=auto", "Global.pretrained_model=c", **file)[0] == "Global.checkpoints"


def test_passed_over_starts_are_said(place):
    config = load_config(place / "tiny.yaml", ["Arch.pretrained=c"])
    assert not config.notes
    (place / "p.yaml").write_text(
        (place / "tiny.yaml").read_text().replace("  epochs", "  pretrained_model: a\n  epochs")
    )
    (note,) = load_config(place / "p.yaml", ["Arch.pretrained=c"]).notes
    assert "Global.pretrained_model is passed over for -o Arch.pretrained=c" in note


def test_a_runs_folder_is_its_configuration_with_its_best_weights(place, tmp_path):
    run = place / "first"
    config = load_config(run)
    assert config.get("Global.pretrained_model") == str(run / "best_model")
    assert config.get("Global.output_dir") == str(run) and not config.notes
    assert find_start(config.weights).named == str(run / "best_model")
    assert load_config(run, ["Global.pretrained_model=other"]).get("Global.pretrained_model") == "other"
    assert load_config(run, ["Arch.pretrained=x"]).get("Global.pretrained_model") is None
    bare = tmp_path / "bare"  # a section that -o makes is not typed as a whole
    bare.mkdir()
    (bare / "config.yaml").write_text("Arch: {name: MobileNetV2}\n")
    with pytest.raises(UserError, match="a folder, not a configuration"):
        load_config(bare)
    (bare / "latest.pdparams").touch()
    assert load_config(bare, ["Global.device=cpu"]).get("Global.pretrained_model") == str(bare / "latest")
    moved = tmp_path / "moved"
    run.rename(moved)
    try:
        assert load_config(moved).get("Global.output_dir") == str(moved)
        going_on = load_config(moved, go_on=True)
        assert find_start(going_on.weights, training=True).checkpoint is not None
        assert going_on.get("Global.pretrained_model") is None
    finally:
        moved.rename(run)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="a folder, not a configuration"):
        load_config(tmp_path / "empty")


def test_nothing_left_to_do_is_said(tiny_config, tmp_path, capfd):
    trainer.train(tiny_config("Global.epochs=1"))
    before = read_weights(tmp_path / "out/latest.pdparams")["out.bias"].copy()
    assert main(["train", "-c", str(tmp_path / "out"), "-o", "Global.seed=9", "--no-report", "--json"]) == 0
    out, err = capfd.readouterr()
    assert "nothing left to do: 1 epochs are done and Global.epochs is 1" in err and "-o Global.epochs=2" in err
    assert "Global.seed 9 is passed over: a resumed run keeps its own, 7" in err
    assert json.loads(out[out.index("{") :])["epochs"] == 1
    np.testing.assert_array_equal(read_weights(tmp_path / "out/latest.pdparams")["out.bias"], before)
    assert main(["train", "-c", str(tmp_path / "out"), "-o", "Global.epochs=2", "--no-report"]) == 0
    assert "nothing left" not in capfd.readouterr().err


def test_what_keeps_statistics_needs_weights(tiny_config, tmp_path, caplog):
    for key in ("Arch.freeze_norm=True", "Arch.freeze=trunk"):
        with pytest.raises(UserError, match="keep random numbers") as refused:
            trainer.train(tiny_config("Global.epochs=1", key))
        assert "--random-init" in str(refused.value) and "Arch.pretrained=True" in str(refused.value)
        assert not (tmp_path / "out" / "config.yaml").exists()
    trainer.train(tiny_config("Global.epochs=1", "Arch.freeze_norm=True"), random_init=True)
    result = evaluator.evaluate(tiny_config(f"Global.pretrained_model={tmp_path}/out/latest"))
    assert result["evaluated"] == VAL and "folded" not in caplog.text


def test_published_weights_are_advised_with_the_keys_that_they_do_not_fit():
    for recipe, not_with in (("V2", None), ("V3_small", "Arch.same_padding")):
        config = load_config(f"configs/quick_start/MobileNet{recipe}_finetune.yaml")
        with pytest.raises(UserError) as error:
            require_what_is_kept(config, None, random_init=False)
        assert "-o Arch.pretrained=True" in error.value.hint
        assert (
            f"not with Arch.se_divisor, Arch.expand_first, Arch.class_expand, Arch.last_conv_bias, {not_with}"
            in error.value.hint
        ) == (not_with is not None), error.value.hint


def test_folded_batch_norm_warns_where_it_is_to_learn(tiny_config, tmp_path, capfd):
    trainer.train(tiny_config("Global.epochs=1", "Arch.freeze_norm=True"), random_init=True)
    arrays = {key: value.copy() for key, value in read_weights(tmp_path / "out/latest.pdparams").items()}
    for norm in [key[: -len("_variance")] for key in arrays if key.endswith("._variance")]:
        arrays[f"{norm}_mean"][:], arrays[f"{norm}_variance"][:] = 0, 1
        arrays[f"{norm}weight"][:] = IDENTITY_SCALE
    start = f"Global.pretrained_model={write_weights(arrays, tmp_path / 'folded.npz')}"
    for more, warns in (("Arch.freeze_norm=True", False), ("Arch.freeze_norm=False", True)):
        trainer.train(tiny_config("Global.epochs=1", start, more))
        assert ("--unfold-bn" in capfd.readouterr().err) == warns


def test_a_start_that_fails_leaves_the_runs_configuration(tiny_config, tmp_path):
    trainer.train(tiny_config("Global.epochs=1"))
    before = (tmp_path / "out/config.yaml").read_text()
    with pytest.raises(UserError):
        trainer.train(tiny_config("Global.epochs=3", "Arch.freeze_norm=True"))
    assert (tmp_path / "out/config.yaml").read_text() == before


def test_an_evaluation_in_another_runs_folder_keeps_its_report(place, tiny_config, tiny_yaml, tmp_path, capfd):
    """Every PaddleClas YAML says ./output/, so it is the folder of some other run."""
    other = create_model("MobileNetV1_x0_5", class_num=CLASSES)
    paddle.save(other.state_dict(), str(tmp_path / "v1.pdparams"))
    trainer.train(tiny_config("Global.epochs=1"))
    words = ["-o", "Arch.name=MobileNetV1_x0_5", "-o", f"Global.pretrained_model={tmp_path}/v1"]
    assert main(["eval", "-c", str(tiny_yaml), *words]) == 0
    err = capfd.readouterr().err
    assert "holds a run of its own" in err and "no report" not in err
    report = json.loads((tmp_path / "out/evaluation/report/report.json").read_text())
    assert report["title"].startswith("MobileNetV1_x0_5") and report["cost"]["model"] == "MobileNetV1_x0_5"
    assert "curves" not in report and not (tmp_path / "out" / FILE_NAME).exists()
    # its own weights belong to the run, by whatever name
    assert main(["eval", "-c", str(tiny_yaml), "-o", f"Global.pretrained_model={tmp_path}/out/latest"]) == 0
    assert json.loads((tmp_path / "out/report/report.json").read_text())["curves"]
