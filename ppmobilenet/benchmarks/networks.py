"""How fast networks that a budget could choose answer on this machine."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ppmobilenet import telling
from ppmobilenet.field import backends
from ppmobilenet.field.package import Package
from ppmobilenet.paper.choose import Candidate, build_scaled
from ppmobilenet.workshop.program import Deployed, save_program


def timed_here(found: Sequence[Candidate], threads: int = 1) -> list[Candidate]:
    """Return the candidates with the latency of this machine: exported, batch 1, Paddle's faster engine, median of 15.

    int8 rows are left unmeasured: their packages need calibration photos.

    Args:
        found: of :func:`ppmobilenet.paper.choose.candidates`.
        threads: of one inference.
    """
    times: dict[tuple, float] = {}
    for candidate in telling.bar(found, "measuring"):
        key = (candidate.model, candidate.scale, candidate.resolution)
        if candidate.precision.startswith("fp32") and key not in times:
            times[key] = _latency(*key, threads)
    return [
        replace(c, measured_ms=times[c.model, c.scale, c.resolution]) if c.precision.startswith("fp32") else c
        for c in found
    ]


def _latency(family: str, scale: float, resolution: int, threads: int) -> float:
    """Median milliseconds of one image in the fastest engine of Paddle Inference that runs here."""
    with tempfile.TemporaryDirectory() as folder:
        layer = Deployed(build_scaled(family, scale), softmax=True)
        layer.eval()
        shape = [None, 3, resolution, resolution]
        save_program(layer, Path(folder) / "inference", shape, legacy=True)
        form = {"name": "pdmodel", "engine": "paddle", "precision": "fp32"}
        form["files"] = ["inference.pdmodel", "inference.pdiparams"]
        given = {"shape": [-1, *shape[1:]], "dtype": "float32"}
        about = {"input": given, "forms": [form], "files": []}
        package = Package(Path(folder), about)
        runs = {name: backends.open_backend(package, name, threads)[2] for name in backends.usable(package)}
        times = backends.time_in_turn(runs, backends.sample_input(package))
        return 1000 * min(statistics.median(seconds) for seconds in times.values())
