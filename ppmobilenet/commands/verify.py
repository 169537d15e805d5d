"""``ppmobilenet verify``: does a package answer as it did when it was exported, and if not, from which stage on?"""

from __future__ import annotations

import argparse

from ppmobilenet.commands._common import Outcome
from ppmobilenet.errors import EXIT_NUMERICS, EXIT_OK, UserError
from ppmobilenet.field.package import open_package
from ppmobilenet.field.verify import verify


def run(args: argparse.Namespace) -> Outcome:
    if args.checkpoint and not args.config:
        raise UserError("--checkpoint needs the config it was trained with", hint="add -c CONFIG")
    package, model, ops = open_package(args.package, unaltered=False), None, None
    if args.config:
        from ppmobilenet.commands._config import load_config
        from ppmobilenet.workshop.from_config import evaluation_ops, trained_model

        args.override += [f"Global.pretrained_model={args.checkpoint}"] if args.checkpoint else []
        config = load_config(args)
        model, ops = trained_model(config, package), evaluation_ops(config)
    report = verify(package, args.images, model, ops, args.limit)
    return Outcome(report.to_dict(), report.table(), EXIT_OK if report.passed else EXIT_NUMERICS)
