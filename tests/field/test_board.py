"""The board program, built against a stand-in for Paddle Lite: it answers as Python does."""

from __future__ import annotations

import functools
import json
import platform
import re
import shutil
import subprocess

import cv2
import numpy as np
import pytest
from board_packages import (
    LABELS,
    OPS,
    SOURCES,
    STUB,
    TARGETS,
    decision_of,
    make_package,
    opencv_flags,
    real_photos,
    run,
    same_answer,
    stand_in,
)

from ppmobilenet.field.package import open_package
from ppmobilenet.field.predictor import Classifier
from ppmobilenet.field.watch import Watch, watch
from ppmobilenet.photos.operators import build
from ppmobilenet.workshop.golden_record import golden_photo, synthetic_photo


def test_tensors_equal_pythons(classify, package, shared, tmp_path):
    for photo in real_photos(shared)[::2]:
        run(classify, package, photo, "--tensor", tmp_path / "t.bin")
        there = np.fromfile(tmp_path / "t.bin", "<f4")
        here = build(OPS)(photo.read_bytes()).ravel()
        # the decoder of this OpenCV and of Python's own may differ by a grey level or so: compare from the pixels on
        pixels = cv2.imread(str(photo))
        png = tmp_path / "p.png"
        cv2.imwrite(str(png), pixels)
        run(classify, package, png, "--tensor", tmp_path / "t2.bin")
        there_png = np.fromfile(tmp_path / "t2.bin", "<f4")
        assert np.abs(there_png - build(OPS)(png.read_bytes()).ravel()).max() < 1e-5
        assert np.abs(there - here).max() < 0.1


def test_classes_equal_pythons_and_a_bad_photo_loses_nothing(classify, package, tmp_path):
    photos = []
    for i in range(3):
        pixels = np.random.default_rng(i).integers(0, 256, (280, 300 + 40 * i, 3), dtype=np.uint8)
        photos.append(tmp_path / f"photo {i} ä.png")
        cv2.imwrite(str(photos[-1]), cv2.GaussianBlur(pixels, (0, 0), 5))
    bad = tmp_path / "bad.jpg"
    bad.write_text("<html>404</html>")
    done = run(classify, package, photos[0], bad, *photos[1:], tmp_path / "none.jpg", "--topk", 2, expect=3)
    assert "bad.jpg" in done.stderr and "none.jpg cannot be opened" in done.stderr
    lines = done.stdout.strip().splitlines()
    assert len(lines) == 3
    weights = np.fromfile(next(package.glob("*.nb")), "<f4", offset=1024).reshape(-1, 3)
    for photo, line in zip(photos, lines):
        logits = weights @ build(OPS)(photo.read_bytes()).reshape(3, -1).mean(axis=1)
        assert line.startswith(f"{photo}:") and f"{LABELS[int(logits.argmax())]} ({logits.argmax()})" in line


def test_the_board_is_unsure_as_python_is(classify, unsure, tmp_path):
    folder, predict = unsure
    photos = []
    for number, colour in enumerate(np.random.default_rng(1).integers(0, 256, (12, 3))):
        photos.append(tmp_path / f'photo "{number}".png')
        cv2.imwrite(str(photos[-1]), np.full((240, 300, 3), colour, np.uint8))
    expected = predict(photos)
    assert 0 < sum(answer.unsure for answer in expected) < 12
    lines = run(classify, folder, *photos, "--json").stdout.splitlines()
    for row, answer in zip(map(json.loads, lines), expected):
        assert list(row) == list(answer.to_dict()) and row["unsure"] == answer.unsure and same_answer(row, answer)
        assert row["label_names"] == answer.label_names and row["file_name"] == answer.source
    shown = run(classify, folder, *photos).stdout.splitlines()
    assert ["  unsure:  " in line for line in shown] == [answer.unsure for answer in expected]
    assert "answer " in run(classify, folder, "--self-test").stdout
    # a program of one's own gives it pixels
    for photo, answer in zip(photos[:6], expected):
        name = "unsure" if answer.unsure else answer.label_names[0]
        assert run(classify.parent / "example", folder, photo).stdout == f"{name} {answer.scores[0]:.4f}\n"
    (tmp_path / "bad.jpg").write_text("<html>")
    bad = run(classify, folder, tmp_path / "bad.jpg", "--json", expect=3)
    assert "not a readable photo" in json.loads(bad.stdout)["error"]


