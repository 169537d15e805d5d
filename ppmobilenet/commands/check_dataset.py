"""``ppmobilenet check-dataset``: everything that is wrong with lists and photos, before training finds it."""

from __future__ import annotations

import argparse

from ppmobilenet.commands._common import Outcome, add_config_arguments, integer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser, required=False)
    parser.add_argument(
        "--root",
        metavar="DIR",
        help="the photos' folder; without --list: one folder per class, or train/ and val/ with these",
    )
    parser.add_argument("--list", nargs="+", metavar="FILE", help="list files, the training list first")
    parser.add_argument("--class-num", type=integer(1), metavar="N", help="labels are 0 to N - 1")
    parser.add_argument("--delimiter", help="between path and label; default a space or a tab")
    parser.add_argument("--lists-only", action="store_true", help="do not open the photos")
    parser.add_argument(
        "--labels", action="store_true", help="look for wrong labels too, by what the photos look like (needs weights)"
    )
    parser.add_argument("--model", default="auto", metavar="NAME", help="for --labels: the network that looks")
    parser.add_argument("--weights", metavar="FILE", help="for --labels: its weights (default: the published ones)")
    parser.add_argument(
        "--fix",
        metavar="OUT",
        help="write the lists without bad and repeated lines, and without suspects of --labels, into this folder",
    )
    parser.add_argument("--strict", action="store_true", help="warnings count as errors")
    parser.add_argument("--html", metavar="FILE", help="write a page with the photos to look at")
    parser.add_argument("--workers", type=integer(1), metavar="N", help="threads that decode; default one a core")


def run(args: argparse.Namespace) -> Outcome:
    from ppmobilenet.data import doctor, doctor_text, findings
    from ppmobilenet.data.dataset import Listed
    from ppmobilenet.errors import EXIT_DATA, EXIT_OK, UserError

    if bool(args.config) == bool(args.root):
        raise UserError(
            "which data set?", hint="-c CONFIG, or --root DIR --list train_list.txt val_list.txt, or --root DIR"
        )
    if args.config and args.list:
        raise UserError("-c and --list", hint="the config names its lists; to see others: --root DIR --list FILE ...")
    if args.delimiter == "":
        raise UserError("--delimiter is empty", allowed="one character or more; leave it out for a space or a tab")
    if args.config:
        from ppmobilenet.config import load_config
        from ppmobilenet.data.before import questions
        from ppmobilenet.data.build import lists_of

        config = load_config(args.config, args.override)
        lists = lists_of(config.train, config.eval, delimiter=args.delimiter)
        asked = {"lists": lists, **questions(config.train, config.arch)}
    elif args.list:
        names = ["train", "validation", *(f"list{i}" for i in range(3, 100))]
        listed = [Listed(path, args.root, args.delimiter) for path in args.list]
        asked = {"lists": dict(zip(names, listed))}
    else:
        asked = {"lists": doctor.folders(args.root)}
    if args.class_num:
        asked["class_num"] = args.class_num
    diagnosis = doctor.examine(**asked, photos=not args.lists_only, workers=args.workers)
    troubles: list[UserError] = []  # what was found is shown all the same
    if args.labels:
        from ppmobilenet.fit.labels import doubt_labels
        from ppmobilenet.fit.network import candidates

        try:
            doubt_labels(diagnosis, asked["lists"], candidates(args.model, args.weights)[0])
        except UserError as error:
            troubles.append(error)
    lines = [doctor_text.text(diagnosis)]
    try:
        if args.html:
            doctor_text.write_page(diagnosis, args.html)
        if args.fix:
            lines += [f"written: {path}" for path in findings.write_fixed(diagnosis, args.fix)]
    except UserError as error:
        troubles.append(error)
    lines += [f"error: {error}" for error in troubles]
    failed = troubles[0].exit_code if troubles else 0
    bad = diagnosis.errors or (args.strict and diagnosis.warnings)
    return Outcome(doctor_text.to_dict(diagnosis), "\n".join(lines), failed or (EXIT_DATA if bad else EXIT_OK))
