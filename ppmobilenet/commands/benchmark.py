"""``ppmobilenet benchmark train|data|infer``: how fast this machine trains, reads or answers, compared in one run."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from ppmobilenet.commands._common import Outcome, integer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="WHAT")
    train = kinds.add_parser(
        "train",
        help="images/s of a full training step: stock, accelerated, PyTorch",
        epilog="example: ppmobilenet benchmark train --models v2 --batches 8 --threads 2",
    )
    train.add_argument("--models", nargs="+", default=["v2", "v1"], help="v1 to v4, or names of `cost --list`")
    train.add_argument("--batches", nargs="+", type=integer(1), default=[8, 32], help="images a step")
    train.add_argument("--threads", nargs="+", type=integer(1), default=[1, 2])
    train.add_argument(
        "--candidates", nargs="+", help="some of: stock accelerated frozen_cached two_processes torch; all by default"
    )
    train.add_argument("--size", type=integer(32, 4096), default=224, help="height and width of the images")
    train.add_argument("--rounds", type=integer(1), default=5, help="turns of each candidate")
    data = kinds.add_parser(
        "data",
        help="photos/s of the input pipelines against a plain loop",
        epilog="example: ppmobilenet benchmark data --images photos/",
    )
    data.add_argument("--images", metavar="DIR", help="make the photos from these; default drawn ones")
    data.add_argument("--workers", type=integer(1), default=2, help="worker processes to compare with one")
    data.add_argument("--rounds", type=integer(1), default=7, help="turns of each pipeline")
    infer = kinds.add_parser(
        "infer",
        help="latency and photos/s of every backend for a package",
        epilog="example: ppmobilenet benchmark infer inference/ --images photos/",
    )
    infer.add_argument("package", help="the exported folder")
    infer.add_argument("--images", metavar="DIR", help="photos, to measure from file to name too")
    infer.add_argument("--threads", nargs="+", type=integer(1), default=[1, 2])
    infer.add_argument("--rounds", type=integer(1), default=30, help="timed calls of each backend")


def run(args: argparse.Namespace) -> Outcome:
    if args.kind == "infer":
        from ppmobilenet.benchmarks import inference as benchmark

        result = benchmark.benchmark(args.package, args.images, args.threads, args.rounds)
        return Outcome(result, benchmark.table(result))
    if args.kind == "data":
        from ppmobilenet.benchmarks.data import data_speed

        result = data_speed(args.images, args.rounds, args.workers)
        return Outcome(result, _ratios(result))
    from ppmobilenet.benchmarks.training import CANDIDATES, training_speed
    from ppmobilenet.errors import UserError, did_you_mean

    wanted = args.candidates or list(CANDIDATES)
    for name in wanted:
        if name not in CANDIDATES:
            raise UserError(f"unknown candidate {name!r}", where="--candidates", hint=did_you_mean(name, CANDIDATES))
    result = training_speed(
        models=args.models,
        batches=args.batches,
        threads=args.threads,
        candidates=wanted,
        size=args.size,
        rounds=args.rounds,
    )
    left_out = [f"{name} left out: {reason}" for name, reason in result["skipped"].items()]
    return Outcome(result, "\n".join([*left_out, _ratios(result)]))


def _ratios(result: Mapping) -> str:
    found = {key: value for key, value in result.items() if "_over_" in key}
    width = max(map(len, found), default=0)
    return "\n".join(f"{key:<{width}}  {value:.2f}" for key, value in found.items())
