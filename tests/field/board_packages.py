"""What tests of the board program share: packages for the stand-in for Paddle Lite, photos, how it is run."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from ppmobilenet.field.decision import Decision
from ppmobilenet.field.golden import answer_of
from ppmobilenet.field.package import write_package
from ppmobilenet.photos.operators import build
from ppmobilenet.workshop.golden_record import write_golden

REPO = Path(__file__).resolve().parents[2]
BOARD = REPO / "ppmobilenet/field/board"
STUB = Path(__file__).parent / "board_stub"
SOURCES = sorted(BOARD.glob("*.cpp"))
OPS = [
    {"DecodeImage": {"to_rgb": True}},
    {"ResizeImage": {"resize_short": 256}},
    {"CropImage": {"size": 224}},
    {"NormalizeImage": {"scale": 1 / 255, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "order": ""}},
    {"ToCHWImage": {}},
]
TARGETS = {"x86_64": "x86", "aarch64": "armv8"}
LABELS = ['t-shirt "bleu"', "größe\\weiß", "裤子"] + [f"class {i}, with a longer name" for i in range(997)]


def opencv_flags() -> list[str]:
    if not shutil.which("g++") or not shutil.which("pkg-config"):
        pytest.skip("no g++ and pkg-config: they build the board program")
    done = subprocess.run(["pkg-config", "--cflags", "opencv4"], capture_output=True, text=True)
    if done.returncode:
        pytest.skip("no OpenCV for C++ (Debian: libopencv-dev)")
    return done.stdout.split()


def run(program: Path, *words: object, expect: int = 0) -> subprocess.CompletedProcess:
    done = subprocess.run([str(program), *map(str, words)], capture_output=True, text=True)
    assert done.returncode == expect, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def stand_in(weights: np.ndarray, batch: np.ndarray) -> np.ndarray:
    """What the stand-in for Paddle Lite computes."""
    return (batch.reshape(len(batch), 3, -1).mean(axis=2) @ weights.T).astype(np.float32)


def decision_of(keys: dict, class_num: int) -> Decision:
    return Decision.of({"output": {"kind": "logits", "class_num": class_num}, "decision": keys})


def make_package(
    folder: Path,
    photo: bytes,
    weights: np.ndarray,
    labels: list[str],
    target: str,
    model_end: bytes = b"",
    decision: dict | None = None,
    int8: np.ndarray | None = None,
) -> Path:
    """A package whose model is the stand-in's: ``weights`` [class_num, 3] on the means of the planes.

    With ``int8``, logits that were computed at the export, the same model is called an int8 one.
    """
    folder.mkdir()
    logits = stand_in(weights, build(OPS)(photo)[None])[0]
    golden = write_golden(folder, OPS, photo, logits, logits, int8)
    if decision:
        golden["answer"] = answer_of(decision_of(decision, len(labels)), logits)
    (folder / f"{target}_fp32.nb").write_bytes(bytes(1024) + weights.astype("<f4").tobytes() + model_end)
    form = {
        "name": f"lite-{target}-fp32",
        "engine": "lite",
        "precision": "fp32" if int8 is None else "int8",
        "target": target,
    }
    meta = {
        "name": "MobileNetV2",
        "class_num": len(labels),
        "topk": 3,
        "labels": labels,
        "input": {"name": "x", "dtype": "float32", "layout": "NCHW", "shape": [-1, 3, 224, 224]},
        "output": {"kind": "logits", "class_num": len(labels)},
        "forms": [{**form, "files": [f"{target}_fp32.nb"], "opt_version": "v2.13-rc", "compared": False}],
        **({"decision": decision} if decision else {}),
        "golden": golden,
        "versions": {"ppmobilenet": "0.1.0", "lite_runtime": "v2.13-rc"},
        "accuracy": [],
    }
    write_package(folder, meta, OPS)
    return folder


def real_photos(shared: Path) -> list[Path]:
    photos = [*sorted((shared / "images").glob("*.jp*g")), *sorted((shared / "data/clothing/val").rglob("*.jpg"))[:20]]
    assert len(photos) == 25
    return photos


def same_answer(row: dict, expected) -> bool:
    there, here = dict(zip(row["class_ids"], row["scores"])), dict(zip(expected.class_ids, expected.scores))
    return there.keys() == here.keys() and max(abs(there[key] - here[key]) for key in here) < 1e-3
