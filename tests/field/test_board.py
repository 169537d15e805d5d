"""The board program: built against a stand-in for Paddle Lite here, and against the real one where it is at hand."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest

from ppmobilenet.field.decision import Decision
from ppmobilenet.field.golden import answer_of
from ppmobilenet.field.package import dump_json, list_files, open_package, write_package
from ppmobilenet.field.predictor import Classifier
from ppmobilenet.field.watch import Watch, watch
from ppmobilenet.photos.operators import build
from ppmobilenet.workshop.golden_record import golden_photo, synthetic_photo, write_golden

REPO = Path(__file__).resolve().parents[2]
BOARD = REPO / "ppmobilenet/field/board"
STUB = Path(__file__).parent / "board_stub"
SOURCES = sorted(BOARD.glob("*.cpp"))
OPS = [
    {"DecodeImage": {"to_rgb": True}},
    {"ResizeImage": {"resize_short": 256}},
    {"CropImage": {"size": 224}},
    {"NormalizeImage": {"scale": 1 / 255, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "order": ""}},
    {"ToCHWImage": {}},
]
TARGETS = {"x86_64": "x86", "aarch64": "armv8"}


def _opencv_flags() -> list[str]:
    if not shutil.which("g++") or not shutil.which("pkg-config"):
        pytest.skip("no g++ and pkg-config: they build the board program")
    done = subprocess.run(["pkg-config", "--cflags", "opencv4"], capture_output=True, text=True)
    if done.returncode:
        pytest.skip("no OpenCV for C++ (Debian: libopencv-dev)")
    return done.stdout.split()


@pytest.fixture(scope="module")
def classify(tmp_path_factory) -> Path:
    """The program, built by its own CMakeLists.txt against the stand-in."""
    _opencv_flags()
    if not shutil.which("cmake"):
        pytest.skip("no cmake")
    folder = tmp_path_factory.mktemp("board")
    lite = folder / "lite"
    (lite / "lib").mkdir(parents=True)
    shutil.copytree(STUB, lite / "include")
    empty = folder / "empty.cpp"
    empty.write_text("")
    library = lite / "lib/libpaddle_light_api_shared.so"
    subprocess.run(["g++", "-shared", "-fPIC", empty, "-o", library], check=True)
    build = folder / "build"
    for command in (
        ["cmake", "-S", BOARD, "-B", build, f"-DPADDLE_LITE_DIR={lite}", "-DCMAKE_BUILD_TYPE=Debug"],
        ["cmake", "--build", build, "-j2"],
    ):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return build / "classify"


def run(program: Path, *words: object, expect: int = 0) -> subprocess.CompletedProcess:
    done = subprocess.run([str(program), *map(str, words)], capture_output=True, text=True)
    assert done.returncode == expect, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def stand_in(weights: np.ndarray, batch: np.ndarray) -> np.ndarray:
    """What the stand-in for Paddle Lite computes."""
    return (batch.reshape(len(batch), 3, -1).mean(axis=2) @ weights.T).astype(np.float32)


def _decision(keys: dict, class_num: int) -> Decision:
    return Decision.of({"output": {"kind": "logits", "class_num": class_num}, "decision": keys})


def make_package(
    folder: Path,
    photo: bytes,
    weights: np.ndarray,
    labels: list[str],
    target: str,
    model_end: bytes = b"",
    decision: dict | None = None,
    int8: np.ndarray | None = None,
) -> Path:
    """A package whose model is the stand-in's: ``weights`` [class_num, 3] on the means of the planes.

    With ``int8``, logits that were computed at the export, the same model is called an int8 one.
    """
    folder.mkdir()
    logits = stand_in(weights, build(OPS)(photo)[None])[0]
    golden = write_golden(folder, OPS, photo, logits, logits, int8)
    if decision:
        golden["answer"] = answer_of(_decision(decision, len(labels)), logits)
    (folder / f"{target}_fp32.nb").write_bytes(bytes(1024) + weights.astype("<f4").tobytes() + model_end)
    form = {
        "name": f"lite-{target}-fp32",
        "engine": "lite",
        "precision": "fp32" if int8 is None else "int8",
        "target": target,
    }
    meta = {
        "name": "MobileNetV2",
        "class_num": len(labels),
        "topk": 3,
        "labels": labels,
        "input": {"name": "x", "dtype": "float32", "layout": "NCHW", "shape": [-1, 3, 224, 224]},
        "output": {"kind": "logits", "class_num": len(labels)},
        "forms": [{**form, "files": [f"{target}_fp32.nb"], "opt_version": "v2.13-rc", "compared": False}],
        **({"decision": decision} if decision else {}),
        "golden": golden,
        "versions": {"ppmobilenet": "0.1.0", "lite_runtime": "v2.13-rc"},
        "accuracy": [],
    }
    write_package(folder, meta, OPS)
    return folder


LABELS = ['t-shirt "bleu"', "größe\\weiß", "裤子"] + [f"class {i}, with a longer name" for i in range(997)]


@pytest.fixture(scope="module")
def package(tmp_path_factory) -> Path:
    target = TARGETS.get(platform.machine())
    if target is None:
        pytest.skip(f"the stand-in's package is not made for {platform.machine()}")
    weights = np.random.default_rng(0).normal(size=(len(LABELS), 3))
    photo, _ = golden_photo(synthetic_photo())
    return make_package(tmp_path_factory.mktemp("packages") / "päckage", photo, weights, LABELS, target)


def _photos(shared: Path) -> list[Path]:
    photos = [*sorted((shared / "images").glob("*.jp*g")), *sorted((shared / "data/clothing/val").rglob("*.jpg"))[:20]]
    assert len(photos) == 25
    return photos


def test_tensors_equal_pythons(classify, package, shared, tmp_path):
    for photo in _photos(shared)[::2]:
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


@pytest.fixture(scope="module")
def unsure(tmp_path_factory) -> tuple[Path, Classifier]:
    """A package that knows when it is unsure, and the same in Python."""
    target = TARGETS.get(platform.machine()) or pytest.skip("the stand-in is not for this processor")
    weights = np.random.default_rng(4).normal(size=(5, 3)) * 4
    decision = {"temperature": 1.7, "unsure_below": 0.6}
    folder = make_package(
        tmp_path_factory.mktemp("unsure") / "package",
        synthetic_photo(), weights, LABELS[:5], target, decision=decision,
    )  # fmt: skip
    run = functools.partial(stand_in, weights.astype("<f4"))
    return folder, Classifier(OPS, run, LABELS[:5], Decision("logits", **decision), topk=3)


def _same(row: dict, expected) -> bool:
    there, here = dict(zip(row["class_ids"], row["scores"])), dict(zip(expected.class_ids, expected.scores))
    return there.keys() == here.keys() and max(abs(there[key] - here[key]) for key in here) < 1e-3


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
        assert list(row) == list(answer.to_dict()) and row["unsure"] == answer.unsure and _same(row, answer)
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
        OPS, functools.partial(stand_in, weights.astype("<f4")), LABELS[:count], _decision(keys, count)
    )
    photos = []
    for number, colour in enumerate(np.random.default_rng(3).integers(0, 256, (10, 3))):
        photos.append(tmp_path / f"{number}.png")
        cv2.imwrite(str(photos[-1]), np.full((240, 300, 3), colour, np.uint8))
    expected = predict(photos)
    assert len({tuple(answer.class_ids) for answer in expected}) > 1
    rows = map(json.loads, run(classify, folder, *photos, "--json").stdout.splitlines())
    assert all(_same(row, answer) and list(row) == list(answer.to_dict()) for row, answer in zip(rows, expected))
    shown = run(classify, folder, *photos).stdout.splitlines()
    assert ["none of the labels" in line for line in shown] == [not answer.class_ids for answer in expected]
    done = run(classify, folder, "--self-test").stdout
    assert "self-test passed" in done and ("labels " in done) == (count == 5)


def test_the_self_test_names_an_answer_that_departs(classify, unsure, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(unsure[0], copy)
    meta = json.loads((copy / "package.json").read_text(encoding="utf-8"))
    dump_json({**meta, "decision": {**meta["decision"], "temperature": 1.9}}, copy / "package.json")
    lines = run(classify, copy, "--self-test", expect=5).stdout.splitlines()
    assert [line.split()[0] for line in lines if "bound" in line and "FAIL" in line] == ["answer"]


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


def test_a_library_that_aborts_does_not_decide_the_exit_code(classify, tmp_path):
    weights = np.ones((3, 3))
    photo, _ = golden_photo(synthetic_photo())
    target = TARGETS.get(platform.machine()) or pytest.skip("the stand-in is not for this processor")
    folder = make_package(tmp_path / "p", photo, weights, list("abc"), target, model_end=b"too much")
    done = run(classify, folder, folder / "golden/image.png", expect=4)
    assert "gave up while loading" in done.stderr and "v2.13-rc" in done.stderr and "(SIGABRT)" in done.stderr


def test_bench_prints_both_latencies(classify, package):
    done = run(classify, package, package / "golden/image.png", "--bench", "--runs", 3, "--threads", 2)
    assert "network" in done.stdout and "photo file to label" in done.stdout and "p90" in done.stdout


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


def test_compiles_for_aarch64(tmp_path):
    flags = _opencv_flags()
    if not shutil.which("aarch64-linux-gnu-g++"):
        pytest.skip("no aarch64 compiler (Debian: g++-aarch64-linux-gnu)")
    for source in SOURCES:
        command = ["aarch64-linux-gnu-g++", "-std=c++17", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", source]
        command += ["-DPPMOBILENET_VIDEO"] if source.name == "video.cpp" else []
        done = subprocess.run([*command, *flags, f"-I{STUB}"], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]


def _arm_runner(folder: Path) -> list[str]:
    """The program built for armv8 with the real Paddle Lite, and the emulator's command in front of it."""
    lite = Path(os.environ.get("PADDLE_LITE_DIR", "")) if os.environ.get("PADDLE_LITE_DIR") else None
    if lite is None:
        pytest.skip("PADDLE_LITE_DIR does not name an armv8 Paddle Lite library")
    root = Path(os.environ.get("PPMOBILENET_ARM_ROOT", "/"))
    libraries = root / "usr/lib/aarch64-linux-gnu"
    if not shutil.which("qemu-aarch64") or not shutil.which("aarch64-linux-gnu-g++"):
        pytest.skip("no emulator or compiler for aarch64 (Debian: qemu-user g++-aarch64-linux-gnu)")
    if not list(libraries.glob("libopencv_core.so*")):
        pytest.skip("no OpenCV for aarch64 below PPMOBILENET_ARM_ROOT (Debian: libopencv-imgcodecs406:arm64)")
    program = folder / "classify"
    opencv = [f"-l:{min(libraries.glob(f'libopencv_{n}.so*')).name}" for n in ("core", "imgproc", "imgcodecs")]
    command = ["aarch64-linux-gnu-g++", "-std=c++17", "-O2", "-ffp-contract=off", *map(str, SOURCES), *_opencv_flags()]
    command += ["-isystem", f"{lite}/include", f"-L{lite}/lib", "-lpaddle_light_api_shared", f"-L{libraries}", *opencv]
    done = subprocess.run(
        [*command, "-Wl,--unresolved-symbols=ignore-in-shared-libs", "-o", program], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    search = f"{lite}/lib:{libraries}:{libraries}/blas:{libraries}/lapack"
    return ["qemu-aarch64", "-L", str(root), "-E", f"LD_LIBRARY_PATH={search}", str(program)]


@pytest.mark.parametrize("name", ["MobileNetV1_x0_25", "MobileNetV2_x0_25"])
def test_a_real_package_passes_its_self_test_on_an_emulated_board(tmp_path, shared, name):
    runner = _arm_runner(tmp_path)
    paddle = pytest.importorskip("paddle")
    from ppmobilenet import create_model, load_weights
    from ppmobilenet.field.predictor import Predictor
    from ppmobilenet.workshop.making import PackageSpec, make_package

    paddle.seed(0)
    model = create_model(name, init="kaiming_fan_out")
    if name == "MobileNetV1_x0_25":
        load_weights(model, shared / "weights/MobileNetV1_x0_25.npz")
    photos = sorted((shared / "images").glob("*.jp*g"))
    package = make_package(
        model,
        PackageSpec(
            name=name,
            ops=OPS,
            labels=LABELS,
            to=("inference", "lite-armv8"),
            photos=[photo.read_bytes() for photo in photos],
        ),
        tmp_path / "package",
    )
    done = subprocess.run([*runner, str(package), "--self-test"], capture_output=True, text=True)
    assert done.returncode == 0 and "self-test passed" in done.stdout, done.stdout + done.stderr[-2000:]
    done = subprocess.run([*runner, str(package), *map(str, photos), "--topk", "1"], capture_output=True, text=True)
    predict = Predictor(package, backend="paddle")
    for photo, line in zip(photos, done.stdout.strip().splitlines()):
        assert f"({predict(photo).class_ids[0]})" in line


def test_int8_on_an_emulated_board_is_what_was_computed(tmp_path, shared):
    """The row of an int8 report that is called by the board's name; Paddle's kernels for x86 agree in 15 of these."""
    runner = _arm_runner(tmp_path)
    pytest.importorskip("paddle")
    from ppmobilenet import create_model, load_weights
    from ppmobilenet.workshop.int8_arithmetic import Int8Program
    from ppmobilenet.workshop.int8_plan import Int8Settings, plan_layers
    from ppmobilenet.workshop.making import PackageSpec, make_package

    model = create_model("MobileNetV1_x0_25")
    load_weights(model, shared / "weights/MobileNetV1_x0_25.npz")
    model.eval()
    photos = _photos(shared)
    tensors = np.stack([np.ascontiguousarray(build(OPS)(photo)) for photo in photos])
    package = make_package(
        model,
        PackageSpec(
            name="MobileNetV1_x0_25",
            ops=OPS,
            labels=LABELS,
            to=("pdmodel", "lite-armv8"),
            photos=[photo.read_bytes() for photo in photos[:3]],
            int8=plan_layers(model, tensors, Int8Settings()),
        ),
        tmp_path / "package",
    )
    command = [*runner, str(package), "--form", "lite-armv8-int8", "--topk", "1000", *map(str, photos)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = done.stdout.strip().splitlines()
    assert len(lines) == len(photos)
    program = Int8Program(package / "int8/inference.pdmodel", package / "int8/inference.pdiparams")
    board = np.zeros((len(photos), len(LABELS)))
    for answers, line in zip(board, lines):
        for score, number in re.findall(r"([0-9.]+) [^(]*\((\d+)\)(?:  |$)", line.split(": ", 1)[1]):
            answers[int(number)] = float(score)
    computed = np.concatenate([program(tensor[None]) for tensor in tensors])
    assert (board.argmax(axis=1) == computed.argmax(axis=1)).sum() >= 24
    np.testing.assert_allclose(board, computed, atol=0.05)
    done = subprocess.run(
        [*runner, str(package), "--form", "lite-armv8-int8", "--self-test"], capture_output=True, text=True
    )
    assert done.returncode == 0 and re.search(r"int8 +max difference .* bound 0.05 +pass", done.stdout), done.stdout
