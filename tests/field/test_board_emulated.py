"""The board program with the real Paddle Lite for armv8, under an emulator: ``make board``."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from board_packages import LABELS, OPS, SOURCES, opencv_flags, real_photos

from ppmobilenet.photos.operators import build

pytestmark = pytest.mark.board
GOOGLES = [OPS[0], OPS[1], OPS[2], {"NormalizeImage": {"scale": 1 / 255, "mean": [0.5] * 3, "std": [0.5] * 3}}, OPS[4]]
# name -> the network's arguments, its weights below ../shared, its transforms; without weights it is shaken awake
NETWORKS = {
    "MobileNetV1_x0_25": ({}, "weights/MobileNetV1_x0_25.npz", OPS),
    "MobileNetV2_x0_25": ({}, None, OPS),
    "MobileNetV3_small": (
        {"se_divisor": 8, "expand_first": False, "class_expand": 1024, "last_conv_bias": True, "same_padding": True},
        "weights/MobileNetV3_small_google_bnfolded.npz",
        GOOGLES,
    ),
    "MobileNetV4_conv_small": ({}, None, OPS),
}


@pytest.fixture(scope="module")
def board(tmp_path_factory) -> list[str]:
    """The program built for armv8 with the real Paddle Lite, and the emulator's command in front of it."""
    lite = os.environ.get("PADDLE_LITE_DIR")
    if not lite:
        pytest.skip("PADDLE_LITE_DIR does not name an armv8 Paddle Lite library")
    root = Path(os.environ.get("PPMOBILENET_ARM_ROOT", "/"))
    libraries = root / "usr/lib/aarch64-linux-gnu"
    if not shutil.which("qemu-aarch64") or not shutil.which("aarch64-linux-gnu-g++"):
        pytest.skip("no emulator or compiler for aarch64 (Debian: qemu-user g++-aarch64-linux-gnu)")
    if not list(libraries.glob("libopencv_core.so*")):
        pytest.skip("no OpenCV for aarch64 below PPMOBILENET_ARM_ROOT (Debian: libopencv-imgcodecs406:arm64)")
    program = tmp_path_factory.mktemp("emulated") / "classify"
    opencv = [f"-l:{min(libraries.glob(f'libopencv_{n}.so*')).name}" for n in ("core", "imgproc", "imgcodecs")]
    command = ["aarch64-linux-gnu-g++", "-std=c++17", "-O2", "-ffp-contract=off", *map(str, SOURCES), *opencv_flags()]
    command += ["-isystem", f"{lite}/include", f"-L{lite}/lib", "-lpaddle_light_api_shared", f"-L{libraries}", *opencv]
    done = subprocess.run(
        [*command, "-Wl,--unresolved-symbols=ignore-in-shared-libs", "-o", program], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    search = f"{lite}/lib:{libraries}:{libraries}/blas:{libraries}/lapack"
    return ["qemu-aarch64", "-L", str(root), "-E", f"LD_LIBRARY_PATH={search}", str(program)]


def run(board: list[str], *words: object, expect: int = 0) -> subprocess.CompletedProcess:
    done = subprocess.run([*board, *map(str, words)], capture_output=True, text=True, timeout=600)
    assert done.returncode == expect, f"exit {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return done


def _network(name: str, shared: Path):
    paddle = pytest.importorskip("paddle")
    from ppmobilenet import create_model, load_weights

    paddle.seed(0)
    options, weights, _ = NETWORKS[name]
    model = create_model(name, **options)
    if weights:
        load_weights(model, shared / weights)
    else:  # at random initialisation a comparison is of next to nothing
        rng = np.random.default_rng(0)
        for value in model.parameters():
            if value.ndim == 4:
                spread = (2 / np.prod(value.shape[1:])) ** 0.5
                value.set_value(rng.normal(0, spread, value.shape).astype("float32"))
    model.eval()
    return model


@pytest.fixture(scope="module", params=NETWORKS)
def packed(request, board, shared, tmp_path_factory) -> tuple[str, Path, list[Path], np.ndarray]:
    """A network's name, its package with float and int8 forms, 25 photos, and their tensors."""
    name = request.param
    model, ops, photos = _network(name, shared), NETWORKS[name][2], real_photos(shared)
    from ppmobilenet.workshop.int8_plan import Int8Settings, plan_layers
    from ppmobilenet.workshop.making import PackageSpec, make_package

    tensors = np.stack([np.ascontiguousarray(build(ops)(photo)) for photo in photos])
    spec = PackageSpec(
        name=name,
        ops=ops,
        labels=LABELS,
        to=("inference", "pdmodel", "lite-armv8"),
        photos=[photo.read_bytes() for photo in photos[:5]],
        int8=plan_layers(model, tensors, Int8Settings()),
    )
    return name, make_package(model, spec, tmp_path_factory.mktemp(name) / "package"), photos, tensors


def test_a_real_package_passes_its_self_test(board, packed):
    assert "self-test passed" in run(board, packed[1], "--self-test").stdout
    done = run(board, packed[1], "--self-test", "--form", "lite-armv8-int8").stdout
    assert re.search(r"int8 +max difference .* bound 0.05 +pass", done) and "self-test passed" in done


def test_the_board_answers_as_paddle_does(board, packed):
    from ppmobilenet.field.predictor import Predictor

    _, package, photos, _ = packed
    predict = Predictor(package, backend="paddle")
    # as many threads as processors: with OpenCV's own the program was seen to wait for ever under an emulator
    lines = run(board, package, *photos[:5], "--topk", 1, "--threads", 2).stdout.strip().splitlines()
    assert len(lines) == 5
    for photo, line in zip(photos, lines):
        assert f"({predict(photo).class_ids[0]})" in line


def test_int8_is_what_was_computed(board, packed):
    """The row of an int8 report that is called by the board's name; Paddle's kernels for x86 agree in 15 of V1's."""
    from ppmobilenet.workshop.int8_arithmetic import Int8Program

    _, package, photos, tensors = packed
    lines = run(board, package, "--form", "lite-armv8-int8", "--topk", 1000, *photos).stdout.strip().splitlines()
    assert len(lines) == len(photos)
    program = Int8Program(package / "int8/inference.pdmodel", package / "int8/inference.pdiparams")
    answers = np.zeros((len(photos), len(LABELS)))
    for row, line in zip(answers, lines):
        for score, number in re.findall(r"([0-9.]+) [^(]*\((\d+)\)(?:  |$)", line.split(": ", 1)[1]):
            row[int(number)] = float(score)
    computed = np.concatenate([program(tensor[None]) for tensor in tensors])
    agreed, departs = (answers.argmax(axis=1) == computed.argmax(axis=1)).sum(), np.abs(answers - computed).max()
    print(f"{packed[0]}: {agreed} of {len(photos)}, probabilities within {departs:.3f}")
    assert agreed >= 24 and departs <= 0.05


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [_cut, _flip])
@pytest.mark.parametrize("file", ["armv8_fp32.nb", "package.json"])
@pytest.mark.parametrize("packed", ["MobileNetV1_x0_25"], indirect=True)
def test_a_damaged_package_is_exit_code_4(board, packed, tmp_path, file, damage):
    copy = shutil.copytree(packed[1], tmp_path / "copy")
    damage(copy / file)
    assert run(board, copy, packed[2][0], expect=4).stderr.startswith("error: ")


@pytest.mark.parametrize("packed", ["MobileNetV1_x0_25"], indirect=True)
def test_a_library_that_gives_up_does_not_decide_the_exit_code(board, packed, tmp_path):
    """A cut file with hashes to match is what a bad disk at the export would have left: Paddle Lite aborts on it."""
    from ppmobilenet.field.package import dump_json, list_files, open_package

    copy = shutil.copytree(packed[1], tmp_path / "copy")
    meta = dict(open_package(copy).meta)
    (copy / "armv8_fp32.nb").write_bytes((copy / "armv8_fp32.nb").read_bytes()[:200_000])
    dump_json({**meta, "files": list_files(copy)}, copy / "package.json")
    assert "Paddle Lite" in run(board, copy, packed[2][0], expect=4).stderr
