"""A folder of class folders -> train and validation lists."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ppmobilenet.data.dataset import lines_of, scan_folders
from ppmobilenet.data.photo_facts import groups, look_at_all
from ppmobilenet.errors import DataError, UserError


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
        UserError: a part outside 0 to 1, a list that is there already, or the lists cannot be written.
        DataError: there is no class folder with photos, or no photo can be decoded.
    """
    if not 0 < val < 1:
        raise UserError(f"part for validation {val}", allowed="above 0 and below 1")
    out = Path(out)
    files = [out / name for name in ("train_list.txt", "val_list.txt", "label_list.txt")]
    for file in files:
        if file.exists():
            raise UserError("this list is there already", where=file, hint="move it away, or give another -o folder")
    if seed < 0:
        raise UserError(f"--seed {seed}", allowed="0 and above")
    samples, names = scan_folders(root)
    # a folder without photos is no class: lists in a folder below root would become one
    filled = np.unique(samples.labels)
    samples.labels, names = np.searchsorted(filled, samples.labels).astype(np.int32), [names[i] for i in filled]
    good, digests, pictures, colours, left_out = [], [], [], [], []
    for i, fact in enumerate(look_at_all((path for path, _ in samples), len(samples), workers, progress)):
        name = samples.name(i)
        if fact.fault:
            left_out.append(f"{samples.path(i)}: {fact.fault}")
        elif name != name.strip() or lines_of(name) != [name] or not _is_text(name):
            left_out.append(f"{samples.path(i)!r}: no line of a list in UTF-8 can hold this name")
        else:
            good.append(i)
            digests.append(fact.digest)
            pictures.append(fact.picture)
            colours.append(fact.colours)
    if not good:
        raise DataError("no photo can be decoded", where=root, hint=left_out[0])
    _, group = groups(np.array(digests, "V16"), np.array(pictures, np.uint64), np.stack(colours))
    in_val = choose_validation(group, samples.labels[good], val, seed)
    lines = [
        "".join(f"{samples.name(i)} {samples.labels[i]}\n" for i, there in zip(good, in_val) if there == side)
        for side in (False, True)
    ]
    lines.append("".join(f"{label} {name}\n" for label, name in enumerate(names)))
    try:
        out.mkdir(parents=True, exist_ok=True)
        for file, content in zip(files, lines):
            file.write_bytes(content.encode("utf-8", "surrogateescape"))
    except OSError as error:
        raise UserError(f"the lists cannot be written: {error.strerror}", where=out) from error
    sizes = np.bincount(group)
    held = int(in_val.sum())
    return Split(*files, len(good) - held, held, left_out, int(sizes[sizes > 1].sum()))


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:  # bytes that are no UTF-8
        return False
    return True


def choose_validation(group: np.ndarray, labels: np.ndarray, part: float, seed: int) -> np.ndarray:
    """Return which photos validate: of each class ``part``, as near as whole groups allow.

    Args:
        group: int [N]; photos of equal numbers stay on one side. A group of several classes goes to training.
        labels: int [N].
        part: 0 to 1.
        seed: of the drawing.

    Returns:
        bool [N]; a class of two groups or more has photos on both sides, if a small enough group is there.
    """
    rng = np.random.default_rng(seed)
    group = np.unique(group, return_inverse=True)[1].ravel()
    size = np.bincount(group)
    lowest, highest = np.full(len(size), np.iinfo(np.int64).max), np.full(len(size), -1)
    np.minimum.at(lowest, group, labels)
    np.maximum.at(highest, group, labels)
    chosen = np.zeros(len(size), bool)
    for label in np.unique(labels):
        members = labels == label
        wanted = max(1, round(part * int(members.sum())))
        left = len(np.unique(group[members]))
        for one in rng.permutation(np.flatnonzero((lowest == label) & (highest == label))):
            if size[one] <= wanted and left > 1:
                chosen[one] = True
                wanted -= size[one]
                left -= 1
    return chosen[group]
