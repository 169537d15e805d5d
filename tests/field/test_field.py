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
from ppmobilenet.cli import main
from ppmobilenet.errors import EXIT_DAMAGED_FILE, EXIT_DATA, EXIT_OK, DamagedFileError, UserError
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


def _rewritten(text: str, place, new):
    """The document with something else in one place; None where it was this before."""
    meta = json.loads(text)
    *above, last = place
    inside = functools.reduce(lambda value, key: value[key], above, meta)
    if new is DELETED:
        del inside[last]
    else:
        inside[last] = new
    return None if meta == json.loads(text) else json.dumps(meta)


@pytest.fixture
def copied(made, tmp_path) -> Path:
    return Path(shutil.copytree(made / "sure", tmp_path / "package"))


def test_a_package_json_that_somebody_rewrote(copied):
    """Whatever stands in it, and wherever: what it has to hold is said to be damaged, the rest is a row that fails."""
    path = copied / "package.json"
    text = path.read_text(encoding="utf-8")
    outcomes = Counter()
    for place in _places(json.loads(text)):
        for new in (None, {}, [], -3, "x", "\ud800", DELETED):
            written = _rewritten(text, place, new)
            if written is None:
                continue
            path.write_text(written, encoding="utf-8")
            with pytest.raises(UserError) as refused:
                Predictor(copied)
            assert "package" in str(refused.value) and "what to do" in str(refused.value), (place, new)
            try:
                report = verify(copied)
            except UserError as error:
                outcomes[type(error).__name__] += 1
            else:
                assert new is not None, place  # an export writes no null
                assert report.first_departure is not None, (place, new)
                assert "cannot be compared" not in report.table(), (place, new, report.table())
                outcomes[report.first_departure.stage] += 1
    assert {"files", "DamagedFileError"} <= set(outcomes), outcomes


@pytest.mark.parametrize(
    "place, new, said",
    [
        (["golden"], {}, "lacks golden.image"),
        (["golden"], None, "golden is null"),
        (["golden", "decode"], DELETED, "lacks golden.decode"),
        (["golden", "tensor_shape"], None, "golden.tensor_shape is null"),
        (["golden", "answer"], {"class_ids": 3}, "golden.answer.class_ids is 3"),
        (["input"], {}, "lacks input.dtype"),
        (["input", "layout"], "CHWN", 'input.layout is "CHWN"'),
        (["input", "shape"], [-1, 3, 10**6, 32], "input.shape is a list of 4"),
        (["output"], {}, "lacks output.kind"),
        (["labels"], None, "labels is null"),
        (["labels", 1], ["x"], "labels[1] is a list of 1"),
        (["class_num"], True, "class_num is true"),
        (["preprocess", "ops"], [], "preprocess.ops is []"),
        (["preprocess", "ops", 1], {"op": "ResizeImage"}, "lacks preprocess.ops[1].size"),
        (["preprocess", "ops", 1, "interpolation"], "nicely", "preprocess.ops.1: ResizeImage: interpolation 'nicely'"),
        (["forms"], [], "forms is []"),
        (["forms", 0, "engine"], "lite", "lacks forms[0].target"),
        (["forms", 0, "files"], [], "forms[0].files is []"),
        (["files", 0, "path"], "a" * 999, "files[0].path is"),
        (["accuracy"], 3, "accuracy is 3"),
        (["accuracy"], [{"form": "x", "computed": True}], "lacks accuracy[0].processor"),
        (["decision"], {"temperature": "warm"}, "decision is {'temperature': 'warm'}"),
        (["bounds", "logits"], "none", 'bounds.logits is "none"'),
        (["format_version"], None, "format_version is None"),
        (["versions", "python"], "\ud800", "can't encode"),
        (["more"], functools.reduce(lambda inside, _: [inside], range(900), 1), "goes deeper than 32"),
    ],
)
def test_what_a_package_json_has_to_hold_is_said_by_its_place(copied, place, new, said):
    path = copied / "package.json"
    path.write_text(_rewritten(path.read_text(encoding="utf-8"), place, new), encoding="utf-8")
    for use in (Predictor, verify):
        with pytest.raises(DamagedFileError) as refused:
            use(copied)
        assert "package.json" in str(refused.value) and said in str(refused.value)
        assert "export again" in refused.value.hint


def test_engines_are_given_no_file_that_an_altered_package_json_names(copied):
    """Paddle's crash on another file than theirs, and take the process with them."""
    path = copied / "package.json"
    text = path.read_text(encoding="utf-8")
    path.write_text(_rewritten(text, ["forms", 0, "files"], ["golden/image.png", "golden/tensor.bin"]), "utf-8")
    report = verify(copied)
    assert not report.passed and report.first_departure.stage == "files"
    assert [row.passed for row in report.rows if row.stage == "logits"] == [None], report.table()


@pytest.mark.parametrize("command", ["verify", "infer", "serve"])
def test_commands_end_with_the_code_for_damage(copied, made, capsys, command):
    path = copied / "package.json"
    path.write_text(_rewritten(path.read_text(encoding="utf-8"), ["golden"], {}), encoding="utf-8")
    words = {"verify": [copied], "infer": ["-m", copied, "-i", made / "photos"], "serve": [copied, "--port", 0]}
    assert main([command, *map(str, words[command])]) == EXIT_DAMAGED_FILE
    found = capsys.readouterr()
    assert found.err.startswith("error: ") and "package.json lacks golden.image" in found.err and not found.out
