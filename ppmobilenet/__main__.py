"""``python -m ppmobilenet`` is the command ``ppmobilenet``."""

import sys

from ppmobilenet.cli import main

if __name__ == "__main__":
    sys.exit(main())
