"""``ppmobilenet infer``: names for photos, from trained weights (-c) or an exported package (-m)."""

from __future__ import annotations

import argparse
import dataclasses
import sys

from ppmobilenet.commands._common import Outcome
from ppmobilenet.errors import EXIT_DATA, EXIT_OK, UserError
from ppmobilenet.field import infer, shares
from ppmobilenet.field.cluster import job as cluster


def run(args: argparse.Namespace) -> Outcome:
    if args.engine == "ray":
        return _on_a_cluster(args)
    if args.workers:
        raise UserError("--workers is for --engine ray", hint="--threads is for an engine here")
    if bool(args.config) == bool(args.model):
        raise UserError("give either -c CONFIG (trained weights) or -m DIR (an exported package)")
    if args.model:
        if not args.input:
            raise UserError("which photos? give -i FILE or DIR")
        job = infer.from_package(
            args.model, args.input, args.infer_list, args.backend, args.threads, args.precision, args.topk
        )
    else:
        from ppmobilenet.commands._config import load_config
        from ppmobilenet.workshop.from_config import infer_job

        job = infer_job(load_config(args), args.input, args.infer_list, args.topk, args.random_init)
    if args.batch_size:
        job.batch_size = args.batch_size
    if args.save:
        job.save = args.save
    job.resume, job.lines = args.resume, args.jsonl
    if args.jsonl and args.json == "-":
        raise UserError("--json and --jsonl both want standard output", hint="--json FILE, or one of them")
    wishes = {"smooth": args.smooth, "rate": args.fps, "limit": args.frames}
    wishes = {name: value for name, value in wishes.items() if value}
    if wishes and not job.watch:
        raise UserError("--smooth, --fps and --frames are for videos and cameras", hint="-i video.mp4, or -i camera:0")
    if job.watch:
        job.watch = dataclasses.replace(job.watch, **wishes)
        if args.json and job.watch.live and not args.frames:
            raise UserError("a live source has no end, and --json is written there", hint="--jsonl, or --frames N")
    processes = shares.processes()
    if processes[1] > 1:
        if job.watch:
            raise UserError("a video is answered by one process", hint="start it without paddle.distributed.launch")
        if args.json:
            raise UserError("--json with several processes holds one share only", hint="--save answers.json joins them")
        return Outcome(None, exit_code=infer.run_share(job, sys.stdout, processes, _add_up))
    answers: list[dict] | None = [] if args.json else None
    exit_code = infer.run(job, sys.stdout, None if answers is None else answers.append)
    return Outcome(answers, exit_code=exit_code)


def _on_a_cluster(args: argparse.Namespace) -> Outcome:
    """Answer with Ray: of a package, into a folder."""
    given = {"-c": args.config, "--jsonl": args.jsonl, "--smooth": args.smooth, "--fps": args.fps}
    given |= {"--frames": args.frames, "--random-init": args.random_init}
    wrong = [option for option, value in given.items() if value]
    if wrong or not args.model or not args.input:
        said = f"--engine ray does not take {', '.join(wrong)}" if wrong else "--engine ray needs photos and a package"
        raise UserError(said, hint="-m PACKAGE -i PHOTOS --save answers.parquet; `ppmobilenet export` makes a package")
    predictor = {"package": args.model, "backend": args.backend, "precision": args.precision, "topk": args.topk}
    predictor["threads"] = args.threads or 1
    how = {"resume": args.resume, "batch_size": args.batch_size or 1, "workers": args.workers}
    done = cluster.run(predictor, args.input, args.infer_list, args.save, **how)
    found = {**dataclasses.asdict(done), "photos_a_second": round(done.rate, 1)}
    return Outcome(found, exit_code=EXIT_DATA if done.failed else EXIT_OK)


def _add_up(number: int) -> int:
    # only when the answers are there, and only with several processes: a board that answers alone has no Paddle
    from ppmobilenet.training.device import start_processes, sum_over_processes

    _, world = start_processes()
    return int(sum_over_processes([number], world)[0])
