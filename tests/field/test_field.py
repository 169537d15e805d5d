"""What runs on the machine in the field, from packages that the workshop made, without Paddle.

``make test-min`` runs this with the lowest versions that ``setup.py`` promises.
"""

from __future__ import annotations

import functools
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

from ppmobilenet import Predictor
from ppmobilenet.errors import EXIT_DAMAGED_FILE, EXIT_DATA, EXIT_OK, UserError
from ppmobilenet.field import verify as verifying
from ppmobilenet.field.verify import verify

pytest.importorskip("onnxruntime")


@pytest.fixture(scope="session")
def answers(made) -> dict:
    return json.loads((made / "answers.json").read_text(encoding="utf-8"))


def command(*arguments) -> subprocess.CompletedProcess:
    """The command line as it is typed, on a machine without Paddle."""
    script = """
import sys

class WithoutPaddle:
    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, path=None, target=None):
        return None if name.split(".")[0] == "paddle" else self.finder.find_spec(name, path, target)

sys.meta_path[:] = map(WithoutPaddle, sys.meta_path)
from ppmobilenet.cli import main
sys.exit(main())
"""
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8"}
    return subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        capture_output=True, text=True, encoding="utf-8", env=environment,
    )  # fmt: skip


@pytest.mark.parametrize("name", ["usual", "pil"])
def test_predictions_are_those_of_paddle(made, answers, name):
    predictor = Predictor(made / name)
    assert predictor.backend == "onnxruntime" and predictor.form["output"] == "output"
    for precision in {form["precision"] for form in predictor.package.meta["forms"]}:
        predictor = Predictor(made / name, precision=precision, topk=7)
        folder = predictor(made / "photos")
        assert [Path(answer.source).name for answer in folder] == sorted(answers[name])
        for answer in folder:
            expected = np.array(answers[name][Path(answer.source).name])
            got = np.array(answer.scores)[np.argsort(answer.class_ids)]
            # JPEG decoders may differ by a level; int8 by what int8 costs
            assert np.abs(got - expected).max() < (2e-3 if precision == "fp32" else 0.1), answer


def test_every_kind_of_source_gives_one_answer(made):
    predictor = Predictor(made / "usual", threads=2)
    path = made / "photos" / "grün.png"
    rgb = cv2.imread(str(path))[:, :, ::-1]
    from PIL import Image

    with open(path, "rb") as file:
        found = [predictor(source) for source in (path, str(path), path.read_bytes(), file, rgb, Image.open(path))]
    found += predictor([path, rgb], batch_size=2) + list(predictor.stream([path, rgb]))
    assert len({tuple(answer.class_ids) for answer in found}) == 1
    assert np.ptp([answer.scores for answer in found], axis=0).max() < 1e-6


@pytest.mark.parametrize("name", ["usual", "pil"])
def test_verify_passes_here(made, name):
    done = command("verify", made / name, "--images", made / "photos")
    assert done.returncode == EXIT_OK, done.stdout + done.stderr
    assert "every comparison that could run here holds" in done.stdout
    assert verify(made / name).passed


def test_verify_names_a_damaged_file(made, tmp_path):
    copy = Path(shutil.copytree(made / "usual", tmp_path / "copy"))
    model = copy / "inference.onnx"
    model.write_bytes(model.read_bytes()[:-1])
    done = command("verify", copy)
    assert done.returncode == EXIT_DAMAGED_FILE and "inference.onnx" in done.stderr and "Traceback" not in done.stderr


def test_infer_writes_an_answer_for_every_photo(made, answers, tmp_path):
    photos = Path(shutil.copytree(made / "photos", tmp_path / "photos"))
    (photos / "cut.jpg").write_bytes((photos / "2 300x200.jpg").read_bytes()[:900])
    done = command("infer", "-m", made / "usual", "-i", photos, "--save", tmp_path / "answers.jsonl")
    assert done.returncode == EXIT_DATA and "Traceback" not in done.stderr, done.stderr
    lines = (tmp_path / "answers.jsonl").read_text(encoding="utf-8").splitlines()
    rows = {Path(row["file_name"]).name: row for row in map(json.loads, lines)}
    assert "truncated" in rows.pop("cut.jpg")["error"]
    assert {name: row["class_ids"][0] for name, row in rows.items()} == {
        name: int(np.argmax(row)) for name, row in answers["usual"].items()
    }


def test_a_package_that_does_not_say_its_names_opens(made, tmp_path):
    """Packages of before have neither input nor output in their ONNX form."""
    from ppmobilenet.field.package import dump_json, open_package

    copy = Path(shutil.copytree(made / "usual", tmp_path / "copy"))
    meta = json.loads((copy / "package.json").read_text(encoding="utf-8"))
    for form in meta["forms"]:
        if form["engine"] == "onnxruntime":
            assert [form.pop(key) for key in ("input", "output", "opset", "ir_version")] == ["x", "output", 13, 7]
    dump_json(meta, copy / "package.json")
    photo = made / "photos" / "grün.png"
    assert Predictor(open_package(copy))(photo).scores == Predictor(made / "usual")(photo).scores


def test_the_versions_are_those_that_are_promised(repo):
    """Under ``make test-min`` the lowest, otherwise that environment proves nothing."""
    promised = dict(re.findall(r'"([A-Za-z-]+)>=([0-9.]+)', (repo / "setup.py").read_text(encoding="utf-8")))
    for name in (
        *("numpy", "opencv-python-headless", "PyYAML", "tqdm", "Pillow", "onnxruntime"),
        *("fastapi", "uvicorn", "python-multipart"),
    ):
        lowest = [int(number) for number in promised[name].split(".")]
        installed = [int(number) for number in importlib.metadata.version(name).split(".")[: len(lowest)]]
        assert installed == lowest if "PPMOBILENET_FIELD" in os.environ else installed >= lowest, name


DELETED = object()


def _places(value, path=()):
    """Every place of a JSON document; of a list its first two entries."""
    children = value.items() if isinstance(value, dict) else enumerate(value[:2]) if isinstance(value, list) else ()
    for key, child in children:
        yield (*path, key)
        yield from _places(child, (*path, key))


def test_verify_of_a_package_json_that_somebody_rewrote(made, tmp_path, monkeypatch):
    """Whatever stands in it, and wherever: said, or a row that fails; never a traceback, and never a pass."""
    monkeypatch.setattr(verifying, "BACKENDS", {})  # engines do not read it
    folder = tmp_path / "package"
    shutil.copytree(made / "sure", folder)
    text = (folder / "package.json").read_text(encoding="utf-8")
    places = list(_places(json.loads(text)))
    outcomes = Counter()
    for place in places:
        for new in (None, {}, [], -3, "x", DELETED):
            meta = json.loads(text)
            *above, last = place
            inside = functools.reduce(lambda value, key: value[key], above, meta)
            if new is DELETED:
                del inside[last]
            else:
                inside[last] = new
            if meta == json.loads(text):  # it was this before
                continue
            (folder / "package.json").write_text(json.dumps(meta), encoding="utf-8")
            try:
                report = verifying.verify(folder)
            except UserError as error:
                outcomes[type(error).__name__] += 1
            else:
                assert report.first_departure is not None, (place, new)
                outcomes[report.first_departure.stage] += 1
    assert {"files", "DamagedFileError"} <= set(outcomes), outcomes
