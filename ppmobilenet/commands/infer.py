"""``ppmobilenet infer``: names for photos, from trained weights (-c) or an exported package (-m)."""

from __future__ import annotations

import argparse
import dataclasses
import sys

from ppmobilenet.commands._common import Outcome, above_zero, add_config_arguments, integer, load_config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser, required=False)
    parser.add_argument("-m", "--model", metavar="DIR", help="an exported package; then no config is needed")
    parser.add_argument(
        "-i",
        "--input",
        metavar="FILE|DIR|camera:N|URL",
        help="a photo, a folder, a video, a camera (camera:0) or a stream (rtsp://...) (default: Infer.infer_imgs)",
    )
    parser.add_argument("--infer-list", metavar="TXT", help="a list of paths below the input folder")
    parser.add_argument("--topk", type=integer(1), help="answers a photo")
    parser.add_argument("--batch-size", type=integer(1), help="photos a run of the model")
    parser.add_argument(
        "--save", metavar="FILE", help="write the answers: .jsonl (a line a photo), .csv, or .json (PaddleClas's list)"
    )
    parser.add_argument("--jsonl", action="store_true", help="print a line of JSON an answer, as it comes")
    parser.add_argument("--smooth", type=integer(1), metavar="N", help="video: the mean answer of the last N frames")
    parser.add_argument("--fps", type=above_zero, metavar="F", help="video: answer at most F frames a second")
    parser.add_argument("--frames", type=integer(1), metavar="N", help="video: end after N answers")
    parser.add_argument("--resume", action="store_true", help="go on with an interrupted --save answers.jsonl")
    parser.add_argument("--backend", default="auto", help="auto, openvino, paddle, onnxruntime or lite (with -m)")
    parser.add_argument("--threads", type=integer(1), help="threads for one inference (with -m; default: all)")
    parser.add_argument("--precision", default="fp32", choices=("fp32", "int8"), help="with -m (default: %(default)s)")
    parser.add_argument("--random-init", action="store_true", help="with -c: run without trained weights")


def run(args: argparse.Namespace) -> Outcome:
    from ppmobilenet.errors import UserError
    from ppmobilenet.field import infer, shares

    if bool(args.config) == bool(args.model):
        raise UserError("give either -c CONFIG (trained weights) or -m DIR (an exported package)")
    if args.model:
        if not args.input:
            raise UserError("which photos? give -i FILE or DIR")
        job = infer.from_package(
            args.model, args.input, args.infer_list, args.backend, args.threads, args.precision, args.topk
        )
    else:
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


def _add_up(number: int) -> int:
    # only when the answers are there, and only with several processes: a board that answers alone has no Paddle
    from ppmobilenet.training.device import start_processes, sum_over_processes

    _, world = start_processes()
    return int(sum_over_processes([number], world)[0])
