"""``ppmobilenet cost``: what a network costs, layer by layer, and what its multipliers change."""

from __future__ import annotations

import argparse

from ppmobilenet import tables
from ppmobilenet.commands._common import Outcome
from ppmobilenet.errors import UserError
from ppmobilenet.paper import bottleneck, cost, cost_text
from ppmobilenet.zoo import create_model, list_models


def run(args: argparse.Namespace) -> Outcome:
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
