"""A folder of class folders, or of train/, val/ and test/ folders that hold them -> list files."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ppmobilenet import files
from ppmobilenet.data.dataset import SIDES, check_names, find_sides
from ppmobilenet.errors import DataError, UserError
from ppmobilenet.photos.facts import Facts, groups, look_at_all
from ppmobilenet.photos.names import Found, find_photos, is_hidden, lines_of
from ppmobilenet.telling import counted

NAMED = 10  # classes that are named in a line for the user


class Split(NamedTuple):
    """What was written.

    Attributes:
        train_list, val_list, label_list: the files.
        train, val: photos in each list.
        left_out: photos that no list can hold, and why.
        grouped: photos that were kept on the side of others, which they resemble.
        classes: their names, in the order of their numbers.
        notes: lines for the user about what was found and done.
        test_list, test: of the folder test/, where there is one.
        sides: digest of a photo's file -> ``"train"`` or ``"val"``.
    """

    train_list: Path
    val_list: Path
    label_list: Path
    train: int
    val: int
    left_out: list[str]
    grouped: int
    classes: list[str]
    notes: list[str]
    test_list: Path | None = None
    test: int = 0
    sides: Mapping[str, str] = {}


class Earlier(NamedTuple):
    """A split that a new one continues: what was held out stays so, and classes keep their numbers.

    Attributes:
        classes: names in the order of their numbers; new ones come behind.
        sides: name of a photo below the root -> ``"train"`` or ``"val"``.
        contents: digest of its file -> the same: a photo may have been moved into the folder of another class.
    """

    classes: Sequence[str]
    sides: Mapping[str, str]
    contents: Mapping[str, str] = {}


class _Photo(NamedTuple):
    """A photo that can be used: its name below the root, its class, its side (None: still to be drawn)."""

    name: str
    label: str
    side: str | None
    facts: Facts


def split_folder(
    root: str | os.PathLike,
    out: str | os.PathLike,
    val: float = 0.2,
    seed: int = 0,
    workers: int | None = None,
    earlier: Earlier | None = None,
) -> Split:
    """Write ``train_list.txt``, ``val_list.txt`` (``path label``) and ``label_list.txt`` (``number name``).

    Each class gives the same part to validation, drawn with ``seed``; photos that are the same, or nearly, stay on one
    side. Where the folder holds ``train/`` and ``val/`` or ``test/``, the classes are those inside, in one numbering,
    and each of these folders keeps its photos (``test_list.txt`` for the last). Classes are what holds usable photos:
    unreadable ones are left out.

    Args:
        root: holds one folder per class; list paths start from it.
        out: the folder of the lists.
        val: part for validation, where no folder says it.
        seed: of the drawing.
        workers: threads that decode.
        earlier: a split whose photos keep their sides and whose classes keep their numbers; only what is new is drawn.

    Raises:
        UserError: a part outside 0 to 1, a list that is there already, or the lists cannot be written.
        DataError: there are no two class folders with photos, or validation has a class that training has not.
    """
    root = _checked(Path(root), val, seed)
    found = find_photos(root)
    sides = find_sides(found.names)
    lists = _new_lists(Path(out), sides)
    inside, notes = _in_class_folders(root, found, sides)
    photos, left_out = _usable(root, inside, sides, workers)
    classes = sorted({photo.label for photo in photos if photo.side in ("train", None)})
    _check_classes(root, photos, classes, left_out)
    check_names(root, classes)
    if earlier is not None:
        classes = [*earlier.classes, *(name for name in classes if name not in earlier.classes)]
    labels = np.array([classes.index(photo.label) for photo in photos])
    group = _alike([photo.facts for photo in photos])
    grouped = 0
    side = np.array([photo.side or "train" for photo in photos], object)
    if "val" not in sides:
        known = _sides_before(photos, group, earlier or Earlier(classes, {}))
        side = np.where((known == "") | (side == "test"), side, known)
        drawn = np.flatnonzero((side == "train") & (known == ""))
        side[drawn[choose_validation(group[drawn], labels[drawn], val, seed)]] = "val"
        sizes = np.bincount(group[drawn])
        grouped = int(sizes[sizes > 1].sum())
    notes += _remarks(sides, classes, labels, side, group)
    empty = sorted(_class_folders(root, sides, Path(out)) - set(classes))
    if empty:
        notes.append(f"no class, as there is no photo in it that can be used: {_some(empty)}")
    for name, file in lists.items():
        mine = [(photo.name, label) for photo, label, there in zip(photos, labels, side) if there == name]
        _write(file, enumerate(classes) if name == "label" else mine)
    counts = Counter(side.tolist())
    return Split(
        *(lists["train"], lists["val"], lists["label"], counts["train"], counts["val"]),
        *(left_out, grouped, classes, notes, lists.get("test"), counts["test"]),
        {photo.facts.digest.hex(): there for photo, there in zip(photos, side) if there != "test"},
    )


def _checked(root: Path, val: float, seed: int) -> Path:
    if not 0 < val < 1:
        raise UserError(f"part for validation {val}", allowed="above 0 and below 1")
    if seed < 0:
        raise UserError(f"--seed {seed}", allowed="0 and above")
    if not root.is_dir():
        raise DataError("this is no folder", where=root)
    return root


def _write(file: Path, pairs: Iterable[tuple[object, object]]) -> None:
    """Write a list file; a name that is not UTF-8 keeps its bytes."""
    text = "".join(f"{first} {second}\n" for first, second in pairs)
    files.write_bytes(file, text.encode("utf-8", "surrogateescape"))


def _in_class_folders(root: Path, found: Found, sides: dict[str, str]) -> tuple[list[str], list[str]]:
    """Return the photos that lie in class folders; and notes about the folder and the others.

    Raises:
        DataError: there is none, or one class only; with the folder that was meant, if one looks like it.
    """
    notes = [found.said(root)] if found.left_out else []
    depth = 3 if sides else 2
    folders = set(sides.values())
    inside = [n for n in found.names if n.count("/") >= depth - 1 and (not sides or n.partition("/")[0] in folders)]
    if len(inside) < len(found.names):
        where = "elsewhere than in " + ", ".join(f"{folder}/CLASS/" for folder in folders) if sides else "in no folder"
        notes.append(f"left out: {len(found.names) - len(inside)} photos that lie {where}")
    if sides:
        held = ", ".join(f"{side} from {folder}/" for side, folder in sides.items())
        drawn = (
            "; these say what validates, and nothing is drawn"
            if "val" in sides
            else f"; val is drawn from {sides['train']}/"
        )
        notes.append(f"{root} holds the parts of a data set: {held}{drawn}")
        return inside, notes
    classes = {name.partition("/")[0] for name in inside}
    if len(classes) > 1:
        if not any(name.count("/") == 1 for name in inside):
            notes.append(
                "all photos lie deeper than right in a class folder: check that the classes are the right level"
            )
        return inside, notes
    if not classes:
        many = f"; {len(found.names)} photos lie in the folder itself" if found.names else ""
        raise DataError(
            f"no photos in class folders{many}",
            where=root,
            allowed="root/CLASS/photo.jpg",
            hint="put the photos of each class into a folder of its own, named like the class; or give the folder "
            f"above, {root.absolute().parent}, if this one is a class"
            if many
            else (notes or [None])[0],
        )
    (only,) = classes
    deeper = sorted({name.split("/")[1] for name in inside if name.count("/") > 1})
    raise DataError(
        f"there is one class folder with photos, {only!r}: nothing can be learned from one class",
        where=root,
        allowed="one folder per class, two or more",
        hint=f"if the classes are the folders in it ({_some(deeper)}): give {root / only}"
        if len(deeper) > 1
        else "put the photos of each class into a folder of their own, in this one",
    )


def _new_lists(out: Path, sides: Mapping[str, str]) -> dict[str, Path]:
    lists = {side: out / f"{side}_list.txt" for side in SIDES if side in ("train", "val", *sides)}
    lists["label"] = out / "label_list.txt"
    for file in lists.values():
        if file.exists():
            raise UserError("this list is there already", where=file, hint="move it away, or give another -o folder")
    return lists


def _alike(facts: Sequence[Facts]) -> np.ndarray:
    """Return for each photo the first of those that show nearly the same."""
    return groups(
        np.array([fact.digest for fact in facts], "V16"),
        np.array([fact.picture for fact in facts], np.uint64),
        np.stack([fact.colours for fact in facts]),
    )[1]


def _sides_before(photos: Sequence[_Photo], group: np.ndarray, earlier: Earlier) -> np.ndarray:
    """Return the side of each photo that an earlier split knows, or that resembles one; nothing for the others."""
    known = [earlier.sides.get(photo.name) or earlier.contents.get(photo.facts.digest.hex(), "") for photo in photos]
    of_group = {one: side for one, side in zip(group.tolist(), known) if side}
    return np.array([side or of_group.get(one, "") for one, side in zip(group.tolist(), known)], object)


def _usable(
    root: Path, names: Sequence[str], sides: dict[str, str], workers: int | None
) -> tuple[list[_Photo], list[str]]:
    """Look at every photo; return those that a list can hold, and what is wrong with the others."""
    side_of = {folder: side for side, folder in sides.items()}
    photos, left_out = [], []
    paths = (os.path.join(root, name) for name in names)
    for name, facts in zip(names, look_at_all(paths, len(names), workers)):
        if facts.fault:
            left_out.append(f"{os.path.join(root, name)}: {facts.fault}")
        elif name != name.strip() or lines_of(name) != [name] or not _is_text(name):
            left_out.append(f"{os.path.join(root, name)!r}: no line of a list in UTF-8 can hold this name")
        else:
            side = side_of.get(name.partition("/")[0])
            photos.append(_Photo(name, _class_of(name, sides), side, facts._replace(sums=None, notes=())))
    return photos, left_out


def _class_of(name: str, sides: dict[str, str]) -> str:
    return name.split("/")[1 if sides else 0]


def _check_classes(root: Path, photos: Sequence[_Photo], classes: Sequence[str], left_out: Sequence[str]) -> None:
    if not photos:
        raise DataError("no photo can be decoded", where=root, hint=left_out[0])
    if len(classes) < 2:
        raise DataError(
            f"only {_some(classes) or 'no class'} has photos that can be used: {len(left_out)} cannot",
            where=root,
            allowed="two classes or more",
            hint=left_out[0] if left_out else None,
        )
    unknown = sorted({photo.label for photo in photos} - set(classes))
    if unknown:
        raise DataError(
            f"the training folder has no photos of {_some(unknown)}, which another part holds",
            where=root,
            allowed=f"its classes: {_some(classes)}",
            hint="rename the folder, add training photos, or take it out",
        )


def _class_folders(root: Path, sides: Mapping[str, str], out: Path) -> set[str]:
    """Return the names of the folders that could be meant as classes; that of the lists is not."""
    above, beyond = [root / folder for folder in sides.values()] or [root], out.resolve()
    found = (entry for folder in above for entry in folder.iterdir() if entry.is_dir() and not is_hidden(entry.name))
    return {entry.name for entry in found if entry.resolve() not in (beyond, *beyond.parents)}


def _remarks(sides: dict[str, str], classes: Sequence[str], labels, side, group) -> list[str]:
    notes = [f"{counted(len(classes), 'class')}: {_some(classes)}"]
    validated = set(labels[side == "val"].tolist())
    missing = [name for number, name in enumerate(classes) if number not in validated]
    if missing:
        why = "" if "val" in sides else " (one photo, or only photos that resemble each other)"
        notes.append(f"without a photo for validation{why}: {_some(missing)}")
    train = set(group[side == "train"].tolist())
    leaks = sum(int(one) in train for one in group[side != "train"])
    if leaks:
        notes.append(
            f"photos for validation or test that look like one for training: {leaks}; accuracy will look better than "
            "it is, ppmobilenet check-dataset names them"
        )
    return notes


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(str(name)[:60] for name in names[:NAMED]) + more


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
