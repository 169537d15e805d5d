"""The command line: ``ppmobilenet COMMAND ...``; in a checkout ``python tools/COMMAND.py ...`` is the same.

What a command takes stands in ``options.py``; what carries it out is a module in ``commands`` with ``run(args) ->
Outcome``, of which only the chosen one is imported, once its options are read: ``--help`` waits for nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import errno
import importlib
import json
import math
import os
import re
import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from ppmobilenet import __version__, console
from ppmobilenet.errors import EXIT_OK, EXIT_SIGINT, EXIT_USER, UserError, did_you_mean, missing_package, nearest

# command -> (module in ppmobilenet.commands, one line of help, one example); the order is that of the work
COMMANDS = {
    "fit": ("fit", "a folder of photos -> a trained network, its report and a proven package", "photos/"),
    "split-dataset": ("split_dataset", "class folders -> training and validation lists", "photos/ --val 0.2"),
    "check-dataset": (
        "check_dataset",
        "what is wrong with lists and photos: damage, duplicates, labels",
        "--root photos/ --list photos/train_list.txt photos/val_list.txt",
    ),
    "pack": (
        "pack",
        "a list of photos -> tar shards with an index, for sets that are too many files",
        "photos/train_list.txt shards/train --shard-mb 512",
    ),
    "configs": (
        "configs",
        "the shipped recipes: list them, copy one to change",
        "quick_start/MobileNetV2_finetune.yaml",
    ),
    "train": ("train", "train or fine-tune", "-c quick_start/MobileNetV2_finetune.yaml -o Arch.pretrained=True"),
    "eval": (
        "eval",
        "accuracy of weights on a list of photos",
        "-c output/RUN",
    ),
    "infer": ("infer", "names for photos, from weights or an exported model", "-i photo.jpg -m inference/"),
    "export": (
        "export_model",
        "write the model for deployment and prove it",
        "-c output/RUN",
    ),
    "choose": ("choose", "the networks that fit a budget", "--max-latency-ms 10 --max-size-mb 5"),
    "completion": ("completion", "let the shell complete commands and options", "bash >> ~/.bashrc"),
    "convert-weights": (
        "convert_weights",
        "look into a weight file of any kind, or convert it",
        "mobilenet_v2.pth -o MobileNetV2.pdparams",
    ),
    "verify-zoo": ("verify_zoo", "download, load and evaluate every published weight file", "--imagenet ILSVRC2012/"),
    "cost": ("cost", "parameters, multiply-adds and memory of a network", "MobileNetV2 --resolution 160"),
    "benchmark": (
        "benchmark",
        "how fast this machine trains, reads photos, or a package answers on it",
        "train --json speed.json",
    ),
    "report": ("report", "a run or a package as one page to look at", "output/"),
    "quantize": (
        "quantize",
        "an int8 package, and what it costs in accuracy",
        "-c CONFIG -o Global.pretrained_model=...",
    ),
    "serve": ("serve", "a package behind HTTP: a page for photos and a camera, and POST /predict", "inference/"),
    "verify": ("verify", "does a package still answer as its model did, and where not", "inference/ --images photos/"),
}


# how `--help` groups them; a command of no chapter stands under "more"
CHAPTERS = {
    "start here": ("fit",),
    "choose": ("choose", "cost"),
    "data": ("split-dataset", "check-dataset", "pack"),
    "train": ("configs", "convert-weights", "train", "eval", "report", "benchmark"),
    "deploy": ("export", "quantize", "verify", "infer", "serve"),
}


def _overview() -> str:
    width = max(map(len, COMMANDS))
    rest = [name for name in COMMANDS if not any(name in chapter for chapter in CHAPTERS.values())]
    lines = [
        "usage: ppmobilenet COMMAND [options]",
        "",
        "MobileNets for PaddlePaddle: from photos to an ARM board.",
    ]
    for chapter, names in {**CHAPTERS, "more": rest}.items():
        lines += ["", f"{chapter}:"]
        for name in filter(COMMANDS.__contains__, names):
            _, text, example = COMMANDS[name]
            lines.append(f"  {name:<{width}}  {text}")
            lines.append(f"  {'':<{width}}    ppmobilenet {name} {example}")
    lines += ["", "options:", "  -h, --help     this page; after a command: that command's options", "  --version"]
    return "\n".join(lines)


class Parser(argparse.ArgumentParser):
    """Says what is wrong with the words of a command as every other mistake is said."""

    def error(self, message: str) -> NoReturn:
        hint = f"{self.prog} --help lists the options"
        wrong = re.search(r"unrecognized arguments: (-\S+)", message)
        known = [option for each in parsers_of(self) for option in each._option_string_actions]
        match = nearest(wrong[1].partition("=")[0], known) if wrong else None
        raise UserError(message, hint=f"did you mean {match}?" if match else hint)


def parsers_of(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    """Return a command's parser and those of its kinds (``benchmark train``)."""
    kinds = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    return [parser, *(each for a in kinds for each in a.choices.values())]


