"""``ppmobilenet split-dataset``: one folder per class -> training and validation lists."""

from __future__ import annotations

import argparse

from ppmobilenet.commands._common import Outcome
from ppmobilenet.data.split import split_folder


def run(args: argparse.Namespace) -> Outcome:
    made = split_folder(args.root, args.output or args.root, args.val, args.seed)
    lines = [*made.notes, f"{made.train} photos in {made.train_list}", f"{made.val} photos in {made.val_list}"]
    if made.test_list:
        lines.append(f"{made.test} photos in {made.test_list}")
    lines.append(f"names in {made.label_list}")
    if made.grouped:
        lines.append(f"{made.grouped} photos look like another one: they are on its side")
    lines += [f"left out: {line}" for line in made.left_out]
    lines.append(f"to train on them: -o Arch.class_num={len(made.classes)}")
    return Outcome(made._asdict(), "\n".join(lines))
