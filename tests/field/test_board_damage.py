"""The board program's self-test, and what it says of damaged packages and of mistakes."""

from __future__ import annotations

import functools
import hashlib
import json
import platform
import shutil
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest
from board_packages import (
    BOARD,
    TARGETS,
    make_package,
    run,
)

from ppmobilenet.field.package import dump_json, list_files
from ppmobilenet.workshop.golden_record import golden_photo, synthetic_photo


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "file, damage, message",
    [
        ("MODEL", _cut, "bytes, the package says"),
        ("MODEL", _flip, "sha256 differs"),
        ("MODEL", Path.unlink, "is missing"),
        ("golden/tensor.bin", _flip, "sha256 differs"),
        ("golden/resize.png", _cut, "bytes, the package says"),
        ("package.json", _cut, "is not readable JSON"),
        ("package.json", lambda p: p.write_bytes(p.read_bytes().replace(b"class 7,", b"class 8,")), "sha256 differs"),
        ("package.json", lambda p: p.write_bytes(b"[" * 100_000), "is not readable JSON"),
    ],
)
def test_damage_is_said_before_anything_is_loaded(classify, package, tmp_path, file, damage, message):
    copy = tmp_path / "copy"
    shutil.copytree(package, copy)
    damage(next(copy.glob("*.nb")) if file == "MODEL" else copy / file)
    done = run(classify, copy, "--self-test", expect=4)
    assert message in done.stderr and done.stderr.count("error: ") == 1


@pytest.mark.parametrize(
    "place, new, message",
    [
        (["golden"], [3], "golden is not an object"),
        (["golden", "answer"], {}, 'golden.answer has no "class_id"'),
        (["golden", "answer"], {"class_ids": [1, 2], "scores": [0.5]}, "must hold a score for each class"),
        (["input"], "x", "input is not an object"),
        (["input", "layout"], "CHWN", "neither NCHW nor NHWC"),
        (["input", "shape"], [-1, 1, 224, 224], "three colours, height and width"),  # the planes would not fit in
        (["input", "shape"], [-1, 3, 2**30, 224], "three colours, height and width"),
        (["output"], {}, 'output has no "kind"'),
        (["topk"], -3, "topk is not a whole number from 1"),
        (["labels"], "x", "labels is not a list"),
        (["labels", 1], 3, "labels is not a text"),
        (["preprocess", "ops"], [], "must begin with DecodeImage"),
        (["preprocess", "ops", 1, "resize_short"], 2**30, "resize_short is not a whole number from 1 to 16384"),
        (["preprocess", "ops", 2, "size"], [224], "size must hold two numbers"),
        (["preprocess", "ops", 3, "std"], [1, 1, "x"], "std is not a number"),
        (["forms"], 3, "forms is not a list"),
        (["forms", 0], 3, "forms is not an object"),
        (["bounds"], [1], "bounds is not an object"),
        (["decision", "temperature"], "warm", "decision.temperature is not a number"),
        (["format_version"], {}, "format_version"),
    ],
)
def test_what_no_export_writes_is_damage(classify, unsure, tmp_path, place, new, message):
    """By another program, that is, which hashed it as we do: what was altered by hand is said to be so."""
    copy = tmp_path / "copy"
    shutil.copytree(unsure[0], copy)
    meta = json.loads((copy / "package.json").read_text(encoding="utf-8"))
    *above, last = place
    functools.reduce(lambda value, key: value[key], above, meta)[last] = new
    dump_json(meta, copy / "package.json")
    done = run(classify, copy, copy / "golden/image.png", expect=4)
    assert message in done.stderr and "OpenCV" not in done.stderr and done.stderr.count("error: ") == 1
    text = (copy / "package.json").read_text(encoding="utf-8")
    (copy / "package.json").write_text(text.replace('"MobileNetV2"', '"MobileNetV3"'), encoding="utf-8")
    if place != ["format_version"]:  # without a version nobody knows how it is hashed
        assert "changed after the export" in run(classify, copy, copy / "golden/image.png", expect=4).stderr


def test_a_library_that_aborts_does_not_decide_the_exit_code(classify, tmp_path):
    weights = np.ones((3, 3))
    photo, _ = golden_photo(synthetic_photo())
    target = TARGETS.get(platform.machine()) or pytest.skip("the stand-in is not for this processor")
    folder = make_package(tmp_path / "p", photo, weights, list("abc"), target, model_end=b"too much")
    done = run(classify, folder, folder / "golden/image.png", expect=4)
    assert "gave up while loading" in done.stderr and "v2.13-rc" in done.stderr and "(SIGABRT)" in done.stderr


