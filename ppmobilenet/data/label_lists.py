"""List files of photos with several labels each: ``path 0,1,0`` a line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ppmobilenet.data.lists import Samples, Scanned, refuse_faults, scan_list
from ppmobilenet.errors import DataError


def read_several(
    path: Path,
    root: Path,
    *,
    delimiter: str | None = None,
    class_num: int | None = None,
    check_files: bool = True,
    scanned: Scanned | None = None,
) -> Samples:
    """Read a list of photos with several labels each, ``path 0,1,0`` a line; the arguments are those of read_list.

    Raises:
        DataError: with file and line, what stands there and what is allowed; the first five faults are shown.
    """
    paths, labels, lines, faults = scanned or scan_list(path, root, delimiter, check_files, several=True)
    beyond, advice = number_faults(labels, lines, class_num)
    faults = sorted(faults + beyond)
    refuse_faults(path, faults, advice, "path 0,1,0")
    if not paths:
        raise DataError("the list holds no photo", where=path, allowed="one photo a line: path 0,1,0")
    return Samples(root, path, paths, labels, lines)


def number_faults(
    labels: Sequence[Sequence[int]], lines: Sequence[int], class_num: int | None
) -> tuple[list[tuple[int, str]], str]:
    """Find lines that have not as many labels as there are classes, or as the other lines where that is not known.

    Returns:
        (Line number, what is wrong) of each; and what to do, empty where single lines are wrong.
    """
    counts = Counter(map(len, labels))
    usual = counts.most_common(1)[0][0] if counts else 0
    wanted = class_num or usual
    whose = f"class_num is {class_num}" if class_num else f"the other lines have {usual}"
    faults = [(line, f"{len(own)} labels, and {whose}") for own, line in zip(labels, lines) if len(own) != wanted]
    everywhere = class_num and usual != class_num and len(counts) == 1
    return faults, f"every line has {usual} labels: -o Arch.class_num={usual}, if they are right" if everywhere else ""
