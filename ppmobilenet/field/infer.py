"""A folder of photos -> lines on the screen and a file of answers (``ppmobilenet infer``)."""

from __future__ import annotations

import csv
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from ppmobilenet.console import give_up
from ppmobilenet.errors import EXIT_DATA, EXIT_OK, UserError
from ppmobilenet.field import shares
from ppmobilenet.field.answers import Failure, Prediction
from ppmobilenet.field.predictor import Classifier, Predictor
from ppmobilenet.files import said, settle, whole_file
from ppmobilenet.photos.names import list_photos
from ppmobilenet.telling import bar, tell

SAVED_AS = (".jsonl", ".csv", ".json")


@dataclass
class Job:
    """What :func:`run` does: ``classifier`` on ``photos``.

    ``save`` names a .jsonl, .csv or .json file, or is None. ``resume`` keeps the answers of an interrupted job that
    was saving the same photos to the same .jsonl.
    """

    classifier: Classifier
    photos: Sequence[str]
    batch_size: int = 1
    save: str | None = None
    resume: bool = False


def from_package(
    package: str | os.PathLike,
    source: str,
    infer_list: str | None = None,
    backend: str = "auto",
    threads: int | None = None,
    precision: str = "fp32",
    topk: int | None = None,
) -> Job:
    """Prepare to predict with an exported package; nothing but it and its backend is needed."""
    photos = list_photos(source, infer_list)
    return Job(Predictor(package, backend, threads, precision, topk), photos)


def _partial(path: str | os.PathLike) -> Path:
    """Where the answers of a .jsonl stand until all are written: one place, so that another start finds it."""
    return Path(path).with_name(f".{Path(path).name}.partial")


def _answered(job: Job) -> int:
    """Return how many of the job's photos an interrupted one has answered; what it wrote beyond them is cut off."""
    if not job.resume:
        return 0
    if not job.save or Path(job.save).suffix != ".jsonl":
        raise UserError("only a .jsonl can be resumed", where="--resume", hint="--save answers.jsonl")
    partial, count, end = _partial(job.save), 0, 0
    if not partial.is_file():
        return 0
    with open(partial, "rb+") as file:
        for photo, line in zip(job.photos, file):
            try:
                same = line.endswith(b"\n") and json.loads(line)["file_name"] == str(photo)
            except (ValueError, KeyError, TypeError):  # cut off while it was written
                same = False
            if not same:
                break
            count, end = count + 1, end + len(line)
        file.truncate(end)
    tell(f"{count} of {len(job.photos)} photos were answered before")
    return count


@contextmanager
def _saving(path: str | None, append: bool = False) -> Iterator[Callable[[Prediction | Failure], None]]:
    """Give a function that writes one answer; the file takes its name when all are written."""
    if path is None:
        yield lambda answer: None
        return
    suffix = Path(path).suffix
    if suffix not in SAVED_AS:
        raise UserError(f"cannot save to {path!r}", where="--save", allowed="a name ending in " + ", ".join(SAVED_AS))
    if suffix == ".jsonl":
        with _saving_lines(path, append) as write:
            yield write
        return
    with whole_file(path, "w", newline="" if suffix == ".csv" else None, where="--save") as file:
        if suffix == ".csv":
            table = csv.writer(file)
            table.writerow(["file_name", "rank", "class_id", "score", "label_name", "error"])
            yield lambda answer: table.writerows(_csv_rows(answer))
        else:
            answers: list[dict] = []
            yield lambda answer: answers.append(answer.to_dict())
            json.dump(answers, file, ensure_ascii=False)


