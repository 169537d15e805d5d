"""Paddle Lite: finding its environment, surviving opt, checking what it wrote."""

from __future__ import annotations

import json
import os
import shutil
import stat
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from hearing import heard

from ppmobilenet.errors import DamagedFileError, UserError
from ppmobilenet.field.engines import lite_env
from ppmobilenet.field.package import dump_json, list_files, open_package
from ppmobilenet.workshop import lite


def program(path: Path, text: str) -> Path:
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


# ---------------------------------------------------------------------------------------------------------------------
# the environment


def test_without_an_interpreter_it_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.delenv(lite_env.VARIABLE, raising=False)
    monkeypatch.setenv("PPMOBILENET_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(lite_env.NoLite, match=r"CPython 3.8, 3.9 or 3.10(.|\n)*pyenv install 3.10.*uv python install"):
        lite_env.lite_python()


def test_an_interpreter_is_found_on_path_and_under_pyenv(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "pyenv"))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert lite_env.find_interpreter() is None
    for version in ("3.9.2", "3.9.18", "3.11.4"):
        folder = tmp_path / f"pyenv/versions/{version}/bin"
        folder.mkdir(parents=True)
        program(folder / "python", f"echo cpython {version.replace('.', ' ').rsplit(' ', 1)[0]}\n")
    assert lite_env.find_interpreter() == tmp_path / "pyenv/versions/3.9.18/bin/python"
    (tmp_path / "bin").mkdir()
    program(tmp_path / "bin/python3.10", "echo cpython 3 10\n")
    assert lite_env.find_interpreter() == tmp_path / "bin/python3.10"
    program(tmp_path / "bin/python3.10", "echo pypy 3 10\n")
    assert lite_env.find_interpreter() == tmp_path / "pyenv/versions/3.9.18/bin/python"


def test_a_named_interpreter_without_paddlelite_is_refused(monkeypatch, tmp_path):
    python = program(tmp_path / "python", "echo \"ModuleNotFoundError: No module named 'paddlelite'\" >&2; exit 1\n")
    monkeypatch.setenv(lite_env.VARIABLE, str(python))
    with pytest.raises(lite_env.NoLite, match=r"cannot import paddlelite(.|\n)*-m pip install paddlelite==2.13rc0"):
        lite_env.lite_python()


def test_a_failed_installation_leaves_nothing(monkeypatch, tmp_path):
    monkeypatch.delenv(lite_env.VARIABLE, raising=False)
    monkeypatch.setenv("PPMOBILENET_HOME", str(tmp_path / "cache"))
    (tmp_path / "bin").mkdir()
    program(
        tmp_path / "bin/python3.10", 'if [ "$1" = -c ]; then echo cpython 3 10; else echo no network >&2; exit 1; fi'
    )
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/bin:/usr/bin")
    with pytest.raises(lite_env.NoLite, match=r"could not be made:\n    no network"):
        lite_env.lite_python()
    assert lite_env.existing() is None
    assert [p.name for p in (tmp_path / "cache").iterdir()] == ["lite-2.13rc0.lock"]


# ---------------------------------------------------------------------------------------------------------------------
# opt


@pytest.mark.parametrize(
    "script, message",
    [
        ("echo 'op erfinv is not supported'; kill -SEGV $$", r"signal SIGSEGV\):\n    op erfinv is not supported"),
        ("echo last words >&2; kill -ABRT $$", r"signal SIGABRT\):\n    last words"),
        ("exit 0", r"exit code 0\):\n    \(it printed nothing\)"),
        ("exit 3", "exit code 3"),
    ],
)
def test_a_crash_of_opt_is_a_message_with_the_logs_tail(tmp_path, script, message):
    python = program(tmp_path / "python", script + "\n")
    with pytest.raises(UserError, match=message):
        lite.run_opt(python, Path("m"), Path("p"), tmp_path / "out", "arm", fp16=False)
    assert not (tmp_path / "out.nb").exists()


