"""A tiny data set, a tiny configuration, and runs on them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from training_helpers import TRAIN, VAL, YAML, write_photos

from ppmobilenet.config import load_config


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Path:
    """A folder with 40 training and 13 evaluation photos of 3 classes, and their lists."""
    root = tmp_path_factory.mktemp("tiny")
    for split, count in (("train", TRAIN), ("val", VAL)):
        (root / split).mkdir()
        (root / f"{split}_list.txt").write_text("".join(write_photos(root / split, count, count)))
    return root


@pytest.fixture
def tiny_yaml(tiny, tmp_path) -> Path:
    """The tiny configuration as a file; it writes into ``out`` beside itself."""
    path = tmp_path / "tiny.yaml"
    path.write_text(YAML.format(data=tiny, out=tmp_path / "out"))
    return path


@pytest.fixture
def tiny_config(tiny_yaml, tmp_path) -> Callable:
    """Make a config: ``tiny_config("Global.epochs=4", out="other")``."""

    def make(*overrides: str, out: str = "out"):
        return load_config(tiny_yaml, [*overrides, f"Global.output_dir={tmp_path / out}"])

    return make
