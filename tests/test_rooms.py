"""The house is built as CONTRIBUTING.md draws it, and what the documents name is there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from imports_of import ROOT, imported

import ppmobilenet

REPO = Path(__file__).resolve().parents[1]
TABLE = re.compile(r"^\| room \|.*?(?=\n\n)", re.DOTALL | re.MULTILINE)


def drawn() -> list[str]:
    """The rooms of CONTRIBUTING.md's table, in its order."""
    rows = TABLE.search((REPO / "CONTRIBUTING.md").read_text(encoding="utf-8"))[0].splitlines()[2:]
    return [room for row in rows for room in re.findall(r"`(\w+)`", row.split("|")[1])]


def rooms_of(path: Path) -> set[str]:
    """The rooms that a file imports from, at its top or inside of functions."""
    return {name.split(".")[1] for name in imported(path) if name.startswith("ppmobilenet.")} - {"__version__"}


def test_every_room_is_drawn():
    there = {path.stem for path in ROOT.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert sorted(drawn()) == sorted(there - {"__init__", "__main__"})


@pytest.mark.parametrize("room", drawn())
def test_a_room_imports_from_those_before_it(room):
    before = drawn()[: drawn().index(room)]
    folder = ROOT / room
    for path in sorted(folder.rglob("*.py")) if folder.is_dir() else [ROOT / f"{room}.py"]:
        assert rooms_of(path) - {room} <= set(before), path.relative_to(ROOT)


def test_the_networks_import_nothing_of_the_kit():
    assert all(rooms_of(path) <= {"models"} for path in (ROOT / "models").rglob("*.py"))


# files that import inside of a function, and why
INSIDE = {
    **dict.fromkeys(("cli.py", "telling.py"), "--help and an answer wait for nothing that they do not use"),
    **dict.fromkeys(("commands/benchmark.py", "commands/infer.py", "commands/verify.py"), "a board has no Paddle"),
    **dict.fromkeys(("commands/convert_weights.py", "commands/verify_zoo.py"), "to look at a file needs no Paddle"),
    "commands/check_dataset.py": "to look at lists and photos needs no Paddle",
    **dict.fromkeys(("data/digits.py", "training/scalars.py"), "packages that few have"),
    **dict.fromkeys(("workshop/onnx.py", "workshop/quantizers.py"), "packages that few have"),
    **dict.fromkeys(("fit/suspects.py", "training/solved_head.py"), "packages that few have"),
    **dict.fromkeys((f"field/cluster/{name}.py" for name in ("answers", "job", "parts")), "packages that few have"),
    "benchmarks/training.py": "PyTorch is not needed",
    "field/engines/lite_worker.py": "runs in an interpreter of its own",
}


def test_imports_stand_at_the_top():
    hiding = set()
    for path in ROOT.rglob("*.py"):
        for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef)):
                if any(isinstance(node, (ast.Import, ast.ImportFrom)) for node in ast.walk(function)):
                    hiding.add(path.relative_to(ROOT).as_posix())
    assert hiding <= set(INSIDE)


NAMED = re.compile(r"MobileNetV\d\w*|v[1-4]")
# where a family's name stands in the code besides its own files, and why
NAMING = {
    "__init__.py": "public names",
    "options.py": "what is measured by default",
    "benchmarks/training.py": "what is measured by default",
    "fit/network.py": "what is downloaded by default",
    "benchmarks/torch_peers.py": "networks of our own in PyTorch",
    "field/inference_yml.py": "what PaddleX has registered",
}


def test_nothing_else_knows_a_family():
    """No name of one in the code, as a word or as a class; help and examples are sentences."""
    knowing = set()
    for path in ROOT.rglob("*.py"):
        name = path.relative_to(ROOT).as_posix()
        if not name.startswith(("models/", "weights/layouts/")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                word = getattr(node, "value", getattr(node, "id", getattr(node, "attr", None)))
                knowing |= {name} if isinstance(word, str) and NAMED.fullmatch(word) else set()
    assert knowing <= set(NAMING)


@pytest.mark.parametrize("document", ["README.md", "README_ch.md", "CONTRIBUTING.md", "docs", "docs/ch"])
def test_what_a_document_names_is_there(document):
    place = REPO / document
    text = "\n".join(page.read_text(encoding="utf-8") for page in (place.glob("*.md") if place.is_dir() else [place]))
    own = ("my_net.py",)  # a file that the reader is to write
    for path in re.findall(r"\b(?:configs|tools|tests|ppmobilenet)/[\w./]*\w", text):
        assert path.endswith(own) or (REPO / path).exists(), f"{document} names {path}"
    for name in re.findall(r"\bppmobilenet(?:\.[a-z]\w*)+", text):
        words = name.split(".")[1:]
        while words and not any((ROOT / "/".join(words)).with_suffix(end).exists() for end in ("", ".py")):
            words.pop()  # a function of the module
        assert words or hasattr(ppmobilenet, name.split(".")[1]), f"{document} names {name}"
