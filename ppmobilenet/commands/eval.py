"""``ppmobilenet eval``: accuracy of weights on a list of photos."""

from __future__ import annotations

import argparse

from ppmobilenet.commands._common import Outcome
from ppmobilenet.commands._config import load_config
from ppmobilenet.report.after import evaluate_and_report
from ppmobilenet.training.evaluator import evaluate


def run(args: argparse.Namespace) -> Outcome:
    job = evaluate if args.no_report else evaluate_and_report
    return Outcome(job(load_config(args), random_init=args.random_init))
