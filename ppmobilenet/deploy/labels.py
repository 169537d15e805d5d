"""Class number -> name: label files in PaddleClas's form (``<number><delimiter><name>`` a line).

``imagenet1k_label_list.txt`` beside this file is PaddleClas's list of the 1000 ImageNet names (Copyright PaddlePaddle
Authors, Apache License 2.0, https://www.apache.org/licenses/LICENSE-2.0), unchanged.
"""

from __future__ import annotations

import logging
from pathlib import Path

from ppmobilenet.errors import DataError, UserError

log = logging.getLogger(__name__)
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
        "-o Infer.PostProcess.class_id_map_file=label_list.txt",
    )


def read_labels(path: str | Path, delimiter: str | None = " ") -> dict[int, str]:
    """Read a label file: UTF-8 (with or without BOM) or GBK, blank lines skipped.

    Args:
        path: the file.
        delimiter: what stands between number and name; None means a space.

    Raises:
        DataError: a line has no number, or a number stands twice; names file and line.
    """
    path, delimiter = Path(path), delimiter or " "
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
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        key, _, name = line.strip().partition(delimiter)
        if not key.strip().isdigit():
            raise DataError(
                f"a line must begin with the class number, found {line.strip()!r}",
                where=f"{path}:{number}",
                allowed=f"<number>{delimiter!r}<name>, for example `0{delimiter}tench`",
            )
        if int(key) in labels:
            raise DataError(f"class {int(key)} is named twice", where=f"{path}:{number}")
        labels[int(key)] = name.strip() or f"class {int(key)}"
    return labels


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
