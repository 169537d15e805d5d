"""``ppmobilenet fit``, from the command line to the package."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from fit_helpers import COLOURS, draw

from ppmobilenet import create_model
from ppmobilenet.cli import main
from ppmobilenet.config import load_config
from ppmobilenet.data.split import split_folder
from ppmobilenet.fit.earlier import split_of
from ppmobilenet.fit.notebook import FORMAT
from ppmobilenet.fit.run import LOCK
from ppmobilenet.training.runfolder import owned
from ppmobilenet.weights.writing import write_weights

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def fit(photos, weights, output, *more) -> tuple[int, dict]:
    said = output.with_name(f"{output.name}.json")
    words = ["fit", photos, "--weights", weights, "--output", output, "--json", said, *more]
    code = main([str(word) for word in words])
    return code, json.loads(said.read_text(encoding="utf-8")) if code == 0 else {}


def arrays(path) -> dict[str, np.ndarray]:
    from ppmobilenet.weights.files import read_weights

    return read_weights(path)


def listed(output) -> dict[str, str]:
    """Name of each photo -> its list and number."""
    lines = [(side, line) for side in ("train", "val") for line in (output / f"lists/{side}_list.txt").open()]
    return {line.split()[0]: f"{side} {line.split()[1]}" for side, line in lines}


@pytest.fixture(scope="module")
def linear(tmp_path_factory, weights):
    """A fit without time for fine-tuning: (folder of the photos, its output, what it found, what it printed)."""
    folder = tmp_path_factory.mktemp("linear")
    draw(folder / "photos", 12)
    return folder / "photos", folder / "out", *fit(folder / "photos", weights, folder / "out", "--minutes", "0.01")


def test_too_little_time_keeps_the_linear_classifier_and_gives_a_package(linear, capsys):
    photos, output, code, found = linear
    assert code == 0
    assert found["kept"] == "linear" and found["accuracy"] == found["linear"]
    assert found["accuracy"]["photos"] == 6 and found["accuracy"]["interval"][0] < found["accuracy"]["top1"]
    assert (output / "report/report.html").is_file()
    assert main(["infer", "-m", str(output / "package"), "-i", str(next(photos.rglob("*.png")))]) == 0
    assert any(name in capsys.readouterr().out for name in COLOURS)


def test_the_same_command_again_only_shows_the_card(linear, weights, capsys):
    photos, output, _, found = linear
    before = (output / "latest.pdparams").stat().st_mtime_ns
    code, again = fit(photos, weights, output, "--minutes", "0.01")
    card = capsys.readouterr().out.splitlines()[-10:]
    assert code == 0 and (output / "latest.pdparams").stat().st_mtime_ns == before
    assert again["accuracy"] == found["accuracy"]
    assert card[0].startswith("right: ") and card[-1].startswith("go on: ")
    assert card[-2] == f"board:     ppmobilenet export -c {output} --to inference,lite-armv8 --with-board"


def test_the_plan_gives_the_reasons_and_repeats_bit_for_bit(linear, tmp_path):
    plan = linear[1] / "fit.yaml"
    text = plan.read_text(encoding="utf-8")
    assert "# " in text and "Global.epochs: 0: the linear classifier is kept: --minutes 0.01 are too few" in text
    assert main(["train", "-c", str(plan), "-o", f"Global.output_dir={tmp_path / 'again'}", "--no-report"]) == 0
    first, second = (arrays(folder / "latest.pdparams") for folder in (linear[1], tmp_path / "again"))
    assert first.keys() == second.keys()
    assert all(np.array_equal(first[key], second[key]) for key in first)


def test_other_photos_or_another_question_are_not_mixed_in(linear, weights, capsys):
    photos, output, _, _ = linear
    assert fit(photos, weights, output, "--minutes", "0.02")[0] == 2
    said = capsys.readouterr().err
    assert "minutes was 0.01" in said and "asked as it was then it goes on" in said
    assert main(["fit", str(photos), "--output", str(output / "lists"), "--from", str(photos)]) == 2
    assert "there is no fit in this folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("spoil", "code", "words"),
    [
        (lambda notes: notes["entries"].pop("trained"), 2, "stopped before it had learned anything"),
        (
            lambda notes: notes["entries"]["photos"].pop("names"),
            4,
            "not tell the photos of a fit: KeyError('names')",
        ),
        (lambda notes: notes.update(format=FORMAT), 4, "it was changed after it was written"),
    ],
)
def test_a_fit_that_cannot_be_gone_on_from(linear, tmp_path, capsys, spoil, code, words):
    photos, output, _, _ = linear
    notes = json.loads((output / "fit.json").read_text(encoding="utf-8"))
    del notes["sha256"]
    notes["format"] = 2  # which had none
    spoil(notes)
    (tmp_path / "old").mkdir()
    (tmp_path / "old/fit.json").write_text(json.dumps(notes), encoding="utf-8")
    assert main(["fit", str(photos), "--output", str(tmp_path / "new"), "--from", str(tmp_path / "old")]) == code
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("entry", ["photos", "network", "course", "trained", "suspects"])
def test_notes_that_somebody_changed(linear, weights, tmp_path, capsys, entry):
    photos, output, _, _ = linear
    shutil.copytree(output, tmp_path / "out")
    notes = json.loads((output / "fit.json").read_text(encoding="utf-8"))
    notes["entries"][entry] = {}
    (tmp_path / "out/fit.json").write_text(json.dumps(notes), encoding="utf-8")
    assert fit(photos, weights, tmp_path / "out", "--minutes", "0.01")[0] == 4
    said = capsys.readouterr().err
    assert f"{tmp_path / 'out/fit.json'}: not the notes of a fit" in said and "fit anew into another folder" in said


def test_one_fit_at_a_time_in_a_folder(photos, weights, tmp_path, capsys):
    with owned(tmp_path / "out", LOCK):
        assert fit(photos, weights, tmp_path / "out", "--minutes", "0.01")[0] == 2
    said = capsys.readouterr().err
    assert "another run is writing into this folder" in said and "--output another folder" in said
    assert [path.name for path in (tmp_path / "out").iterdir()] == [LOCK]


def test_a_fit_is_found_from_any_working_folder(photos, weights, tmp_path, monkeypatch):
    """Where another project has an ``out`` of its own, whose lists say otherwise."""
    monkeypatch.chdir(tmp_path)
    assert fit(Path("photos"), weights, Path("out"), "--minutes", "0.01")[0] == 0
    held_out = listed(tmp_path / "out")
    (tmp_path / "moved").mkdir()
    for name in ("photos", "out"):
        (tmp_path / name).rename(tmp_path / "moved" / name)
    (tmp_path / "other/out/lists").mkdir(parents=True)
    for side, other in (("train", "val"), ("val", "train")):
        shutil.copy(tmp_path / f"moved/out/lists/{side}_list.txt", tmp_path / f"other/out/lists/{other}_list.txt")
    monkeypatch.chdir(tmp_path / "other")
    words = ["fit", "../moved/photos", "--from", "../moved/out", "--output", "more", "--minutes", "0.01"]
    assert main(words) == 0
    assert listed(tmp_path / "other/more") == held_out


def test_what_is_in_the_output_already_stays(photos, weights, tmp_path, capsys):
    for name in ("networks", "lists"):
        (tmp_path / f"mine/{name}").mkdir(parents=True)
        (tmp_path / f"mine/{name}/my_list.txt").write_text("mine")
    assert fit(photos, weights, tmp_path / "mine", "--minutes", "0.01")[0] == 2
    assert "holds lists already, which is of no fit" in capsys.readouterr().err
    assert len([*(tmp_path / "mine").rglob("my_list.txt")]) == 2
    assert fit(photos, weights, photos / "output", "--minutes", "0.01")[0] == 2
    assert "would lie among the photos" in capsys.readouterr().err and not (photos / "output").exists()


def test_what_another_version_began_is_left_alone(linear, weights, tmp_path, capsys):
    """Its notes lack what this version's steps find, or mean something else by it."""
    photos, output, _, _ = linear
    old = tmp_path / "old"
    old.mkdir()
    notes = json.loads((output / "fit.json").read_text(encoding="utf-8"))
    del notes["format"]  # as 0.2.0 wrote them
    (old / "fit.json").write_text(json.dumps(notes), encoding="utf-8")
    assert fit(photos, weights, old, "--minutes", "0.01")[0] == 2
    said = capsys.readouterr().err
    assert "another version of ppmobilenet has begun this fit" in said and f"--from {old}" in said
    assert json.loads((old / "fit.json").read_text(encoding="utf-8")) == notes


