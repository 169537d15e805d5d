"""PaddleClas-style entry: `python tools/fit.py ...` is `ppmobilenet fit ...`."""

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))

from ppmobilenet.cli import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main(["fit", *sys.argv[1:]]))
