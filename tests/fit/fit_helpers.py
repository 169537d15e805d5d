"""A small set of photos to fit."""

from __future__ import annotations

import cv2
import numpy as np

COLOURS = {"blue": (220, 60, 40), "green": (50, 200, 60), "red": (40, 50, 220)}


def draw(folder, each: int, seed: int = 0, colours=COLOURS) -> None:
    """Write ``each`` photos of every class: blots of its colour on noise."""
    rng = np.random.default_rng(seed)
    for name, colour in colours.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(each):
            photo = rng.integers(0, 256, (6, 6, 3)).astype(np.uint8)
            photo = cv2.resize(photo, (48, 40), interpolation=cv2.INTER_CUBIC)
            for _ in range(4):
                centre = tuple(int(v) for v in rng.integers(4, 40, 2))
                cv2.circle(photo, centre, int(rng.integers(6, 12)), colour, -1)
            cv2.imwrite(str(folder / name / f"{seed}{number:02}.png"), photo)
