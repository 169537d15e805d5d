"""The order of an epoch over shards: a function of (seed, epoch), computed for the places that are asked for.

A permutation of all photos would read every shard all the time, and take gigabytes for a hundred million. Instead the
shards are put into a random order, and what lies in them then is one long row of photos. The row is cut into
``streams`` of equal length, which are read side by side, a photo from each in turn; a stream goes on window by window,
and inside of a window its photos come in random order. So each photo comes once, a batch is drawn from ``streams``
places of the data set and ``window`` photos around them, and a run that goes on in the middle of an epoch computes no
more than one that begins it.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ppmobilenet.data.samplers import DistributedBatchSampler, Draw, Share
from ppmobilenet.errors import UserError


class Windows:
    """How photos that lie in shards are shuffled.

    Args:
        photos: int64 [shards], how many each holds.
        window: photos that are shuffled among each other, over all streams.
        streams: places that are read side by side.
    """

    def __init__(self, photos: np.ndarray, window: int, streams: int):
        for name, value in (("window", window), ("streams", streams)):
            if value < 1:
                raise UserError(f"{name} {value!r}", where="ShardDataset", allowed="1 and above")
        self.photos, self.window = np.asarray(photos, np.int64), window
        self.count = int(self.photos.sum())
        self.streams = min(streams, self.count, window)

    def order(self, seed: int, epoch: int) -> Order:
        """Return the order of an epoch."""
        return Order(self, seed, epoch)


class Order:
    """The order of one epoch: called with places in it (int64, below the number of photos), it gives the photos."""

    def __init__(self, windows: Windows, seed: int, epoch: int):
        self._windows, self._seed = windows, (seed, epoch)
        self._whole = None
        if windows.count <= windows.window:
            # all of it is one window: then this is the order of single files
            self._whole = np.random.default_rng(self._seed).permutation(windows.count)
            return
        photos = windows.photos
        shards = np.random.default_rng((*self._seed, 0)).permutation(len(photos))
        self._ends = np.cumsum(photos[shards])  # in the row
        # from a place in the row to the photo: what a shard's begin is moved by
        self._moves = (np.cumsum(photos) - photos)[shards] - (self._ends - photos[shards])
        self._stream_window = -(-windows.window // windows.streams)
        self._inside: dict[int, tuple[int, np.ndarray]] = {}  # stream -> its window, and the order in it

    def __call__(self, places: np.ndarray) -> np.ndarray:
        if self._whole is not None:
            return self._whole[places]
        count, streams = self._windows.count, self._windows.streams
        depth, stream = np.divmod(places, streams)
        begin = stream * (count // streams) + np.minimum(stream, count % streams)
        row = np.empty_like(places)
        number, inside = np.divmod(depth, self._stream_window)
        for one, window in sorted({*zip(stream.tolist(), number.tolist())}):
            mine = (stream == one) & (number == window)
            row[mine] = begin[mine] + window * self._stream_window + self._window(one, window)[inside[mine]]
        return row + self._moves[np.searchsorted(self._ends, row, side="right")]

    def _window(self, stream: int, number: int) -> np.ndarray:
        """Return the order inside of one window of a stream; the last window of it is shorter."""
        kept = self._inside.get(stream)
        if kept is None or kept[0] != number:
            count, streams = self._windows.count, self._windows.streams
            left = count // streams + (stream < count % streams) - number * self._stream_window
            rng = np.random.default_rng((*self._seed, 1, stream, number))
            kept = self._inside[stream] = number, rng.permutation(min(self._stream_window, left))
        return kept[1]


class ShardSampler(DistributedBatchSampler):
    """What :class:`DistributedBatchSampler` is for photos in shards; it holds no list of them all.

    Args:
        like: the one that the configuration describes.
        windows: of the data set.
    """

    def __init__(self, like: DistributedBatchSampler, windows: Windows):
        super().__init__(like.batch_size, like.shuffle, like.drop_last)
        self._windows = windows

    def order(self, labels: np.ndarray, world_size: int, seed: int, epoch: int) -> np.ndarray:
        count = len(labels)
        places = np.arange(-(-count // world_size) * world_size if self.shuffle else count)
        return self._windows.order(seed, epoch)(places % count) if self.shuffle else places

    def batches(self, labels: np.ndarray, share: Share, seed: int, epoch: int, start: int = 0) -> Iterator[Draw]:
        """Yield the batches of an epoch from step ``start`` on."""
        count, length = len(labels), self.length(len(labels), share)
        order = self._windows.order(seed, epoch) if self.shuffle else None
        for step in range(start, self.steps(count, share)):
            mine = np.arange(step * self.batch_size, min((step + 1) * self.batch_size, length))
            times, places = np.divmod(mine * share.world_size + share.rank, count)
            yield Draw(order(places) if order else places, times)
