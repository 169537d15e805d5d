"""``ppmobilenet train``: train or fine-tune."""

from __future__ import annotations

import argparse

from ppmobilenet.commands._common import Outcome, add_config_arguments, load_config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser)
    parser.add_argument(
        "--random-init", action="store_true", help="train without weights what keeps a part of them (Arch.freeze_norm)"
    )
    parser.add_argument("--no-report", action="store_true", help="write no report.html at the end")


def run(args: argparse.Namespace) -> Outcome:
    from ppmobilenet.report.after import train_and_report
    from ppmobilenet.training.trainer import train

    job = train if args.no_report else train_and_report
    return Outcome(job(load_config(args, go_on=True), random_init=args.random_init))
