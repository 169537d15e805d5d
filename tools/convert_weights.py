"""PaddleClas-style entry: `python tools/convert_weights.py ...` is `ppmobilenet convert-weights ...`."""

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))

from ppmobilenet.cli import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main(["convert-weights", *sys.argv[1:]]))