@contextmanager
def _saving_lines(path: str, append: bool) -> Iterator[Callable[[Prediction | Failure], None]]:
    """The same for a .jsonl, whose partial file outlives an interrupted job so that it can be resumed."""
    partial = _partial(path)
    with said(path, where="--save"):
        partial.parent.mkdir(parents=True, exist_ok=True)
        # a name that is not UTF-8 keeps its odd bytes as escapes, which are JSON's as well
        with open(partial, "a" if append else "w", encoding="utf-8", errors="backslashreplace") as file:

            def write(answer: Prediction | Failure) -> None:
                file.write(json.dumps(answer.to_dict(), ensure_ascii=False) + "\n")
                file.flush()  # what is written is there when the job is killed

            yield write
        settle(partial, Path(path))


def _csv_rows(answer: Prediction | Failure) -> list[list]:
    if isinstance(answer, Failure):
        return [[answer.source, "", "", "", "", str(answer.error)]]
    names = answer.label_names or [""] * len(answer.class_ids)
    return [
        [answer.source, rank, number, f"{score:.5f}", name, ""]
        for rank, (number, score, name) in enumerate(zip(answer.class_ids, answer.scores, names), 1)
    ]


def run(job: Job, out: TextIO, collect: Callable[[dict], None] | None = None) -> int:
    """Predict every photo of the job, write a line each to ``out``, and save them if asked.

    Args:
        job: the photos and what answers them.
        out: receives a line a photo.
        collect: receives each answer as it stands in a saved file.

    Returns:
        0, or the exit code for bad data if a photo could not be used (the others are answered all the same).
    """
    return EXIT_DATA if _answer(job, out, collect) else EXIT_OK


def run_share(job: Job, out: TextIO, processes: tuple[int, int], add_up: Callable[[int], int]) -> int:
    """Do as :func:`run`, but answer one process's share of the photos; the first process joins the answers.

    Args:
        job: all photos, and what answers them.
        out: receives a line a photo.
        processes: this one's number and how many there are, see :func:`.shares.processes`.
        add_up: the sum of a number over all processes, which it waits for.
    """
    rank, world = processes
    failed = add_up(_answer(_share_of(job, rank, world), out))  # after it every share is written
    if rank == 0 and job.save:
        shares.join(job.save, world)
        tell(f"{len(job.photos)} answers of {world} processes written to {job.save}")
    return EXIT_DATA if failed else EXIT_OK


def _share_of(job: Job, rank: int, world: int) -> Job:
    """Return a process's part of a job."""
    photos, save = shares.share(job.photos, rank, world), None
    if job.save:
        save = shares.share_file(job.save, rank, world)
        # done before another process was interrupted: all of it is answered
        if job.resume and save.suffix == ".jsonl" and save.is_file():
            os.replace(save, _partial(save))
    return Job(job.classifier, photos, job.batch_size, save and str(save), job.resume)


def _show(answer: Prediction | Failure, stream: TextIO, keeps: bool) -> bool:
    """Print a line; return whether the stream took it. Where answers are kept, that is no reason to end."""
    try:
        stream.write(f"{answer}\n")
        stream.flush()
        return True
    except OSError:  # the reader went away, or the disk behind `>` is full
        if not keeps:
            raise
        give_up(stream)
        return False


def _answer(job: Job, out: TextIO, collect: Callable[[dict], None] | None = None) -> int:
    """Predict and save; return how many photos could not be used."""
    failed, done = 0, _answered(job)
    answers = job.classifier.stream(list(job.photos[done:]), job.batch_size)
    # the bar and the lines share the terminal: with the lines on it, they are progress enough
    hidden = out.isatty() or not sys.stderr.isatty()
    progress = bar(total=len(job.photos), initial=done, unit="photo", disable=hidden)
    shows, keeps = True, job.save or collect
    with progress, _saving(job.save, append=done > 0) as save:
        for answer in answers:
            failed += isinstance(answer, Failure)
            save(answer)
            if collect:
                collect(answer.to_dict())
            shows = shows and _show(answer, sys.stderr if isinstance(answer, Failure) else out, bool(keeps))
            progress.update()
    if job.save:
        tell(f"{len(job.photos)} answers written to {job.save}")
    if failed:
        tell(f"{failed} of {len(job.photos)} photos could not be used")
    return failed