@pytest.mark.parametrize(
    ("count", "keys"),
    [(5, {"several": True, "thresholds": [0.5, 0.3, 0.7, 0.9, 0.5]}), (2, {"threshold": 0.7})],
    ids=["several labels", "two classes"],
)
def test_the_board_holds_to_thresholds(classify, tmp_path, count, keys):
    target = TARGETS[platform.machine()]
    weights = np.random.default_rng(6).normal(size=(count, 3)) * 2
    folder = make_package(tmp_path / "package", synthetic_photo(), weights, LABELS[:count], target, decision=keys)
    assert open_package(folder).meta["format_version"] == 2
    predict = Classifier(
        OPS, functools.partial(stand_in, weights.astype("<f4")), LABELS[:count], decision_of(keys, count)
    )
    photos = []
    for number, colour in enumerate(np.random.default_rng(3).integers(0, 256, (10, 3))):
        photos.append(tmp_path / f"{number}.png")
        cv2.imwrite(str(photos[-1]), np.full((240, 300, 3), colour, np.uint8))
    expected = predict(photos)
    assert len({tuple(answer.class_ids) for answer in expected}) > 1
    rows = map(json.loads, run(classify, folder, *photos, "--json").stdout.splitlines())
    assert all(same_answer(row, answer) and list(row) == list(answer.to_dict()) for row, answer in zip(rows, expected))
    shown = run(classify, folder, *photos).stdout.splitlines()
    assert ["none of the labels" in line for line in shown] == [not answer.class_ids for answer in expected]
    done = run(classify, folder, "--self-test").stdout
    assert "self-test passed" in done and ("labels " in done) == (count == 5)


def test_a_video_on_the_board_is_answered_as_in_python(classify, unsure, tmp_path):
    folder, predict = unsure
    path = tmp_path / "colours.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (300, 240))
    for colour in np.random.default_rng(2).integers(0, 256, (20, 3)):
        writer.write(np.full((240, 300, 3), colour, np.uint8))
    writer.release()
    wishes = {
        (): Watch(str(path)),
        ("--smooth", 4): Watch(str(path), smooth=4),
        ("--fps", 2, "--frames", 3): Watch(str(path), rate=2, limit=3),
    }
    for words, wish in wishes.items():
        done = run(classify, folder, path, "--json", *words)
        rows, expected = [json.loads(line) for line in done.stdout.splitlines()], list(watch(predict, wish))
        assert len(rows) == len(expected) == (wish.limit or 20) and "a second" in done.stderr
        for row, answer in zip(rows, expected):
            when = answer.moment
            assert row["frame"] == when.frame and row["seconds"] == pytest.approx(when.seconds, abs=1e-3)
            # another OpenCV's decoder may differ by a level
            here = dict(zip(answer.class_ids, answer.scores))
            scores = zip(row["class_ids"], row["scores"])
            assert all(abs(score - here.get(number, score)) < 0.03 for number, score in scores)
            assert row["unsure"] == answer.unsure or abs(answer.scores[0] - 0.6) < 0.03
    lines = run(classify, folder, path, "--frames", 2).stdout.splitlines()
    assert lines[1].startswith(f"{path} 0.10 s:")


def test_int8_is_judged_by_what_was_computed_of_it(classify, tmp_path):
    """The class that float gives may be another one: what counts is how far the board is from the program's own."""
    photo, _ = golden_photo(synthetic_photo())
    target = TARGETS.get(platform.machine()) or pytest.skip("the stand-in is not for this processor")
    weights = np.random.default_rng(1).normal(size=(3, 3))
    logits = weights @ build(OPS)(photo).reshape(3, -1).mean(axis=1)
    for name, computed, code in (("near", logits + [0.1, 0, 0], 0), ("far", logits + [0, 3, -3], 5)):
        folder = make_package(tmp_path / name, photo, weights, list("abc"), target, int8=computed)
        done = run(classify, folder, "--self-test", expect=code)
        assert re.search(r"int8 +max difference [\d.e-]+ +bound 0.05 +" + ("pass" if not code else "FAIL"), done.stdout)


def test_bench_prints_both_latencies(classify, package):
    done = run(classify, package, package / "golden/image.png", "--bench", "--runs", 3, "--threads", 2)
    assert "network" in done.stdout and "photo file to label" in done.stdout and "p90" in done.stdout


def test_compiles_for_aarch64(tmp_path):
    flags = opencv_flags()
    if not shutil.which("aarch64-linux-gnu-g++"):
        pytest.skip("no aarch64 compiler (Debian: g++-aarch64-linux-gnu)")
    for source in SOURCES:
        command = ["aarch64-linux-gnu-g++", "-std=c++17", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", source]
        command += ["-DPPMOBILENET_VIDEO"] if source.name == "video.cpp" else []
        done = subprocess.run([*command, *flags, f"-I{STUB}"], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
