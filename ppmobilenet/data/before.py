"""What a config's data sets are asked before the first step."""

from __future__ import annotations

from collections.abc import Mapping

from ppmobilenet.data.doctor import examine
from ppmobilenet.data.findings import KINDS
from ppmobilenet.errors import DataError
from ppmobilenet.telling import log


def questions(config: Mapping) -> dict:
    """Return what :func:`examine` is to be asked about a config's Train and Eval data sets, as its arguments."""
    asked: dict = {"lists": {}, "root": {}, "delimiter": {}}
    for mode, name in (("Train", "train"), ("Eval", "validation")):
        dataset = config.get(f"DataLoader.{mode}.dataset")
        if dataset:
            asked["lists"][name], asked["root"][name] = dataset.get("cls_label_path"), dataset["image_root"]
            asked["delimiter"][name] = dataset.get("delimiter")
    asked["relabel"] = bool(config.get("DataLoader.Train.dataset.relabel"))
    asked["class_num"] = config.get("Arch.class_num") or None
    return asked


def check_before_training(config: Mapping) -> None:
    """Examine a config's lists (``Global.check_data: lists``), and its photos too (``full``), before the first step.

    Unreadable training photos that ``max_bad_samples`` allows are no hindrance.

    Raises:
        DataError: the first errors, and how to see them all.
    """
    how = config.get("Global.check_data") or "lists"
    if how == "off":
        return
    asked = questions(config)
    if not config.get("Global.eval_during_train"):
        asked["lists"].pop("validation", None)
    diagnosis = examine(**asked, photos=how == "full")
    allowed = config.get("DataLoader.Train.dataset.max_bad_samples") or 0
    training = f"{asked['lists']['train']}:" if asked["lists"].get("train") else str(asked["root"]["train"])
    tolerated = [f for f in diagnosis.findings if f.kind == "unreadable" and f.where.startswith(training)]
    errors = [f for f in diagnosis.findings if f.is_error and not (f in tolerated and len(tolerated) <= allowed)]
    if errors:
        shown = "\n  ".join(f"{f.where}: {f.message}" for f in errors[:5])
        more = f"\n  and {len(errors) - 5} more" if len(errors) > 5 else ""
        raise DataError(shown + more, hint=f"{KINDS[errors[0].kind][1]}; ppmobilenet check-dataset -c CONFIG shows all")
    for finding in [f for f in diagnosis.findings if f.kind == "spare classes"]:
        log.warning("%s: %s", config.where("Arch.class_num"), finding.message)
    for finding in [f for f in diagnosis.findings if not f.is_error and f.kind != "spare classes"][:10]:
        log.info("data: %s: %s", finding.where, finding.message)
    if diagnosis.warnings > 10:
        log.info("data: %d remarks in all; ppmobilenet check-dataset -c CONFIG shows them", diagnosis.warnings)
