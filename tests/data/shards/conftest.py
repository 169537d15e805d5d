"""Photos in a list, and shards of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from shard_helpers import packed, write_photos


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("photos")
    (root / "list.txt").write_text("".join(write_photos(root)), encoding="utf-8")
    return root


@pytest.fixture
def shards(photos, tmp_path) -> Path:
    """Shards in the list's order, to be spoilt."""
    packed(photos, tmp_path / "shards", seed=None)
    return tmp_path / "shards"
