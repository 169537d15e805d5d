"""``ppmobilenet choose``: the networks that fit a budget."""

from __future__ import annotations

import argparse

from ppmobilenet import tables
from ppmobilenet.benchmarks.networks import timed_here
from ppmobilenet.commands._common import Outcome
from ppmobilenet.errors import UserError
from ppmobilenet.paper import choose, published


def run(args: argparse.Namespace) -> Outcome:
    if args.device == "list":
        return Outcome(list(published.devices()), "\n".join(published.devices()))
    budget = {"max_size_mb": args.max_size_mb, "max_madds_m": args.max_madds, "min_top1": args.min_top1}
    by = args.by or ("latency" if args.max_latency_ms is not None else "madds")
    found = choose.candidates(args.device, args.threads)
    if args.measure:
        within = choose.choose(found, **budget)
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
