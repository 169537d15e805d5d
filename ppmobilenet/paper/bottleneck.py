"""The MobileNetV2 paper's Figure 1: why bottlenecks are linear."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from ppmobilenet import plots


def linear_bottleneck(dimensions: Iterable[int] = (2, 3, 5, 15, 30), points: int = 1000, seed: int = 4) -> list[dict]:
    """Return MobileNetV2's Figure 1: a spiral through ReLU in n random dimensions, and back.

    A spiral in the plane is embedded with a random matrix T, passed through ReLU and projected back with T's
    pseudo-inverse. In few dimensions parts of it collapse: why the bottlenecks are linear.

    Args:
        dimensions: the n of each picture.
        points: on the spiral.
        seed: of the matrices.

    Returns:
        for each n: ``dimension``; ``points`` [points, 2] as projected back; ``lost``, the share of points that
        ReLU sends to the origin, where nothing tells them apart. The first entry, dimension 0, is the input.
    """
    rng = np.random.default_rng(seed)
    angle = np.linspace(0, 6 * np.pi, points + 1)[1:]
    spiral = np.stack([angle * np.cos(angle), angle * np.sin(angle)], axis=1) / angle[-1]
    pictures = [{"dimension": 0, "points": spiral, "lost": 0.0}]
    for n in dimensions:
        matrix = rng.normal(size=(2, n))
        embedded = np.maximum(spiral @ matrix, 0)
        lost = float(np.mean(~embedded.any(axis=1)))
        pictures.append({"dimension": n, "points": embedded @ np.linalg.pinv(matrix), "lost": lost})
    return pictures


def draw_linear_bottleneck(path: str | Path) -> Path:
    """Draw the MobileNetV2 paper's Figure 1 into an SVG file."""
    pictures = [
        (
            f"n = {p['dimension']}: {100 * p['lost']:.0f} % lost" if p["dimension"] else "input",
            [(float(x), float(y)) for x, y in p["points"]],
        )
        for p in linear_bottleneck()
    ]
    return plots.save(plots.panels(pictures, "ReLU on a spiral embedded in n dimensions (MobileNetV2, Figure 1)"), path)
