"""A part's answers as one file, Parquet or JSON lines, that is there whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from ppmobilenet.errors import UserError
from ppmobilenet.field.answers import Failure, Prediction
from ppmobilenet.files import beside, said, settle

ROWS = 1024  # that are held before they are written
FORMATS = (".parquet", ".jsonl")


@dataclass(frozen=True)
class Counts:
    """What a part's file holds.

    Attributes:
        photos: rows, one a photo.
        failed: of these, photos that could not be used.
    """

    photos: int
    failed: int


def check(save: str | None) -> None:
    """Refuse a ``--save`` that asks for no format by its suffix.

    Raises:
        UserError: that.
    """
    if not save or Path(save).suffix not in FORMATS:
        raise UserError(
            f"--engine ray cannot save to {save!r}" if save else "--engine ray needs a place for the answers",
            where="--save",
            allowed="a folder whose name ends in .parquet or .jsonl; it will hold a file a part",
        )


def file_of(folder: Path, number: int) -> Path:
    """Return where a part's answers stand: ``answers.parquet/part-000012.parquet``."""
    return folder / f"part-{number:06d}{folder.suffix}"


def write(folder: Path, number: int, answers: Iterable[Prediction | Failure]) -> Counts:
    """Write a part's answers, in order.

    Args:
        folder: of the job.
        number: of the part.
        answers: a row each.

    Raises:
        UserError: the disk is full, the folder is read-only, ...
    """
    target, counts = file_of(folder, number), Counts(0, 0)
    with said(target, where="--save", hint="free space or rights are needed; --resume then goes on from there"):
        # not beside the target: a listing of ten thousand parts for each part is slow on network storage
        (folder / "_work").mkdir(parents=True, exist_ok=True)
        temporary = beside(folder / "_work" / target.name)
        try:
            counts = _WRITERS[folder.suffix](temporary, answers)
            settle(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)
    return counts


def count(folder: Path, number: int) -> Counts | None:
    """Return what a part's file holds; None where there is none, or none that is whole."""
    path = file_of(folder, number)
    try:
        return _COUNTERS[folder.suffix](path) if path.is_file() else None
    except (OSError, ValueError):  # spoilt on the disk: pyarrow's errors and JSON's are both
        return None


def _rows(answers: Iterable[Prediction | Failure]) -> Iterable[list[dict]]:
    rows: list[dict] = []
    for answer in answers:
        rows.append(answer.to_dict())
        if len(rows) == ROWS:
            yield rows
            rows = []
    if rows:
        yield rows


def _write_lines(path: Path, answers: Iterable[Prediction | Failure]) -> Counts:
    photos = failed = 0
    with open(path, "w", encoding="utf-8", errors="backslashreplace") as file:
        for rows in _rows(answers):
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            photos, failed = photos + len(rows), failed + sum("error" in row for row in rows)
        file.flush()
        os.fsync(file.fileno())
    return Counts(photos, failed)


def _count_lines(path: Path) -> Counts:
    photos = failed = 0
    with open(path, encoding="utf-8") as file:
        for line in file:
            photos, failed = photos + 1, failed + ("error" in json.loads(line))
    return Counts(photos, failed)


def _schema():
    import pyarrow as pa

    return pa.schema(
        {
            "file_name": pa.string(),
            "class_ids": pa.list_(pa.int32()),
            "scores": pa.list_(pa.float32()),
            "label_names": pa.list_(pa.string()),
            "attributes": pa.list_(pa.string()),  # null where the package says none
            "unsure": pa.bool_(),  # null where the package is never unsure
            "error": pa.string(),  # null where there is an answer
        }
    )


def _write_parquet(path: Path, answers: Iterable[Prediction | Failure]) -> Counts:
    import pyarrow as pa
    import pyarrow.parquet as pq

    photos = failed = 0
    with pq.ParquetWriter(path, _schema(), compression="zstd") as writer:
        for rows in _rows(answers):
            for row in rows:  # a name that is not UTF-8 keeps its odd bytes as escapes
                row["file_name"] = row["file_name"].encode("utf-8", "backslashreplace").decode()
                if "error" in row:
                    row["error"] = row["error"].encode("utf-8", "backslashreplace").decode()
            writer.write_table(pa.Table.from_pylist(rows, _schema()))
            photos, failed = photos + len(rows), failed + sum("error" in row for row in rows)
    return Counts(photos, failed)


def _count_parquet(path: Path) -> Counts:
    import pyarrow.parquet as pq

    table = pq.read_table(path, columns=["error"])
    return Counts(table.num_rows, table.num_rows - table["error"].null_count)


_WRITERS: dict[str, Callable[[Path, Iterable[Prediction | Failure]], Counts]] = {
    ".parquet": _write_parquet,
    ".jsonl": _write_lines,
}
_COUNTERS: dict[str, Callable[[Path], Counts]] = {".parquet": _count_parquet, ".jsonl": _count_lines}
