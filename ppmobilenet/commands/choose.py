"""``ppmobilenet choose``: the networks that fit a budget."""

from __future__ import annotations

import argparse

from ppmobilenet.commands._common import Outcome, above_zero


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--max-latency-ms", type=above_zero, metavar="MS", help="measured with --measure, else published"
    )
    parser.add_argument("--max-size-mb", type=above_zero, metavar="MB", help="of the weights, million bytes")
    parser.add_argument("--max-madds", type=above_zero, metavar="M", help="million multiply-adds")
    parser.add_argument("--min-top1", type=above_zero, metavar="PERCENT", help="published ImageNet accuracy")
    parser.add_argument("--device", default="Snapdragon 855 armv8", help="of the published latency; `list` lists them")
    parser.add_argument("--threads", type=int, default=1, choices=(1, 2, 4), help="of the latency (1)")
    parser.add_argument("--measure", action="store_true", help="export each fp32 network and time it on this machine")
    parser.add_argument("--by", choices=("madds", "size", "latency"), help="what the Pareto front weighs accuracy with")
    parser.add_argument("--plot", metavar="SVG", help="draw accuracy against it into this file")
    parser.add_argument("--csv", metavar="FILE", help="write the list as CSV")


def run(args: argparse.Namespace) -> Outcome:
    from ppmobilenet import tables
    from ppmobilenet.errors import UserError
    from ppmobilenet.paper import choose, published

    if args.device == "list":
        return Outcome(list(published.devices()), "\n".join(published.devices()))
    budget = {"max_size_mb": args.max_size_mb, "max_madds_m": args.max_madds, "min_top1": args.min_top1}
    by = args.by or ("latency" if args.max_latency_ms is not None else "madds")
    found = choose.candidates(args.device, args.threads)
    if args.measure:
        within = choose.choose(found, **budget)
        from ppmobilenet.benchmarks.networks import timed_here

        found = timed_here(within, args.threads)
    chosen = choose.choose(found, max_latency_ms=args.max_latency_ms, by=by, **budget)
    if not chosen:
        raise UserError(
            "no published network is within this budget",
            hint="loosen it, or --measure: latencies are published for few boards and mostly at 224 pixels",
        )
    rows = choose.to_rows(chosen)
    if args.csv:
        tables.write_csv(rows, args.csv)
    if args.plot:
        choose.draw(chosen, args.plot, by)
    return Outcome(rows, choose.choice_text(chosen, args.device, args.threads))
