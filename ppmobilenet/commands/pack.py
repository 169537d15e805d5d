"""``ppmobilenet pack``: a list of photos -> tar shards with an index."""

from __future__ import annotations

import argparse
from pathlib import Path

from ppmobilenet.commands._common import Outcome
from ppmobilenet.data.shards.existing import index_tars
from ppmobilenet.data.shards.pack import LEFT_OUT, Packed, pack
from ppmobilenet.data.shards.plan import Wanted
from ppmobilenet.errors import UserError
from ppmobilenet.machine import usable_cores
from ppmobilenet.telling import counted


def run(args: argparse.Namespace) -> Outcome:
    source, workers = Path(args.source), args.workers or usable_cores()
    if source.is_dir():
        if args.out:
            raise UserError(
                f"{source} is a folder, and a list is packed into OUT",
                hint=f"ppmobilenet split-dataset {source} writes lists of class folders; "
                f"ppmobilenet pack {source}, without OUT, indexes the tars in it",
            )
        return _told(index_tars(source, workers))
    if not args.out:
        raise UserError("where do the shards go?", hint=f"ppmobilenet pack {source} OUT")
    if args.delimiter == "":
        raise UserError("--delimiter is empty", allowed="one character or more; leave it out for a space or a tab")
    root = Path(args.root) if args.root else source.parent
    if not root.is_dir():
        raise UserError("is no folder", where=f"--root {root}")
    wanted = Wanted(
        source,
        root,
        shard_bytes=int(args.shard_mb * 1e6),
        seed=None if args.in_order else args.seed,
        delimiter=args.delimiter,
        labelled=not args.unlabelled,
    )
    return _told(pack(wanted, Path(args.out), workers))


def _told(done: Packed) -> Outcome:
    of = "" if done.classes is None else f" of {counted(done.classes, 'class')}"
    photos, shards = counted(done.photos, "photo"), counted(done.shards, "shard")
    lines = [f"{photos}{of} in {shards}, {done.bytes / 1e6:.1f} MB: {done.folder}"]
    if not done.made:
        lines.append("all of it was there already")
    lines += [f"left out: {line}" for line in done.faults]
    if done.bad:
        lines.append(
            f"left out, as they could not be used: {counted(done.bad, 'photo')}, see {Path(done.folder) / LEFT_OUT}"
        )
    return Outcome(done._asdict(), "\n".join(lines))
