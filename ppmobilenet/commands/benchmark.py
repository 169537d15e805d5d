"""``ppmobilenet benchmark train|data|infer``: how fast this machine trains, reads or answers, compared in one run."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="WHAT")
    train = kinds.add_parser("train", help="images/s of a full training step: stock, accelerated, PyTorch")
    train.add_argument("--models", nargs="+", default=["v2", "v1"], choices=("v1", "v2"), help="scale 1.0 of each")
    train.add_argument("--batches", nargs="+", type=int, default=[8, 32], help="images a step")
    train.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    train.add_argument(
        "--candidates", nargs="+", help="some of: stock accelerated frozen_cached two_processes torch; all by default"
    )
    train.add_argument("--size", type=int, default=224, help="height and width of the images")
    train.add_argument("--rounds", type=int, default=5, help="turns of each candidate")
    train.add_argument("--json", help="write the result to this file")
    data = kinds.add_parser("data", help="photos/s of the input pipelines against a plain loop")
    data.add_argument("--images", metavar="DIR", help="make the photos from these; default drawn ones")
    data.add_argument("--workers", type=int, default=2, help="worker processes to compare with one")
    data.add_argument("--rounds", type=int, default=7, help="turns of each pipeline")
    data.add_argument("--json", help="write the result to this file")
    infer = kinds.add_parser("infer", help="latency and photos/s of every backend for a package")
    infer.add_argument("package", help="the exported folder")
    infer.add_argument("--images", metavar="DIR", help="photos, to measure from file to name too")
    infer.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    infer.add_argument("--rounds", type=int, default=30, help="timed calls of each backend")
    infer.add_argument("--json", help="write the result to this file")


def run(args: argparse.Namespace) -> None:
    if args.kind == "infer":
        from ppmobilenet.deploy import benchmark

        result = benchmark.benchmark(args.package, args.images, args.threads, args.rounds)
        print(benchmark.table(result))
        if args.json:
            benchmark.save(result, args.json)
        return
    if args.kind == "data":
        from ppmobilenet.insight import data_speed

        result = data_speed.measure(args.images, args.rounds, args.workers)
        print("".join(f"{key:<30}{value:.2f}\n" for key, value in result.items() if "_over_" in key), end="")
        if args.json:
            data_speed.save(result, args.json)
        return
    from ppmobilenet.errors import UserError, did_you_mean
    from ppmobilenet.insight import training_speed

    wanted = args.candidates or list(training_speed.CANDIDATES)
    for name in wanted:
        if name not in training_speed.CANDIDATES:
            raise UserError(
                f"unknown candidate {name!r}", where="--candidates", hint=did_you_mean(name, training_speed.CANDIDATES)
            )
    result = training_speed.measure(
        models=args.models,
        batches=args.batches,
        threads=args.threads,
        candidates=wanted,
        size=args.size,
        rounds=args.rounds,
    )
    for name, reason in result["skipped"].items():
        print(f"{name} left out: {reason}")
    for key, value in result.items():
        if "_over_" in key:
            print(f"{key:<55}{value:.2f}")
    if args.json:
        training_speed.save(result, args.json)
