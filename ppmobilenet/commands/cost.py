"""``ppmobilenet cost``: what a network costs, layer by layer, and what its multipliers change."""

from __future__ import annotations

import argparse

from ppmobilenet.commands._common import Outcome, integer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", nargs="?", help="one of `ppmobilenet cost --list`, for example MobileNetV2_x0_5")
    parser.add_argument("--list", action="store_true", help="list the models")
    parser.add_argument("--scale", type=float, help="width multiplier, of a model whose name fixes none")
    parser.add_argument("--class-num", type=integer(0), default=1000, metavar="N", help="classes (1000)")
    parser.add_argument(
        "--resolution", type=integer(32, 4096), default=224, metavar="PX", help="side of the image (224)"
    )
    parser.add_argument("--batch", type=integer(1), default=1, metavar="N", help="images at once, for memory (1)")
    parser.add_argument("--bits", type=int, default=32, choices=(8, 16, 32), help="of one value, for memory (32)")
    parser.add_argument(
        "--split",
        type=integer(1),
        default=1,
        metavar="T",
        help="compute each inverted residual in T slices (MobileNetV2 paper, section 5.1)",
    )
    parser.add_argument("--weights", metavar="FILE", help="load these, to count depthwise filters that are all zero")
    parser.add_argument("--sweep", action="store_true", help="all width multipliers at 128, 160, 192 and 224 px")
    parser.add_argument(
        "--linear-bottleneck", metavar="SVG", help="redraw the MobileNetV2 paper's Figure 1 into this file"
    )
    parser.add_argument("--plot", metavar="SVG", help="with --sweep: draw it into this file")
    parser.add_argument("--csv", metavar="FILE", help="write the layers (or the sweep) as CSV")


def run(args: argparse.Namespace) -> Outcome:
    from ppmobilenet import tables
    from ppmobilenet.errors import UserError
    from ppmobilenet.paper import bottleneck, cost, cost_text
    from ppmobilenet.zoo import create_model, list_models

    if args.list:
        return Outcome(list_models(), "\n".join(list_models()))
    if args.linear_bottleneck:
        path = bottleneck.draw_linear_bottleneck(args.linear_bottleneck)
        return Outcome({"figure": path}, str(path))
    if not args.model:
        raise UserError("which model?", hint="ppmobilenet cost MobileNetV2, or one of: " + ", ".join(list_models()))
    if args.sweep:
        rows = cost.sweep(args.model, [args.scale] if args.scale else (), class_num=args.class_num)
        csv_rows, data, text = rows, rows, cost_text.sweep_text(rows)
        if args.plot:
            cost_text.draw_sweep(rows, args.plot)
    else:
        given = {} if args.scale is None else {"scale": args.scale}
        model = create_model(args.model, pretrained=args.weights or False, class_num=args.class_num, **given)
        measured = cost.cost_of(model, args.resolution)
        data = {"model": args.model, **given, **measured.to_dict(args.split, args.batch, args.bits)}
        csv_rows, text = data["layers"], cost_text.cost_text(data, weights=args.weights)
    if args.csv:
        tables.write_csv(csv_rows, args.csv)
    return Outcome(data, text)
