"""List files: one photo and its label a line."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from ppmobilenet.errors import DataError
from ppmobilenet.photos.names import here, lines_of, not_utf8

MAX_LABEL = 2**31 - 1
SHOWN = 5  # faults of a list that are printed; the rest are counted
# what may stand between path and label where a delimiter was forgotten
SEPARATED = re.compile(r"(.*?\S)\s*([,;|\t ])\s*([-+]?[0-9]{1,9})\s*")
# paths, labels and line numbers of a list's good lines; (line number, what is wrong) of the others
Scanned = tuple[list[str], list[int], list[int], list[tuple[int, str]]]
SEVERAL = "several labels"  # stands among separators for lines of another kind of list
SEVERAL_HINT = (
    "MultiLabelDataset reads such lists: -o DataLoader.Train.dataset.name=MultiLabelDataset, and Eval's alike, with "
    "the losses and metrics of several labels"
)
SEPARATORS = {"\t": "a tab", " ": "a space", ",": "a comma", ";": "a semicolon", "|": "a vertical bar"}


class Samples(Sequence):
    """(path, label) pairs in few bytes each, so that a list of a million lines stays small.

    Attributes:
        root: the folder that the paths start from.
        labels: int32 [N]; of several labels a photo int8 [N, classes]: 0, 1, or -1 where nobody knows.
        lines: int32 [N], the line of the list file that each sample stands in (0: no list file).
        source: the list file, or the folder.
        remark: what else the folder holds, for the user; empty if nothing.
    """

    def __init__(
        self,
        root: Path,
        source: Path,
        paths: list[str],
        labels: Sequence[int] | Sequence[tuple[int, ...]],
        lines: list[int],
        remark: str = "",
    ):
        encoded = [path.encode("utf-8", "surrogateescape") for path in paths]
        self.root, self.source, self.remark = root, source, remark
        self._text = b"".join(encoded)
        self._ends = np.cumsum([len(path) for path in encoded], dtype=np.int64)
        self.labels = np.asarray(labels, np.int32)
        if self.several:
            self.labels = self.labels.astype(np.int8)
        self.lines = np.asarray(lines, np.int32)

    @property
    def counts(self) -> dict[int, int]:
        """How many photos have each label that occurs, where a photo has one."""
        labels, counts = np.unique(self.labels, return_counts=True)
        return dict(zip(labels.tolist(), counts.tolist()))

    @property
    def several(self) -> bool:
        """Whether a photo has several labels."""
        return self.labels.ndim == 2

    def __len__(self) -> int:
        return len(self.labels)

    def path(self, index: int) -> str:
        """Return the absolute or working-folder path of one photo."""
        return os.path.join(self.root, self.name(index))

    def name(self, index: int) -> str:
        """Return the path of one photo as the list has it, below ``root``."""
        start = int(self._ends[index - 1]) if index else 0
        return self._text[start : int(self._ends[index])].decode("utf-8", "surrogateescape")

    def where(self, index: int) -> str:
        """Return the place a sample is named at, for messages: ``train_list.txt:17``."""
        line = int(self.lines[index])
        return f"{self.source}:{line}" if line else self.path(index)

    def stamp(self, index: int) -> object:
        """Return what changes when a photo does: its size and time; None where it is not there."""
        try:
            state = os.stat(self.path(index))
        except OSError:
            return None
        return state.st_size, state.st_mtime_ns

    def __getitem__(self, index: int) -> tuple[str, int | np.ndarray]:
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        return self.path(index), self.labels[index] if self.several else int(self.labels[index])

    def __iter__(self) -> Iterator[tuple[str, int | np.ndarray]]:
        return (self[i] for i in range(len(self)))


def refuse_faults(path: Path, faults: Sequence[tuple[int, str]], advice: str | None, form: str) -> None:
    """Raise the DataError that shows the first faults of a list, with the advice, or the form that a line has."""
    if faults:
        shown = "\n  ".join(f"{path}:{line}: {fault}" for line, fault in faults[:SHOWN])
        more = f"\n  and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
        what = f"correct the list, each line is `{form}`; ppmobilenet check-dataset --fix drops lines that are not"
        raise DataError(shown + more, hint=advice or what)


def read_list(
    path: str | os.PathLike,
    image_root: str | os.PathLike,
    *,
    delimiter: str | None = None,
    class_num: int | None = None,
    relabel: bool | Sequence[int] = False,
    check_files: bool = True,
    scanned: Scanned | None = None,
) -> Samples:
    """Read a list file, one photo a line: ``path label``.

    The label is what follows the last delimiter, so a path may hold spaces. Blank lines, a byte order mark and CRLF
    are harmless.

    Args:
        path: the list file, UTF-8.
        image_root: the folder that the paths start from.
        delimiter: between path and label; default a space or a tab.
        class_num: if given, labels are 0 to class_num - 1.
        relabel: number the labels that occur anew from 0, in ascending order; or the labels to number, of another list.
        check_files: every photo must exist.
        scanned: of :func:`scan_list`, where the file was read before.

    Raises:
        DataError: with file and line, what stands there and what is allowed; the first five faults are shown.
    """
    path, root = Path(path), Path(image_root)
    paths, labels, lines, faults = scanned or scan_list(path, root, delimiter, check_files)
    advice = None
    if class_num is not None and not relabel:
        beyond, advice = class_faults(labels, lines, class_num)
        faults = sorted(faults + beyond)
    refuse_faults(path, faults, advice, "path label")
    if not paths:
        raise DataError("the list holds no photo", where=path, allowed="one photo a line: path label")
    if relabel:
        new = {old: i for i, old in enumerate(sorted(set(labels if relabel is True else relabel)))}
        if class_num is not None and len(new) > class_num:
            raise DataError(
                f"there are {len(new)} labels, and class_num is {class_num}",
                where=path,
                hint=f"-o Arch.class_num={len(new)}",
            )
        for label, line in zip(labels, lines):
            if label not in new:
                raise DataError(f"no photo of the training list has the label {label}", where=f"{path}:{line}")
        labels = [new[label] for label in labels]
    return Samples(root, path, paths, labels, lines)


def read_paths(path: Path, root: Path, delimiter: str | None = None) -> Samples:
    """Read a list of photos without labels, one path a line; what :func:`read_list` reads is one, too.

    Raises:
        DataError: a photo is not there, with file and line.
    """
    paths: list[str] = []
    lines: list[int] = []
    faults: list[str] = []
    folders: dict[str, frozenset[str]] = {}
    for number, line in enumerate(lines_of(_read_text(path, root)), 1):
        line = line.strip()
        if not line:
            continue
        fields = line.rsplit(delimiter, 1)
        labelled = len(fields) == 2 and re.fullmatch(r"\s*[-+0-9][-+0-9,\s]*", fields[1])
        names = [here(root, name) for name in (line, *([fields[0].rstrip()] if labelled else []))]
        there = next((name for name in names if _exists(root, name, folders)), None)
        if there is None:
            faults.append(f"{path}:{number}: {_missing(root, names[-1])}")
            continue
        paths.append(there)
        lines.append(number)
    if faults:
        more = f"\n  and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
        raise DataError("\n  ".join(faults[:SHOWN]) + more, hint="correct the list: one path a line")
    if not paths:
        raise DataError("the list holds no photo", where=path, allowed="one path a line")
    return Samples(root, path, paths, [0] * len(paths), lines)


def scan_list(
    path: Path, root: Path, delimiter: str | None = None, check_files: bool = True, several: bool = False
) -> Scanned:
    """Read a list file without stopping at faults; the arguments are those of :func:`read_list`.

    With ``several`` a label is a tuple, and read from ``0,1,0``.

    Raises:
        DataError: the file itself cannot be read, or something else than ``delimiter`` separates its columns.
    """
    text = _read_text(path, root)
    paths: list[str] = []
    labels: list = []
    lines: list[int] = []
    faults: list[tuple[int, str]] = []
    others: Counter = Counter()  # separators of the lines that are wrong
    folders: dict[str, frozenset[str]] = {}
    for number, line in enumerate(lines_of(text), 1):
        line = line.strip()
        if not line:
            continue
        name, value, fault = read_line(line, delimiter, several)
        if value is None and not several:
            label = line.rsplit(delimiter, 1)[-1].strip()
            others[SEVERAL if _as_labels(label) else _separator(line)] += 1
        if fault is None:
            name = here(root, name)
            if check_files and not _exists(root, name, folders):
                fault = _missing(root, name)
                if name[-1:] in SEPARATORS and _exists(root, name[:-1].rstrip(), folders):
                    fault, others[name[-1]] = _other_separator(name[-1], delimiter), others[name[-1]] + 1
        if fault:
            faults.append((number, fault))
            continue
        paths.append(name)
        labels.append(value)
        lines.append(number)
    found, times = others.most_common(1)[0] if others else (None, 0)
    if found and not paths and 2 * times > len(faults):
        if found is SEVERAL:
            raise DataError(f"its photos have {SEVERAL} each, {label!r}", where=path, hint=SEVERAL_HINT)
        raise DataError(_other_separator(found, delimiter), where=path, hint=delimiter_hint(found))
    return paths, labels, lines, faults


def read_line(line: str, delimiter: str | None = None, several: bool = False) -> tuple[str, object, str | None]:
    """Read one line of a list: the path, the label (``several``: a tuple of them), and what is wrong, None if nothing.

    The label is None where there is none that could be read.
    """
    fields = line.rsplit(delimiter, 1)
    name, label = (fields[0].rstrip(), fields[1].strip()) if len(fields) == 2 else (line, "")
    if several:
        labels = _as_labels(label)
        return name, labels, _labels_fault(line, label) if labels is None else None
    value, fault = _as_label(label), None
    if value is None:
        fault = _label_fault(line, label, delimiter)
    elif value < 0:
        fault = f"the label {label} is negative; labels count from 0"
    elif value > MAX_LABEL:
        fault = f"the label {label} is too large; allowed: 0 to {MAX_LABEL}"
    return name, value, fault


def is_of_several(path: Path) -> bool:
    """Whether the first line of a list gives its photo several labels, ``0,1,0``; the list may not be there."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            first = next((line.strip() for line in file if line.strip()), "")
    except (OSError, UnicodeDecodeError):
        return False  # reading it says so
    labels = _as_labels(first.rsplit(None, 1)[-1])
    return labels is not None and len(labels) > 1


