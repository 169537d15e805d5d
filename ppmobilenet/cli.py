"""The command line: ``ppmobilenet COMMAND ...``, and ``tools/COMMAND.py ...``, which is the same.

Each command is a module in ``ppmobilenet/commands`` with ``add_arguments(parser)`` and ``run(args) -> int | None``.
Only the chosen one is imported, so ``--help`` is quick.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import warnings

from ppmobilenet import __version__
from ppmobilenet.errors import EXIT_OK, EXIT_SIGINT, UserError, did_you_mean, missing_package

# command -> (module in ppmobilenet.commands, one line of help, one example); the order is that of the work
COMMANDS = {
    "split-dataset": ("split_dataset", "class folders -> training and validation lists", "photos/ --val 0.2"),
    "check-dataset": (
        "check_dataset",
        "what is wrong with lists and photos: damage, duplicates, labels",
        "--root photos/ --list photos/train_list.txt photos/val_list.txt",
    ),
    "train": ("train", "train or fine-tune", "-c configs/quick_start/MobileNetV2_finetune.yaml"),
    "eval": (
        "eval",
        "accuracy of weights on a list of photos",
        "-c CONFIG -o Global.pretrained_model=output/best_model",
    ),
    "infer": ("infer", "names for photos, from weights or an exported model", "-i photo.jpg -m inference/"),
    "export": (
        "export_model",
        "write the model for deployment and prove it",
        "-c CONFIG -o Global.pretrained_model=...",
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
    "verify": ("verify", "does a package still answer as its model did, and where not", "inference/ --images photos/"),
}


# how `--help` groups them; a command of no chapter stands under "more"
CHAPTERS = {
    "choose": ("choose", "cost"),
    "data": ("split-dataset", "check-dataset"),
    "train": ("convert-weights", "train", "eval", "report", "benchmark"),
    "deploy": ("export", "quantize", "verify", "infer"),
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


def build_parser(command: str) -> tuple[argparse.ArgumentParser, object]:
    """Return one command's parser and its module."""
    module_name, text, example = COMMANDS[command]
    module = importlib.import_module(f"ppmobilenet.commands.{module_name}")
    parser = argparse.ArgumentParser(
        prog=f"ppmobilenet {command}",
        description=text,
        epilog=f"example: ppmobilenet {command} {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_arguments(parser)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser, module


def _quiet_paddle() -> None:
    """Keep Paddle's own start-up chatter (C++ log lines, a note on ccache) from between our lines."""
    os.environ.setdefault("GLOG_minloglevel", "2")
    warnings.filterwarnings("ignore", message="No ccache found")
    warnings.filterwarnings("ignore", message="When training, we now always track global mean")


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code (0 done, 2 input, 3 data, 4 damaged file, 5 numerics, 130/143 stopped).

    Args:
        argv: the words after the program's name; default ``sys.argv[1:]``.
    """
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
        parser, module = build_parser(argv[0])
        return module.run(parser.parse_args(argv[1:])) or EXIT_OK
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
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
