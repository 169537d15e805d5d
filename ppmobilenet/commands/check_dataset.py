"""``ppmobilenet check-dataset``: everything that is wrong with lists and photos, before training finds it."""

from __future__ import annotations

import argparse

from ppmobilenet.commands._common import Outcome, add_config_arguments, counted


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser, required=False)
    parser.add_argument("--root", metavar="DIR", help="the photos' folder; without --list: one folder per class")
    parser.add_argument("--list", nargs="+", metavar="FILE", help="list files, the training list first")
    parser.add_argument("--class-num", type=int, metavar="N", help="labels are 0 to N - 1")
    parser.add_argument("--delimiter", help="between path and label; default a space or a tab")
    parser.add_argument("--lists-only", action="store_true", help="do not open the photos")
    parser.add_argument("--fix", metavar="OUT", help="write the lists without bad and repeated lines into this folder")
    parser.add_argument("--strict", action="store_true", help="warnings count as errors")
    parser.add_argument("--html", metavar="FILE", help="write a page with the photos to look at")
    parser.add_argument("--workers", type=int, metavar="N", help="threads that decode; default one a core")


def run(args: argparse.Namespace) -> Outcome:
    from ppmobilenet.data import doctor, doctor_text
    from ppmobilenet.errors import EXIT_DATA, EXIT_OK, UserError

    if bool(args.config) == bool(args.root):
        raise UserError(
            "which data set?", hint="-c CONFIG, or --root DIR --list train_list.txt val_list.txt, or --root DIR"
        )
    delimiter, class_num = args.delimiter, args.class_num
    if args.config:
        from ppmobilenet.config import load_config

        config = load_config(args.config, args.override)
        lists, roots, own = doctor.lists_of(config)
        delimiter, class_num = delimiter or own, class_num or config.get("Arch.class_num")
    else:
        names = ["train", "validation", *(f"list{i}" for i in range(3, 100))]
        lists, roots = dict(zip(names, args.list or [None])), args.root
    with counted("photos") as progress:
        diagnosis = doctor.examine(
            lists,
            roots,
            delimiter=delimiter,
            class_num=class_num,
            photos=not args.lists_only,
            workers=args.workers,
            progress=progress,
        )
    lines = [doctor_text.text(diagnosis)]
    if args.html:
        doctor_text.write_page(diagnosis, args.html)
    if args.fix:
        lines += [f"written: {path}" for path in doctor.write_fixed(diagnosis, args.fix)]
    bad = diagnosis.errors or (args.strict and diagnosis.warnings)
    return Outcome(doctor_text.to_dict(diagnosis), "\n".join(lines), EXIT_DATA if bad else EXIT_OK)
