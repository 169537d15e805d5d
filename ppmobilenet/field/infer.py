"""A folder of photos -> lines on the screen and a file of answers (``ppmobilenet infer``)."""

from __future__ import annotations

import csv
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import numpy as np

from ppmobilenet.console import give_up
from ppmobilenet.errors import EXIT_DATA, EXIT_OK, UserError
from ppmobilenet.field import shares
from ppmobilenet.field.predictor import Classifier, Failure, Prediction, Predictor, list_photos

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


def from_config(
    config: Mapping,
    source: str | None = None,
    infer_list: str | None = None,
    topk: int | None = None,
    random_init: bool = False,
) -> Job:
    """Prepare to predict with trained weights, as PaddleClas's ``tools/infer.py`` does.

    Uses ``Infer.infer_imgs``, ``infer_list``, ``batch_size``, ``save_dir`` and ``PostProcess`` (``topk``,
    ``class_id_map_file``). The preprocessing is that of ``DataLoader.Eval``, with which the accuracy was measured;
    where ``Infer.transforms`` says otherwise, that is logged.
    """
    import paddle

    from ppmobilenet.field.preprocessing import deployment_ops, spell_out
    from ppmobilenet.training.start import model_with_weights
    from ppmobilenet.workshop.from_config import deployment_labels, evaluation_ops

    source = source or config.get("Infer.infer_imgs")
    infer_list = infer_list or config.get("Infer.infer_list")
    if not source:
        raise UserError(
            "which photos?", where="Infer.infer_imgs", hint="-o Infer.infer_imgs=photo.jpg, or -i photo.jpg"
        )
    photos = list_photos(source, infer_list)
    ops = evaluation_ops(config)
    own = config.get("Infer.transforms")
    if own and spell_out(deployment_ops(own)) != spell_out(ops):
        note = "note: Infer.transforms differ from those of DataLoader.Eval; the latter are used, as in evaluation"
        print(note, file=sys.stderr)
    model = model_with_weights(config, random_init)
    model.eval()

    def eager(batch):
        with paddle.no_grad():
            return model(paddle.to_tensor(batch)).numpy()

    classifier = Classifier(
        ops,
        eager,
        deployment_labels(config, int(config["Arch"].get("class_num", 1000))),
        output="logits",
        topk=topk or int(config.get("Infer.PostProcess.topk") or 5),
    )
    save = config.get("Infer.save_dir")
    if save and Path(save).suffix not in SAVED_AS:
        save = save.rstrip("/") + ".json"  # PaddleClas takes save_dir for a file's name
    return Job(classifier, photos, int(config.get("Infer.batch_size") or 1), save)


def _partial(path: str) -> Path:
    """Where answers stand until all are written. A .jsonl has one place for it, so that another start finds it."""
    own = "" if Path(path).suffix == ".jsonl" else f"-{os.getpid()}"
    return Path(path).with_name(f".{Path(path).name}.partial{own}")


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
    print(f"{count} of {len(job.photos)} photos were answered before", file=sys.stderr)
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
    partial = _partial(path)
    try:
        partial.parent.mkdir(parents=True, exist_ok=True)
        # a name that is not UTF-8 keeps its odd bytes as escapes, which are JSON's as well
        newline = "" if suffix == ".csv" else None
        file = open(partial, "a" if append else "w", encoding="utf-8", errors="backslashreplace", newline=newline)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}", where="--save") from error
    try:
        with file:
            if suffix == ".csv":
                table = csv.writer(file)
                table.writerow(["file_name", "rank", "class_id", "score", "label_name", "error"])
                yield lambda answer: table.writerows(_csv_rows(answer))
            elif suffix == ".jsonl":

                def write(answer: Prediction | Failure) -> None:
                    file.write(json.dumps(answer.to_dict(), ensure_ascii=False) + "\n")
                    file.flush()  # what is written is there when the job is killed

                yield write
            else:
                answers: list[dict] = []
                yield lambda answer: answers.append(answer.to_dict())
                json.dump(answers, file, ensure_ascii=False)
        os.replace(partial, path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}", where="--save") from error
    finally:
        if suffix != ".jsonl":
            partial.unlink(missing_ok=True)


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

    Under ``paddle.distributed.launch`` each process answers its share of the photos.

    Args:
        job: the photos and what answers them.
        out: receives a line a photo.
        collect: receives each answer as it stands in a saved file.

    Returns:
        0, or the exit code for bad data if a photo could not be used (the others are answered all the same).
    """
    rank, world = shares.processes()
    if world == 1:
        return EXIT_DATA if _answer(job, out, collect) else EXIT_OK
    if collect:
        raise UserError("--json with several processes holds one share only", hint="--save answers.json joins them")
    failed = _answer(_share_of(job, rank, world), out)
    # only now, and only here: a board that answers alone has no Paddle
    from ppmobilenet.training.device import start_processes, sum_over_processes

    start_processes()
    failed = int(sum_over_processes(np.array([failed], np.float64), world)[0])  # after it every share is written
    if rank == 0 and job.save:
        shares.join(job.save, world)
        print(f"{len(job.photos)} answers of {world} processes written to {job.save}", file=sys.stderr)
    return EXIT_DATA if failed else EXIT_OK


def _share_of(job: Job, rank: int, world: int) -> Job:
    """Return a process's part of a job."""
    photos, save = shares.share(job.photos, rank, world), None
    if job.save:
        save = shares.share_file(job.save, rank, world)
        if job.resume and save.is_file():  # done before another process was interrupted: all of it is answered
            os.replace(save, _partial(save))
    return Job(job.classifier, photos, job.batch_size, save and str(save), job.resume)


def _show(answer: Prediction | Failure, stream: TextIO, keeps: bool) -> bool:
    """Print a line; return whether the stream took it. Where answers are kept, that is no reason to end."""
    try:
        print(answer, file=stream)
        stream.flush()
        return True
    except OSError:  # the reader went away, or the disk behind `>` is full
        if not keeps:
            raise
        give_up(stream)
        return False


def _answer(job: Job, out: TextIO, collect: Callable[[dict], None] | None = None) -> int:
    """Predict and save; return how many photos could not be used."""
    from tqdm import tqdm

    failed, done = 0, _answered(job)
    answers = job.classifier.stream(list(job.photos[done:]), job.batch_size)
    # the bar and the lines share the terminal: with the lines on it, they are progress enough
    bar = tqdm(
        total=len(job.photos), initial=done, unit="photo", disable=out.isatty() or not sys.stderr.isatty(), leave=False
    )
    shows, keeps = True, job.save or collect
    with bar, _saving(job.save, append=done > 0) as save:
        for answer in answers:
            failed += isinstance(answer, Failure)
            save(answer)
            if collect:
                collect(answer.to_dict())
            shows = shows and _show(answer, sys.stderr if isinstance(answer, Failure) else out, bool(keeps))
            bar.update()
    if job.save:
        print(f"{len(job.photos)} answers written to {job.save}", file=sys.stderr)
    if failed:
        print(f"{failed} of {len(job.photos)} photos could not be used", file=sys.stderr)
    return failed
