"""Class number -> name: label files in PaddleClas's form (``<number><delimiter><name>`` a line, from 0).

``imagenet1k_label_list.txt`` beside this file is PaddleClas's list of the 1000 ImageNet names (Copyright PaddlePaddle
Authors, Apache License 2.0, https://www.apache.org/licenses/LICENSE-2.0), unchanged.
"""

from __future__ import annotations

import re
from pathlib import Path

from ppmobilenet.errors import DataError, UserError
from ppmobilenet.photos.names import lines_of
from ppmobilenet.telling import log

UNNAMED = "-o Infer.PostProcess.class_id_map_file=null"
IMAGENET_LABELS = Path(__file__).with_name("imagenet1k_label_list.txt")


def find_label_file(path: str | Path, beside: Path | None = None) -> Path:
    """Return the label file that a config means.

    A name ending in ``imagenet1k_label_list.txt`` that does not exist (PaddleClas's YAMLs name
    ``ppcls/utils/imagenet1k_label_list.txt``) is the list that comes with this package.

    Args:
        path: as written in the config.
        beside: a folder to look in when the path is relative and not below the working directory.
    """
    path = Path(path).expanduser()
    for candidate in (path, beside / path if beside else path):
        if candidate.is_file():
            return candidate
    if path.name == IMAGENET_LABELS.name:
        return IMAGENET_LABELS
    raise UserError(
        f"the label file {str(path)!r} does not exist",
        where="Infer.PostProcess.class_id_map_file",
        hint="one line a class, `0 name of class 0`; set its path with "
        "-o Infer.PostProcess.class_id_map_file=label_list.txt (split-dataset writes one), "
        f"or go without names: {UNNAMED}",
    )


def read_labels(path: str | Path, delimiter: str | None = None) -> dict[int, str]:
    """Read a label file: UTF-8 (with or without BOM) or GBK, blank lines skipped.

    Args:
        path: the file.
        delimiter: what stands between number and name; None means a space or a tab.

    Raises:
        DataError: a line has no number, or a number stands twice; names file and line, and the form that was found.
    """
    path = Path(path)
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"the label file cannot be read: {error.strerror}", where=path) from error
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        try:
            text = raw.decode("gbk")  # PaddleClas reads GBK too
        except UnicodeDecodeError:
            raise DataError("the label file is neither UTF-8 nor GBK text", where=path) from None
    labels: dict[int, str] = {}
    for number, line in enumerate(lines_of(text), 1):
        if not line.strip():
            continue
        key, *rest = line.strip().split(delimiter or None, 1)
        if not (key.strip().isascii() and key.strip().isdigit()):
            raise _without_number(path, number, line.strip(), lines_of(text), delimiter)
        name = rest[0] if rest else ""
        if int(key) in labels:
            raise DataError(f"class {int(key)} is named twice", where=f"{path}:{number}")
        labels[int(key)] = name.strip() or f"class {int(key)}"
    return labels


def _without_number(path: Path, number: int, line: str, lines: list[str], delimiter: str | None) -> DataError:
    wanted = delimiter or " "
    form = f"one class a line, number and name: `0{wanted}tench`, `1{wanted}goldfish`, from 0"
    shown = line if len(line) <= 60 else line[:57] + "..."
    other = re.match(r"[0-9]{1,9}\s*([,;:|\t ])", line)
    if other and other[1] != delimiter:
        found = other[1]
        how = "leave it out" if found.isspace() else f"-o \"Infer.PostProcess.delimiter='{found}'\""
        return DataError(
            f"{found!r} separates number and name in {shown!r}, Infer.PostProcess.delimiter is {wanted!r}",
            where=f"{path}:{number}",
            allowed=form,
            hint=how,
        )
    names = [text for text in lines if text.strip()]
    unnumbered = not any(re.match(r"[0-9]+\s*[,;:|\s]", text.strip()) for text in names)
    what = f"these {len(names)} lines are names without numbers" if unnumbered else f"no class number in {shown!r}"
    hint = "put the class number in front of each name, in the order of the labels" if unnumbered else None
    return DataError(what, where=f"{path}:{number}", allowed=form, hint=hint)


def check_count(labels: dict[int, str], class_num: int, where: object) -> None:
    """Refuse a label list of another number of classes than the model's.

    Raises:
        UserError: it names more, or fewer.
    """
    count = max(labels, default=-1) + 1
    if count == len(labels) == class_num:
        return
    missing = next((number for number in range(count) if number not in labels), None)
    if missing is not None and count == class_num:
        raise UserError(
            f"class {missing} has no name", where=where, hint="add its line, or go without names: " + UNNAMED
        )
    own = "name the list of your classes: -o Infer.PostProcess.class_id_map_file=label_list.txt"
    fit = f"-o Arch.class_num={count} if the list is right"
    ours = Path(str(where)).name == IMAGENET_LABELS.name  # the other number is the wrong one
    raise UserError(
        f"the label list names {count} classes, and Arch.class_num is {class_num}: an export would fail",
        where=where,
        hint=f"{f'{own}; or {fit}' if ours else f'{fit}; or {own}'}; or go without names: {UNNAMED}",
    )


def label_names(labels: dict[int, str], class_num: int, where: object) -> list[str]:
    """Return one name a class; a class the list leaves out is called ``class N``.

    Raises:
        UserError: the list names a class that the model does not have.
    """
    if labels and max(labels) >= class_num:
        raise UserError(
            f"the label list names class {max(labels)}, but the model has {class_num} classes (0..{class_num - 1})",
            where=where,
            hint="give the label list that belongs to this model "
            "(-o Infer.PostProcess.class_id_map_file=...) or correct Arch.class_num",
        )
    unnamed = [number for number in range(class_num) if number not in labels]
    if unnamed:
        log.warning(
            "%s: no name for %d of %d classes (class %d is the first); answers call them `class N`",
            *(where, len(unnamed), class_num, unnamed[0]),
        )
    return [labels.get(number, f"class {number}") for number in range(class_num)]
