"""``ShardDataset``: a data set that lies in tar shards."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np

from ppmobilenet.data.dataset import ImageNetDataset, Listed
from ppmobilenet.data.lists import Samples, class_faults
from ppmobilenet.data.shards.order import Windows
from ppmobilenet.errors import DataError
from ppmobilenet.photos.labels import read_labels
from ppmobilenet.photos.shards import HEAD, Member, Shards
from ppmobilenet.registry import DATASETS

CLASS_NAMES = "label_list.txt"  # in a folder of shards: what was beside the list


class ShardSamples(Samples):
    """The photos of a folder of shards with their labels; only what is asked for is read of the index.

    Attributes:
        shards: the folder.
    """

    def __init__(self, shards: Shards):
        self.shards, self.root, self.source, self.remark = shards, shards.folder, shards.folder / HEAD, ""
        self.labels = np.asarray(shards.labels)
        self.lines = np.broadcast_to(np.int32(0), len(shards))

    def path(self, index: int) -> Member:
        return self.shards.member(index)

    def name(self, index: int) -> str:
        return os.path.relpath(self.path(index), self.root)

    def where(self, index: int) -> str:
        return str(self.path(index))

    def stamp(self, index: int) -> object:
        return bytes(self.shards.sha256[index]).hex()

    @property
    def counts(self) -> dict[int, int]:
        return self.shards.counts or {-1: len(self)}

    def __iter__(self) -> Iterator[tuple[Member, int]]:
        return zip(self.shards, (int(label) for label in self.labels))


class ShardListed(Listed):
    """What :class:`Listed` is for shards: they are opened once, whoever asks.

    Args:
        root: the folder of the shards.
        labelled: somebody has to have said what the photos show.
    """

    def __init__(self, root: str | os.PathLike, labelled: bool = True):
        super().__init__(None, root)
        self.labelled = labelled

    @cached_property
    def opened(self) -> ShardSamples:
        """The photos, with whatever labels there are.

        Raises:
            DataError, DamagedFileError: what is wrong with shards or index.
        """
        found = ShardSamples(Shards(self.root))
        if self.labelled and found.shards.counts is None:
            raise DataError(
                "nobody said what these photos show: they were packed without labels",
                where=found.source,
                hint="pack a list with labels, without --unlabelled; DataLoader.UnLabelTrain takes these",
            )
        return found

    @property
    def class_names(self) -> list[str]:
        """The names of the classes in the label file that ``pack`` has copied; without one they have numbers."""
        path = self.root / CLASS_NAMES
        named = read_labels(path) if path.is_file() else {}
        return [named.get(number, f"class {number}") for number in range(max([*self.opened.counts, *named]) + 1)]

    def samples(
        self, class_num: int | None = None, relabel: bool | Sequence[int] = False
    ) -> tuple[ShardSamples, list[str] | None]:
        """Return the photos; see :meth:`Listed.samples`.

        Raises:
            DataError, DamagedFileError: what is wrong with shards or index; a label that is not below ``class_num``.
        """
        fault, advice = label_fault(self.opened, class_num) if self.labelled else ("", "")
        if fault:
            raise DataError(fault, where=self.opened.source, hint=advice)
        return self.opened, None


def label_fault(samples: ShardSamples, class_num: int | None) -> tuple[str, str]:
    """Return what is wrong with labels where there are ``class_num`` classes, and what to do; empty: nothing."""
    present = sorted(samples.counts)
    beyond = [label for label in present if class_num and label >= class_num]
    if not beyond:
        return "", ""
    _, advice = class_faults(present, present, class_num)
    many = sum(samples.counts[label] for label in beyond)
    if "relabel" in advice or "--fix" in advice:
        advice = f"-o Arch.class_num={present[-1] + 1} if they are right; else pack a corrected list"
    return f"{many} photos have labels that are not below class_num {class_num}: {beyond[0]} to {beyond[-1]}", advice


@DATASETS.register()
class ShardDataset(ImageNetDataset):
    """Photos and labels from tar shards that ``ppmobilenet pack`` made or indexed.

    Shuffling goes by shards and within a window, so that what is read lies together; see :class:`Windows`. A set that
    fits into the window is shuffled as single files are, to the same order.

    Args:
        image_root: the folder of the shards.
        transform_ops, batch_transform_ops, max_bad_samples: those of :class:`ImageNetDataset`.
        window: photos that are shuffled among each other.
        streams: places of the data set that a batch comes from. Where it is a multiple of the processes, each process
            reads shards of its own.
        class_num: of the network; labels are below it.
        listed: the same shards, where they may have been opened before.
    """

    def __init__(
        self,
        image_root: str,
        transform_ops: list | None = None,
        batch_transform_ops: list | None = None,
        max_bad_samples: int = 0,
        window: int = 16384,
        streams: int = 16,
        *,
        class_num: int | None = None,
        listed: ShardListed | None = None,
    ):
        self.samples, self.class_names = (listed or ShardListed(image_root)).samples(class_num)
        self.transform_ops = transform_ops or []
        self.batch_transform_ops = batch_transform_ops or []
        self.max_bad_samples, self.decoded_cache = max_bad_samples, None
        self.windows = Windows(np.diff(self.samples.shards.ends, prepend=0), window, streams)
        self.class_num = class_num or max(self.samples.counts) + 1

    @property
    def arrangement(self) -> str:
        """What the order of an epoch depends on, beside the seed."""
        shards = [(shard.file, shard.sha256) for shard in self.samples.shards.shards]
        told = json.dumps([self.windows.window, self.windows.streams, shards])
        return f"{len(self)} photos, {hashlib.sha256(told.encode()).hexdigest()[:16]}"
