"""What the tests of training share."""

from __future__ import annotations

import csv
from pathlib import Path

from small import CLASSES, TRAIN, VAL, YAML, write_photos

__all__ = ["CLASSES", "TRAIN", "VAL", "YAML", "losses", "write_photos"]


def losses(folder: Path) -> dict[int, str]:
    """Step -> loss as it stands in steps.csv, all digits."""
    with open(folder / "steps.csv", newline="") as file:
        return {int(row["step"]): row["loss"] for row in csv.DictReader(file)}
