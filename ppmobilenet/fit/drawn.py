"""Some of the photos of a list, wherever they lie: single files, or members of shards."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ppmobilenet.data.dataset import Listed
from ppmobilenet.data.lists import Samples


class Drawn(Listed):
    """What :class:`Listed` is, for some photos of another list.

    No file is written for them: a line of a list cannot say where in a shard a photo is.

    Args:
        samples: all the photos.
        places: int [n], of those that are meant.
    """

    def __init__(self, samples: Samples, places: np.ndarray):
        super().__init__(None, samples.root)
        self._some = _Some(samples, places)

    def samples(self, class_num: int | None = None, relabel: bool | Sequence[int] = False) -> tuple[Samples, None]:
        """Return them as they are; whoever gave the others has checked them."""
        return self._some, None


class _Some(Samples):
    def __init__(self, samples: Samples, places: np.ndarray):
        self._all, self._places = samples, places
        self.root, self.source, self.remark = samples.root, samples.source, ""
        self.labels, self.lines = samples.labels[places], samples.lines[places]

    def path(self, index: int) -> str:
        return self._all.path(int(self._places[index]))

    def name(self, index: int) -> str:
        return self._all.name(int(self._places[index]))

    def where(self, index: int) -> str:
        return self._all.where(int(self._places[index]))

    def stamp(self, index: int) -> object:
        return self._all.stamp(int(self._places[index]))