@pytest.mark.parametrize(
    "words, code, message",
    [
        (["PACKAGE"], 2, "no photo"),
        (["/nowhere", "x.jpg"], 2, "package.json is not there"),
        (["PACKAGE", "x.jpg", "--threads", "many"], 2, "--threads takes a whole number"),
        (["PACKAGE", "x.jpg", "--colour"], 2, "unknown option --colour"),
        (["PACKAGE", "x.jpg", "--power", "huge"], 2, "unknown power mode"),
        (["PACKAGE", "--camera", "97"], 2, "/dev/video97 is not there"),
        (["PACKAGE", "--camera", "front"], 2, "camera:front is no camera"),
        (["PACKAGE", "a.mp4", "x.jpg"], 2, "one video or camera at a time"),
        (["PACKAGE", "a.mp4", "--bench"], 2, "take a photo"),
        (["PACKAGE", "x.jpg", "--form", "lite-armv9"], 2, "there are: lite-"),
        (["CUT", "x.jpg"], 4, "package.json"),
        (["NEWER", "x.jpg"], 2, "format version 99"),
        (["NOMODEL", "x.jpg"], 4, "is missing"),
    ],
)
def test_mistakes_are_said(classify, package, tmp_path, words, code, message):
    text = (package / "package.json").read_text(encoding="utf-8")
    for name, content in {
        "CUT": text[: len(text) // 2],
        "NEWER": text.replace('"format_version": 1', '"format_version": 99'),
        "NOMODEL": text,
    }.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "package.json").write_text(content, encoding="utf-8")
    names = {"PACKAGE": package, **{name: tmp_path / name for name in ("CUT", "NEWER", "NOMODEL")}}
    done = run(classify, *[names.get(word, word) for word in words], expect=code)
    assert message in done.stderr and done.stderr.startswith("error: ")


@pytest.mark.parametrize("length", [0, 3, 55, 56, 63, 64, 119, 120, 200_000])
def test_the_boards_sha256_is_pythons(hasher, length):
    data = np.random.default_rng(length).bytes(length)
    done = subprocess.run([hasher], input=data, capture_output=True, check=True)
    assert done.stdout.decode() == hashlib.sha256(data).hexdigest()


@pytest.fixture(scope="module")
def hasher(tmp_path_factory) -> Path:
    if not shutil.which("g++"):
        pytest.skip("no g++")
    folder = tmp_path_factory.mktemp("hasher")
    (folder / "hash.cpp").write_text(
        '#include <cstdio>\n#include "sha256.hpp"\n'
        "int main() { ppmobilenet::Sha256 digest; char block[777]; size_t n;\n"
        "  while ((n = fread(block, 1, sizeof block, stdin))) digest.update(block, n);\n"
        "  fputs(digest.hex().c_str(), stdout); }\n"
    )
    subprocess.run(
        ["g++", "-std=c++17", f"-I{BOARD}", folder / "hash.cpp", "-o", folder / "hash"], check=True, timeout=300
    )
    return folder / "hash"


def test_self_test_passes_and_names_the_stage_that_departs(classify, package, tmp_path):
    assert "self-test passed" in run(classify, package, "--self-test").stdout
    for stage, file in (("resize", "resize.png"), ("tensor", "tensor.bin"), ("logits", "output.bin")):
        copy = tmp_path / stage
        shutil.copytree(package, copy)
        path = copy / "golden" / file
        if file.endswith(".png"):
            cv2.imwrite(str(path), 255 - cv2.imread(str(path)))
        else:
            values = np.fromfile(path, "<f4")
            values[7] += 0.5
            values.tofile(path)
        meta = json.loads((copy / "package.json").read_text(encoding="utf-8"))
        dump_json({**meta, "files": list_files(copy)}, copy / "package.json")
        done = run(classify, copy, "--self-test", expect=5)
        failed = [line.split()[0] for line in done.stdout.splitlines() if line.endswith("FAIL") or "FAIL " in line]
        assert failed[0] == stage, done.stdout


def test_the_self_test_names_an_answer_that_departs(classify, unsure, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(unsure[0], copy)
    meta = json.loads((copy / "package.json").read_text(encoding="utf-8"))
    dump_json({**meta, "decision": {**meta["decision"], "temperature": 1.9}}, copy / "package.json")
    lines = run(classify, copy, "--self-test", expect=5).stdout.splitlines()
    assert [line.split()[0] for line in lines if "bound" in line and "FAIL" in line] == ["answer"]
