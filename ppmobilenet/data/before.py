"""What a config's data sets are asked before the first step."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from tqdm import tqdm

from ppmobilenet.config.parts import Arch, TrainSource
from ppmobilenet.data.dataset import Listed
from ppmobilenet.data.doctor import KINDS, examine
from ppmobilenet.errors import DataError

log = logging.getLogger("ppmobilenet")


def questions(train: TrainSource, arch: Arch) -> dict:
    """Return what :func:`examine` is to know of a config's data sets besides their lists, as its arguments."""
    relabel = bool(train and train.dataset and train.dataset.parameters.get("relabel"))
    return {"relabel": relabel, "class_num": (arch and arch.class_num) or None}


def check_before_training(
    lists: Mapping[str, Listed], train: TrainSource, arch: Arch, *, full: bool, place: object
) -> None:
    """Examine lists (``Global.check_data: lists``), and their photos too (``full``), before the first step.

    Unreadable training photos that ``max_bad_samples`` allows are no hindrance.

    Args:
        lists: of :func:`ppmobilenet.data.build.lists_of`.
        train: ``DataLoader.Train``.
        arch: ``Arch``.
        full: read the photos too.
        place: where ``Arch.class_num`` was given.

    Raises:
        DataError: the first errors, and how to see them all.
    """
    bad_samples = train.dataset.max_bad_samples
    with tqdm(unit="photos", desc="data", disable=None, leave=False) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        diagnosis = examine(lists, **questions(train, arch), photos=full, progress=progress)
    training = lists["train"]
    beginning = f"{training.path}:" if training.path else str(training.root)
    tolerated = [f for f in diagnosis.findings if f.kind == "unreadable" and f.where.startswith(beginning)]
    allowed = len(tolerated) <= bad_samples
    errors = [f for f in diagnosis.findings if f.is_error and not (f in tolerated and allowed)]
    if errors:
        shown = "\n  ".join(f"{f.where}: {f.message}" for f in errors[:5])
        more = f"\n  and {len(errors) - 5} more" if len(errors) > 5 else ""
        raise DataError(shown + more, hint=f"{KINDS[errors[0].kind][1]}; ppmobilenet check-dataset -c CONFIG shows all")
    for finding in [f for f in diagnosis.findings if f.kind == "spare classes"]:
        log.warning("%s: %s", place, finding.message)
    for finding in [f for f in diagnosis.findings if not f.is_error and f.kind != "spare classes"][:10]:
        log.info("data: %s: %s", finding.where, finding.message)
    if diagnosis.warnings > 10:
        log.info("data: %d remarks in all; ppmobilenet check-dataset -c CONFIG shows them", diagnosis.warnings)
