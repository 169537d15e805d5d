"""Read, override, check, set sizes: the way from a file to a configuration."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ppmobilenet.config.check import check
from ppmobilenet.config.overrides import apply_overrides
from ppmobilenet.config.reading import read_yaml
from ppmobilenet.config.shipped import find_config
from ppmobilenet.config.sizes import settle_sizes
from ppmobilenet.config.tree import Config
from ppmobilenet.errors import UserError


def load_config(path: str | Path, overrides: Iterable[str] = ()) -> Config:
    """Load a PaddleClas-style YAML and check all of it.

    Args:
        path: the file; or the name of a shipped recipe, ``quick_start/MobileNetV2_finetune.yaml``.
        overrides: ``key=value`` texts as ``-o`` takes them; a key is dotted and may hold list indices, a value is a
            YAML literal: ``1e-5``, ``1.0/255.0``, ``[1, 5]``, ``True``, ``null``.

    Returns:
        The read-only configuration.

    Raises:
        UserError: anything that cannot be meant, with its place and the nearest known key.
    """
    overrides = tuple(overrides)
    given, path = path, find_config(path)
    document = read_yaml(path)
    if document.tree is None:
        raise UserError("the file is empty", where=path, hint="`ppmobilenet configs` lists recipes to start from")
    if not isinstance(document.tree, dict):
        raise UserError("the file is not a mapping of sections", where=path, allowed="Global:, Arch:, DataLoader:, ...")
    apply_overrides(document, overrides)
    notes = check(document)
    if path != Path(given):
        notes.insert(0, f"{given} is not here: the recipe of that name that comes with ppmobilenet is used")
    _old_class_num(document, notes)
    notes += settle_sizes(document)
    return Config(document.tree, document.marks, str(path), overrides, notes)


def _old_class_num(document, notes: list[str]) -> None:
    """PaddleClas's older files give the class count in Global."""
    tree = document.tree
    old = tree.get("Global", {}).get("class_num")
    arch = tree.get("Arch")
    if old is None or arch is None:
        return
    path = ("Global", "class_num")
    new = arch.setdefault("class_num", old)
    document.marks.setdefault(("Arch", "class_num"), document.where(path))
    if new != old:
        raise UserError(
            f"Global.class_num is {old}, Arch.class_num is {new}",
            where=f"{document.where(path)}, {document.where(('Arch', 'class_num'))}",
            hint="delete Global.class_num, PaddleClas's old place for it",
        )
