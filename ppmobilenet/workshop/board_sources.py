"""The board program's sources, put into a package so that a board needs nothing but the package's folder."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from ppmobilenet.errors import UserError

SOURCES = Path(__file__).parents[1] / "field" / "board"


def check_board(to: Iterable[str]) -> None:
    """Refuse to put the board program beside forms that it cannot run.

    Raises:
        UserError: none of the forms is Paddle Lite's.
    """
    if not any(form.startswith("lite-") for form in to):
        raise UserError(
            f"the board program runs Paddle Lite's forms, and --to asks for {', '.join(to)}",
            where="--with-board",
            hint="add one, for example --to inference,lite-armv8",
        )


def copy_board(package: Path) -> None:
    """Copy the sources and their CMakeLists.txt into ``package/board``."""
    shutil.copytree(SOURCES, package / "board", ignore=lambda folder, names: [n for n in names if n == "build"])
