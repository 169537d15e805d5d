"""The order of an epoch: which samples, in which batches, on which rank; it depends on (seed, epoch) alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from ppmobilenet.registry import SAMPLERS


class Share(NamedTuple):
    """Which part of the samples a process works on."""

    rank: int = 0
    world_size: int = 1


class Draw(NamedTuple):
    """One batch: int64 places in the data set, how often each came before in this epoch, and a multi-scale size."""

    indices: np.ndarray
    times: np.ndarray
    size: tuple[int, int] | None = None


def times_before(order: np.ndarray) -> np.ndarray:
    """Return for each entry how often the same value stands before it."""
    by_value = np.argsort(order, kind="stable")
    ordered = order[by_value]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]])) if len(order) else by_value
    lengths = np.diff(np.append(starts, len(order)))
    times = np.empty(len(order), np.int64)
    times[by_value] = np.arange(len(order)) - np.repeat(starts, lengths)
    return times


@SAMPLERS.register()
class DistributedBatchSampler:
    """Batches of ``batch_size`` samples for each rank.

    With ``shuffle`` (training) the ranks get equally many samples, the first ones again where they do not divide.
    Without (evaluation) every sample belongs to exactly one rank, once.
    """

    def __init__(self, batch_size: int, shuffle: bool = False, drop_last: bool = False):
        if batch_size < 1:
            raise ValueError(f"batch_size {batch_size!r}; allowed: 1 and above")
        self.batch_size, self.shuffle, self.drop_last = batch_size, shuffle, drop_last

    def order(self, labels: np.ndarray, world_size: int, seed: int, epoch: int) -> np.ndarray:
        """Return the samples of an epoch; a rank takes every ``world_size``-th."""
        count = len(labels)
        if not self.shuffle:
            return np.arange(count)
        order = np.random.default_rng((seed, epoch)).permutation(count)
        return np.resize(order, -(-count // world_size) * world_size)

    def length(self, count: int, share: Share) -> int:
        """Return how many samples a rank gets of ``count``."""
        return -(-count // share.world_size) if self.shuffle else len(range(share.rank, count, share.world_size))

    def steps(self, count: int, share: Share, seed: int = 0) -> int:
        """Return the number of batches."""
        length = self.length(count, share)
        return length // self.batch_size if self.drop_last else -(-length // self.batch_size)

    def batches(self, labels: np.ndarray, share: Share, seed: int, epoch: int, start: int = 0) -> Iterator[Draw]:
        """Yield the batches of an epoch from step ``start`` on."""
        order = self.order(labels, share.world_size, seed, epoch)
        times = times_before(order)
        length = self.length(len(labels), share)
        mine, times = order[share.rank :: share.world_size][:length], times[share.rank :: share.world_size][:length]
        for step in range(start, self.steps(len(labels), share)):
            span = slice(step * self.batch_size, (step + 1) * self.batch_size)
            yield Draw(mine[span], times[span])


@SAMPLERS.register()
class RASampler(DistributedBatchSampler):
    """Repeated augmentation: each sample ``num_repeats`` times in a row, over the ranks, each time augmented anew.

    An epoch stays as long as one over the samples once, rounded down to a multiple of 256 as in DeiT's code, so it
    sees about one in ``num_repeats`` of them (Hoffer et al. 2020). Below 256 samples it is not rounded.
    """

    def __init__(self, batch_size: int, shuffle: bool = False, drop_last: bool = False, num_repeats: int = 3):
        super().__init__(batch_size, shuffle, drop_last)
        if num_repeats < 1:
            raise ValueError(f"num_repeats {num_repeats!r}; allowed: 1 and above")
        self.num_repeats = num_repeats

    def order(self, labels: np.ndarray, world_size: int, seed: int, epoch: int) -> np.ndarray:
        order = np.arange(len(labels))
        if self.shuffle:
            order = np.random.default_rng((seed, epoch)).permutation(len(labels))
        return np.resize(
            np.repeat(order, self.num_repeats), -(-len(labels) * self.num_repeats // world_size) * world_size
        )

    def length(self, count: int, share: Share) -> int:
        return (count // 256 * 256 or count) // share.world_size


@SAMPLERS.register()
class ClassBalancedBatchSampler(DistributedBatchSampler):
    """Draws rare classes more often: each class with a chance of its number of photos to the power ``1 - balance``.

    An epoch is as long as the data set; photos are drawn with replacement, class by class without repeats until a
    class is used up.

    Args:
        balance: 1: all classes equally often; 0: as often as they are; 0.5: square-root sampling (Mahajan et al. 2018).
    """

    def __init__(self, batch_size: int, shuffle: bool = True, drop_last: bool = False, balance: float = 1.0):
        super().__init__(batch_size, True, drop_last)
        if not 0 <= balance <= 1:
            raise ValueError(f"balance {balance!r}; allowed: 0 to 1")
        if not shuffle:
            raise ValueError("shuffle False; allowed: True, this sampler draws at random")
        self.balance = balance

    def order(self, labels: np.ndarray, world_size: int, seed: int, epoch: int) -> np.ndarray:
        rng = np.random.default_rng((seed, epoch))
        classes, counts = np.unique(labels, return_counts=True)
        chances = counts.astype(float) ** (1 - self.balance)
        drawn = rng.choice(
            len(classes), self.length(len(labels), Share(0, world_size)) * world_size, p=chances / chances.sum()
        )
        order = np.empty(len(drawn), np.int64)
        for number, name in enumerate(classes):
            places = np.flatnonzero(drawn == number)
            members = np.flatnonzero(labels == name)
            rounds = [rng.permutation(members) for _ in range(-(-len(places) // len(members)))]
            order[places] = np.concatenate(rounds)[: len(places)] if rounds else members[:0]
        return order


@SAMPLERS.register()
class MultiScaleSampler:
    """Batches that differ in resolution, large photos in small batches (PaddleClas's multi_scale recipes).

    Args:
        scales: resolutions, numbers or [width, height].
        first_bs: batch size at the first of them; the others hold about as many pixels.
        divided_factor: resolutions are rounded down to multiples of it.
        is_training: False uses the first resolution only.
        shuffle: draw samples in random order.
        seed: of the drawing; default the run's.
    """

    def __init__(
        self,
        scales: list,
        first_bs: int,
        divided_factor: int = 32,
        is_training: bool = True,
        shuffle: bool = True,
        seed: int | None = None,
    ):
        sizes = [(s, s) if isinstance(s, int) else tuple(s) for s in scales]
        if not sizes or any(min(size) < divided_factor for size in sizes):
            raise ValueError(f"scales {scales!r}; allowed: resolutions from divided_factor {divided_factor} up")
        pixels = sizes[0][0] * sizes[0][1] * first_bs
        rounded = [(w // divided_factor * divided_factor, h // divided_factor * divided_factor) for w, h in sizes]
        self.choices = [(size, max(1, int(pixels / (size[0] * size[1])))) for size in rounded]
        if not is_training:
            self.choices = [(sizes[0], first_bs)]
        self.batch_size, self.shuffle, self.seed = first_bs, shuffle, seed

    def _plan(self, count: int, world_size: int, seed: int) -> list:
        """The sizes and lengths of an epoch's batches: the same every epoch and on every rank."""
        rng = np.random.default_rng((self.seed if self.seed is not None else seed, 1))
        plan, left = [], -(-count // world_size)
        while left > 0:
            size, batch = self.choices[rng.integers(len(self.choices))]
            plan.append((size, min(batch, left)))
            left -= batch
        return plan

    def steps(self, count: int, share: Share, seed: int = 0) -> int:
        """Return the number of batches."""
        return len(self._plan(count, share.world_size, seed))

    def batches(self, labels: np.ndarray, share: Share, seed: int, epoch: int, start: int = 0) -> Iterator[Draw]:
        """Yield the batches of an epoch from step ``start`` on."""
        count = len(labels)
        order = np.random.default_rng((seed, epoch)).permutation(count) if self.shuffle else np.arange(count)
        order = np.resize(order, -(-count // share.world_size) * share.world_size)
        times = times_before(order)[share.rank :: share.world_size]
        mine, at = order[share.rank :: share.world_size], 0
        for step, (size, length) in enumerate(self._plan(count, share.world_size, seed)):
            if step >= start:
                yield Draw(mine[at : at + length], times[at : at + length], size)
            at += length