def test_opt_that_hangs_is_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(lite, "TIME_LIMIT", 0.2)
    with pytest.raises(UserError, match="no end after"):
        lite.run_opt(
            program(tmp_path / "python", "exec sleep 20\n"), Path("m"), Path("p"), tmp_path / "o", "arm", False
        )


def nb(version: str, size: int = 100) -> bytes:
    return b"\x02\x00" + (version.encode() + b"\0").ljust(16, b"\xaa") + bytes(size)


def test_nb_headers(tmp_path):
    path = tmp_path / "armv8_fp32.nb"
    path.write_bytes(nb("v2.13-rc"))
    assert lite.check_converted(path, at_least=100) == "v2.13-rc"
    assert path.read_bytes()[:18] == b"\x02\x00v2.13-rc" + bytes(8), "leftover memory is cleared"
    with pytest.raises(DamagedFileError, match="less than the 1000"):
        lite.check_converted(path, at_least=1000)
    path.write_bytes(nb("v2.10"))
    with pytest.raises(UserError, match=r"written by opt v2.10; the runtime here is v2.13-rc"):
        lite.read_version(path)
    path.write_bytes(b"<html>")
    with pytest.raises(DamagedFileError, match="not a Paddle Lite model"):
        lite.read_version(path)


# ---------------------------------------------------------------------------------------------------------------------
# for real, where the tool is


@pytest.fixture(scope="module")
def converted(tmp_path_factory, lite_python):
    from ppmobilenet.workshop.making import PackageSpec, make_package
    from ppmobilenet.zoo import create_model

    folder = tmp_path_factory.mktemp("lite") / "package"
    ops = [{"ResizeImage": {"size": 32}}, {"NormalizeImage": {"order": ""}}]
    to = ["lite-armv8", "lite-armv7", "lite-x86", "lite-armv8-fp16"]
    model = create_model("MobileNetV2_x0_25", class_num=3)
    model.out.weight.set_value(np.random.default_rng(0).normal(0, 50, model.out.weight.shape).astype("float32"))
    with heard() as said:
        make_package(
            model,
            PackageSpec(name="x", ops=ops, labels=list("abc"), to=to, softmax_inside=False, with_board=True),
            folder,
        )
    return folder, "\n".join(said)


def test_every_target_is_written_and_x86_is_compared(converted):
    folder, said = converted
    names = {p.name for p in folder.iterdir()}
    assert names >= {"armv8_fp32.nb", "armv7_fp32.nb", "x86_fp32.nb", "armv8_fp16.nb"}
    assert not [name for name in names if name.startswith("inference.p")], "only what was asked for is left"
    forms = {form["name"]: form for form in open_package(folder).meta["forms"]}
    assert forms["lite-x86-fp32"]["compared"] and forms["lite-x86-fp32"]["max_difference"] < 1e-4
    assert not forms["lite-armv8-fp32"]["compared"] and forms["lite-armv8-fp32"]["opt_version"] == "v2.13-rc"
    assert "SIGILL" in said and "the board proves it" in said


