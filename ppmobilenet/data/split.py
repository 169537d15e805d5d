"""A folder of class folders -> train and validation lists."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ppmobilenet.data.dataset import scan_folders
from ppmobilenet.data.photo_facts import look_at_all, near_pairs
from ppmobilenet.errors import UserError


class Split(NamedTuple):
    """What was written: the list files, photos in each, unreadable photos left out, photos kept beside their like."""

    train_list: Path
    val_list: Path
    label_list: Path
    train: int
    val: int
    left_out: list[str]
    grouped: int


def split_folder(
    root: str | os.PathLike,
    out: str | os.PathLike,
    val: float = 0.2,
    seed: int = 0,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Split:
    """Write ``train_list.txt``, ``val_list.txt`` (``path label``) and ``label_list.txt`` (``number name``).

    Each class gives the same part to validation, drawn with ``seed``; photos that are the same, or nearly, stay on one
    side. Unreadable photos are left out.

    Args:
        root: holds one folder per class; list paths start from it.
        out: the folder of the lists.
        val: part for validation.
        seed: of the drawing.
        workers: threads that decode.
        progress: called with (photos done, all).

    Raises:
        UserError: a part outside 0 to 1, or the lists cannot be written.
        DataError: there is no class folder with photos.
    """
    if not 0 < val < 1:
        raise UserError(f"part for validation {val}", allowed="above 0 and below 1")
    samples, names = scan_folders(root)
    paths = [path for path, _ in samples]
    facts = list(look_at_all(paths, workers or os.cpu_count() or 1, progress))
    good = [i for i, fact in enumerate(facts) if not fact.fault]
    group = _groups(paths, facts, good)
    rng = np.random.default_rng(seed)
    in_val = np.zeros(len(paths), bool)
    for label in range(len(names)):
        members = [i for i in good if samples.labels[i] == label]
        wanted = round(val * len(members))
        groups: dict[int, list[int]] = {}
        for i in members:
            groups.setdefault(group[i], []).append(i)
        order = list(groups.values())
        for at in rng.permutation(len(order)):
            # a group that spans classes was decided with the first of them
            free = [i for i in order[at] if not in_val[i]]
            if free and wanted >= len(free) and min(j for j in good if group[j] == group[free[0]]) in members:
                in_val[[j for j in good if group[j] == group[free[0]]]] = True
                wanted -= len(free)
    out = Path(out)
    files = [out / name for name in ("train_list.txt", "val_list.txt", "label_list.txt")]
    lines = ["".join(f"{samples.name(i)} {samples.labels[i]}\n" for i in good if in_val[i] == side) for side in (0, 1)]
    lines.append("".join(f"{label} {name}\n" for label, name in enumerate(names)))
    try:
        out.mkdir(parents=True, exist_ok=True)
        for file, content in zip(files, lines):
            file.write_bytes(content.encode("utf-8", "surrogateescape"))
    except OSError as error:
        raise UserError(f"the lists cannot be written: {error.strerror}", where=out) from error
    sizes = np.bincount([group[i] for i in good])
    left_out = [f"{paths[i]}: {fact.fault}" for i, fact in enumerate(facts) if fact.fault]
    held = int(in_val.sum())
    return Split(*files, len(good) - held, held, left_out, int(sizes[sizes > 1].sum()))


def _groups(paths, facts, good) -> dict[int, int]:
    """Photo -> the first photo of its group: those that are the same or nearly are one."""
    group = {i: i for i in good}

    def first(i: int) -> int:
        while group[i] != i:
            i = group[i]
        return i

    def join(one: int, other: int) -> None:
        low, high = sorted((first(one), first(other)))
        group[high] = low

    by_digest: dict[bytes, int] = {}
    for i in good:
        join(by_digest.setdefault(facts[i].digest, i), i)
    for one, other in near_pairs([facts[i].picture for i in good], [paths[i] for i in good]):
        join(good[one], good[other])
    return {i: first(i) for i in good}
