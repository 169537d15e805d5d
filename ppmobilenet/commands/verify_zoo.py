"""``ppmobilenet verify-zoo``: download, load and evaluate every published weight file."""

from __future__ import annotations

import argparse

from ppmobilenet.commands._common import Outcome
from ppmobilenet.errors import EXIT_OK, EXIT_USER
from ppmobilenet.weights import catalog


def run(args: argparse.Namespace) -> Outcome:
    if args.list:
        return Outcome(list(catalog.rows().values()), catalog.as_text())

    from ppmobilenet.paper.verify_zoo import verify_zoo

    failed = verify_zoo(args.names, args.imagenet, args.output or catalog.VERIFIED, args.device)
    return Outcome({"failed": failed}, exit_code=EXIT_USER if failed else EXIT_OK)
