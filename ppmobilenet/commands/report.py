"""``ppmobilenet report``: a run or a package as one page to look at."""

from __future__ import annotations

import argparse

from ppmobilenet.commands._common import Outcome
from ppmobilenet.report.gather import report_folder


def run(args: argparse.Namespace) -> Outcome:
    page = report_folder(args.source, args.output, timed=not args.untimed)
    return Outcome({"page": page, "figures": page.with_name("report.json")}, str(page))
