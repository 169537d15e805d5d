"""``ppmobilenet export``: write the package for deployment and prove it."""

from __future__ import annotations

import argparse
import json

from ppmobilenet.commands._certainty import certainty
from ppmobilenet.commands._common import Outcome
from ppmobilenet.commands._config import load_config
from ppmobilenet.workshop.export import export


def run(args: argparse.Namespace) -> Outcome:
    folder = export(
        load_config(args),
        to=args.to,
        output=args.output,
        random_init=args.random_init,
        softmax_inside=args.softmax,
        embed_preprocess=args.embed_preprocess,
        int8=args.int8,
        with_board=args.with_board,
        certainty=certainty(args),
    )
    return Outcome({"package": folder, **json.loads((folder / "package.json").read_text(encoding="utf-8"))})
