"""Photos, or the frames of a video -> lines on the screen and a file of answers (``ppmobilenet infer``)."""

from __future__ import annotations

import csv
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TextIO

from ppmobilenet.console import give_up
from ppmobilenet.errors import EXIT_DATA, EXIT_OK, UserError
from ppmobilenet.field import shares
from ppmobilenet.field.answers import Failure, Prediction
from ppmobilenet.field.predictor import Classifier, Predictor
from ppmobilenet.field.video import is_video
from ppmobilenet.field.watch import Watch, watch
from ppmobilenet.files import said, settle, whole_file
from ppmobilenet.photos.names import list_photos
from ppmobilenet.telling import bar, tell

SAVED_AS = (".jsonl", ".csv", ".json")
COLUMNS = ("file_name", "rank", "class_id", "score", "label_name", "error")
OF_A_FRAME = ("frame", "seconds", "time")


@dataclass
class Job:
    """What :func:`run` does: ``classifier`` on ``photos``, or on what there is to ``watch`` instead.

    ``lines`` asks for a line of JSON an answer where there is one for people. ``save`` names a .jsonl, .csv or .json
    file, or is None. ``resume`` keeps the answers of an interrupted job that was saving the same photos to the same
    .jsonl.
    """

    classifier: Classifier
    photos: Sequence[str]
    batch_size: int = 1
    save: str | None = None
    resume: bool = False
    watch: Watch | None = None
    lines: bool = False

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of a .csv: more where the package knows when to be unsure, and for videos."""
        unsure = () if self.classifier.decision.unsure_below is None else ("unsure",)
        return (*COLUMNS, *unsure, *(OF_A_FRAME if self.watch else ()))


def what_is_there(source: str, infer_list: str | None = None) -> tuple[list[str], Watch | None]:
    """Return the photos that a source names, or the video that it is."""
    return ([], Watch(source)) if is_video(source) and not infer_list else (list_photos(source, infer_list), None)


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
    photos, film = what_is_there(source, infer_list)
    return Job(Predictor(package, backend, threads, precision, topk), photos, watch=film)


def _partial(path: str | os.PathLike) -> Path:
    """Where the answers of a .jsonl stand until all are written: one place, so that another start finds it."""
    return Path(path).with_name(f".{Path(path).name}.partial")


def _answered(job: Job) -> tuple[int, int]:
    """Return how many photos an interrupted job has answered, and how many of these could not be used.

    What it wrote beyond them is cut off.
    """
    if not job.resume:
        return 0, 0
    if job.watch or not job.save or Path(job.save).suffix != ".jsonl":
        raise UserError("only a .jsonl of photos can be resumed", where="--resume", hint="--save answers.jsonl")
    partial, count, failed, end = _partial(job.save), 0, 0, 0
    if not partial.is_file():
        return 0, 0
    with open(partial, "rb+") as file:
        for photo, line in zip(job.photos, file):
            try:
                told = json.loads(line)
                same = line.endswith(b"\n") and told["file_name"] == str(photo)
            except (ValueError, KeyError, TypeError):  # cut off while it was written
                same = False
            if not same:
                break
            count, failed, end = count + 1, failed + ("error" in told), end + len(line)
        file.truncate(end)
    tell(f"{count} of {len(job.photos)} photos were answered before")
    return count, failed


@contextmanager
def _saving(job: Job, append: bool = False) -> Iterator[Callable[[Prediction | Failure], None]]:
    """Give a function that writes one answer; the file takes its name when all are written."""
    path = job.save
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
            table = csv.DictWriter(file, job.columns, restval="")
            table.writeheader()
            yield lambda answer: table.writerows(_csv_rows(answer, job.columns))
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
                file.write(_line(answer) + "\n")
                file.flush()  # what is written is there when the job is killed

            yield write
        settle(partial, Path(path))


def _csv_rows(answer: Prediction | Failure, columns: Sequence[str]) -> list[dict]:
    found = answer.to_dict()
    if isinstance(answer, Failure):
        return [found]
    names = answer.label_names or [""] * len(answer.class_ids)
    every = {key: found[key] for key in columns if key in found}
    if answer.unsure is not None:
        every["unsure"] = str(answer.unsure).lower()
    if not names:
        return [every]  # none of several labels: that is an answer, too
    return [
        {**every, "rank": rank, "class_id": number, "score": f"{score:.5f}", "label_name": name}
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
    return replace(job, photos=photos, save=save and str(save))


def _show(line: object, stream: TextIO, keeps: bool) -> bool:
    """Print a line; return whether the stream took it. Where answers are kept, that is no reason to end."""
    try:
        stream.write(f"{line}\n")
        stream.flush()
        return True
    except OSError:  # the reader went away, or the disk behind `>` is full
        if not keeps:
            raise
        give_up(stream)
        return False


def _answer(job: Job, out: TextIO, collect: Callable[[dict], None] | None = None) -> int:
    """Predict and save; return how many photos could not be used."""
    (done, failed), count, start = _answered(job), 0, time.monotonic()
    answers = watch(job.classifier, job.watch) if job.watch else _photos(job, done)
    total, unit = (job.watch.limit, "frame") if job.watch else (len(job.photos), "photo")
    # the bar and the lines share the terminal: with the lines on it, they are progress enough
    hidden = out.isatty() or not sys.stderr.isatty()
    progress = bar(total=total, initial=done, unit=unit, disable=hidden)
    shows, keeps, stopped = True, bool(job.save or collect), False
    with progress, _saving(job, append=done > 0) as save:
        try:
            for answer in answers:
                count += 1
                failed += isinstance(answer, Failure)
                save(answer)
                if collect:
                    collect(answer.to_dict())
                to = sys.stderr if isinstance(answer, Failure) and not job.lines else out
                shows = shows and _show(_line(answer) if job.lines else answer, to, keeps)
                progress.update()
        except KeyboardInterrupt:
            if not (job.watch and job.watch.live):
                raise
            stopped = True  # the way to end a live source: what was answered is kept
    if job.watch:
        seconds = time.monotonic() - start
        tell(f"{count} frames answered in {seconds:.1f} s: {count / max(seconds, 1e-9):.1f} a second")
    if job.save:
        tell(f"{count + done} answers written to {job.save}")
    if failed:
        tell(f"{failed} of {len(job.photos)} photos could not be used")
    if stopped:
        raise KeyboardInterrupt
    return failed


def _photos(job: Job, done: int) -> Iterator[Prediction | Failure]:
    return job.classifier.stream(job.photos[done:], job.batch_size)


def _line(answer: Prediction | Failure) -> str:
    return json.dumps(answer.to_dict(), ensure_ascii=False)
