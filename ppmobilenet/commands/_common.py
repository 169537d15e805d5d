"""Options that several commands share."""

from __future__ import annotations

import argparse


def add_config_arguments(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """Add PaddleClas's ``-c CONFIG`` and ``-o key=value``."""
    parser.add_argument("-c", "--config", required=required, metavar="YAML", help="the configuration file")
    parser.add_argument(
        "-o",
        "--override",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="replace one value of the configuration, e.g. -o Global.epochs=5; may be given many times",
    )