def _separator(line: str) -> str | None:
    match = SEPARATED.fullmatch(line)
    return match[2] if match else None


def _other_separator(found: str, delimiter: str | None) -> str:
    between = "a space or a tab" if delimiter is None else SEPARATORS.get(delimiter, repr(delimiter))
    return f"{SEPARATORS[found]} separates path and label here, and {between} is to do it"


def delimiter_hint(found: str) -> str:
    """Return what sets a list's delimiter to the one that was found."""
    if found.isspace():
        return "leave `delimiter` out: a space or a tab is the default"
    return (
        f"say so beside cls_label_path, `delimiter: '{found}'` (-o \"DataLoader.Train.dataset.delimiter='{found}'\", "
        f"and Eval's alike; ppmobilenet check-dataset --delimiter '{found}')"
    )


def class_faults(labels: Sequence[int], lines: Sequence[int], class_num: int) -> tuple[list[tuple[int, str]], str]:
    """Find labels that a network of ``class_num`` classes has not.

    Returns:
        (Line number, what is wrong) of each; and what to do, empty if there is none.
    """
    faults = [
        (line, f"the label {label} is not below class_num {class_num}; allowed: 0 to {class_num - 1}")
        for label, line in zip(labels, lines)
        if label >= class_num
    ]
    if not faults:
        return [], ""
    present = set(labels)
    top, low = max(present), min(present)
    if low == 1 and len(present) == top == class_num:
        advice = (
            f"the list counts its {top} classes from 1: -o DataLoader.Train.dataset.relabel=True (and Eval's alike) "
            "counts them from 0"
        )
    elif len(present) == top + 1:
        advice = f"the labels 0 to {top} are those of {top + 1} classes: -o Arch.class_num={top + 1}, if they are right"
    else:
        advice = (
            f"correct these lines, or -o Arch.class_num={top + 1} if they are right, though only {len(present)} of "
            f"the labels 0 to {top} occur; ppmobilenet check-dataset --fix drops them"
        )
    return faults, advice