def build_parser(command: str) -> argparse.ArgumentParser:
    """Return one command's parser."""
    from ppmobilenet import options  # the overview does not wait for it

    name, text, example = COMMANDS[command]
    parser = Parser(
        prog=f"ppmobilenet {command}",
        description=text,
        epilog=f"example: ppmobilenet {command} {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    getattr(options, name)(parser)
    for each in parsers_of(parser)[1:] or [parser]:
        each.add_argument(
            "--json", nargs="?", const="-", metavar="FILE", help="the result as JSON, on standard output or into FILE"
        )
        each.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def _quiet_paddle() -> None:
    """Keep Paddle's own start-up chatter (C++ log lines, a note on ccache) from between our lines."""
    os.environ.setdefault("GLOG_minloglevel", "2")
    warnings.filterwarnings("ignore", message="No ccache found")
    warnings.filterwarnings("ignore", message="When training, we now always track global mean")


def _carry_out(run: Callable[[argparse.Namespace], Any], args: argparse.Namespace) -> int:
    """Run a command and hand over its outcome: to people on standard output, or as JSON where that is asked for."""
    from ppmobilenet import files, telling  # --help does not wait for them

    # JSON has standard output for itself: what is said on the way goes where errors go
    with contextlib.redirect_stdout(sys.stderr) if args.json == "-" else contextlib.nullcontext(), telling.aloud(None):
        outcome = run(args)
    if args.json != "-" and outcome.text:
        print(outcome.text)
    if args.json and os.environ.get("PADDLE_TRAINER_ID", "0") == "0":  # of several processes the first one writes
        # Python's escapes (\U0001f600) are not JSON's: where the console has not every letter, JSON spells them itself
        own_escapes = args.json == "-" and not console.is_utf8(sys.stdout)
        text = json.dumps(_plain(outcome.data), indent=1, ensure_ascii=own_escapes) + "\n"
        if args.json == "-":
            print(text, end="")
        else:
            files.write_text(args.json, text, where="--json")
    return outcome.exit_code


def _plain(value):
    """Return a value as JSON has it: no NaN, no paths, no classes."""
    if dataclasses.is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if hasattr(value, "item"):  # NumPy's numbers
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code.

    0 done, 2 input, 3 data, 4 damaged file, 5 numerics, 6 lost process, 130/143 stopped.

    Args:
        argv: the words after the program's name; default ``sys.argv[1:]``.
    """
    console.open_door()
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help"):
        print(_overview())
        return EXIT_OK
    if argv[0] == "--version":
        print(f"ppmobilenet {__version__}")
        return EXIT_OK
    debug = "--debug" in argv
    if not debug:
        _quiet_paddle()
    try:
        if argv[0] not in COMMANDS:
            raise UserError(f"unknown command {argv[0]!r}", hint=did_you_mean(argv[0], COMMANDS))
        args = build_parser(argv[0]).parse_args(argv[1:])
        command = importlib.import_module(f"ppmobilenet.commands.{COMMANDS[argv[0]][0]}")
        code = _carry_out(command.run, args)
        sys.stdout.flush()  # what it cannot take is to be told here, not by the interpreter's end
        return code
    except UserError as error:
        if debug:
            raise
        print(f"{error.label}: {error}", file=sys.stderr)
        return error.exit_code
    except ModuleNotFoundError as error:
        named = missing_package(error)
        if debug or named is None:
            raise
        print(f"error: {named}", file=sys.stderr)
        return named.exit_code
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return EXIT_SIGINT
    except BrokenPipeError:
        # the reader of our output went away (`| head`): not an error, and nothing more can be written
        console.give_up(sys.stdout)
        return EXIT_OK
    except OSError as error:
        # a disk that is full, a right that is missing, a path that cannot be: for the user to mend, not for us
        if debug or (error.filename is None and error.errno != errno.ENOSPC):
            raise
        blocked = isinstance(error, (FileExistsError, NotADirectoryError))
        said = "is a file, and a folder is needed there" if blocked else error.strerror
        where = error.filename if error.filename is not None else "standard output, or a file that was being written"
        print(f"error: {UserError(said, where=where, hint='--debug shows what was done')}", file=sys.stderr)
        if error.filename is None:
            console.give_up(sys.stdout)
        return EXIT_USER


if __name__ == "__main__":
    sys.exit(main())
