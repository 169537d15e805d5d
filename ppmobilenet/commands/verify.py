"""``ppmobilenet verify``: does a package answer as it did when it was exported, and if not, from which stage on?"""

from __future__ import annotations

import argparse

from ppmobilenet.commands._common import Outcome, integer, load_config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("package", help="the exported folder")
    parser.add_argument("--images", metavar="DIR", help="photos to run through every form, besides the golden one")
    parser.add_argument("-c", "--config", metavar="YAML", help="compare with the trained model of this config too")
    parser.add_argument(
        "-o", "--override", action="append", default=[], metavar="KEY=VALUE", help="replace one value of the config"
    )
    parser.add_argument("--checkpoint", metavar="FILE", help="its weights (default: Global.pretrained_model)")
    parser.add_argument("--limit", type=integer(1), default=64, help="photos at most (default: %(default)s)")


def run(args: argparse.Namespace) -> Outcome:
    from ppmobilenet.errors import EXIT_NUMERICS, EXIT_OK, UserError
    from ppmobilenet.field.package import open_package
    from ppmobilenet.field.verify import verify

    if args.checkpoint and not args.config:
        raise UserError("--checkpoint needs the config it was trained with", hint="add -c CONFIG")
    package, model, ops = open_package(args.package, unaltered=False), None, None
    if args.config:
        from ppmobilenet.workshop.from_config import evaluation_ops, trained_model

        args.override += [f"Global.pretrained_model={args.checkpoint}"] if args.checkpoint else []
        config = load_config(args)
        model, ops = trained_model(config, package), evaluation_ops(config)
    report = verify(package, args.images, model, ops, args.limit)
    return Outcome(report.to_dict(), report.table(), EXIT_OK if report.passed else EXIT_NUMERICS)
