"""``ppmobilenet split-dataset``: one folder per class -> training and validation lists."""

from __future__ import annotations

import argparse

from ppmobilenet.commands._common import Outcome
from ppmobilenet.data.split import split_folder
from ppmobilenet.telling import counted


def run(args: argparse.Namespace) -> Outcome:
    made = split_folder(args.root, args.output or args.root, args.val, args.seed)
    sides = (made.train, made.train_list), (made.val, made.val_list), (made.test, made.test_list)
    lines = [*made.notes, *(f"{counted(photos, 'photo')} in {path}" for photos, path in sides if path)]
    lines.append(f"names in {made.label_list}")
    if made.grouped:
        lines.append(f"photos that look like another one and are on its side: {made.grouped}")
    lines += [f"left out: {line}" for line in made.left_out]
    lines.append(f"to train on them: -o Arch.class_num={len(made.classes)}")
    return Outcome(made._asdict(), "\n".join(lines))
