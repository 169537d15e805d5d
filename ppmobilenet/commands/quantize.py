"""``ppmobilenet quantize``: an int8 package, and what int8 costs in accuracy."""

from __future__ import annotations

import argparse

from ppmobilenet.commands._certainty import certainty
from ppmobilenet.commands._common import Outcome
from ppmobilenet.commands._config import load_config
from ppmobilenet.workshop.export import quantize
from ppmobilenet.workshop.int8_plan import Int8Settings


def run(args: argparse.Namespace) -> Outcome:
    settings = Int8Settings(
        method=args.method,
        algorithm=args.algorithm,
        photos=args.photos,
        images=args.images,
        keep_float=args.keep_float,
        max_layer_error=args.max_layer_error,
        epochs=args.epochs,
        learning_rate=args.lr,
    )
    report = quantize(
        load_config(args), settings, args.output, args.to, args.limit, args.with_board, certainty=certainty(args)
    )
    return Outcome(report.to_dict(), report.table())
