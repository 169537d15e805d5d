"""The digits of `make demo`: `python tools/make_digits.py ...` is `python -m ppmobilenet.data.digits ...`."""

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))

from ppmobilenet.data.digits import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