def test_a_package_that_knows_when_it_is_unsure(linear, weights, tmp_path):
    """Asked for later: only the package is written anew; and the card's command for a board keeps it."""
    photos, output, _, _ = linear
    out = tmp_path / "out"
    shutil.copytree(output, out)
    trained = (out / "latest.pdparams").stat().st_mtime_ns
    code, found = fit(photos, weights, out, "--minutes", "0.01", "--unsure-at", "0.1")
    assert code == 0 and found["export"] == "--to inference,lite-armv8 --unsure-at 0.1"
    assert (out / "latest.pdparams").stat().st_mtime_ns == trained
    meta = json.loads((out / "package/package.json").read_text(encoding="utf-8"))
    assert meta["decision"]["false_accept"] == 0.1 and 0 < meta["decision"]["unsure_below"] <= 1


def test_a_photo_whose_label_was_corrected_stays_on_its_side(linear, tmp_path):
    """It is in another folder now, and what it taught would be judged by it."""
    photos, output, _, _ = linear
    before, moved = listed(output), tmp_path / "photos"
    shutil.copytree(photos, moved)
    names = {}
    for side in ("train", "val"):
        for name in [name for name in before if name.startswith("blue/") and before[name].startswith(side)][:2]:
            (moved / name).rename(moved / "red" / f"was_blue_{Path(name).name}")
            names[f"red/was_blue_{Path(name).name}"] = side
    earlier = split_of(output)
    found = split_folder(moved, tmp_path / "lists", earlier=earlier)
    lines = [(side, line) for side in ("train", "val") for line in getattr(found, f"{side}_list").open()]
    after = {line.split()[0]: side for side, line in lines}
    assert {name: after[name] for name in names} == names
    assert {after[name] == before[name].split()[0] for name in before if name in after} == {True}


