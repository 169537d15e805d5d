"""The order of an epoch over shards, shared by processes, and a large index."""

from __future__ import annotations

import numpy as np
import pytest

from ppmobilenet.benchmarks.shards import start_up
from ppmobilenet.data.samplers import DistributedBatchSampler, Share
from ppmobilenet.data.shards.order import ShardSampler, Windows

PHOTOS = np.array([3, 0, 11, 7, 5, 20, 1, 9])


@pytest.mark.parametrize("world", [1, 2, 3, 4])
@pytest.mark.parametrize("streams", [1, 3, 4, 50])
@pytest.mark.parametrize("window", [1, 4, 10, 1000])
def test_each_photo_comes_once_and_ranks_share_evenly(window, streams, world):
    count, plain = int(PHOTOS.sum()), DistributedBatchSampler(4, shuffle=True)
    sampler = ShardSampler(plain, Windows(PHOTOS, window, streams))
    labels, drawn, times = np.zeros(count), [], []
    for rank in range(world):
        draws = list(sampler.batches(labels, Share(rank, world), 5, 2))
        assert len(draws) == sampler.steps(count, Share(rank, world)) == plain.steps(count, Share(rank, world))
        for one, other in zip(sampler.batches(labels, Share(rank, world), 5, 2, start=3), draws[3:]):
            assert np.array_equal(one.indices, other.indices) and np.array_equal(one.times, other.times)
        drawn.append(np.concatenate([draw.indices for draw in draws]))
        times.append(np.concatenate([draw.times for draw in draws]))
    assert len({len(part) for part in drawn}) == 1
    together, first = np.concatenate(drawn), np.concatenate(times) == 0
    assert sorted(together[first]) == list(range(count)) and (~first).sum() == -count % world
    if window >= count:  # then it is the order of single files
        order = plain.order(labels, world, 5, 2)
        assert all(np.array_equal(order[rank::world], drawn[rank]) for rank in range(world))


def test_the_order_does_not_depend_on_the_number_of_processes():
    sampler = ShardSampler(DistributedBatchSampler(6, shuffle=True), Windows(PHOTOS, 12, 4))
    alone = [draw.indices for draw in sampler.batches(np.zeros(56), Share(), 1, 0)]
    sampler.batch_size = 3
    pairs = zip(*(sampler.batches(np.zeros(56), Share(rank, 2), 1, 0) for rank in range(2)))
    together = [np.ravel([one.indices, other.indices], "F") for one, other in pairs]
    assert all(np.array_equal(a, b) for a, b in zip(alone[:-1], together[:-1]))


def test_shards_are_read_one_after_the_other():
    """A process whose streams are its own opens few shards at a time, and only its part of them."""
    photos = np.full(64, 100)
    windows = Windows(photos, 400, 4)
    for rank, others in ((0, 1), (1, 0)):
        mine, theirs = (
            np.concatenate(
                [
                    d.indices
                    for d in ShardSampler(DistributedBatchSampler(20, True), windows).batches(
                        np.zeros(6400), Share(each, 2), 0, 0
                    )
                ]
            )
            // 100
            for each in (rank, others)
        )
        assert len(set(mine) & set(theirs)) <= 4 and len(set(mine[:200])) <= 4
    orders = [ShardSampler(DistributedBatchSampler(20, True), windows).order(np.zeros(6400), 1, 0, e) for e in (0, 1)]
    assert not np.array_equal(*orders)
    # a window mixes: its first photos are not in the order they lie in
    assert len(set(np.diff(orders[0][0:400:4]).tolist())) > 50


def test_a_large_index_takes_little_memory():
    found = start_up(1_000_000)
    assert found["index_bytes"] > 65e6 and found["own_megabytes"] < 24
