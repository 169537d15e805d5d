"""``ppmobilenet fit``: a folder of photos -> a trained network, its report and a proven package."""

from __future__ import annotations

import argparse
from pathlib import Path

from ppmobilenet.commands._certainty import certainty
from ppmobilenet.commands._common import Outcome
from ppmobilenet.errors import UserError
from ppmobilenet.fit.card import card
from ppmobilenet.fit.run import Request, fit


def run(args: argparse.Namespace) -> Outcome:
    photos = Path(args.photos).expanduser()
    if args.earlier and args.weights:
        raise UserError("--from and --weights", hint="--from brings the weights of the earlier fit")
    output = Path(args.output).expanduser() if args.output else Path("output") / photos.resolve().name
    earlier = Path(args.earlier).expanduser() if args.earlier else None
    asked = (args.to, args.model, args.minutes, args.weights, args.seed, earlier, certainty(args))
    result = fit(Request(photos, output, *asked))
    return Outcome(result, "\n".join(card(result)))
