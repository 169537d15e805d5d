"""Packages for the field's tests, which the workshop made elsewhere or makes now."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest


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
