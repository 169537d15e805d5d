"""Lists and batches: every fault has file and line, every sample comes once, nothing depends on the worker count."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import cv2
import numpy as np
import pytest

from ppmobilenet.data.dataset import ImageNetDataset
from ppmobilenet.data.lists import read_list
from ppmobilenet.data.loader import Loader
from ppmobilenet.data.samplers import DistributedBatchSampler, MultiScaleSampler, Share
from ppmobilenet.errors import DataError

OPS = [{"DecodeImage": {}}, {"RandCropImage": {"size": 16}}, {"RandFlipImage": {}}, {"NormalizeImage": {"order": ""}}]
NAME = "a b=#é/photo '0'.png"
LABELS = np.arange(23) % 3


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("photos")
    (root / "a b=#é").mkdir()
    rng = np.random.default_rng(0)
    lines = []
    for i in range(23):
        name = f"a b=#é/photo '{i}'.png"
        cv2.imwrite(str(root / name), rng.integers(0, 256, (20 + i, 30, 3), dtype=np.uint8))
        lines.append(f"{name} {i % 3}\n")
    (root / "list.txt").write_text("".join(lines), encoding="utf-8")
    return root


def load(root: Path, sampler, **kwargs) -> Loader:
    dataset = ImageNetDataset(str(root), str(root / "list.txt"), OPS, class_num=3)
    return Loader(dataset, sampler, **kwargs)


def test_a_harmless_list_is_read(photos, tmp_path):
    path = tmp_path / "list.txt"
    path.write_bytes(f"\ufeff{NAME} 2\r\n\r\n{NAME}\t1\r\n".encode())
    samples = read_list(path, photos)
    assert [label for _, label in samples] == [2, 1] and samples.where(1) == f"{path}:3"
    path.write_text(f"{NAME},2\n", encoding="utf-8")
    assert list(read_list(path, photos, delimiter=","))[0][1] == 2


@pytest.mark.parametrize(
    "line, words",
    [
        ("photo.png", "no label"),
        ("# a comment", "comment"),
        ("NAME 1.5", "'1.5' is not a whole number"),
        ("NAME cat", "'cat' is not a whole number"),
        ("NAME -1", "negative"),
        ("NAME 3", "not below class_num 3; allowed: 0 to 2"),
        ("missing.png 1", "missing.png does not exist"),
        ("photo.png;1", "no label"),
    ],
)
def test_a_bad_line_has_file_and_line(photos, tmp_path, line, words):
    path = tmp_path / "bad list.txt"
    path.write_text(f"{NAME} 0\n{line.replace('NAME', NAME)}\n", encoding="utf-8")
    with pytest.raises(DataError, match="bad list.txt:2: ") as error:
        read_list(path, photos, class_num=3)
    assert words in str(error.value)


def test_bad_list_files(photos, tmp_path):
    empty = tmp_path / "empty.txt"
    empty.write_text("\n\n")
    latin = tmp_path / "latin.txt"
    latin.write_bytes(b"a 0\nph\xe9 1\n")
    for path, words in ((empty, "no photo"), (latin, "latin.txt:2: byte 0xe9"), (tmp_path / "x", "does not exist")):
        with pytest.raises(DataError, match=words):
            read_list(path, photos)
    with pytest.raises(DataError, match="folder, not a list"):
        read_list(tmp_path, photos)


def test_folder_per_class(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        cv2.imwrite(str(tmp_path / name / "1.png"), np.zeros((8, 8, 3), np.uint8))
    dataset = ImageNetDataset(str(tmp_path))
    assert dataset.class_names == ["cat", "dog"] and list(dataset.samples.labels) == [0, 1]
    with pytest.raises(DataError, match="2 class folders, class_num is 1"):
        ImageNetDataset(str(tmp_path), class_num=1)
    with pytest.raises(DataError, match="CLASS/photo.jpg"):
        ImageNetDataset(str(tmp_path / "cat"))


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_evaluation_sees_every_sample_once(photos, world_size, batch_size):
    seen = []
    for rank in range(world_size):
        loader = load(photos, DistributedBatchSampler(batch_size), rank=rank, world_size=world_size)
        batches = list(loader)
        assert len(batches) == len(loader)
        seen += [i for batch in batches for i in batch.indices]
    assert sorted(seen) == list(range(23))


def test_training_shuffles_shares_and_drops():
    sampler = DistributedBatchSampler(4, shuffle=True, drop_last=True)
    ranks = [[i for b in sampler.batches(LABELS, Share(rank, 2), 0, 5) for i in b.indices] for rank in range(2)]
    assert [len(r) for r in ranks] == [12, 12] and set(ranks[0]) | set(ranks[1]) == set(range(23))
    assert ranks[0] != [i for b in sampler.batches(LABELS, Share(0, 2), 0, 6) for i in b.indices]


def test_batches_do_not_depend_on_the_workers_and_can_start_in_the_middle(photos):
    sampler = DistributedBatchSampler(5, shuffle=True)
    kept = []
    for workers in (0, 1, 2):
        loader = load(photos, sampler, num_workers=workers, seed=3)
        loader.set_epoch(2)
        kept.append(list(loader))
        loader.set_epoch(2, start_step=3)
        tail = list(loader)
        loader.close()
        assert len(tail) == 2 and all(np.array_equal(a.images, b.images) for a, b in zip(tail, kept[-1][3:]))
    for other in kept[1:]:
        for a, b in zip(kept[0], other):
            assert np.array_equal(a.images, b.images) and np.array_equal(a.labels, b.labels)
    first = kept[0][0]
    assert first.images.shape == (5, 3, 16, 16) and first.images.dtype == np.float32


def test_multi_scale_batches(photos):
    sampler = MultiScaleSampler(scales=[32, [64, 32], 70], first_bs=8)
    loader = load(photos, sampler)
    batches = list(loader)
    assert len(batches) == len(loader) and sorted(i for b in batches for i in b.indices) == list(range(23))
    shapes = {b.images.shape[2:] for b in batches}
    assert shapes <= {(32, 32), (32, 64), (64, 64)} and len(shapes) > 1
    assert all(len(b.labels) <= {(32, 32): 8, (32, 64): 4, (64, 64): 2}[b.images.shape[2:]] for b in batches)


@pytest.mark.parametrize("workers", [0, 1])
def test_unreadable_photos(photos, tmp_path, workers, caplog):
    (tmp_path / "bad.jpg").write_text("<html>")
    (tmp_path / "good.png").write_bytes((photos / NAME).read_bytes())
    (tmp_path / "list.txt").write_text("good.png 0\nbad.jpg 1\ngood.png 2\n")
    loader = load(tmp_path, DistributedBatchSampler(3), num_workers=workers)
    with pytest.raises(DataError, match="list.txt:2: .*bad.jpg: this is a web page"):
        list(loader)
    loader.close()
    loader = load(tmp_path, DistributedBatchSampler(3), num_workers=workers, max_bad_samples=1)
    (batch,) = loader
    assert list(batch.labels) == [0, 2] and "skipped 1 of at most 1" in caplog.text and "bad.jpg" in caplog.text
    loader.close()


def test_a_killed_worker_is_replaced(photos, caplog):
    expected = [b.images for b in load(photos, DistributedBatchSampler(2, shuffle=True))]
    loader = load(photos, DistributedBatchSampler(2, shuffle=True), num_workers=1)
    got = []
    for number, batch in enumerate(loader):
        got.append(batch.images)
        if number == 2:
            os.kill(loader._workers[0].process.pid, signal.SIGKILL)
    loader.close()
    assert len(got) == len(expected) and all(np.array_equal(a, b) for a, b in zip(got, expected))
    assert "a data worker died" in caplog.text


def test_a_worker_runs_this_package_wherever_it_starts(photos, tmp_path, monkeypatch):
    (tmp_path / "ppmobilenet").mkdir()
    (tmp_path / "ppmobilenet" / "__init__.py").write_text("raise RuntimeError('another version')")
    monkeypatch.chdir(tmp_path)
    loader = load(photos, DistributedBatchSampler(8), num_workers=1)
    assert sum(len(batch.labels) for batch in loader) == 23
    loader.close()
