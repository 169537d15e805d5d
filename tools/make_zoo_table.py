"""Write the model zoo table of README.md and README_ch.md anew, between their `zoo` marks, from the catalogue.

python tools/make_zoo_table.py [--check]
"""

import argparse
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))

from ppmobilenet.insight.zoo_table import update  # noqa: E402

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a file would change")
    root = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
    sys.exit(update(root, write=not parser.parse_args().check))
