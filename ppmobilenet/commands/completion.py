"""``ppmobilenet completion``: a script that lets the shell complete commands and options."""

from __future__ import annotations

import argparse

from ppmobilenet.commands._common import Outcome


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=("bash", "zsh", "fish"), help="the shell; its script is printed")


def run(args: argparse.Namespace) -> Outcome:
    from ppmobilenet.completion import script

    text = script(args.shell)
    return Outcome({args.shell: text}, text.rstrip("\n"))
