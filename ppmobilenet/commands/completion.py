"""``ppmobilenet completion``: a script that lets the shell complete commands and options."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=("bash", "zsh", "fish"), help="the shell; its script is printed")


def run(args: argparse.Namespace) -> None:
    from ppmobilenet.completion import script

    print(script(args.shell), end="")
