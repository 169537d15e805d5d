"""What large jobs take on paper, against figures computed by hand."""

from __future__ import annotations

import re
import sys

import pytest

from ppmobilenet.paper import scale

GIVEN = scale.Given(decode=100, answer=50, kilobytes=100, cores=80, gbit=8)  # a machine: 8000 photos/s, 10^9 bytes/s


def test_one_machine_waits_for_what_is_slowest():
    found = scale.training(GIVEN, 28_800_000, gpus=8, batch=64, parameters=10**6)
    assert found.limits == {"decoding": 8000, "network": 10_000}  # gradients stay in the machine
    assert (found.slowest, found.hours) == ("decoding", pytest.approx(1.0))
    slow = scale.training(scale.Given(**{**vars(GIVEN), "gpu": 250}), 28_800_000, gpus=8, batch=64, parameters=10**6)
    assert (slow.slowest, slow.hours) == ("GPUs", pytest.approx(4.0))


def test_gradients_share_the_network_with_the_photos():
    """8 machines: 100 photos each of 10^7 bytes, and 2 * 7/8 * 4 * 10^7 bytes of gradients, in 0.08 s."""
    found = scale.training(GIVEN, 1, gpus=64, batch=12.5, parameters=10**7)
    assert found.limits == {"decoding": 64_000, "network": pytest.approx(800 / 0.08)}


def test_answering():
    found = scale.answering(GIVEN, 14_400_000, machines=1)
    assert (found.slowest, found.pace, found.hours) == ("processors", 4000, pytest.approx(1.0))


def test_the_tables_of_a_readers_own_figures(monkeypatch, capsys):
    """All recipes stand there, and twice the cores are half the hours where decoding is the limit."""
    text = []
    for cores in ("50", "100"):
        monkeypatch.setattr(sys, "argv", ["scale", "--gbit", "1e6", "--cores", cores])
        scale.main()
        text.append(capsys.readouterr().out)
    rows = [re.findall(r"^(MobileNet\S+) +(\d+) +(\d+) +(\d+) +([\d.]+) +decoding", each, re.M) for each in text]
    assert len(rows[0]) == len(rows[1]) == len(scale.recipes()) + 4
    for slow, fast in zip(*rows):
        assert slow[:4] == fast[:4] and float(fast[4]) == pytest.approx(float(slow[4]) / 2, abs=0.1)
    epochs = {row["recipe"]: row["epochs"] for row in scale.recipes()}
    assert {name: int(count) for name, count, *_ in rows[0][: len(epochs)]} == epochs
