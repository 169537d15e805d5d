"""``ppmobilenet train``: train or fine-tune."""

from __future__ import annotations

import argparse

from ppmobilenet.commands._common import add_config_arguments, load_config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser)


def run(args: argparse.Namespace) -> None:
    from ppmobilenet.training.trainer import train

    train(load_config(args))
