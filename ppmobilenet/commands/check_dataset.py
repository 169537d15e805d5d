"""``ppmobilenet check-dataset``: everything that is wrong with lists and photos, before training finds it."""

from __future__ import annotations

import argparse

from ppmobilenet.commands._common import Outcome
from ppmobilenet.config import load_config
from ppmobilenet.data import doctor, doctor_text, findings
from ppmobilenet.data.before import questions
from ppmobilenet.data.build import lists_of
from ppmobilenet.data.dataset import Listed
from ppmobilenet.data.lists import is_of_several
from ppmobilenet.errors import EXIT_DATA, EXIT_OK, UserError


def run(args: argparse.Namespace) -> Outcome:
    if bool(args.config) == bool(args.root):
        raise UserError(
            "which data set?", hint="-c CONFIG, or --root DIR --list train_list.txt val_list.txt, or --root DIR"
        )
    if args.config and args.list:
        raise UserError("-c and --list", hint="the config names its lists; to see others: --root DIR --list FILE ...")
    if args.delimiter == "":
        raise UserError("--delimiter is empty", allowed="one character or more; leave it out for a space or a tab")
    if args.config:
        config = load_config(args.config, args.override)
        lists = lists_of(config.train, config.eval, delimiter=args.delimiter)
        asked = {"lists": lists, **questions(config.train, config.arch)}
    elif args.list:
        names = ["train", "validation", *(f"list{i}" for i in range(3, 100))]
        listed = [
            Listed(path, args.root, args.delimiter, several=not args.delimiter and is_of_several(path))
            for path in args.list
        ]
        asked = {"lists": dict(zip(names, listed))}
    else:
        asked = {"lists": doctor.folders(args.root)}
    if args.class_num:
        asked["class_num"] = args.class_num
    diagnosis = doctor.examine(**asked, photos=not args.lists_only, workers=args.workers)
    troubles: list[UserError] = []  # what was found is shown all the same
    looked: list[str] = []
    if args.labels:
        from ppmobilenet.fit.labels import KIND, doubt_labels
        from ppmobilenet.fit.network import candidates

        try:
            doubt_labels(diagnosis, asked["lists"], candidates(args.model, args.weights))
            looked = [] if diagnosis.counts.get(KIND) else ["labels: none looks wrong"]
        except UserError as error:
            troubles.append(error)
    lines = [doctor_text.text(diagnosis), *looked]
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
