"""``ppmobilenet verify-zoo``: download every published weight file, load it strictly, evaluate it if ImageNet is there.

What it finds goes into the catalogue's ``verified.json``: a row that is not in it is unverified.
"""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Iterable
from pathlib import Path

from ppmobilenet import files, telling
from ppmobilenet.config import load_config
from ppmobilenet.errors import UserError, did_you_mean
from ppmobilenet.telling import log
from ppmobilenet.training.evaluator import evaluate
from ppmobilenet.weights import catalog
from ppmobilenet.weights.download import digest, published_file
from ppmobilenet.weights.loading import load_weights
from ppmobilenet.zoo import create_model

# percentage points by which a measured accuracy may depart from the published one: other JPEG decoders do that
TOLERANCE = 0.2


@telling.aloud()
def verify_zoo(
    names: Iterable[str] = (),
    imagenet: str | os.PathLike | None = None,
    output: str | os.PathLike = catalog.VERIFIED,
    device: str = "cpu",
) -> list[str]:
    """Verify published weights, one after the other; one that fails does not stop the others.

    Args:
        names: rows of the catalogue; all by default.
        imagenet: a folder with ``val_list.txt`` (``path label``) and the photos; without it nothing is evaluated.
        output: the JSON file that the results are added to.
        device: to evaluate on.

    Returns:
        The names that failed.

    Raises:
        UserError: an unknown name, or an ImageNet folder without ``val_list.txt``.
    """
    published = catalog.rows()
    names = tuple(names) or tuple(published)
    for name in names:
        if name not in published:
            raise UserError(f"no published weights {name!r}", hint=did_you_mean(name, published))
    if imagenet is not None and not (Path(imagenet) / "val_list.txt").is_file():
        raise UserError("has no val_list.txt", where=imagenet, allowed="lines `path label`, paths from this folder")
    output, failed = Path(output), []
    for name in names:
        row = published[name]
        try:
            entry, text = _verify(row, imagenet, device)
        except UserError as error:
            failed.append(name)
            log.info("%s: FAILED: %s", name, error)
            continue
        known = json.loads(output.read_text(encoding="utf-8")) if output.is_file() else {}
        known[name] = entry
        files.write_text(output, json.dumps({key: known[key] for key in sorted(known)}, indent=1) + "\n")
        log.info("%s: %s", name, text)
    log.info("%d of %d verified; %s", len(names) - len(failed), len(names), output)
    return failed


def _verify(row: catalog.Published, imagenet: str | os.PathLike | None, device: str) -> tuple[dict, str]:
    path = published_file(row.name)
    report = load_weights(create_model(row.model), path, class_num_may_differ=False)
    entry: dict = {
        "sha256": digest(path),
        "size": path.stat().st_size,
        "date": datetime.date.today().isoformat(),
    }
    text = f"{report}, sha256 {entry['sha256']}"
    if imagenet is None:
        return entry, f"{text}, not evaluated"
    overrides = [
        f"Global.device={device}",
        f"Global.pretrained_model={path}",
        f"DataLoader.Eval.dataset.image_root={imagenet}",
        f"DataLoader.Eval.dataset.cls_label_path={Path(imagenet) / 'val_list.txt'}",
    ]
    result = evaluate(load_config(row.recipe, overrides))
    entry.update(top1=round(100 * result["top1"], 3), top5=round(100 * result["top5"], 3), photos=result["evaluated"])
    close = abs(entry["top1"] - row.top1) <= TOLERANCE and abs(entry["top5"] - row.top5) <= TOLERANCE
    judged = "as published" if close else f"PUBLISHED {row.top1} / {row.top5}"
    return entry, f"{text}, top-1 {entry['top1']} top-5 {entry['top5']} on {entry['photos']} photos, {judged}"
