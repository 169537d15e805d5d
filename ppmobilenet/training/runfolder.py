"""A run's folder: one owner at a time, and what is written into it besides checkpoints."""

from __future__ import annotations

import csv
import fcntl
import io
import os
import socket
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from ppmobilenet import files
from ppmobilenet.errors import UserError
from ppmobilenet.telling import bar, duration, log
from ppmobilenet.training.scalars import Scalars

LOCK = "run.lock"


@contextmanager
def owned(folder: Path, lock: str = LOCK, elsewhere: str = "-o Global.output_dir=...") -> Iterator[None]:
    """Own a folder inside the block. The kernel gives it back when the process ends in any way.

    Args:
        folder: to own.
        lock: name of the file in it that says so.
        elsewhere: what the user writes to have another folder.

    Raises:
        UserError: it cannot be made or written, or another run owns it: host, process id and since when.
    """
    path = folder / lock
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open(path, "a+", encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"this folder cannot be written: {error.strerror}", where=folder, hint=f"another one: {elsewhere}"
        ) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            raise UserError(
                f"another run is writing into this folder: {file.read().strip() or error.strerror}",
                where=folder,
                hint=f"wait for it or stop it, or choose another place: {elsewhere}",
            ) from error
        file.seek(0)
        if file.read().strip():
            log.info("%s: the run that owned this folder has ended without saying so; taking it over", folder)
        file.seek(0)
        file.truncate()
        file.write(f"process {os.getpid()} on {socket.gethostname()}, since {time.strftime('%Y-%m-%d %H:%M:%S')}\n")
        file.flush()
        try:
            yield
        finally:
            file.seek(0)
            file.truncate()


class Table:
    """A CSV file that grows by rows, and that a resumed run continues where its checkpoint stands.

    Args:
        path: the file.
        columns: of which ``step`` is the one that orders rows.
        upto: rows of later steps belong to work that was lost; they are removed. None starts anew.
    """

    def __init__(self, path: Path, columns: Sequence[str], upto: int | None):
        self._path, self._columns = path, tuple(columns)
        rows = []
        if upto is not None and path.is_file():
            with open(path, newline="", encoding="utf-8") as file:
                for row in csv.DictReader(file):
                    # a last line that was cut off while it was written has no whole step
                    if (row.get("step") or "").isdecimal() and int(row["step"]) <= upto:
                        rows.append(row)
        text = io.StringIO()
        writer = csv.DictWriter(text, self._columns, restval="", extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        files.write_text(path, text.getvalue(), newline="")
        self._file = open(path, "a", newline="", encoding="utf-8")
        self._writer = csv.DictWriter(self._file, self._columns, restval="", lineterminator="\n")

    def add(self, row: Mapping) -> None:
        """Append a row."""
        self._writer.writerow(row)
        self._file.flush()

    def close(self) -> None:
        self._file.close()


class Record:
    """What a run writes down: ``steps.csv``, ``metrics.csv`` (a row an epoch), and the same as scalars.

    Args:
        folder: of the run; None for the other processes, which write nothing.
        metrics: columns of an epoch, for example ``["loss", "top1", "top5"]``.
        upto: the step that a resumed run goes on from; None for a new run.
        scalars: VisualDL and TensorBoard, if asked for.
    """

    def __init__(self, folder: Path | None, metrics: Sequence[str], upto: int | None, scalars: Scalars):
        self._tables: list[Table] = []
        self.scalars = scalars
        if folder is None:
            return
        epoch = ["epoch", "step", "lr", *(f"train_{m}" for m in metrics), *(f"eval_{m}" for m in metrics)]
        self._tables = [
            Table(folder / "steps.csv", ["epoch", "step", "lr", "loss", "images_per_second", "data_wait"], upto),
            Table(folder / "metrics.csv", [*epoch, "seconds"], upto),
        ]

    def step(self, **row) -> None:
        """Write down one step."""
        if self._tables:
            self._tables[0].add(row)
            self.scalars.row("step", row)

    def epoch(self, **row) -> None:
        """Write down one epoch."""
        if self._tables:
            self._tables[1].add(row)
            self.scalars.row("epoch", row)

    def close(self) -> None:
        for table in self._tables:
            table.close()
        self.scalars.close()


def timed(items: Iterable) -> Iterator[tuple[float, object]]:
    """Yield each item with the seconds that were spent waiting for it."""
    waiting = iter(items)
    while True:
        began = time.monotonic()
        try:
            item = next(waiting)
        except StopIteration:
            return
        yield time.monotonic() - began, item


class Progress:
    """A live bar on a terminal, plain lines elsewhere: loss, learning rate, images a second, time left.

    Args:
        title: in front, ``"epoch 3/6"``.
        steps: of the whole bar.
        start: steps done before.
        every: plain lines come every so many steps.
        show: False for the processes that print nothing.
        after: steps that follow this bar, for the time left in plain lines.
    """

    def __init__(self, title: str, steps: int, start: int = 0, every: int = 10, show: bool = True, after: int = 0):
        self._title, self._steps, self._done, self._every, self._after = title, steps, start, every, after
        self._show = show
        live = show and sys.stderr.isatty()
        self._bar = bar(what=title, total=steps, initial=start, disable=not live, unit="step")
        self._live, self._began, self._first = live, time.monotonic(), start
        self._photos = 0

    def step(self, photos: int, **figures: float) -> float:
        """Count a step and return the photos a second since the start of the bar."""
        self._done += 1
        self._photos += photos
        seconds = max(1e-9, time.monotonic() - self._began)
        rate = self._photos / seconds
        said = "".join(f"{each}, " for each in _figures(figures))
        if self._live:
            self._bar.set_postfix_str(f"{said}{rate:.1f} img/s", refresh=False)
            self._bar.update()
        elif self._show and (self._done % self._every == 0 or self._done == self._steps):
            left = seconds / (self._done - self._first) * (self._steps - self._done + self._after)
            log.info(
                "%s step %d/%d: %s%.1f img/s, %s left",
                *(self._title, self._done, self._steps, said, rate, duration(left)),
            )
        return rate

    def close(self) -> None:
        self._bar.close()


def _figures(figures: Mapping[str, float]) -> list[str]:
    return [f"{name} {value:.5f}" if name != "lr" else f"lr {value:.3g}" for name, value in figures.items()]
