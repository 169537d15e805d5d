"""`ppmobilenet benchmark train`: rows and ratios, on images too small to say anything about speed."""

import importlib.util
import json

import pytest

from ppmobilenet.cli import main
from ppmobilenet.kernels import build


def test_rows_and_ratios(tmp_path, capsys):
    try:
        build.load_library()
    except build.Unavailable as reason:
        pytest.skip(f"no kernels here: {reason}")
    target = tmp_path / "speed.json"
    words = "train --models v1 --batches 2 --threads 2 --size 32 --rounds 1 --json"
    assert main(["benchmark", *words.split(), str(target)]) == 0
    result = json.loads(target.read_text())
    measured = {row["candidate"] for row in result["rows"]}
    has_torch = importlib.util.find_spec("torch") is not None
    assert measured == {"stock", "accelerated", "frozen_cached", "two_processes", *(["torch"] if has_torch else [])}
    assert all(row["images_per_second"] > 0 for row in result["rows"])
    speed = {row["candidate"]: row["images_per_second"] for row in result["rows"]}
    assert result["v1.accelerated_over_stock"] == pytest.approx(speed["accelerated"] / speed["stock"], rel=0.02)
    assert ("v1.accelerated_over_torch" in result) == has_torch
    assert "v1.accelerated_over_stock" in capsys.readouterr().out


def test_unknown_candidate(capsys):
    assert main(["benchmark", "train", "--candidates", "stok"]) == 2
    assert "did you mean 'stock'" in capsys.readouterr().err


def test_peers_have_our_layers():
    """The comparison is fair only if PyTorch's networks have the same parameters."""
    pytest.importorskip("torch")
    from ppmobilenet.benchmarks import torch_peers as peers

    counts = {"MobileNetV1": 4231976, "MobileNetV2": 3505960, "MobileNetV3_large_x1_0": 5480206}
    counts |= {"MobileNetV3_small_x1_0": 2939958, "MobileNetV4_conv_small": 3774024, "MobileNetV4_conv_medium": 9715512}
    found = {name: sum(p.numel() for p in make().parameters()) for name, make in peers.PEERS.items() if name in counts}
    assert found == counts
