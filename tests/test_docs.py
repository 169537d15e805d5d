"""The API reference is made from docstrings, so every public name needs one, and the pages have to come out."""

from __future__ import annotations

import subprocess
import sys

import pytest

import ppmobilenet


def test_every_public_name_has_a_docstring_that_says_what_it_takes():
    pytest.importorskip("paddle")
    for name in ppmobilenet.__all__:
        thing = getattr(ppmobilenet, name)
        if callable(thing):
            assert thing.__doc__, name
            if name not in ("list_models",):
                assert "Args:" in thing.__doc__, name


def test_the_reference_comes_out(repo, tmp_path):
    pytest.importorskip("pdoc")
    pytest.importorskip("paddle")
    code = "import make_docs, pathlib, sys; make_docs.write_reference(pathlib.Path(sys.argv[1]))"
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, cwd=repo / "tools", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "index.html").is_file()
    page = (tmp_path / "ppmobilenet/models/mobilenet_v2.html").read_text(encoding="utf-8")
    assert "InvertedResidualUnit" in page and "width multiplier" in page
    assert not (tmp_path / "ppmobilenet/commands").exists()
