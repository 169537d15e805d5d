"""The field half stands alone: what its files import, read from the files."""

from __future__ import annotations

import pytest
from imports_of import ROOT, imported

# room -> what of the package its files may import
ALLOWED = {
    "photos": {"errors", "registry", "machine", "files", "telling", "console", "photos"},
    "field": {"__version__", "errors", "registry", "machine", "files", "telling", "console", "photos", "field"},
}
# not installed on every board: the one file that may import each
OWN_FILE = {
    "paddle": "field/engines/paddle_inference.py",
    "onnxruntime": "field/engines/onnx_runtime.py",
    "paddlelite": "field/engines/lite_worker.py",
    "fastapi": "field/serving/app.py",
    "starlette": "field/serving/app.py",
    "uvicorn": "field/serving/run.py",
}
FILES = [path for room in ALLOWED for path in sorted((ROOT / room).rglob("*.py"))]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_the_field_imports_only_what_a_board_has(path):
    name, names = path.relative_to(ROOT).as_posix(), imported(path)
    ours = {entry.split(".")[1] for entry in names if entry.startswith("ppmobilenet.")}
    assert ours <= ALLOWED[name.split("/")[0]]
    assert "ppmobilenet" not in names, "import the module that is meant"
    heavy = {entry.split(".")[0] for entry in names} & set(OWN_FILE)
    assert all(OWN_FILE[package] == name for package in heavy)


def test_no_module_is_chosen_by_name_but_an_engine():
    """The other ways to import: they would not be seen above."""
    ways = ("import_module", "__import__", "exec(", "eval(")
    users = {path.relative_to(ROOT).as_posix() for path in FILES if any(way in path.read_text("utf-8") for way in ways)}
    assert users == {"field/backends.py"}
