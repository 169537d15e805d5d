"""``ppmobilenet export``: write the package for deployment and prove it."""

from __future__ import annotations

import argparse

from ppmobilenet.commands._common import Outcome, add_certainty_arguments, add_config_arguments, certainty, load_config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser)
    parser.add_argument(
        "--to",
        default="inference,pdmodel",
        metavar="FORMS",
        help="comma list of inference, pdmodel, onnx, lite-armv8, lite-armv7, lite-x86, lite-armv8-fp16, or all "
        "(default: %(default)s)",
    )
    parser.add_argument("--output", metavar="DIR", help="the folder to write (default: Global.save_inference_dir)")
    parser.add_argument(
        "--softmax",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="give probabilities or logits (default: Arch.infer_add_softmax, and that is true)",
    )
    parser.add_argument(
        "--embed-preprocess",
        choices=("NCHW", "NHWC"),
        help="compute the normalisation inside the graph; its input is then uint8 pixels in this layout",
    )
    parser.add_argument("--int8", action="store_true", help="write the int8 twins of the forms too (see quantize)")
    parser.add_argument(
        "--with-board", action="store_true", help="put the board program's C++ sources into the package (board/)"
    )
    add_certainty_arguments(parser)
    parser.add_argument("--random-init", action="store_true", help="export without trained weights")


def run(args: argparse.Namespace) -> Outcome:
    import json

    from ppmobilenet.workshop.export import export

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
