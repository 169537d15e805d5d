"""``ppmobilenet benchmark train|data|infer``: how fast this machine trains, reads or answers, compared in one run."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from ppmobilenet.commands._common import Outcome
from ppmobilenet.errors import UserError, did_you_mean


def run(args: argparse.Namespace) -> Outcome:
    if args.kind == "infer":
        from ppmobilenet.benchmarks import inference as benchmark

        result = benchmark.benchmark(args.package, args.images, args.threads, args.rounds)
        return Outcome(result, benchmark.table(result))
    if args.kind == "data":
        if args.indexed and not args.shards:
            raise UserError("--indexed is of --shards", hint="ppmobilenet benchmark data --shards --indexed N")
        if args.shards:
            from ppmobilenet.benchmarks.shards import shards_speed

            result = shards_speed(args.images, args.rounds, args.workers, args.indexed)
            return Outcome(result, _ratios(result))
        from ppmobilenet.benchmarks.data import data_speed

        result = data_speed(args.images, args.rounds, args.workers)
        return Outcome(result, _ratios(result))
    from ppmobilenet.benchmarks.training import CANDIDATES, training_speed

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
