"""What the field's tests look at: packages that the workshop made elsewhere or makes now, the board program."""

from __future__ import annotations

import functools
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from board_packages import BOARD, LABELS, OPS, STUB, TARGETS, make_package, opencv_flags, stand_in

from ppmobilenet.field.decision import Decision
from ppmobilenet.field.predictor import Classifier
from ppmobilenet.workshop.golden_record import golden_photo, synthetic_photo


@pytest.fixture(scope="session")
def made(tmp_path_factory) -> Path:
    """What make_package.py wrote: by ``make test-min`` into PPMOBILENET_FIELD, else here and now."""
    if given := os.environ.get("PPMOBILENET_FIELD"):
        return Path(given).resolve()
    for needed in ("paddle", "paddle2onnx"):
        if importlib.util.find_spec(needed) is None:
            pytest.skip(f"no {needed} to make a package with, and PPMOBILENET_FIELD names none (make test-min)")
    folder = tmp_path_factory.mktemp("field")
    subprocess.run([sys.executable, str(Path(__file__).with_name("make_package.py")), str(folder)], check=True)
    return folder


@pytest.fixture(scope="session")
def classify(tmp_path_factory) -> Path:
    """The program, built by its own CMakeLists.txt against the stand-in."""
    opencv_flags()
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


@pytest.fixture(scope="session")
def package(tmp_path_factory) -> Path:
    target = TARGETS.get(platform.machine())
    if target is None:
        pytest.skip(f"the stand-in's package is not made for {platform.machine()}")
    weights = np.random.default_rng(0).normal(size=(len(LABELS), 3))
    photo, _ = golden_photo(synthetic_photo())
    return make_package(tmp_path_factory.mktemp("packages") / "päckage", photo, weights, LABELS, target)


@pytest.fixture(scope="session")
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
