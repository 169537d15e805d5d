"""Write the handwritten digits that ship inside scikit-learn as a small real data set: PNG files and list files.

1797 digits, 8x8 grey, written by 43 people (UCI ML repository, "Optical Recognition of Handwritten Digits", the
test part). 80 % go to train_list.txt, 20 % to val_list.txt, the same ones on every machine.

    python -m ppmobilenet.data.digits demo/digits
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import cv2
import numpy as np

from ppmobilenet import telling
from ppmobilenet.errors import EXIT_OK, EXIT_USER, missing_package

SIZE = 64  # the 8x8 originals are hard to look at


def write_digits(folder: Path) -> tuple[int, int]:
    """Write the data set into ``folder`` and return how many digits are in the training and the held-out part."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    parts = train_test_split(np.arange(len(digits.target)), test_size=0.2, random_state=0, stratify=digits.target)
    for name, members in zip(("train", "val"), parts):
        (folder / name).mkdir(parents=True, exist_ok=True)
        lines = []
        for i in sorted(members):
            grey = np.clip(digits.images[i] * (255 / 16), 0, 255).astype(np.uint8)
            file = f"{name}/{i:04d}.png"
            cv2.imwrite(str(folder / file), cv2.resize(grey, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC))
            lines.append(f"{file} {digits.target[i]}\n")
        (folder / f"{name}_list.txt").write_text("".join(lines), encoding="utf-8")
    (folder / "label_list.txt").write_text("".join(f"{d} {d}\n" for d in range(10)), encoding="utf-8")
    return len(parts[0]), len(parts[1])


def main() -> int:
    """Write the digits where the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", default="demo/digits", type=Path, help="where to write (demo/digits)")
    target = parser.parse_args().folder
    try:
        train, held_out = write_digits(target)
    except ModuleNotFoundError as error:
        named = missing_package(error)
        if named is None:
            raise
        telling.tell(f"error: {named}")
        return EXIT_USER
    with telling.aloud():
        telling.log.info("%d training digits and %d held-out digits in %s", train, held_out, target)
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
