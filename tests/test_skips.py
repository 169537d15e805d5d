"""Where CI=true a skip needs a written reason: tests/allowed_skips.py."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent

SUITE = """
import pytest

def test_on_the_list():
    pytest.skip("no fish on this machine to read it")

def test_not_on_the_list():
    pytest.skip("it was Monday")

@pytest.mark.skipif(True, reason="a mark")
def test_marked():
    pass

@pytest.mark.xfail
def test_expected_to_fail():
    assert False
"""


def test_a_skip_without_a_written_reason_fails(tmp_path):
    for name in ("conftest.py", "allowed_skips.py"):
        (tmp_path / name).write_bytes((HERE / name).read_bytes())
    (tmp_path / "test_a.py").write_text(SUITE)
    (tmp_path / "test_b.py").write_text("import pytest\npytest.importorskip('no_such_module')\n")

    def suite(ci: str) -> str:
        words = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "--continue-on-collection-errors", "."]
        env = {**os.environ, "CI": ci}
        return subprocess.run([sys.executable, *words], cwd=tmp_path, env=env, capture_output=True, text=True).stdout

    assert "4 skipped, 1 xfailed" in suite("")
    strict = suite("true")
    assert "1 failed, 1 skipped, 1 xfailed, 2 errors" in strict
    for reason in ("it was Monday", "a mark", "no_such_module"):
        assert f"{reason}" in strict
