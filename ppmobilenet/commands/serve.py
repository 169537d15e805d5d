"""``ppmobilenet serve``: a package behind HTTP, with a page for photos and a camera."""

from __future__ import annotations

import argparse

from ppmobilenet.commands._common import Outcome, above_zero, integer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("package", help="the exported folder")
    parser.add_argument(
        "--host", default="127.0.0.1", help="where to listen (default: %(default)s, this machine alone; all: 0.0.0.0)"
    )
    parser.add_argument("--port", type=integer(0, 65535), default=8000, help="0: a free one (default: %(default)s)")
    parser.add_argument("--certificate", metavar="PEM", help="for https, which a phone's live camera needs")
    parser.add_argument("--key", metavar="PEM", help="of the certificate")
    parser.add_argument("--workers", type=integer(1), default=1, help="processes (default: %(default)s)")
    parser.add_argument("--max-mb", type=above_zero, default=20.0, help="of a photo (default: %(default)s)")
    parser.add_argument(
        "--max-megapixels", type=above_zero, default=50.0, help="of a photo, by its header (default: %(default)s)"
    )
    parser.add_argument(
        "--timeout", type=above_zero, default=10.0, metavar="SECONDS", help="for a request (default: %(default)s)"
    )
    parser.add_argument("--at-once", type=integer(1), help="photos in work at the same time (default: one a processor)")
    parser.add_argument(
        "--waiting",
        type=integer(0),
        default=64,
        help="photos in line beside; more get 503 (default: %(default)s)",
    )
    parser.add_argument("--topk", type=integer(1), help="answers a photo (default: the package's)")
    parser.add_argument("--backend", default="auto", help="auto, openvino, paddle, onnxruntime or lite")
    parser.add_argument("--threads", type=integer(1), help="threads of the engines (default: all)")
    parser.add_argument("--precision", default="fp32", choices=("fp32", "int8"), help="(default: %(default)s)")


def run(args: argparse.Namespace) -> Outcome:
    from ppmobilenet.field.serving.limits import Limits
    from ppmobilenet.field.serving.run import Address, serve
    from ppmobilenet.machine import usable_cores

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
