"""``ppmobilenet convert-weights``: any published weight file to ours, or a look at what it holds."""

from __future__ import annotations

import argparse
import json

from ppmobilenet import telling
from ppmobilenet.commands._common import Outcome
from ppmobilenet.errors import UserError
from ppmobilenet.weights.inspecting import inspect_weights


def run(args: argparse.Namespace) -> Outcome:
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
