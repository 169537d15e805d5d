"""Large inputs: memory stays flat, the start is quick, and nothing good is lost to what is bad."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from ppmobilenet.data.dataset import ImageNetDataset
from ppmobilenet.data.loader import Loader
from ppmobilenet.data.samplers import DistributedBatchSampler
from ppmobilenet.field import infer
from ppmobilenet.workshop.making import PackageSpec, make_package
from ppmobilenet.zoo import create_model

REPO = Path(__file__).resolve().parents[1]
NORMALIZE = {"scale": 1 / 255, "mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2], "order": ""}
OPS = [{"DecodeImage": {}}, {"ResizeImage": {"size": 32}}, {"NormalizeImage": NORMALIZE}]


def megabytes() -> float:
    """Resident memory of this process."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def epoch_over(folder: Path, lines: int, batches: int | None) -> None:
    for i in range(4):
        cv2.imwrite(str(folder / f"{i}.png"), np.full((16, 16, 3), i * 50, np.uint8))
    (folder / "list.txt").write_text("".join(f"{i % 4}.png {i % 4}\n" for i in range(lines)))
    began, before = time.process_time(), megabytes()
    dataset = ImageNetDataset(str(folder), str(folder / "list.txt"), OPS, class_num=4)
    loader = Loader(dataset, DistributedBatchSampler(512, shuffle=True), num_workers=1)
    first, seen = None, 0
    for number, batch in enumerate(loader):
        seen += len(batch.labels)
        if number == 20:
            # the processor's seconds of this process: others compute on the machine
            assert time.process_time() - began < 15
            first = megabytes()
            assert first - before < 250
        if number == batches:
            break
    loader.close()
    assert batches or seen == lines
    assert megabytes() - first < 20


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_million_lines_start_in_seconds(tmp_path):
    epoch_over(tmp_path, 1_000_000, 60)


@pytest.mark.slow
def test_an_epoch_over_a_million_lines(tmp_path):
    epoch_over(tmp_path, 1_000_000, None)


def bad_files() -> dict[str, bytes]:
    """One file of each bad kind."""
    good = cv2.imencode(".jpg", np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8))[1].tobytes()
    return {
        "empty.jpg": b"",
        "cut.jpg": good[:200],
        "page.jpg": b"<!DOCTYPE html><html><body>404 not found</body></html>",
        "zeros.png": b"\0" * 500,
        "header.png": b"\x89PNG\r\n\x1a\n",
    }


@pytest.fixture(scope="module")
def package(tmp_path_factory) -> Path:
    model = create_model("MobileNetV2_x0_25", class_num=4)
    rng = np.random.default_rng(1)
    for parameter in model.parameters():  # as created, it answers every photo with nearly the same
        if parameter.ndim > 1:
            spread = (2 / np.prod(parameter.shape[1:])) ** 0.5 if parameter.ndim == 4 else 0.1
            parameter.set_value(rng.normal(0, spread, parameter.shape).astype("float32"))
    model.eval()
    return make_package(
        model,
        PackageSpec(name="MobileNetV2_x0_25", ops=OPS, labels=[f"name {i}" for i in range(4)], to=("inference",)),
        tmp_path_factory.mktemp("package") / "inference",
    )


def fill(folder: Path, count: int) -> list[str]:
    """Write ``count`` photos, each fiftieth of them bad; return the names of the bad ones."""
    kinds = bad_files()
    photos = [
        cv2.imencode(".jpg", np.random.default_rng(i).integers(0, 255, (40, 48, 3), np.uint8))[1].tobytes()
        for i in range(8)
    ]
    bad = []
    for i in range(count):
        if i % 50 == 7:
            kind = list(kinds)[i // 50 % len(kinds)]
            bad.append(f"{i:06}_{kind}")
            (folder / bad[-1]).write_bytes(kinds[kind])
        else:
            (folder / f"{i:06}.jpg").write_bytes(photos[i % 8])
    return bad


def infer_folder(package: Path, folder: Path, count: int) -> None:
    """Answer a folder in a process that is killed on the way, go on with it, and check each line."""
    bad = fill(folder, count)
    save = folder.parent / "answers.jsonl"
    command = [sys.executable, str(REPO / "tools/infer.py"), "-m", str(package), "-i", str(folder)]
    command += ["--save", str(save), "--resume", "--batch-size", "8", "--backend", "paddle", "--threads", "1"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    partial = save.with_name(f".{save.name}.partial")
    while process.poll() is None and (not partial.is_file() or partial.stat().st_size < 5000):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert partial.is_file() and not save.exists()
    kept = partial.read_bytes().rpartition(b"\n")[0]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 3, done.stderr[-2000:]
    assert "were answered before" in done.stderr and "0 of" not in done.stderr.splitlines()[0]
    assert save.read_bytes().startswith(kept)
    assert f"{len(bad)} of {count} photos could not be used" in done.stderr  # those of before the kill, too
    answers = [json.loads(line) for line in save.read_text(encoding="utf-8").splitlines()]
    names = [Path(answer["file_name"]).name for answer in answers]
    assert names == sorted(path.name for path in folder.iterdir())
    errors = [name for name, answer in zip(names, answers) if "error" in answer]
    assert errors == bad and len(answers) == count
    assert all(len(answer["class_ids"]) == 4 for answer in answers if "error" not in answer)


def test_a_folder_with_bad_files_killed_and_resumed(package, tmp_path):
    (tmp_path / "photos").mkdir()
    infer_folder(package, tmp_path / "photos", 400)


@pytest.mark.slow
def test_ten_thousand_photos(package, tmp_path):
    """9,800 answers, 200 named errors, in order, through a kill."""
    (tmp_path / "photos").mkdir()
    infer_folder(package, tmp_path / "photos", 10_000)


def test_only_json_lines_can_be_resumed(package, tmp_path):
    fill(tmp_path, 2)
    job = infer.from_package(str(package), str(tmp_path), backend="paddle")
    job.save, job.resume = str(tmp_path / "a.csv"), True
    with pytest.raises(infer.UserError, match="only a .jsonl"):
        infer.run(job, io.StringIO())
