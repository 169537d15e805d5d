"""A wheel is the product: who has only that finds the recipes, the board program and every command."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ppmobilenet.cli import COMMANDS, main
from ppmobilenet.config import load_config

REPO = Path(__file__).resolve().parents[1]
STUB = REPO / "tests/field/board_stub"
DIGITS = "quick_start/MobileNetV2_x0_25_digits.yaml"


def run(*words: object, cwd: Path, env: dict | None = None, expect: int = 0) -> subprocess.CompletedProcess:
    done = subprocess.run([str(w) for w in words], cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == expect, f"{words}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done


def data_files(folder: Path) -> set[str]:
    files = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {path.as_posix() for path in files if path.suffix not in (".py", ".pyc", ".so")}


# ---------------------------------------------------------------------------------------------------------------------
# what a wheel holds


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """The checkout again: setuptools leaves files beside setup.py, and takes old ones from there into a wheel."""
    folder = tmp_path_factory.mktemp("source")
    for name in ("ppmobilenet", "configs", "setup.py", "pyproject.toml", "README.md", "LICENSE"):
        (folder / name).symlink_to(REPO / name)
    return folder


@pytest.fixture(scope="module")
def built(source, tmp_path_factory) -> Path:
    """The folder that setup.py would put into a wheel."""
    pytest.importorskip("setuptools", reason="setuptools is not installed: it builds the wheel")
    folder = tmp_path_factory.mktemp("built")
    run(sys.executable, "setup.py", "-q", "build_py", "-d", folder, cwd=source)
    return folder


def test_every_file_of_the_package_and_every_recipe_is_in_it(built):
    recipes = {f"configs/{name}" for name in data_files(REPO / "configs")}
    assert len(recipes) > 10
    assert data_files(built / "ppmobilenet") == data_files(REPO / "ppmobilenet") | recipes


def test_in_an_empty_folder_a_shipped_recipe_is_found(built, tmp_path):
    env = {**os.environ, "PYTHONPATH": str(built)}
    code = "import sys; from ppmobilenet.config.shipped import find_config; print(*map(find_config, sys.argv[1:]))"
    found = run(sys.executable, "-c", code, DIGITS, f"configs/{DIGITS}", cwd=tmp_path, env=env).stdout.split()
    assert found == [str(built / "ppmobilenet/configs" / DIGITS)] * 2
    listed = run(sys.executable, "-m", "ppmobilenet", "configs", cwd=tmp_path, env=env).stdout
    assert DIGITS in listed and "ImageNet/MobileNetV1/MobileNetV1_x0_25.yaml" in listed


# ---------------------------------------------------------------------------------------------------------------------
# recipes


def test_a_file_of_ones_own_comes_before_the_shipped_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shipped = load_config(DIGITS)
    assert Path(shipped.source) == REPO / "configs" / DIGITS and f"{DIGITS} is not here" in shipped.notes[0]
    (tmp_path / DIGITS).parent.mkdir()
    text = Path(shipped.source).read_text(encoding="utf-8")
    (tmp_path / DIGITS).write_text(text.replace("epochs: 12", "epochs: 3"), encoding="utf-8")
    own = load_config(DIGITS)
    assert own["Global"]["epochs"] == 3 and not own.notes


@pytest.mark.parametrize("output", [None, "mine.yaml", "new/folder"])
def test_a_recipe_is_copied(tmp_path, monkeypatch, capsys, output):
    monkeypatch.chdir(tmp_path)
    words = ["configs", f"configs/{DIGITS}" if output else DIGITS, *(["-o", output] if output else [])]
    target = Path({None: ".", "mine.yaml": "mine.yaml"}.get(output, output))
    target = target if target.suffix else target / Path(DIGITS).name
    assert main(words) == 0
    assert target.read_bytes() == (REPO / "configs" / DIGITS).read_bytes()
    target.write_text("mine")
    assert main(words) == 2
    assert str(target) in (said := capsys.readouterr().err) and "nothing was copied" in said
    assert target.read_text() == "mine"


def test_an_unknown_recipe_is_told_and_nothing_is_copied(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["configs", DIGITS, "quick_start/MobileNetV2_fintune.yaml"]) == 2
    assert "did you mean 'quick_start/MobileNetV2_finetune.yaml'" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    assert main(["train", "-c", "MobileNetV2_finetune.yaml"]) == 2
    assert "did you mean quick_start/MobileNetV2_finetune.yaml?" in capsys.readouterr().err


def test_the_examples_of_help_name_recipes_that_are_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    examples = [re.search(r"-c (\S+\.yaml)((?: -o \S+)*)", example) for _, _, example in COMMANDS.values()]
    found = [match for match in examples if match]
    assert found
    for match in found:
        load_config(match[1], match[2].replace(" -o ", " ").split())


def test_the_board_program_goes_with_lites_forms_only(tmp_path, monkeypatch, capsys):
    pytest.importorskip("paddle")
    monkeypatch.chdir(tmp_path)
    for command in (["export", "--random-init", "--to", "onnx"], ["quantize", "--to", "pdmodel"]):
        assert main([*command, "-c", DIGITS, "--with-board"]) == 2
        assert "--with-board" in (said := capsys.readouterr().err) and "lite-armv8" in said


# who has a wheel has neither tools/ nor a Makefile
CHECKOUT_ONLY = re.compile(
    r"\btools/|\bmake (?:demo|test|slow|fuzz|chaos|verify-zoo|docs|venv|peers|lint)\b|\b[a-z_]+\.py "
)
FOR_THE_CHECKOUT = {"paper/zoo_table.py"}  # writes the pages of the checkout


def test_no_message_names_what_only_a_checkout_has():
    for path in sorted((REPO / "ppmobilenet").rglob("*.py")):
        if path.relative_to(REPO / "ppmobilenet").as_posix() in FOR_THE_CHECKOUT:
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        holders = (ast.Module, ast.ClassDef, ast.FunctionDef)
        docstrings = {ast.get_docstring(node, clean=False) for node in ast.walk(tree) if isinstance(node, holders)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value not in docstrings:
                assert not CHECKOUT_ONLY.search(node.value), f"{path}:{node.lineno}: {node.value!r}"
    for path in (REPO / "configs").rglob("*.yaml"):
        assert "tools/" not in path.read_text(encoding="utf-8"), path


# ---------------------------------------------------------------------------------------------------------------------
# for real


@pytest.mark.slow
def test_a_wheel_trains_exports_and_compiles_the_board_program(tmp_path, source):
    """Installed from a wheel with what it asks for, in a folder that knows nothing of the checkout."""
    if not shutil.which("cmake") or not shutil.which("g++"):
        pytest.skip("no cmake and g++: they build the board program")
    pip = (sys.executable, "-m", "pip", "-q", "--disable-pip-version-check")
    run(*pip, "wheel", "--no-deps", "-w", tmp_path / "wheel", source, cwd=tmp_path)
    wheel = next((tmp_path / "wheel").glob("ppmobilenet-*.whl"))
    run(sys.executable, "-m", "venv", tmp_path / "env", cwd=tmp_path)
    binaries, empty = tmp_path / "env/bin", tmp_path / "empty"
    empty.mkdir()
    wanted = f"ppmobilenet[cpu,demo] @ {wheel.as_uri()}"
    pip = (binaries / "python", *pip[1:])
    run(*pip, "install", "-c", REPO / "constraints.txt", wanted, cwd=empty)
    env = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
    env["PATH"] = f"{binaries}:{env['PATH']}"

    def command(*words: object, expect: int = 0) -> str:
        return run(binaries / "ppmobilenet", *words, cwd=empty, env=env, expect=expect).stdout

    where = run(binaries / "python", "-c", "import ppmobilenet; print(ppmobilenet.__file__)", cwd=empty, env=env).stdout
    assert where.startswith(str(tmp_path / "env"))
    for name in COMMANDS:
        assert f"ppmobilenet {name}" in command(name, "--help")
    run(binaries / "python", "-m", "ppmobilenet.data.digits", "demo/digits", cwd=empty, env=env)
    small = ("-o", "Global.resolution=32")
    command("train", "-c", f"configs/{DIGITS}", *small, "-o", "Global.epochs=1")
    best = ("-c", DIGITS, *small, "-o", "Global.pretrained_model=demo/output/best_model")
    assert "evaluated 360/360" in command("eval", *best)
    command("export", *best, "--to", "inference,lite-armv8", "--with-board", "--output", "package")
    photo = next((empty / "demo/digits/val").glob("*.png"))
    assert photo.name in command("infer", "-i", photo, "-m", "package")
    command("verify", "package")
    # PaddleClas's YAMLs name a label list that lies in its own sources: the wheel's stands for it
    imagenet = ("-c", "ImageNet/MobileNetV1/MobileNetV1_x0_25.yaml", "-o", "Global.device=cpu")
    command("export", *imagenet, "--random-init", "--to", "inference", "--output", "imagenet")
    assert "tench" in (empty / "imagenet/package.json").read_text(encoding="utf-8")

    lite = tmp_path / "lite"
    (lite / "lib").mkdir(parents=True)
    shutil.copytree(STUB, lite / "include")
    (tmp_path / "empty.cpp").touch()
    library = lite / "lib/libpaddle_light_api_shared.so"
    run("g++", "-shared", "-fPIC", tmp_path / "empty.cpp", "-o", library, cwd=tmp_path)
    run("cmake", "-S", "package/board", "-B", "build", f"-DPADDLE_LITE_DIR={lite}", cwd=empty)
    run("cmake", "--build", "build", "-j2", cwd=empty)
    assert (empty / "build/classify").is_file()
