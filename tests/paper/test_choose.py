"""Choosing a network within a budget."""

from __future__ import annotations

import json

import pytest

from ppmobilenet.benchmarks.networks import timed_here
from ppmobilenet.cli import main
from ppmobilenet.errors import UserError
from ppmobilenet.paper import choose, cost, published
from ppmobilenet.zoo import create_model


@pytest.fixture(scope="module")
def found():
    return choose.candidates()


def test_every_published_network_is_there_once(found):
    keys = [(c.model, c.scale, c.resolution, c.precision) for c in found]
    assert len(keys) == len(set(keys)) == len({row[1:5] for row in published.accuracies()})
    both = next(c for c in found if (c.model, c.scale, c.resolution, c.precision) == ("MobileNetV2", 1.0, 224, "fp32"))
    # where both published, the numbers of the weights that Paddle users get
    assert (both.top1, both.source) == (72.15, published.PC)
    assert both.published_ms == 20.74


def test_size_is_that_of_a_deployed_file(found):
    size = {(c.model, c.precision): c.size_bytes for c in found if c.scale == 1.0 and c.resolution == 224}
    # an exported MobileNetV2: 14.1 MB for boards in float, 3.9 MB in int8
    assert size["MobileNetV2", "fp32"] == pytest.approx(14.1e6, rel=0.02)
    assert size["MobileNetV2", "int8 PTQ"] == pytest.approx(3.9e6, rel=0.1)
    assert size["MobileNetV1", "fp32 SSLD"] == size["MobileNetV1", "fp32"]


def test_multiply_adds_are_those_of_the_network(found):
    for candidate in found:
        if (candidate.scale, candidate.precision) == (0.25, "fp32") or candidate.resolution == 96:
            model = create_model(candidate.model, scale=candidate.scale)
            assert candidate.madds == cost.cost_of(model, candidate.resolution).madds
        assert candidate.resolution % 32 == 0


def test_pareto():
    points = [(1, 50), (2, 50), (2, 60), (3, 55), (None, 99), (4, 70), (2, 60)]
    assert choose.pareto(points) == [True, False, True, False, False, True, True]


def test_budgets(found):
    chosen = choose.choose(found, max_latency_ms=10, max_size_mb=6, by="latency")
    assert {(c.model, c.scale) for c in chosen} == {("MobileNetV1", 0.25), ("MobileNetV1", 0.5)}
    assert all(c.published_ms <= 10 and c.size_bytes <= 6e6 for c in chosen)
    assert [c.top1 for c in chosen] == sorted((c.top1 for c in chosen), reverse=True)
    small = choose.choose(found, max_size_mb=5, min_top1=70)
    assert small and all(c.precision.startswith("int8") for c in small)
    assert choose.choose(found, max_madds_m=5) == []


def test_the_front_is_of_what_is_left(found):
    chosen = choose.choose(found, max_madds_m=320)
    front = sorted((c for c in chosen if c.pareto), key=lambda c: c.madds)
    assert [c.top1 for c in front] == sorted(c.top1 for c in front)
    assert front[-1].precision == "fp32 SSLD"
    for c in chosen:
        if not c.pareto:
            assert any(f.madds <= c.madds and f.top1 >= c.top1 for f in front)


def test_measured_latency_counts_where_it_was_measured(found):
    tiny = [c for c in found if (c.scale, c.resolution) == (0.35, 96)]
    assert len(tiny) == 1 and tiny[0].published_ms is None
    assert choose.choose(tiny, max_latency_ms=1e4) == []
    measured = timed_here(tiny)
    assert 0.01 < measured[0].measured_ms < 1e4
    assert choose.choose(measured, max_latency_ms=1e4, by="latency")[0].pareto
    quantised = [c for c in found if c.precision == "int8 PTQ"][:1]
    assert timed_here(quantised) == quantised


def test_command(capsys, tmp_path):
    plot, csv = tmp_path / "front.svg", tmp_path / "list.csv"
    words = ["choose", "--max-latency-ms", "10", "--device", "Pixel 1, TF Lite", "--plot", str(plot), "--csv", str(csv)]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "published ms: Pixel 1, TF Lite, 1 thread; * Pareto front" in out
    assert plot.read_text().count("<circle") >= 4 and len(csv.read_text().splitlines()) >= 4
    assert main(["choose", "--min-top1", "76", "--json"]) == 0
    assert {row["precision"] for row in json.loads(capsys.readouterr().out)} <= {"fp32", "fp32 SSLD"}
    assert main(["choose", "--device", "list"]) == 0
    assert capsys.readouterr().out.splitlines() == list(published.devices())


def test_command_says_what_is_wrong(capsys):
    assert main(["choose", "--max-size-mb", "0.1"]) == 2
    assert "no published network is within this budget" in capsys.readouterr().err
    assert main(["choose", "--device", "Snapdragon 855"]) == 2
    assert "did you mean 'Snapdragon 855 armv8'" in capsys.readouterr().err
    with pytest.raises(UserError):
        choose.candidates("toaster")
