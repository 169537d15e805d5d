"""``make verify-zoo`` against a local server: what it downloads, loads, evaluates and records."""

from __future__ import annotations

import json

import numpy as np
import pytest
from test_download import NAME, content, server  # noqa: F401

from ppmobilenet import cli
from ppmobilenet.errors import UserError
from ppmobilenet.weights import catalog, download

pytest.importorskip("paddle")
cv2 = pytest.importorskip("cv2")


@pytest.fixture
def imagenet(tmp_path):
    folder = tmp_path / "imagenet"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(3):
        cv2.imwrite(str(folder / f"{i}.jpg"), rng.integers(0, 255, (64, 80, 3), "uint8"))
    (folder / "val_list.txt").write_text("".join(f"{i}.jpg {i}\n" for i in range(3)))
    return folder


def test_downloads_loads_evaluates_and_records(server, imagenet, tmp_path, repo, monkeypatch, capsys):  # noqa: F811
    monkeypatch.chdir(repo)
    output = tmp_path / "verified.json"
    words = ["verify-zoo", NAME, "--imagenet", str(imagenet), "--output", str(output)]
    assert cli.main(words) == 0
    entry = json.loads(output.read_text())[NAME]
    path = download.published_file(NAME)
    assert entry["sha256"] == download.digest(path) and entry["size"] == path.stat().st_size
    assert entry["photos"] == 3 and 0 <= entry["top1"] <= entry["top5"] <= 100
    printed = capsys.readouterr().out
    assert "137 of 137 tensors loaded" in printed and "PUBLISHED 51.4 / 75.5" in printed
    monkeypatch.setattr(catalog, "VERIFIED", output)
    assert catalog.rows()[NAME].status == f"loads, top-1 {entry['top1']:.2f} %"
    assert catalog.rows()[NAME].sha256 == entry["sha256"]


def test_a_failed_row_is_said_and_the_others_go_on(server, tmp_path, capsys):  # noqa: F811
    output = tmp_path / "verified.json"
    assert cli.main(["verify-zoo", "MobileNetV1_x0_5", NAME, "--output", str(output)]) == 2
    printed = capsys.readouterr().out
    assert "MobileNetV1_x0_5: FAILED:" in printed and "1 of 2 verified" in printed
    assert list(json.loads(output.read_text())) == [NAME]


def test_mistakes_are_said_before_anything_is_downloaded(server, tmp_path):  # noqa: F811
    from ppmobilenet.paper.verify_zoo import verify_zoo

    with pytest.raises(UserError, match="did you mean 'MobileNetV1_x0_25'"):
        verify_zoo(["MobileNetV1_x025"])
    with pytest.raises(UserError, match=r"val_list\.txt"):
        verify_zoo(imagenet=tmp_path)
    assert not server.requests


def test_the_catalogue_is_listed(capsys):
    assert cli.main(["verify-zoo", "--list"]) == 0
    printed = capsys.readouterr().out
    assert len(printed.splitlines()) == 31 and "unverified" in printed
