"""``benchmark infer``: every backend in one run, as ratios that follow from the times."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

from ppmobilenet.cli import main
from ppmobilenet.workshop.making import PackageSpec, make_package
from ppmobilenet.zoo import create_model


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("paddle2onnx")
    folder = tmp_path_factory.mktemp("benchmark")
    ops = [{"ResizeImage": {"resize_short": 40}}, {"CropImage": {"size": 32}}, {"NormalizeImage": {"order": ""}}]
    model = create_model("MobileNetV1_x0_25", class_num=4)
    make_package(
        model, PackageSpec(name="tiny", ops=ops, labels=list("abcd"), to=["pdmodel", "onnx"]), folder / "package"
    )
    (folder / "photos").mkdir()
    for number in range(4):
        picture = np.random.default_rng(number).integers(0, 255, (48, 64, 3), np.uint8)
        cv2.imwrite(str(folder / f"photos/{number}.png"), picture)
    return folder


def test_every_backend_is_measured_and_compared(package, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PPMOBILENET_HOME", str(tmp_path / "cache"))
    words = ["benchmark", "infer", str(package / "package"), "--images", str(package / "photos")]
    assert main([*words, "--threads", "1", "--rounds", "4", "--json", str(tmp_path / "b.json")]) == 0
    out = capsys.readouterr().out
    result = json.loads((tmp_path / "b.json").read_text())
    (entry,) = result["latency"]
    rows = {row["engine"]: row for row in entry["rows"]}
    assert "onnxruntime" in rows and "paddle" in rows
    best = min(row["median_ms"] for row in rows.values())
    for name, row in rows.items():
        assert row["p90_ms"] >= row["median_ms"] > 0
        assert row["ratio_to_best"] == pytest.approx(row["median_ms"] / best, abs=2e-3)
        assert name in out
    assert entry["auto"] in rows and entry["auto_over_best"] >= 1
    ours = min(row["median_ms"] for name, row in rows.items() if name != "onnxruntime")
    assert entry["paddle_over_onnxruntime"] == pytest.approx(ours / rows["onnxruntime"]["median_ms"], abs=2e-3)
    whole = result["end_to_end"]
    assert whole["photos"] == 4 and whole["images_per_second"]["stream"] > 0
    assert f"auto takes {entry['auto']}" in out and "photos/s" in out


def test_the_plain_loop_computes_what_the_predictor_does(package):
    """Else the comparison would be between two different jobs."""
    from ppmobilenet.benchmarks.inference import _plain_preprocess
    from ppmobilenet.field.predictor import Predictor

    predictor = Predictor(package / "package", backend="onnxruntime")
    path = package / "photos/0.png"
    plain = _plain_preprocess(cv2.imread(str(path))[:, :, ::-1], predictor)
    assert np.abs(plain - predictor.preprocess(path)).max() < 1e-5
