"""Whatever stands in a file, the answer is a result or a UserError: no crash, no hang, no growth.

The suite tries a few hundred inputs of each kind; ``make fuzz`` (PPMOBILENET_FUZZ_SECONDS=3600) goes on for an hour.
Inputs that once failed are in ``tests/corpus/<kind>/`` and are tried first, always.
"""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from ppmobilenet.config import load_config
from ppmobilenet.data.lists import read_list
from ppmobilenet.errors import UserError
from ppmobilenet.field.package import FORMAT, FORMAT_VERSION, open_package
from ppmobilenet.photos.decode import decode_image
from ppmobilenet.training import disk
from ppmobilenet.weights.files import read_pickle, read_weights
from ppmobilenet.weights.writing import write_pickle, write_weights

REPO = Path(__file__).resolve().parents[1]
CORPUS = REPO / "tests/corpus"
SECONDS = float(os.environ.get("PPMOBILENET_FUZZ_SECONDS", 0))
TRIES = 150
LIMIT = 20  # seconds for one input

hypothesis = pytest.importorskip("hypothesis", reason="hypothesis makes the inputs")
st = hypothesis.strategies

YAML_WORDS = [
    *("Global", "Arch", "DataLoader", "Train", "Eval", "Optimizer", "lr", "epochs", "name", "device", "class_num"),
    *("MobileNetV2", "transform_ops", "size", "1.0/255.0", "1e-5", "null", "True", "[1, 2]", "{a: 1}", "&a", "*a"),
    *("!!python/object/apply:os.system [true]", "!!binary x", "<<", "---", "? x", "2026-01-01", "\t", "é", "\0", ": "),
]
LINES = [
    "a.jpg 0",
    "b c.png 1",
    "",
    "#",
    "a.jpg",
    "a.jpg -1",
    "a.jpg 1e3",
    "é.jpg 0",
    "\ufeff",
    "\r",
    "\t",
    "a\0b 0",
    "0 0",
]


def photos() -> list[bytes]:
    pixels = np.random.default_rng(0).integers(0, 255, (20, 24, 3), np.uint8)
    grey16 = (pixels[..., 0].astype(np.uint16) << 8) + 3
    files = [cv2.imencode(end, pixels)[1].tobytes() for end in (".jpg", ".png", ".bmp", ".webp")]
    return [*files, cv2.imencode(".png", grey16)[1].tobytes()]


def weight_files(folder: Path) -> list[bytes]:
    arrays = {"conv.weight": np.arange(12, dtype="float32").reshape(3, 4), "b": np.ones(3, "float32")}
    found = []
    for end in (".pdparams", ".npz", ".safetensors"):
        found.append(write_weights(arrays, folder / f"w{end}").read_bytes())
    with open(folder / "o.pdopt", "wb") as file:
        write_pickle([{"w_velocity_0": ("w", arrays["b"]), "LR_Scheduler": {"last_epoch": 3}}], file)
    return [*found, (folder / "o.pdopt").read_bytes()]


