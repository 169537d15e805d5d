"""``ppmobilenet fit``: a folder of photos -> a trained network, its report and a proven package."""

from __future__ import annotations

import argparse
from pathlib import Path

from ppmobilenet.commands._common import Outcome, above_zero, integer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "photos", metavar="PHOTOS", help="one folder per class; or train/ and val/ with these; or lists"
    )
    parser.add_argument(
        "--to", default="inference", metavar="FORMS", help="forms of the package, as for export (default: %(default)s)"
    )
    parser.add_argument(
        "--model", default="auto", metavar="NAME", help="the network (default: the best that is at hand)"
    )
    parser.add_argument(
        "--minutes", type=above_zero, default=10.0, metavar="N", help="time that it may take (default: 10)"
    )
    parser.add_argument("--weights", metavar="FILE", help="weights to begin with (default: the published ones)")
    parser.add_argument("--output", metavar="DIR", help="where everything goes (default: output/NAME of the folder)")
    parser.add_argument("--seed", type=integer(0), default=0, metavar="N", help="of every random choice (default: 0)")
    parser.add_argument(
        "--from",
        dest="earlier",
        metavar="DIR",
        help="go on from an earlier fit: what was learned, the numbers of its classes, what was held out",
    )


def run(args: argparse.Namespace) -> Outcome:
    from ppmobilenet.errors import UserError
    from ppmobilenet.fit.card import card
    from ppmobilenet.fit.run import Request, fit

    photos = Path(args.photos).expanduser()
    if args.earlier and args.weights:
        raise UserError("--from and --weights", hint="--from brings the weights of the earlier fit")
    output = Path(args.output).expanduser() if args.output else Path("output") / photos.resolve().name
    earlier = Path(args.earlier).expanduser() if args.earlier else None
    request = Request(photos, output, args.to, args.model, args.minutes, args.weights, args.seed, earlier)
    result = fit(request)
    return Outcome(result, "\n".join(card(result)))
