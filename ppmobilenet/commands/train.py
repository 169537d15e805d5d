"""``ppmobilenet train``: train or fine-tune."""

from __future__ import annotations

import argparse

from ppmobilenet.commands._common import Outcome
from ppmobilenet.commands._config import load_config
from ppmobilenet.report.after import train_and_report
from ppmobilenet.training.trainer import train


def run(args: argparse.Namespace) -> Outcome:
    job = train if args.no_report else train_and_report
    return Outcome(job(load_config(args, go_on=True), random_init=args.random_init))