@contextmanager
def reading(path: Path, root: Path) -> Iterator[None]:
    """Say as a DataError why a list file cannot be read; ``root``: where its photos are."""
    try:
        yield
    except FileNotFoundError as error:
        folder = path.parent.absolute()
        looked = f"in {folder}" if folder.is_dir() else f"in {folder}, which is no folder"
        raise DataError(
            f"the list file does not exist (looked for {looked})",
            where=path,
            hint="correct the path (cls_label_path), or write lists from one folder per class: "
            f"ppmobilenet split-dataset {root if root.is_dir() else 'DIR'} -o {path.parent}",
        ) from error
    except IsADirectoryError as error:
        raise DataError("this is a folder, not a list file", where=path) from error
    except OSError as error:
        raise DataError(f"the list file cannot be read: {error.strerror or error}", where=path) from error


def _read_text(path: Path, root: Path) -> str:
    with reading(path, root):
        data = path.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise not_utf8(path, error) from error


def _as_label(text: str) -> int | None:
    return int(text) if re.fullmatch(r"[-+]?[0-9]{1,4000}", text) else None  # int() alone takes 1_0 and other scripts


def _as_labels(text: str) -> tuple[int, ...] | None:
    parts = [part.strip() for part in text.split(",")]
    return tuple(map(int, parts)) if all(part in ("0", "1", "-1") for part in parts) else None


