"""What a fit remembers of its photos, and what an earlier fit left: its split, its network."""

from __future__ import annotations

import json
from pathlib import Path

from ppmobilenet.config import load_config
from ppmobilenet.data.lists import read_list
from ppmobilenet.data.split import Earlier
from ppmobilenet.errors import DamagedFileError, UserError
from ppmobilenet.fit import notebook, plan
from ppmobilenet.fit.network import Candidate
from ppmobilenet.fit.photos import Photos

LISTS = "lists"  # folder of the lists that the split writes
CONTENTS = "contents.json"  # among them: digest of each photo's file -> its list


def photos_of(told: dict, root: Path, folder: Path) -> Photos:
    """Return what a fit's notes tell of its photos: the lists are its own, or else they lie among the photos."""
    try:
        names = {key: told[key] and Path(told[key]).name for key in ("train", "val", "labels")}
        there = folder / LISTS if (folder / LISTS / names["train"]).is_file() else root
        lists = {key: name and there / name for key, name in names.items()}
        return Photos(root, **lists, names=tuple(told["names"]), said=tuple(told["said"]))
    except (KeyError, TypeError) as error:
        raise DamagedFileError(
            f"{notebook.FILE_NAME} does not tell the photos of a fit: {error!r}", hint="fit anew into another folder"
        ) from error


def split_of(folder: Path) -> Earlier:
    """Return which photos of an earlier fit taught and which judged; they may be elsewhere now.

    Raises:
        UserError: there was no fit, or it was stopped early.
        DamagedFileError: its notes cannot be read.
    """
    before = notebook.read(folder)
    if "trained" not in before["entries"]:
        raise UserError(
            "this fit was stopped before it had learned anything",
            where=folder,
            hint="give the command that began it again: it goes on where it was",
        )
    photos, sides = photos_of(before["entries"].get("photos"), Path(before["asked"].get("photos", "")), folder), {}
    for side in ("train", "val"):
        samples = read_list(getattr(photos, side), photos.root, check_files=False)
        sides.update({samples.name(i): side for i in range(len(samples))})
    return Earlier(photos.names, sides, _contents(folder / LISTS / CONTENTS))


def _contents(path: Path) -> dict[str, str]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}
    except (ValueError, TypeError) as error:
        raise DamagedFileError(f"not what fit writes: {error}", where=path, hint="fit anew") from error


def network_of(folder: Path) -> Candidate:
    """Return the network of an earlier fit, with its weights and how it was shown photos."""
    config = load_config(folder)
    arguments = {key: value for key, value in config.arch.parameters.items() if key != "class_num"}
    weights = Path(f"{config.run.pretrained_model}.pdparams")
    pixels = next(op["NormalizeImage"] for op in config.eval.dataset.transform_ops if "NormalizeImage" in op)
    told = {"side": plan.view_of(config), **{key: tuple(pixels[key]) for key in ("mean", "std")}}
    return Candidate(config.arch.name, arguments, weights, f"what {folder} has learned", **told)
