"""``ppmobilenet convert-weights``: any published weight file to ours, or a look at what it holds."""

from __future__ import annotations

import argparse

from ppmobilenet.commands._common import Outcome


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SRC", help="a weight file of any kind and naming, or a folder of them")
    parser.add_argument("--inspect", action="store_true", help="only print what it holds")
    parser.add_argument(
        "--arch", metavar="NAME", help="the network, for example MobileNetV2_x0_5; default: what its shapes say"
    )
    parser.add_argument(
        "--arch-option",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="an argument of the network, e.g. --arch-option divisor=8; may be given many times",
    )
    parser.add_argument("-o", "--output", metavar="DST", help="ends in .pdparams, .npz or .safetensors")
    parser.add_argument("--to", default="paddle", choices=("paddle", "torchvision"), help="key names to write (paddle)")
    parser.add_argument("--scheme", metavar="NAME", help="read SRC by this naming scheme instead of recognising it")
    parser.add_argument(
        "--allow-missing", nargs="+", default=[], metavar="KEY", help="keys that SRC may lack, e.g. out.weight"
    )
    parser.add_argument(
        "--unfold-bn",
        metavar="PHOTOS",
        help="a folder of photos: recalibrate batch norms that were folded away, so that the file can be fine-tuned",
    )


def run(args: argparse.Namespace) -> Outcome:
    import json

    from ppmobilenet import telling
    from ppmobilenet.errors import UserError
    from ppmobilenet.weights.inspecting import inspect_weights

    if args.inspect:
        found = inspect_weights(args.source, args.scheme)
        return Outcome(found, str(found))
    if not args.output:
        raise UserError("where to write? -o is missing", hint="-o weights.pdparams, or --inspect to only look")

    from ppmobilenet.data.plain import batches_of
    from ppmobilenet.weights.convert import architecture_of, convert_weights
    from ppmobilenet.zoo import create_model

    arch = architecture_of(args.source, args.arch, args.arch_option, args.scheme)
    with telling.aloud():
        telling.log.info("network: Arch: %s", json.dumps(arch))
    model = create_model(**arch)
    batches = telling.bar(batches_of(args.unfold_bn), "photos") if args.unfold_bn else None
    done = convert_weights(
        model,
        args.source,
        args.output,
        to=args.to,
        scheme=args.scheme,
        allow_missing=args.allow_missing,
        calibration=batches,
    )
    return Outcome({"arch": arch, **vars(done)}, str(done))
