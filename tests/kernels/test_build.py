"""The compilation: once, said, and never in the way."""

import os
import subprocess
import sys

import pytest

from ppmobilenet.kernels import build

PROGRAM = """
import sys
import paddle
from ppmobilenet.kernels import accelerate
from ppmobilenet.zoo import create_model
model = create_model("MobileNetV1_x0_25", class_num=3)
report = accelerate(model, sys.argv[1])
print("REPORT", report.accelerated, report.message)
print("OUT", list(model(paddle.ones([2, 3, 32, 32])).shape))
"""


def run(repo, mode="auto", **environment):
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, mode],
        env={**os.environ, "PYTHONPATH": str(repo), **environment},
        capture_output=True,
        text=True,
    )


def test_without_a_compiler(repo, tmp_path):
    bare = run(repo, PATH=str(tmp_path), CXX="", PPMOBILENET_HOME=str(tmp_path / "cache"))
    assert bare.returncode == 0, bare.stderr
    assert "REPORT False cpu_kernels: stock operators (no C++ compiler" in bare.stdout and "OUT [2, 3]" in bare.stdout


def test_broken_compiler(repo, tmp_path):
    compiler = tmp_path / "g++"
    compiler.write_text(
        '#!/bin/sh\ncase "$1" in --version) echo broken 1;; *) echo "error: no such luck" >&2; exit 1;; esac\n'
    )
    compiler.chmod(0o755)
    done = run(repo, CXX=str(compiler), PPMOBILENET_HOME=str(tmp_path / "cache"))
    assert done.returncode == 0, done.stderr
    assert "failed: error: no such luck)" in done.stdout and "OUT [2, 3]" in done.stdout
    asked = run(repo, "on", CXX=str(compiler), PPMOBILENET_HOME=str(tmp_path / "cache"))
    assert asked.returncode and "Global.cpu_kernels: cpu_kernels cannot run" in asked.stderr


def test_neither_a_cache_nor_a_compiler(repo, tmp_path):
    (tmp_path / "file").write_text("")
    done = run(repo, PPMOBILENET_HOME=str(tmp_path / "file"), PATH=str(tmp_path), CXX="")
    assert done.returncode == 0 and "REPORT False" in done.stdout, done.stderr


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="built on Linux only")
def test_cache_that_cannot_be_written(repo, tmp_path):
    """Then the library is built for this process alone, and nothing of it stays."""
    try:
        build.find_compiler()
    except build.Unavailable as error:
        pytest.skip(str(error))
    (tmp_path / "file").write_text("")
    (tmp_path / "tmp").mkdir()
    done = run(repo, PPMOBILENET_HOME=str(tmp_path / "file"), TMPDIR=str(tmp_path / "tmp"))
    assert done.returncode == 0 and "REPORT True" in done.stdout, done.stderr
    assert not list((tmp_path / "tmp").glob("ppmobilenet*"))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="built on Linux only")
def test_compiles_once(repo, tmp_path):
    try:
        compiler = " ".join(build.find_compiler())
    except build.Unavailable as reason:
        pytest.skip(str(reason))
    quick = tmp_path / "quick"  # to optimise takes most of the time
    quick.write_text(f'#!/bin/bash\nexec {compiler} "${{@/-O3/-O0}}"\n')
    quick.chmod(0o755)
    outputs = [run(repo, PPMOBILENET_HOME=str(tmp_path), CXX=str(quick)).stdout for _ in range(2)]
    assert ["compiling" in out for out in outputs] == [True, False]
    assert all("REPORT True" in out for out in outputs)
    assert len(list((tmp_path / "kernels").glob("*.so"))) == 1


@pytest.mark.slow  # compiling everything with them takes half a minute
def test_sanitizers(tmp_path):
    """Forward and backward of odd shapes under AddressSanitizer and UndefinedBehaviorSanitizer."""
    try:
        compiler = build.find_compiler()
        flags = ["-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
        build.compile_library(tmp_path / "drive", compiler, flags, with_main=build.Path(__file__).with_name("drive.cc"))
    except build.Unavailable as reason:
        pytest.skip(str(reason))
    environment = {**os.environ, "ASAN_OPTIONS": "detect_leaks=1"}
    done = subprocess.run([tmp_path / "drive"], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "runs agree" in done.stdout
