"""The photos of a fit: which are there, which teach and which judge, and what is wrong with them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path

import numpy as np

from ppmobilenet.config.data_folder import LISTS
from ppmobilenet.data.dataset import Listed
from ppmobilenet.data.doctor import examine
from ppmobilenet.data.findings import KINDS, Diagnosis
from ppmobilenet.data.lists import Samples, read_list
from ppmobilenet.data.split import Earlier, split_folder
from ppmobilenet.errors import DataError
from ppmobilenet.photos.labels import label_names, read_labels
from ppmobilenet.photos.names import find_photos
from ppmobilenet.telling import counted

SHOWN = 3  # notes of the split


@dataclass(frozen=True)
class Photos:
    """Where the photos of a fit are listed.

    Attributes:
        root: the folder that the lists' paths start from.
        train, val: the lists.
        labels: the label file; None where classes have no names.
        names: of the classes, in order.
        said: what was found, for people, at most three lines.
        unused: files that no list can hold, each with the reason.
        sides: digest of a photo's file -> ``"train"`` or ``"val"``, where the split drew them.
    """

    root: Path
    train: Path
    val: Path
    labels: Path | None
    names: Sequence[str]
    said: Sequence[str] = ()
    unused: Sequence[str] = ()
    sides: Mapping[str, str] = field(default_factory=dict)

    def samples(self, side: str) -> Samples:
        """Return the photos of ``"train"`` or ``"val"`` with their labels."""
        return read_list(getattr(self, side), self.root, class_num=len(self.names))


def fingerprint(root: Path) -> str:
    """Return a digest of the names, sizes and times of a folder's photos and lists; no file is opened.

    Raises:
        DataError: it is no folder.
    """
    if not root.is_dir():
        beside = [entry.name for entry in root.parent.iterdir() if entry.is_dir()] if root.parent.is_dir() else []
        close = get_close_matches(root.name, beside, 1)
        raise DataError(
            "this is no folder",
            where=root,
            allowed="a folder that holds one folder of photos per class",
            hint=_instead(root, close),
        )
    digest = hashlib.sha256()
    for name in sorted([*find_photos(root).names, *(name for names in LISTS for name in names)]):
        file = root / name
        if file.is_file():
            about = file.stat()
            digest.update(f"{name}\0{about.st_size}\0{about.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _instead(root: Path, close: Sequence[str]) -> str | None:
    if not root.is_file():
        return f"did you mean {close[0]!r}?" if close else None
    return "unpack it first" if root.suffix in (".zip", ".tar", ".gz", ".tgz", ".rar", ".7z") else None


def find(root: Path, folder: Path, seed: int, earlier: Earlier | None = None) -> Photos:
    """Look at the photos, and at the lists that lie beside them or are now written.

    Args:
        root: the folder: with lists in it, with ``train`` and ``val`` in it, or with one folder per class.
        folder: where new lists go.
        seed: of the drawing of what is held out.
        earlier: a split that this one continues.

    Raises:
        DataError: there is nothing to learn from, or something is wrong with lists or photos.
    """
    for left in folder.glob("*_list.txt"):  # of a start that was stopped here
        left.unlink()
    given = next((names for names in LISTS if all((root / name).is_file() for name in names[:2])), None)
    if given:
        photos = _listed(root, *(root / name for name in given))
        if earlier is not None and list(photos.names[: len(earlier.classes)]) != list(earlier.classes):
            raise DataError(
                f"classes have other numbers than in the earlier fit: {_some(photos.names)}",
                where=photos.labels or photos.train,
                allowed=f"{_some(earlier.classes)}, then new ones",
            )
        return photos
    found = split_folder(root, folder, seed=seed, earlier=earlier)
    lists = {"train": Listed(found.train_list, root), "validation": Listed(found.val_list, root)}
    diagnosis = examine(lists, class_num=len(found.classes), photos=False)
    _refuse_errors(diagnosis, lists)
    notes = [*([f"{len(found.left_out)} cannot be used: {found.left_out[0]}"] if found.left_out else []), *found.notes]
    notes = [note for note in notes if not note.startswith(f"{counted(len(found.classes), 'class')}:")]
    if found.grouped:
        notes.append(f"{found.grouped} look like another one: these stay together")
    about = {"unused": found.left_out, "sides": found.sides}
    photos = Photos(root, found.train_list, found.val_list, found.label_list, found.classes, **about)
    return _with_words(
        photos, diagnosis, [*notes[:SHOWN], *([f"and {len(notes) - SHOWN} more"] if notes[SHOWN:] else [])]
    )


def _listed(root: Path, train: Path, val: Path, labels: Path) -> Photos:
    lists = {"train": Listed(train, root), "validation": Listed(val, root)}
    diagnosis = examine(lists)
    _refuse_errors(diagnosis, lists)
    labelled = lists["train"].samples()[0].labels
    if len(set(labelled.tolist())) < 2:
        raise DataError(
            f"all photos of this list are of class {labelled[0]}: nothing can be learned from one class",
            where=train,
            allowed="photos of two classes or more",
        )
    count = int(labelled.max()) + 1
    if labels.is_file():
        named = read_labels(labels)
        names = label_names(named, max(count, len(named)), labels)
        return _with_words(
            Photos(root, train, val, labels, names), diagnosis, [f"the lists {train.name} and {val.name} are used"]
        )
    return _with_words(Photos(root, train, val, None, [f"class {i}" for i in range(count)]), diagnosis, [])


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def _refuse_errors(diagnosis: Diagnosis, lists: Mapping[str, Listed]) -> None:
    errors = [finding for finding in diagnosis.findings if finding.is_error]
    if not errors:
        return
    shown = "\n  ".join(f"{finding.where}: {finding.message}" for finding in errors[:5])
    more = f"\n  and {diagnosis.errors - 5} more" if diagnosis.errors > 5 else ""
    root, files = next(iter(lists.values())).root, " ".join(str(listed.path) for listed in lists.values())
    raise DataError(
        shown + more,
        hint=f"{KINDS[errors[0].kind][1]}; ppmobilenet check-dataset --root {root} --list {files} shows all, --fix OUT "
        "writes lists without them",
    )


def _with_words(photos: Photos, diagnosis: Diagnosis, notes: Sequence[str]) -> Photos:
    train, val = photos.samples("train"), photos.samples("val")
    counts = np.bincount(train.labels, minlength=len(photos.names))
    each = f"{counts.min()} to {counts.max()} a class"
    said = [
        f"{counted(len(train), 'photo')} of {counted(len(photos.names), 'class')} to learn from, {each}; "
        f"{len(val):,} held out to judge"
    ]
    warnings = {kind: many for kind, many in diagnosis.counts.items() if not KINDS[kind][0]}
    if warnings:
        kinds = ", ".join(f"{kind} {many}" for kind, many in warnings.items())
        said.append(
            f"remarks: {kinds} (ppmobilenet check-dataset --root {photos.root} --list {photos.train} {photos.val})"
        )
    if notes:
        said.append("; ".join(notes))
    return replace(photos, said=said)
