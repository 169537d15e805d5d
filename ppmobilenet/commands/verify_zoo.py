"""``ppmobilenet verify-zoo``: download, load and evaluate every published weight file."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="*", metavar="NAME", help="rows of the catalogue, e.g. MobileNetV2_ssld; all")
    parser.add_argument("--imagenet", metavar="DIR", help="with val_list.txt: measure the accuracy, too")
    parser.add_argument("--device", default="cpu", help="to evaluate on (cpu)")
    parser.add_argument("--output", metavar="FILE", help="add the results to this file instead of the catalogue's")
    parser.add_argument("--list", action="store_true", help="only print the catalogue")


def run(args: argparse.Namespace) -> int:
    from ppmobilenet.errors import EXIT_OK, EXIT_USER
    from ppmobilenet.weights import catalog

    if args.list:
        print(catalog.as_text())
        return EXIT_OK

    from ppmobilenet.insight.verify_zoo import verify_zoo

    failed = verify_zoo(args.names, args.imagenet, args.output or catalog.VERIFIED, args.device)
    return EXIT_USER if failed else EXIT_OK
