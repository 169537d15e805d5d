"""Prediction shared by several processes gives the file that one process writes."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import cv2
import numpy as np
import pytest

from ppmobilenet.errors import UserError
from ppmobilenet.field import shares

LAUNCH = ("-m", "paddle.distributed.launch", "--nproc_per_node", "2", "--log_dir", "log")


def test_shares_cover_every_photo_once_and_in_order():
    for count in (0, 1, 5, 8):
        photos = [str(i) for i in range(count)]
        for world in (1, 2, 3, 8):
            parts = [shares.share(photos, rank, world) for rank in range(world)]
            assert [photo for part in parts for photo in part] == photos
            assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_a_share_on_another_machine_is_named(tmp_path):
    (tmp_path / "a.1-of-2.jsonl").write_text("{}\n")
    with pytest.raises(UserError, match="a.2-of-2.jsonl.*not on this machine"):
        shares.join(tmp_path / "a.jsonl", 2)
    assert (tmp_path / "a.1-of-2.jsonl").is_file() and not (tmp_path / "a.jsonl").exists()


def test_two_processes_write_what_one_does(repo, tmp_path):
    pytest.importorskip("paddle")
    rng = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for number in range(7):
        cv2.imwrite(str(tmp_path / f"photos/{number}.png"), rng.integers(0, 256, (40, 50, 3), np.uint8))
    (tmp_path / "photos/3.png").write_bytes(b"")
    config = repo / "configs/ImageNet/MobileNetV1/MobileNetV1_x0_25.yaml"
    words = [repo / "tools/infer.py", "-c", config, "-o", "Global.resolution=32", "--random-init", "-i", "photos"]
    weights = tmp_path / "w.npz"
    from ppmobilenet import create_model

    np.savez(weights, **{key: v.numpy() for key, v in create_model("MobileNetV1_x0_25").state_dict().items()})
    words += ["-o", f"Global.pretrained_model={weights}", "-o", "Infer.PostProcess.class_id_map_file="]

    def run(*more):
        command = [sys.executable, *map(str, more)]
        env = {**os.environ, "PYTHONPATH": str(repo)}
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=env, timeout=200)

    one = run(*words, "--save", "one.jsonl")
    assert one.returncode == 3, one.stderr[-2000:]
    two = run(*LAUNCH, *words, "--save", "two.jsonl")
    assert two.returncode, "a photo could not be read"
    # another batch of photos is another order of sums
    for ours, theirs in zip(*((tmp_path / f"{name}.jsonl").read_text().splitlines() for name in ("one", "two"))):
        ours, theirs = json.loads(ours), json.loads(theirs)
        assert ours["file_name"] == theirs["file_name"] and ours.get("class_ids") == theirs.get("class_ids")
        assert ours.get("scores", []) == pytest.approx(theirs.get("scores", []), abs=1e-4)
    assert len((tmp_path / "two.jsonl").read_text().splitlines()) == 7
    assert not list(tmp_path.glob("*-of-*")) and not list(tmp_path.glob(".*partial*"))
