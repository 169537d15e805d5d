"""``ppmobilenet serve``: a package behind HTTP, with a page for photos and a camera."""

from __future__ import annotations

import argparse

from ppmobilenet.commands._common import Outcome
from ppmobilenet.field.serving.limits import Limits
from ppmobilenet.field.serving.run import Address, serve
from ppmobilenet.machine import usable_cores


def run(args: argparse.Namespace) -> Outcome:
    limits = Limits(
        max_bytes=int(args.max_mb * 1e6),
        max_pixels=int(args.max_megapixels * 1e6),
        seconds=args.timeout,
        at_once=args.at_once or usable_cores(),
        waiting=args.waiting,
    )
    names = ("package", "backend", "threads", "precision", "topk")
    predictor = {name: getattr(args, name) for name in names}
    serve(predictor, limits, Address(args.host, args.port, args.certificate, args.key), args.workers)
    return Outcome(None)