def _labels_fault(line: str, label: str) -> str:
    wrong = next((part.strip() for part in label.split(",") if part.strip() not in ("0", "1", "-1")), label)
    if not label:
        return f"no labels in {line!r}"
    return f"{wrong!r} among the labels {label!r}; each is 0, 1, or -1 where nobody knows, with a comma between"


def _label_fault(line: str, label: str, delimiter: str | None) -> str:
    if line.startswith("#"):
        return "a comment; a list file has none, each line is: path label"
    found = _separator(line)
    if found and found != delimiter and not (found.isspace() and delimiter is None):
        return f"no label in {line!r}: {_other_separator(found, delimiter)}; set `delimiter`"
    if not label:
        return f"no label in {line!r}"
    try:
        float(label)
    except ValueError:
        between = "a space" if delimiter is None else repr(delimiter)
        return f"the label {label!r} is not a whole number (path and label are separated by {between})"
    return f"the label {label!r} is not a whole number"


def _exists(root: Path, name: str, folders: dict[str, frozenset[str]]) -> bool:
    """Whether a photo is there, with one directory listing for all photos of a folder."""
    folder, _, base = name.rpartition("/")
    if folder not in folders:
        try:
            with os.scandir(os.path.join(root, folder)) as entries:
                folders[folder] = frozenset(entry.name for entry in entries)
        except (OSError, ValueError):  # not there; or a NUL in its name
            folders[folder] = frozenset()
    return base in folders[folder] or os.path.exists(os.path.join(root, name))


def _missing(root: Path, name: str) -> str:
    full = os.path.join(root, name)
    for form in ("NFC", "NFD"):
        other = unicodedata.normalize(form, name)
        if other != name and os.path.exists(os.path.join(root, other)):
            return f"{full} does not exist, but the same name in Unicode's form {form} does: write it that way"
    if not os.path.isdir(root):
        return f"{full} does not exist; image_root {str(root)!r} is no folder"
    return f"{full} does not exist"
