"""One prediction job over the processes of ``paddle.distributed.launch``: each answers a share, the first joins them.

The shares lie beside the file that was asked for, so the processes need a common file system; where they have none, the
shares stay on their machines under the names that are printed.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Sequence
from pathlib import Path

from ppmobilenet.errors import UserError
from ppmobilenet.files import whole_file


def processes() -> tuple[int, int]:
    """Return (rank, number of processes) as the launcher says, without importing Paddle."""
    return int(os.environ.get("PADDLE_TRAINER_ID") or 0), int(os.environ.get("PADDLE_TRAINERS_NUM") or 1)


def share(photos: Sequence[str], rank: int, world: int) -> Sequence[str]:
    """Return a process's photos: a block, so that the joined answers are in the photos' order."""
    return photos[len(photos) * rank // world : len(photos) * (rank + 1) // world]


def share_file(path: str | os.PathLike, rank: int, world: int) -> Path:
    """``answers.csv`` -> ``answers.2-of-4.csv`` for the second of four processes."""
    path = Path(path)
    return path.with_name(f"{path.stem}.{rank + 1}-of-{world}{path.suffix}")


def join(path: str | os.PathLike, world: int) -> None:
    """Write the shares' answers into one file, in the photos' order, and remove the shares.

    Raises:
        UserError: a share is not on this machine, or there is no room.
    """
    shares = [share_file(path, rank, world) for rank in range(world)]
    for one in shares:
        if not one.is_file():
            raise UserError(
                "this process's answers are not on this machine, so they were not joined",
                where=one,
                hint="all processes need the same folder for --save; the shares hold all answers",
            )
    with whole_file(path, "w", newline="", where="--save", hint="the shares hold all answers") as file:
        _WRITERS[Path(path).suffix](shares, file)
    for one in shares:
        one.unlink()


def _lines(shares: Sequence[Path], file) -> None:
    for one in shares:
        file.write(one.read_text(encoding="utf-8"))


def _rows(shares: Sequence[Path], file) -> None:
    writer = csv.writer(file)
    for number, one in enumerate(shares):
        with open(one, newline="", encoding="utf-8") as source:
            rows = csv.reader(source)
            heading = next(rows)
            if number == 0:
                writer.writerow(heading)
            writer.writerows(rows)


def _list(shares: Sequence[Path], file) -> None:
    json.dump([answer for one in shares for answer in json.loads(one.read_text("utf-8"))], file, ensure_ascii=False)


_WRITERS = {".jsonl": _lines, ".csv": _rows, ".json": _list}