def test_a_class_that_comes_later(linear, tmp_path, capsys):
    photos, output, _, _ = linear
    more = tmp_path / "photos"
    shutil.copytree(photos, more)
    draw(more, 10, seed=1, colours={"amber": (20, 160, 240)})
    draw(more, 4, seed=2, colours={"red": COLOURS["red"]})
    said = tmp_path / "found.json"
    words = ["fit", more, "--from", output, "--output", tmp_path / "out", "--minutes", "0.01", "--json", said]
    assert main([str(word) for word in words]) == 0, capsys.readouterr().err
    assert json.loads(said.read_text())["classes"] == ["blue", "green", "red", "amber"]
    before, after = listed(output), listed(tmp_path / "out")
    assert {name: after[name] for name in before} == before
    assert sum(side.startswith("val 3") for side in after.values()) == 2


def test_a_folder_of_weights_is_compared_on_the_photos(photos, weights, tmp_path, monkeypatch):
    """V3's files do not tell its padding: four ways are tried, and a later fit goes on in the one that was taken."""
    from ppmobilenet.fit import choice, comparison

    folder, real = tmp_path / "weights", comparison._judge
    folder.mkdir()
    shutil.copy(weights, folder / weights.name)
    state = create_model("MobileNetV3_small_x0_35").state_dict()
    write_weights({key: value.numpy() for key, value in state.items()}, folder / "small.npz")
    (folder / "half.npz").write_bytes((folder / "small.npz").read_bytes()[:1000])

    def judge(candidate, *args):  # what nothing was learned with is worth the same in each way
        found = real(candidate, *args)
        return {**found, "loss": 9.0 - candidate.mean[0], "right": 30 if candidate.mean[0] == 0.5 else 3}

    monkeypatch.setattr(comparison, "_judge", judge)
    monkeypatch.setattr(choice, "COMPARING", 1000)  # times so few minutes
    code, found = fit(photos, folder, tmp_path / "out", "--minutes", "0.01")
    assert code == 0 and found["network"] == "MobileNetV3_small_x0_35"
    assert len(found["steps"]["network"]["rows"]) == 2 + 4 and not (tmp_path / "out/networks").exists()
    words = ["fit", photos, "--from", tmp_path / "out", "--output", tmp_path / "more", "--minutes", "0.01"]
    assert main([str(word) for word in words]) == 0
    for run in ("out", "more"):
        config = load_config(tmp_path / run)
        assert config.arch.parameters["same_padding"]
        for side in (config.train, config.eval):
            shown = [op["NormalizeImage"]["mean"] for op in side.dataset.transform_ops if "NormalizeImage" in op]
            assert list(shown[0]) == [0.5, 0.5, 0.5]


