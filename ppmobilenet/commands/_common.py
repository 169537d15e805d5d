"""What the commands share: options, and the outcome that the command line hands over."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from ppmobilenet.config import Config
    from ppmobilenet.workshop.certainty import Certainty


class Outcome(NamedTuple):
    """What a command gives back.

    Attributes:
        data: for ``--json``: dictionaries, lists, texts, numbers, paths, dataclasses.
        text: for people; nothing where the command has said everything on the way.
        exit_code: of the process.
    """

    data: Any
    text: str = ""
    exit_code: int = 0


def add_config_arguments(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """Add PaddleClas's ``-c CONFIG`` and ``-o key=value``."""
    parser.add_argument(
        "-c",
        "--config",
        required=required,
        metavar="YAML|RUN",
        help="the configuration file, the name of a shipped recipe, or a run's folder: its config.yaml with its best "
        "weights",
    )
    parser.add_argument(
        "-o",
        "--override",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="replace one value of the configuration, e.g. -o Global.epochs=5; may be given many times",
    )


def add_certainty_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what asks for a package that knows how sure it is."""
    parser.add_argument(
        "--calibrate",
        action="store_true",
        help="measure a temperature on the validation photos, so that probabilities are as often right as they say",
    )
    parser.add_argument(
        "--unsure-at",
        type=float,
        metavar="RATE",
        help="calibrate, and answer `unsure` below a threshold that at most this share (0.05) of the wrongly answered "
        "validation photos passes, or of --none-of-these",
    )
    parser.add_argument("--none-of-these", metavar="DIR", help="photos that show none of the classes, for --unsure-at")


def certainty(args: argparse.Namespace) -> Certainty | None:
    """Return what :func:`add_certainty_arguments` asks for; None: nothing."""
    from ppmobilenet.workshop.certainty import Certainty

    if not args.calibrate and args.unsure_at is None and not args.none_of_these:
        return None
    return Certainty(args.unsure_at, args.none_of_these)


def load_config(args: argparse.Namespace, *, go_on: bool = False) -> Config:
    """Load what ``-c`` and ``-o`` say, and print the configuration's notes: keys that change nothing, odd sizes.

    Args:
        args: of :func:`add_config_arguments`.
        go_on: a run's folder means to go on with its training.
    """
    from ppmobilenet import telling
    from ppmobilenet.config import load_config

    config = load_config(args.config, args.override, go_on=go_on)
    for note in config.notes:
        telling.tell(f"note: {note}")
    return config


def integer(low: int, high: int | None = None) -> Callable[[str], int]:
    """Return a reader of whole numbers within the bounds, both included, for argparse's ``type``."""

    def read(text: str) -> int:
        with contextlib.suppress(ValueError):
            if low <= int(text) and (high is None or int(text) <= high):
                return int(text)
        bound = f"{low} and above" if high is None else f"{low} to {high}"
        raise argparse.ArgumentTypeError(f"{text!r}; allowed: a whole number, {bound}")

    return read


def above_zero(text: str) -> float:
    """Read a finite number above 0, for argparse's ``type``."""
    with contextlib.suppress(ValueError):
        if 0 < float(text) < float("inf"):
            return float(text)
    raise argparse.ArgumentTypeError(f"{text!r}; allowed: a number above 0")
