"""``ppmobilenet fit``, from the command line to the package."""

from __future__ import annotations

import json

import pytest

from ppmobilenet.cli import main


def fit(photos, weights, output, *more) -> tuple[int, dict]:
    said = output.with_name(f"{output.name}.json")
    words = ["fit", photos, "--weights", weights, "--output", output, "--json", said, *more]
    code = main([str(word) for word in words])
    return code, json.loads(said.read_text(encoding="utf-8")) if code == 0 else {}


def test_too_little_time_keeps_the_linear_classifier_and_gives_a_package(photos, weights, tmp_path, capsys):
    output = tmp_path / "out"
    code, found = fit(photos, weights, output, "--minutes", "0.01")
    assert code == 0
    card = capsys.readouterr().out.splitlines()[-10:]
    assert card[0].startswith("right:") and card[-1].startswith("go on:")
    assert found["kept"] == "linear" and found["accuracy"] == found["linear"]
