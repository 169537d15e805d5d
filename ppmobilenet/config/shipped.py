"""The recipes that come with the package: ``configs/`` beside it in a checkout, inside it in a wheel."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path, PurePath

from ppmobilenet import files
from ppmobilenet.errors import UserError, did_you_mean

_PACKAGE = Path(__file__).parents[1]


def shipped_folder() -> Path:
    """Return the folder of the shipped recipes: setup.py maps the checkout's ``configs`` into the wheel's package."""
    inside = _PACKAGE / "configs"
    return inside if inside.is_dir() else _PACKAGE.parent / "configs"


def shipped_recipes() -> dict[str, Path]:
    """Return every shipped recipe: ``quick_start/MobileNetV2_finetune.yaml`` -> its file."""
    folder = shipped_folder()
    return {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*.yaml"))}


def find_config(path: str | Path) -> Path:
    """Return the file that ``-c`` means: the one at ``path``, else the shipped recipe of that name.

    ``quick_start/X.yaml`` and, as in a checkout, ``configs/quick_start/X.yaml`` name a shipped one. What is neither
    is returned as it came, for the reader to say.
    """
    path = Path(path)
    if path.exists() or path.is_absolute():
        return path
    return shipped_recipes().get(_name(path), path)


def _name(path: str | Path) -> str:
    parts = PurePath(path).parts
    return PurePath(*(parts[1:] if parts[:1] == ("configs",) else parts)).as_posix()


def title(path: Path) -> str:
    """Return what a recipe's first line says of it."""
    with path.open(encoding="utf-8") as file:
        return file.readline().lstrip("# ").strip()


def copy_recipes(names: Iterable[str], output: str | Path) -> list[Path]:
    """Copy shipped recipes; a file that is there already is never replaced.

    Args:
        names: as :func:`shipped_recipes` has them.
        output: a folder, made where it is missing; for a single recipe also the ``.yaml`` file to write.

    Returns:
        The files written.

    Raises:
        UserError: an unknown name, or a file that cannot be written; nothing is copied then.
    """
    recipes, output = shipped_recipes(), Path(output).expanduser()
    names = list(dict.fromkeys(map(_name, names)))
    for name in names:
        if name not in recipes:
            raise UserError(f"there is no shipped recipe {name!r}", hint=did_you_mean(name, recipes))
    one_file = len(names) == 1 and output.suffix in (".yaml", ".yml") and not output.is_dir()
    targets = [output if one_file else output / PurePath(name).name for name in names]
    for target in targets:
        if target.exists():
            raise UserError("is there already, nothing was copied", where=target, hint="-o PATH names another place")
    for name, target in zip(names, targets):
        files.write_bytes(target, recipes[name].read_bytes())
    return targets