def test_fine_tuning_is_tried_on_parts_and_an_interrupted_fit_goes_on(photos, weights, tmp_path, monkeypatch):
    from ppmobilenet.fit import choice
    from ppmobilenet.fit.trial import Course

    monkeypatch.setattr(choice, "plan_course", lambda *_: Course(1, 2, 5 / 7))
    output, real, calls = tmp_path / "out", choice.judge_part, []

    def once_then_stop(*args):
        calls.append(args[3])
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(choice, "judge_part", once_then_stop)
    assert fit(photos, weights, output)[0] == 130
    code, found = fit(photos, weights, output)
    assert code == 0 and calls == [0, 1, 1]
    verdict = found["steps"]["verdict"]
    assert found["kept"] == ("tuned" if verdict["tuned"] else "linear")
    assert verdict["said"] in (output / "fit.yaml").read_text(encoding="utf-8")
    assert not (output / "trial").exists()
    trials = [found["steps"][f"trial {part}"] for part in range(2)]
    losses = [sum(trial["tuned"][view][1] for trial in trials) for view in range(2)]
    usual = found["steps"]["network"]["chosen"]["side"]
    assert verdict["view"] == [usual, [192, 192]][losses[1] < losses[0]]
    shown = [op for op in load_config(output).eval.dataset.transform_ops if "ResizeImage" in op]
    assert shown[0]["ResizeImage"]["resize_short"] == (verdict["view"] if verdict["tuned"] else usual)[1]


def test_without_weights_it_says_what_it_lacks(photos, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PPMOBILENET_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PPMOBILENET_OFFLINE", "1")
    assert main(["fit", str(photos), "--output", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert "fitting begins with weights" in said and "--weights FILE" in said
    assert str(tmp_path / "cache") in said and "MobileNetV2_pretrained.pdparams" in said


def test_damaged_lists_stop_it_before_anything_is_learned(photos, weights, tmp_path, capsys):
    names = sorted(path.relative_to(photos).as_posix() for path in photos.rglob("*.png"))
    for side, mine in (("train", names[::2]), ("val", names[1::2])):
        lines = [f"{name} {sorted(COLOURS).index(name.split('/')[0])}\n" for name in mine]
        (photos / f"{side}_list.txt").write_text("".join(lines))
    (photos / names[0]).write_bytes(b"not a photo")
    assert fit(photos, weights, tmp_path / "out")[0] == 3
    assert f"{photos}/train_list.txt:1" in capsys.readouterr().err
    assert not (tmp_path / "out/latest.pdparams").exists()
    blue = [name for name in names if name.startswith("blue")]
    for side, mine in (("train", blue[2::2]), ("val", blue[1::2])):
        (photos / f"{side}_list.txt").write_text("".join(f"{name} 0\n" for name in mine))
    assert fit(photos, weights, tmp_path / "out")[0] == 3
    assert "all photos of this list are of class 0: nothing can be learned from one class" in capsys.readouterr().err


def test_a_class_with_one_photo_to_learn_from(photos, weights, tmp_path):
    """The part of the cross-validation that holds it leaves one class to learn."""
    shutil.rmtree(photos / "red")
    for path in sorted((photos / "blue").iterdir())[2:]:
        path.unlink()
    code, found = fit(photos, weights, tmp_path / "out", "--minutes", "0.01")
    assert code == 0 and found["classes"] == ["blue", "green"]
