"""The configuration that a command is given."""

from __future__ import annotations

import argparse

from ppmobilenet import telling
from ppmobilenet.config import Config
from ppmobilenet.config import load_config as config_of


def load_config(args: argparse.Namespace, *, go_on: bool = False) -> Config:
    """Load what ``-c`` and ``-o`` say, and print the configuration's notes: keys that change nothing, odd sizes.

    Args:
        args: with ``config`` and ``override``.
        go_on: a run's folder means to go on with its training.
    """
    config = config_of(args.config, args.override, go_on=go_on)
    for note in config.notes:
        telling.tell(f"note: {note}")
    return config
