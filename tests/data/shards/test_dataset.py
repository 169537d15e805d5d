"""Batches out of shards are those of single files."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from shard_helpers import change

from ppmobilenet.cli import main
from ppmobilenet.data.dataset import ImageNetDataset
from ppmobilenet.data.loader import Loader
from ppmobilenet.data.samplers import DistributedBatchSampler
from ppmobilenet.data.shards.dataset import ShardDataset
from ppmobilenet.data.shards.order import ShardSampler
from ppmobilenet.errors import DataError, UserError
from ppmobilenet.photos.shards import Shards

OPS = [{"DecodeImage": {}}, {"RandCropImage": {"size": 16}}, {"RandFlipImage": {}}, {"NormalizeImage": {"order": ""}}]


def load(dataset, workers: int = 0, sampler=None, **share) -> Loader:
    sampler = sampler or DistributedBatchSampler(6, shuffle=True)
    if isinstance(dataset, ShardDataset):
        sampler = ShardSampler(sampler, dataset.windows)
    return Loader(dataset, sampler, num_workers=workers, seed=3, **share)


def epoch(loader: Loader, start: int = 0) -> list:
    loader.set_epoch(2, start)
    try:
        return list(loader)
    finally:
        loader.close()


def test_batches_are_those_of_single_files_and_start_anywhere_with_any_workers(photos, shards):
    single = epoch(load(ImageNetDataset(str(photos), str(photos / "list.txt"), OPS)))
    for workers in (0, 2):
        ours = epoch(load(ShardDataset(str(shards), OPS), workers))
        assert len(single) == len(ours) == 7
        for one, other in zip(single, ours):
            assert np.array_equal(one.images, other.images) and np.array_equal(one.labels, other.labels)
    windowed = ShardDataset(str(shards), OPS, window=8, streams=2)
    whole = epoch(load(windowed))
    assert sorted(i for batch in whole for i in batch.indices) == list(range(40))
    assert [list(batch.indices) for batch in whole] != [list(batch.indices) for batch in single]
    for workers in (1, 2):
        for one, other in zip(epoch(load(windowed, workers), start=4), whole[4:]):
            assert np.array_equal(one.images, other.images)


def test_photos_that_were_damaged_since_are_skipped_by_name(shards, caplog):
    member = Shards(shards)[2]
    change(Path(member.shard), member.offset - 400)
    with pytest.raises(DataError, match="the shard was changed") as error:
        epoch(load(ShardDataset(str(shards), OPS), sampler=DistributedBatchSampler(6)))
    assert str(member) in str(error.value)
    batches = epoch(load(ShardDataset(str(shards), OPS), 1, DistributedBatchSampler(6), max_bad_samples=1))
    assert sum(len(batch.labels) for batch in batches) == 39 and str(member) in caplog.text


def test_labels_are_checked(photos, shards, tmp_path):
    with pytest.raises(DataError, match=r"13 photos have labels .* class_num 2: 2 to 2(.|\n)*class_num=3"):
        ShardDataset(str(shards), class_num=2)
    (tmp_path / "paths.txt").write_text("dog/1.png\ndog/2.png\n")
    words = ["pack", str(tmp_path / "paths.txt"), str(tmp_path / "bare"), "--root", str(photos), "--unlabelled"]
    assert main(words) == 0
    assert [member.rsplit("/", 1)[1] for member in sorted(Shards(tmp_path / "bare"))] == ["1.png", "2.png"]
    with pytest.raises(DataError, match="packed without labels"):
        ShardDataset(str(tmp_path / "bare"))
    changed = tmp_path / "changed"
    shutil.copytree(shards, changed)
    labels = np.load(changed / "index/labels.npy", mmap_mode="r+")
    labels[3] = 65537
    labels.flush()
    with pytest.raises(DataError, match=r"the label is 65537(.|\n)*allowed: 0 to 2(.|\n)*index of the shards"):
        epoch(load(ShardDataset(str(changed), OPS), 0, DistributedBatchSampler(6)))
    with pytest.raises(UserError, match="window 0"):
        ShardDataset(str(shards), window=0)
