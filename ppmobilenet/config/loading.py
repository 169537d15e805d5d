"""Read, override, check, set sizes, follow the transforms: the way from a file to a configuration."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ppmobilenet.config.chains import check_chains
from ppmobilenet.config.check import check
from ppmobilenet.config.data_folder import settle_data, take_shards
from ppmobilenet.config.foreign import refuse_foreign, refuse_unserved, translate_names
from ppmobilenet.config.overrides import apply_overrides
from ppmobilenet.config.reading import Document, read_yaml
from ppmobilenet.config.rivals import STARTS, settle_rivals
from ppmobilenet.config.several import settle_several
from ppmobilenet.config.shipped import find_config
from ppmobilenet.config.sizes import settle_sizes
from ppmobilenet.config.teaching import settle_teaching
from ppmobilenet.config.tree import Config, is_effective
from ppmobilenet.errors import UserError
from ppmobilenet.registry import RUN_CONFIG

RUN_WEIGHTS = ("best_model", "latest")


def load_config(path: str | Path, overrides: Iterable[str] = (), *, go_on: bool = False) -> Config:
    """Load a PaddleClas-style YAML and check all of it.

    Args:
        path: the file; the name of a shipped recipe, ``quick_start/MobileNetV2_finetune.yaml``; or a run's folder,
            which means its ``config.yaml`` with its best weights (``Global.pretrained_model``) and itself as
            ``Global.output_dir``, where the overrides do not say otherwise.
        overrides: ``key=value`` texts as ``-o`` takes them; a key is dotted and may hold list indices, a value is a
            YAML literal: ``1e-5``, ``1.0/255.0``, ``[1, 5]``, ``True``, ``null``.
        go_on: a run's folder means to go on with its training instead (``Global.checkpoints: auto``).

    Returns:
        The read-only configuration.

    Raises:
        UserError: anything that cannot be meant, with its place and the nearest known key.
    """
    overrides, folder = tuple(overrides), Path(path)
    is_run = (folder / RUN_CONFIG).is_file() and (_saved(folder) or is_effective(folder / RUN_CONFIG))
    file = folder / RUN_CONFIG if is_run else find_config(path)
    document = read_yaml(file)
    if document.tree is None:
        raise UserError("the file is empty", where=path, hint="`ppmobilenet configs` lists recipes to start from")
    if not isinstance(document.tree, dict):
        raise UserError("the file is not a mapping of sections", where=path, allowed="Global:, Arch:, DataLoader:, ...")
    refuse_foreign(document, str(file))
    apply_overrides(document, overrides)
    refuse_unserved(document, str(path))
    if is_run:
        _take_run(document, folder, go_on)
    notes = settle_teaching(document)
    notes += translate_names(document)
    if not is_run and file != folder:
        notes.append(f"{path} is not here: the recipe of that name that comes with ppmobilenet is used")
    take_shards(document)
    notes += check(document)
    notes += settle_several(document)
    notes += settle_rivals(document, Path(file))
    settle_data(document)
    notes += settle_sizes(document)
    notes += check_chains(document)
    return Config(document.tree, document.marks, str(file), overrides, notes)


def _saved(folder: Path) -> list[str]:
    return [name for name in RUN_WEIGHTS if (folder / f"{name}.pdparams").is_file()]


def _take_run(document: Document, folder: Path, go_on: bool) -> None:
    """Put in what a run's folder means; what is typed comes first."""
    meant: dict[tuple, object] = {("Global", "output_dir"): str(folder)}
    if not any(document.get(path) and document.typed(path) for path in STARTS):
        if go_on:
            meant["Global", "checkpoints"] = "auto"
        else:
            meant["Global", "pretrained_model"] = str(folder / (_saved(folder) or RUN_WEIGHTS)[0])
    for path, value in meant.items():
        if not document.typed(path) and isinstance(document.tree.get("Global") or {}, dict):
            document.put(path, value, f"-c {folder}")
