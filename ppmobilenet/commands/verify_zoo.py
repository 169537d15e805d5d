"""``ppmobilenet verify-zoo``: download, load and evaluate every published weight file."""

from __future__ import annotations

import argparse

from ppmobilenet.commands._common import Outcome


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="*", metavar="NAME", help="rows of the catalogue, e.g. MobileNetV2_ssld; all")
    parser.add_argument("--imagenet", metavar="DIR", help="with val_list.txt: measure the accuracy, too")
    parser.add_argument("--device", default="cpu", help="to evaluate on (cpu)")
    parser.add_argument("--output", metavar="FILE", help="add the results to this file instead of the catalogue's")
    parser.add_argument("--list", action="store_true", help="only print the catalogue")


def run(args: argparse.Namespace) -> Outcome:
    from ppmobilenet.errors import EXIT_OK, EXIT_USER
    from ppmobilenet.weights import catalog

    if args.list:
        return Outcome(list(catalog.rows().values()), catalog.as_text())

    from ppmobilenet.paper.verify_zoo import verify_zoo

    failed = verify_zoo(args.names, args.imagenet, args.output or catalog.VERIFIED, args.device)
    return Outcome({"failed": failed}, exit_code=EXIT_USER if failed else EXIT_OK)