def mutate(seeds: list[bytes]) -> st.SearchStrategy[bytes]:
    """Cut, overwrite, double or insert a piece of a good file."""

    def change(seed: bytes, kind: str, place: float, piece: bytes) -> bytes:
        at = int(place * len(seed))
        return {
            "cut": seed[:at],
            "overwrite": seed[:at] + piece + seed[at + len(piece) :],
            "insert": seed[:at] + piece + seed[at:],
            "remove": seed[:at] + seed[at + len(piece) :],
            "double": seed[:at] + seed[at // 2 :],
        }[kind]

    once = st.builds(
        change,
        st.sampled_from(seeds),
        st.sampled_from(["cut", "overwrite", "insert", "remove", "double"]),
        st.floats(0, 1),
        st.one_of(st.binary(min_size=1, max_size=8), st.sampled_from([b"\xff" * 8, b"\0" * 8, b"\x7f\xff\xff\xff"])),
    )
    return st.one_of(st.binary(max_size=200), once)


def text(words: list[str]) -> st.SearchStrategy[bytes]:
    pieces = st.one_of(st.sampled_from(words), st.text(max_size=6))
    joints = st.sampled_from(["\n", ": ", "\n  ", " ", "- ", "=", "."])
    pairs = st.lists(st.tuples(pieces, joints), max_size=25)
    return pairs.map(lambda found: "".join(a + b for a, b in found).encode("utf-8", "surrogatepass"))


def kinds(folder: Path) -> dict[str, tuple[st.SearchStrategy[bytes], Callable[[bytes], object]]]:
    """Name -> (what makes inputs, what reads them)."""
    good = (REPO / "configs/quick_start/MobileNetV2_x0_25_digits.yaml").read_bytes()
    package = folder / "package"
    package.mkdir(exist_ok=True)
    meta = {
        **{"format": FORMAT, "format_version": FORMAT_VERSION, "name": "x", "class_num": 1, "topk": 1},
        **{"labels": ["a"], "input": {"dtype": "float32"}, "output": {"kind": "logits"}},
        "preprocess": {"ops": [{"op": "CropImage", "size": [8, 8]}]},
        "forms": [{"name": "inference", "engine": "paddle", "precision": "fp32", "files": ["package.json"]}],
        "files": [{"path": "package.json", "bytes": 1, "sha256": "0"}],
    }
    manifest = {"files": {"a": {"sha256": "0", "bytes": 1}}, "names": ["latest"], "step": 3}

    def written(name: str, read: Callable[[Path], object]) -> Callable[[bytes], object]:
        def run(data: bytes) -> object:
            (folder / name).write_bytes(data)
            return read(folder / name)

        return run

    def override(data: bytes) -> object:
        words = data.decode("utf-8", "replace").split("\n")
        return load_config(REPO / "configs/quick_start/MobileNetV2_x0_25_digits.yaml", words[:3])

    return {
        "yaml": (st.one_of(text(YAML_WORDS), mutate([good])), written("c.yaml", load_config)),
        "override": (text(YAML_WORDS), override),
        "list": (text(LINES), written("l.txt", lambda path: read_list(path, folder, class_num=3))),
        "image": (mutate(photos()), decode_image),
        "weights": (mutate(weight_files(folder)), written("w.bin", read_weights)),
        "pickle": (mutate(weight_files(folder)[3:]), written("w.pdopt", read_pickle)),
        "package": (
            mutate([json.dumps(meta).encode()]),
            written("package/package.json", lambda _: use_package(package)),
        ),
        "manifest": (mutate([json.dumps(manifest).encode()]), written("m.json", disk.read_manifest)),
    }


def use_package(folder: Path) -> object:
    opened = open_package(folder, unaltered=False)
    return opened.ops, opened.labels, [opened.files_of(form) for form in opened.forms()]


NAMES = ("yaml", "override", "list", "image", "weights", "pickle", "package", "manifest")


class Hang(Exception):
    """One input took too long."""


def attempt(read: Callable[[bytes], object], data: bytes) -> None:
    """Read one input; only a UserError may come of it, and soon."""

    def late(number: int, frame: object) -> None:
        raise Hang(f"more than {LIMIT} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(LIMIT)
    try:
        read(data)
    except UserError as error:
        assert str(error).strip()
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("kind", NAMES)
def test_corpus(kind, tmp_path):
    _, read = kinds(tmp_path)[kind]
    inputs = sorted((CORPUS / kind).glob("*"))
    assert inputs, f"no corpus for {kind}"
    for path in inputs:
        attempt(read, path.read_bytes())


@pytest.mark.parametrize("kind", NAMES)
def test_fuzz(kind, tmp_path):
    made, read = kinds(tmp_path)[kind]

    @hypothesis.settings(
        max_examples=TRIES, deadline=None, database=None, suppress_health_check=list(hypothesis.HealthCheck)
    )
    @hypothesis.seed(random.SystemRandom().randrange(2**32) if SECONDS else 0)
    @hypothesis.given(made)
    def go(data: bytes) -> None:
        attempt(read, data)

    go()
    if SECONDS:
        before = resident()
        end = time.monotonic() + SECONDS / len(NAMES)
        while time.monotonic() < end:
            hypothesis.seed(random.SystemRandom().randrange(2**32))(go)()
        # what stays, not the peak: a header may ask for a photo of 200 megapixels, once
        assert resident() - before < 300, f"{resident() - before:.0f} MB more than after the first {TRIES} inputs"


def resident() -> float:
    """Resident memory of this process, MB."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
