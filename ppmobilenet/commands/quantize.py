"""``ppmobilenet quantize``: an int8 package, and what int8 costs in accuracy."""

from __future__ import annotations

import argparse

from ppmobilenet.commands._common import (
    Outcome,
    above_zero,
    add_certainty_arguments,
    add_config_arguments,
    certainty,
    integer,
    load_config,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser)
    parser.add_argument("--method", default="ptq", choices=("ptq", "qat"), help="after training, or by fine-tuning")
    parser.add_argument("--algorithm", default="hist", help="activation ranges: hist, KL, abs_max, mse")
    parser.add_argument("--photos", type=integer(1), default=64, help="photos to calibrate on (default: %(default)s)")
    parser.add_argument("--images", metavar="DIR", help="calibrate on this folder instead of the training list")
    parser.add_argument(
        "--keep-float",
        action="append",
        default=[],
        metavar="PATTERN",
        help="layers that stay float, by name or weight; gates: those of squeeze-excitation",
    )
    parser.add_argument("--max-layer-error", type=above_zero, help="layers with a larger relative error stay float")
    parser.add_argument("--epochs", type=integer(1), default=2, help="of quantization-aware fine-tuning")
    parser.add_argument("--lr", type=above_zero, default=1e-4, help="of quantization-aware fine-tuning")
    parser.add_argument("--to", default="pdmodel,onnx,lite-armv8", metavar="FORMS", help="as for export")
    parser.add_argument(
        "--with-board", action="store_true", help="put the board program's C++ sources into the package (board/)"
    )
    parser.add_argument("--output", metavar="DIR", help="the folder to write (default: Global.save_inference_dir)")
    parser.add_argument("--limit", type=integer(1), help="validation photos at most")
    add_certainty_arguments(parser)


def run(args: argparse.Namespace) -> Outcome:
    from ppmobilenet.workshop.export import quantize
    from ppmobilenet.workshop.int8_plan import Int8Settings

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
