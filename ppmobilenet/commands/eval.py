"""``ppmobilenet eval``: accuracy of weights on a list of photos."""

from __future__ import annotations

import argparse

from ppmobilenet.commands._common import Outcome, add_config_arguments, load_config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser)
    parser.add_argument("--random-init", action="store_true", help="evaluate without trained weights")
    parser.add_argument("--no-report", action="store_true", help="write no report.html")


def run(args: argparse.Namespace) -> Outcome:
    from ppmobilenet.report.after import evaluate_and_report
    from ppmobilenet.training.evaluator import evaluate

    job = evaluate if args.no_report else evaluate_and_report
    return Outcome(job(load_config(args), random_init=args.random_init))
