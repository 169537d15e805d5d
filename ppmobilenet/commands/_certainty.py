"""Whether a package is to know how sure it is."""

from __future__ import annotations

import argparse

from ppmobilenet.workshop.certainty import Certainty


def certainty(args: argparse.Namespace) -> Certainty | None:
    """Return what ``options.py`` lets people ask for; None: nothing."""
    if not args.calibrate and args.unsure_at is None and not args.none_of_these:
        return None
    return Certainty(args.unsure_at, args.none_of_these)
