"""Photos in shards, for the tests of several rooms."""

from __future__ import annotations

import hashlib
from pathlib import Path

import cv2
import numpy as np

from ppmobilenet.data.shards.pack import Packed, pack
from ppmobilenet.data.shards.plan import Wanted

ODD = ("cat/a.b.c.jpg", "ein Hund=#'é/1.PNG", "x" * 120 + ".png", "no suffix", "./cat/../cat/twice.png", "cat/same.png")


def write_photos(root: Path, count: int = 40) -> list[str]:
    """Write photos, some under odd names; return the lines of their list: labels go 0, 1, 2, 0, ..."""
    rng = np.random.default_rng(0)
    names = [*ODD, "cat/same.jpg", *(f"dog/{number}.png" for number in range(count - len(ODD) - 1))]
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (20 + number % 7, 24, 3), np.uint8)
        path.write_bytes(cv2.imencode(".jpg" if name.endswith(".jpg") else ".png", pixels)[1].tobytes())
    return [f"{name} {number % 3}\n" for number, name in enumerate(names)]


def packed(root: Path, out: Path, lines: list[str] | None = None, workers: int = 2, **wanted) -> Packed:
    """Pack ``root/list.txt`` into several small shards."""
    path = root / "list.txt"
    if lines is not None:
        path.write_text("".join(lines), encoding="utf-8")
    return pack(Wanted(path, root, **{"shard_bytes": 24_000, **wanted}), out, workers)


def content(folder: Path) -> dict[str, str]:
    """Every file below a folder with its sha256."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def change(path: Path, at: int) -> None:
    """Change one byte of a file."""
    data = bytearray(path.read_bytes())
    data[at] ^= 0x55
    path.write_bytes(bytes(data))