def files_below(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_the_board_program_lies_in_the_package(converted):
    package = open_package(converted[0])
    board = Path(lite.__file__).parents[1] / "field" / "board"
    sources = files_below(board)
    assert {"CMakeLists.txt", "classify.cpp", "engine.hpp", "example/example.cpp"} <= sources
    assert sources == files_below(converted[0] / "board")
    assert {f"board/{name}" for name in sources} <= {entry["path"] for entry in package.meta["files"]}


def test_the_x86_runtime_answers_batches(converted):
    from ppmobilenet.field.predictor import Predictor

    predictor = Predictor(converted[0])
    assert predictor.backend == "lite"
    photos = [
        cv2.imencode(".png", np.random.default_rng(s).integers(0, 255, (32, 32, 3), np.uint8))[1] for s in range(3)
    ]
    answers = predictor([photo.tobytes() for photo in photos], batch_size=3)
    assert len(answers) == 3 and all(len(answer.class_ids) == 3 for answer in answers)


def test_a_nb_of_another_opt_version_is_named_by_verify(converted, tmp_path):
    from ppmobilenet.field.verify import verify

    copy = shutil.copytree(converted[0], tmp_path / "copy")
    blob = (copy / "armv8_fp32.nb").read_bytes()
    (copy / "armv8_fp32.nb").write_bytes(nb("v2.10", 0) + blob[18:])
    meta = json.loads((copy / "package.json").read_text())
    meta["files"] = list_files(copy)
    dump_json(meta, copy / "package.json")
    report = verify(copy)
    assert report.first_departure.stage == "files" and "v2.10" in report.table()


def test_an_operator_that_lite_lacks_is_an_error_message(lite_python, tmp_path):
    import paddle

    from ppmobilenet.workshop.making import PackageSpec, make_package

    class Odd(paddle.nn.Layer):
        def __init__(self):
            super().__init__()
            self.fc = paddle.nn.Linear(3, 3)

        def forward(self, x):
            return paddle.logit(self.fc(x.mean(axis=[2, 3])).clip(0.1, 0.9))

    before = sorted(tmp_path.iterdir())
    with pytest.raises(UserError, match="opt could not convert the model"):
        make_package(
            Odd(),
            PackageSpec(
                name="x",
                ops=[{"ResizeImage": {"size": 32}}, {"NormalizeImage": {"order": ""}}],
                labels=list("abc"),
                to=["lite-armv8"],
            ),
            tmp_path / "package",
        )
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.slow
@pytest.mark.parametrize(
    "name,options", [("MobileNetV3_small_x0_35", {"same_padding": True}), ("MobileNetV4_conv_small", {})]
)
def test_v3_and_v4_take_every_form(lite_python, tmp_path, name, options):
    """Each form of each engine, int8 too; what runs here is compared, the others are converted."""
    import paddle
    from packages import LABELS, lively, ops_for, photo

    from ppmobilenet.field.preprocessing import deployment_ops
    from ppmobilenet.photos.operators import build
    from ppmobilenet.workshop.int8_plan import Int8Settings, plan_layers
    from ppmobilenet.workshop.making import PackageSpec, make_package

    options = {"same_padding": True} if "V3" in name else {}
    model, ops, photos = lively(name, **options), ops_for(64), [photo(seed=seed) for seed in range(8)]
    transform = build(deployment_ops(ops))
    tensors = np.stack([np.ascontiguousarray(transform(p)) for p in photos])
    plan = plan_layers(model, tensors, Int8Settings()) if paddle.__version__ >= "3" else None
    to = ["inference", "pdmodel", "onnx", "lite-armv8", "lite-armv7", "lite-x86", "lite-armv8-fp16"]
    spec = PackageSpec(name=name, ops=ops, labels=LABELS, to=to, photos=photos[:3], softmax_inside=False, int8=plan)
    forms = {form["name"]: form for form in open_package(make_package(model, spec, tmp_path / "package")).meta["forms"]}
    compared = {name for name, form in forms.items() if form["compared"] and form["precision"] == "fp32"}
    assert compared == {"inference", "pdmodel", "pdmodel-b1", "onnx", "lite-x86-fp32"}
    assert all(forms[name]["max_difference"] < 1e-4 for name in compared)
    assert {"lite-armv8-fp32", "lite-armv7-fp32", "lite-armv8-fp16"} < forms.keys()
    assert not plan or {"pdmodel-int8", "onnx-int8", "lite-armv8-int8", "lite-armv7-int8"} < forms.keys()


@pytest.mark.slow
def test_the_environment_makes_itself(monkeypatch, tmp_path):
    """Downloads about 100 MB from the package registry."""
    monkeypatch.delenv(lite_env.VARIABLE, raising=False)
    if lite_env.find_interpreter() is None:
        pytest.skip("no CPython 3.8-3.10 on this machine")
    monkeypatch.setenv("PPMOBILENET_HOME", str(tmp_path))
    python = lite_env.lite_python()
    assert os.access(python, os.X_OK) and python != Path(sys.executable)
    assert lite_env.existing() == python == lite_env.lite_python()
