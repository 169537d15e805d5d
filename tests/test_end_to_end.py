"""The whole way, as a user walks it: photos -> train -> eval -> export -> infer, through the command line."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]
CONFIG = "configs/quick_start/MobileNetV2_x0_25_digits.yaml"


def command(*words: str, cwd: Path, expect: int = 0) -> subprocess.CompletedProcess:
    """Run ``python tools/...`` in ``cwd`` and check its exit code."""
    words = [str(REPO / words[0]), *map(str, words[1:])]
    done = subprocess.run(
        [sys.executable, *words], cwd=cwd, capture_output=True, text=True, env={**os.environ, "PYTHONUTF8": "1"}
    )
    assert done.returncode == expect, f"{' '.join(words)}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done


@pytest.fixture(scope="module")
def walk(tmp_path_factory) -> Path:
    """A folder in which 300 digits were written and a network was trained on them for three epochs at 32x32."""
    pytest.importorskip("sklearn", reason="scikit-learn holds the digits")
    cwd = tmp_path_factory.mktemp("walk")
    command("tools/make_digits.py", "demo/digits", cwd=cwd)
    for name, count in (("train", 300), ("val", 70)):
        path = cwd / f"demo/digits/{name}_list.txt"
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:count]))
    done = command(
        "tools/train.py", "-c", REPO / CONFIG, "-o", "Global.epochs=3", "-o", "Global.resolution=32", cwd=cwd
    )
    assert "Traceback" not in done.stderr
    return cwd


def test_training_leaves_paddleclas_files(walk):
    out = walk / "demo/output"
    for name in ("latest", "best_model"):
        for suffix in (".pdparams", ".pdopt", ".pdstates"):
            assert (out / f"{name}{suffix}").stat().st_size > 0
    assert (out / "train.log").read_text(encoding="utf-8").strip()


def test_eval_prints_the_line_and_the_json(walk):
    done = command(
        "tools/eval.py",
        *("-c", REPO / CONFIG, "-o", "Global.resolution=32"),
        *("-o", "Global.pretrained_model=demo/output/best_model", "--json", "eval.json"),
        cwd=walk,
    )
    last = done.stdout.strip().splitlines()[-1]
    found = re.fullmatch(r"top1: (\d\.\d{5}), top5: (\d\.\d{5}), evaluated 70/70", last)
    assert found, last
    result = json.loads((walk / "eval.json").read_text())
    assert abs(result["top1"] - float(found[1])) < 1e-5
    assert result["evaluated"] == 70


def test_eval_refuses_random_weights(walk):
    done = command("tools/eval.py", "-c", REPO / CONFIG, cwd=walk, expect=2)
    assert "--random-init" in done.stderr and "Traceback" not in done.stderr


def test_exported_model_names_the_photos(walk):
    weights = "Global.pretrained_model=demo/output/best_model"
    done = command("tools/export_model.py", "-c", REPO / CONFIG, "-o", weights, "-o", "Global.resolution=32", cwd=walk)
    package = walk / "demo/inference"
    for name in ("inference.json", "inference.pdmodel", "inference.pdiparams", "inference.yml"):
        assert (package / name).stat().st_size > 0, done.stdout
    photos = walk / "some photos é"
    photos.mkdir()
    for line in (walk / "demo/digits/val_list.txt").read_text().splitlines()[:3]:
        file = line.split()[0]
        (photos / Path(file).name).write_bytes((walk / "demo/digits" / file).read_bytes())
    (photos / "broken.png").write_bytes(b"<html>not found</html>")
    done = command("tools/infer.py", "-i", photos, "-m", package, cwd=walk, expect=3)
    assert "broken.png" in done.stdout + done.stderr
    for photo in photos.glob("0*.png"):
        assert photo.name in done.stdout
