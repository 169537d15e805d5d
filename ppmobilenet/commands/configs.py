"""``ppmobilenet configs``: list the shipped recipes, or copy some to change them."""

from __future__ import annotations

import argparse

from ppmobilenet.commands._common import Outcome
from ppmobilenet.config.shipped import copy_recipes, shipped_recipes, title


def run(args: argparse.Namespace) -> Outcome:
    if args.names:
        written = copy_recipes(args.names, args.output)
        return Outcome({"written": written}, "\n".join(f"wrote {path}" for path in written))
    recipes = {name: title(path) for name, path in shipped_recipes().items()}
    width = max(map(len, recipes))
    lines = [f"{name:<{width}}  {text}" for name, text in recipes.items()]
    lines += ["", "-c takes these names as they are; to change one: ppmobilenet configs NAME -o mine.yaml"]
    return Outcome({"recipes": recipes}, "\n".join(lines))
