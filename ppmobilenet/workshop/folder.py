"""A package's folder is replaced whole, in one step, or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ppmobilenet.errors import UserError
from ppmobilenet.field.package import read_json
from ppmobilenet.files import whole_folder

_OURS = ("package.json", "inference.yml", "golden", "int8")


def _refuse_foreign(target: Path) -> None:
    """A folder is replaced whole, so it may hold nothing that no export wrote."""
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise UserError(f"{target} is not a folder", hint="choose another with --output")
    if not target.is_dir():
        return
    known = set()
    if (target / "package.json").is_file():
        try:
            known = {entry["path"].split("/")[0] for entry in read_json(target / "package.json")["files"]}
        except (UserError, KeyError, TypeError):
            known = set()
    foreign = [
        p.name
        for p in sorted(target.iterdir())
        if p.name not in known and p.name not in _OURS and not p.name.startswith("inference") and p.suffix != ".nb"
    ]
    if foreign:
        raise UserError(
            f"{target} holds files that no export wrote ({', '.join(foreign[:3])}{', ...' if foreign[3:] else ''}); "
            "an export replaces its folder whole",
            hint="choose an empty or new folder (--output, or -o Global.save_inference_dir=...)",
        )


@contextmanager
def replacing(target: str | Path) -> Iterator[Path]:
    """Give a new folder to write into; when the block ends well it becomes ``target``, in one step.

    What stood at ``target`` (only an earlier export is accepted) stays untouched until then, and for good if the block
    fails.

    Raises:
        UserError: the target cannot be written or holds foreign files.
    """
    target = Path(os.path.abspath(os.path.expanduser(target)))
    _refuse_foreign(target)
    hint = "nothing was changed there; free space or rights are needed, or another folder (--output)"
    with whole_folder(target, hint=hint) as folder:
        yield folder
