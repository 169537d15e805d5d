"""``ppmobilenet report``: a run or a package as one page to look at."""

from __future__ import annotations

import argparse

from ppmobilenet.commands._common import Outcome


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="RUN_OR_PACKAGE", help="a run's Global.output_dir, or an exported package")
    parser.add_argument("-o", "--output", metavar="DIR", help="where report.html and its figures go")
    parser.add_argument("--untimed", action="store_true", help="do not measure a package's latency here")


def run(args: argparse.Namespace) -> Outcome:
    from ppmobilenet.report.gather import report_folder

    page = report_folder(args.source, args.output, timed=not args.untimed)
    return Outcome({"page": page, "figures": page.with_name("report.json")}, str(page))
