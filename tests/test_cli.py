"""The command line as a user meets it first: help, typos, missing packages; nothing heavy is imported for them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest

from ppmobilenet.cli import COMMANDS, main

HEAVY = ("paddle", "cv2", "numpy", "yaml", "torch", "onnxruntime")


def run(repo, *words: str, code: str | None = None, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, *(["-c", code] if code else ["-X", "importtime", "-m", "ppmobilenet.cli"]), *words]
    return subprocess.run(
        command, cwd=repo, capture_output=True, text=True, env={**os.environ, **environment}, timeout=120
    )


def imported(done: subprocess.CompletedProcess) -> set[str]:
    return {line.rsplit("|", 1)[1].strip().split(".")[0] for line in done.stderr.splitlines() if "|" in line}


@pytest.mark.parametrize("words", [["--help"], ["--version"], [], ["trian"]])
def test_overview_imports_nothing_heavy(repo, words):
    done = run(repo, *words)
    assert not imported(done) & set(HEAVY)
    assert "argparse" in imported(done)  # the list was read


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_quick_help_with_an_example(repo, name):
    done = run(repo, name, "--help")
    assert done.returncode == 0, done.stderr[-500:]
    assert f"example: ppmobilenet {name}" in done.stdout
    assert not imported(done) & {"paddle", "cv2", "torch", "onnxruntime"}


def test_help_answers_at_once(repo):
    def once() -> float:
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "ppmobilenet.cli", "--help"], cwd=repo, capture_output=True, check=True)
        return time.perf_counter() - start

    assert min(once() for _ in range(5)) < 0.4


def test_overview_names_every_command(capsys):
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"ppmobilenet {name} " in shown for name in COMMANDS)


def test_config_imports_nothing_heavy(repo):
    done = run(repo, code="import sys, ppmobilenet.config; print(*sys.modules)")
    assert not {name.split(".")[0] for name in done.stdout.split()} & {"paddle", "cv2", "numpy"}, done.stderr


def test_unknown_command(capsys):
    assert main(["trian"]) == 2
    assert "unknown command 'trian'" in (error := capsys.readouterr().err) and "did you mean 'train'?" in error


@pytest.mark.parametrize("module", ["paddle"])
def test_missing_package_names_the_extra(repo, module, tmp_path):
    # an import hook stands in for an environment without the package
    code = f"""
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == {module!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Missing())
from ppmobilenet.cli import main
sys.exit(main(["train", "-c", {str(repo / "configs/quick_start/MobileNetV2_x0_25_digits.yaml")!r}]))
"""
    done = run(repo, code=code)
    assert done.returncode == 2, done.stderr
    assert "'paddle', which is not installed" in done.stderr and "pip install 'ppmobilenet[cpu]'" in done.stderr
    assert "Traceback" not in done.stderr


# words after `ppmobilenet` -> what the message must say; every one of them leaves with exit code 2 and no traceback
MISTAKES = {
    "no config": (["train"], ["-c"]),
    "config not there": (["train", "-c", "configs/quick_start/MobileNetV2_fintune.yaml"], ["no such configuration"]),
    "config is a folder": (["train", "-c", "configs/quick_start"], ["folder", "digits.yaml"]),
    "override without =": (["eval", "-c", "{digits}", "-o", "Global.epochs"], ["KEY=VALUE"]),
    "typo in an override": (["eval", "-c", "{digits}", "-o", "Global.epoch=3"], ["Global.epochs?"]),
    "eval without weights": (["eval", "-c", "{digits}"], ["weights", "--random-init"]),
    "export without weights": (["export", "-c", "{digits}"], ["weights", "--random-init"]),
    "infer without weights": (["infer", "-c", "{digits}", "-i", "{photo}"], ["weights", "--random-init"]),
    "infer with nothing": (["infer"], ["-c", "-m"]),
    "typo in an option": (["infer", "-i", "{photo}", "--treads", "2"], ["--treads", "did you mean --threads?"]),
    "negative rate": (
        ["train", "-c", "{digits}", "-o", "Optimizer.lr.learning_rate=-1"],
        ["learning_rate", "at least 0"],
    ),
    "no such option": (["eval", "-c", "{digits}", "--zzz"], ["--zzz", "eval --help"]),
    "no kind of benchmark": (["benchmark"], ["WHAT", "benchmark --help"]),
    "zero threads": (["infer", "-m", "x", "-i", "{photo}", "--threads", "0"], ["--threads", "'0'", "1 and above"]),
    "negative answers": (["infer", "-m", "x", "-i", "{photo}", "--topk", "-1"], ["--topk", "'-1'", "1 and above"]),
    "no photos to verify": (["verify", "x", "--limit", "0"], ["--limit", "1 and above"]),
    "no rounds": (["benchmark", "infer", "x", "--rounds", "0"], ["--rounds", "1 and above"]),
    "half a batch": (["benchmark", "train", "--batches", "8", "0.5"], ["--batches", "'0.5'", "whole number"]),
    "benchmark of nothing": (["benchmark", "data", "--images", "no/such"], ["no/such", "no such folder"]),
    "image beyond memory": (["cost", "MobileNetV2", "--resolution", "100000"], ["--resolution", "32 to 4096"]),
    "rate of nothing": (["quantize", "-c", "{digits}", "--lr", "nan"], ["--lr", "above 0"]),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_without_a_traceback(repo, mistake, capfd, monkeypatch, tmp_path):
    words, expected = MISTAKES[mistake]
    monkeypatch.chdir(repo)
    photo = tmp_path / "photo.png"
    cv2.imwrite(str(photo), np.zeros((64, 64, 3), np.uint8))
    given = {"{digits}": "configs/quick_start/MobileNetV2_x0_25_digits.yaml", "{photo}": str(photo)}
    words = [given.get(word, word) for word in words]
    code = main(words)
    shown = capfd.readouterr().err
    assert code == 2, shown
    assert "Traceback" not in shown
    for word in expected:
        assert word in shown


@pytest.mark.parametrize(
    "words",
    [
        "cost MobileNetV2_x0_25",
        "cost --list",
        "cost MobileNetV1 --sweep",
        "choose --min-top1 76",
        "choose --device list",
        "verify-zoo --list",
        "completion bash",
        "split-dataset PHOTOS -o OUT",
        "check-dataset --root PHOTOS",
        "convert-weights WEIGHTS --inspect",
        "convert-weights WEIGHTS -o OUT/w.npz",
    ],
)
def test_json_has_standard_output_for_itself(words, tmp_path, capsys):
    pytest.importorskip("paddle")
    from ppmobilenet import create_model

    photos, weights = tmp_path / "photos", tmp_path / "w.npz"
    if "PHOTOS" in words:
        for number in range(8):
            path = photos / f"class{number % 2}" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            image = np.random.default_rng(number).integers(0, 256, (40, 40, 3), np.uint8)
            path.write_bytes(cv2.imencode(".png", image)[1].tobytes())
    if "WEIGHTS" in words:
        arrays = {key: value.numpy() for key, value in create_model("MobileNetV1_x0_25").state_dict().items()}
        np.savez(weights, **arrays)
    for word, path in (("PHOTOS", photos), ("WEIGHTS", weights), ("OUT", tmp_path)):
        words = words.replace(word, str(path))
    assert main([*words.split(), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown
    for path in tmp_path.glob("*_list.txt"):  # what is there already is not replaced
        path.unlink()
    assert main([*words.split(), "--json", str(tmp_path / "j.json")]) == 0
    assert capsys.readouterr().out.strip()
    assert json.loads((tmp_path / "j.json").read_text()) == shown


def test_a_result_that_cannot_be_written_is_said(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["cost", "--list", "--json", str(tmp_path / "file/j.json")]) == 2
    assert "--json" in (error := capsys.readouterr().err) and "cannot write" in error and "file/j.json" in error


def test_a_missing_config_names_the_shipped_one(capsys, monkeypatch, tmp_path, repo):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "-c", "MobileNetV2_x05.yaml"]) == 2
    assert "did you mean" in (error := capsys.readouterr().err) and "MobileNetV2/MobileNetV2_x0_5.yaml" in error
    assert main(["train", "-c", "nowhere/mine.yaml"]) == 2
    assert "there is no folder nowhere" in capsys.readouterr().err


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="no folder where nothing can be made")
def test_a_place_where_nothing_can_be_written_is_said(capsys, repo):
    pytest.importorskip("paddle")
    config = str(repo / "configs/ImageNet/MobileNetV1/MobileNetV1_x0_25.yaml")
    words = [
        "-c",
        config,
        "-o",
        "Global.output_dir=/proc/nowhere",
        "-o",
        "Global.device=cpu",
        "-o",
        "Infer.PostProcess.class_id_map_file=",
    ]
    assert main(["export", *words, "--random-init", "--output", "/proc/nowhere"]) == 2
    assert "/proc/nowhere" in capsys.readouterr().err
    assert main(["train", *words]) in (2, 3)
    assert "/proc/nowhere" in (error := capsys.readouterr().err) and "Traceback" not in error


BASE64 = "iVBORw0KGgo" * 4500


@pytest.mark.parametrize(
    "words",
    [
        [BASE64],
        ["infer", "-m", BASE64, "-i", "README.md"],
        ["infer", "-m", "x", "-i", BASE64],
        ["infer", "--" + BASE64],
        ["eval", "-c", BASE64],
        ["eval", "-c", "configs/quick_start/MobileNetV2_x0_25_digits.yaml", "-o", f"Global.{BASE64}=1"],
        ["cost", BASE64],
        ["export", "-c", "configs/quick_start/MobileNetV2_x0_25_digits.yaml", "--to", BASE64],
        ["infer", "-m", "x", "-i", "x", "--precision", BASE64],
        ["cost", "MobileNetV2", "--json", BASE64],
    ],
)
def test_a_whole_photo_in_a_message_is_shown_by_its_ends(words, capfd, monkeypatch, repo):
    monkeypatch.chdir(repo)
    assert main(words) in (2, 3)
    shown = capfd.readouterr().err
    assert len(shown) < 6000 and "Traceback" not in shown
    assert BASE64[:20] in shown and "characters)..." in shown


def test_messages_keep_both_ends_and_no_control_characters():
    from ppmobilenet.errors import LONGEST_TEXT, UserError

    error = UserError(
        "is not \x1b[31mred " + "x " * 9000 + "the reason", where="a" * 900 + "/photo.jpg", hint="do that"
    )
    text = str(error)
    assert len(text) < 2 * LONGEST_TEXT and text.startswith("aaa") and "/photo.jpg: is not \\x1b[31mred" in text
    assert "the reason\n  what to do: do that" in text and len(error.message) < LONGEST_TEXT + 100
    path = "/" + "/".join(["folder"] * 40) + "/photo.jpg"
    assert str(UserError("does not exist", where=path)) == f"{path}: does not exist"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no full device here")
def test_a_full_disk_behind_standard_output_is_said(repo):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "ppmobilenet", "cost", "--list"], stdout=full, stderr=subprocess.PIPE
        )
    error = done.stderr.decode()
    assert done.returncode == 2 and "No space left on device" in error and "Traceback" not in error


def test_closed_streams_end_no_command(repo):
    code = (
        "import sys; sys.stdout = sys.stderr = None; from ppmobilenet.cli import main; raise SystemExit(main(['-h']))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
