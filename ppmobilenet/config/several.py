"""One label a photo, or several: data set, losses, metrics and answers have to mean the same."""

from __future__ import annotations

import copy

from ppmobilenet.config.check import dotted
from ppmobilenet.config.parts import SHARDS
from ppmobilenet.config.reading import Document
from ppmobilenet.errors import UserError

SWITCH = ("Global", "use_multilabel")
DATASET = "MultiLabelDataset"
# what is of several labels, and what is of one; anything else does not care
OF_SEVERAL = {
    *("MultiLabelLoss", "DistillationMultiLabelLoss", "AccuracyScore", "HammingDistance", "ATTRMetric"),
    *("MultiLabelThreshOutput", "PersonAttribute", DATASET),
}
OF_ONE = {
    *("CELoss", "DistillationGTCELoss", "DistillationCELoss", "DistillationKLDivLoss", "DistillationDKDLoss"),
    *("DistillationDISTLoss", "DistillationWSLLoss", "DistillationSKDLoss"),
    *("TopkAcc", "DistillationTopkAcc", "TprAtFpr", "Topk", "ThreshOutput", "ImageNetDataset", "MultiScaleDataset"),
    SHARDS,
    *("MixupOperator", "CutmixOperator", "OpSampler", "ClassBalancedBatchSampler"),
}
# what stands where a file says nothing
DEFAULTS = {
    **{("Loss", mode): [{"MultiLabelLoss": {}}] for mode in ("Train", "Eval")},
    **{("Metric", mode): [{"AccuracyScore": {}}] for mode in ("Train", "Eval")},
}


def settle_several(document: Document) -> list[str]:
    """Refuse what speaks of one label beside what speaks of several. Returns notes for the log.

    Raises:
        UserError: the first that does not fit.
    """
    datasets = [("DataLoader", mode, "dataset", "name") for mode in ("Train", "Eval")]
    notes: list[str] = []
    named = next((path for path in datasets if document.get(path) == DATASET), None)
    if named and document.get(SWITCH) is None:
        document.put(SWITCH, True, document.where(named))
        notes.append(f"{document.where(named)}: {DATASET}: so Global.use_multilabel is True")
    several = bool(document.get(SWITCH))
    wrong, right = (OF_ONE, OF_SEVERAL) if several else (OF_SEVERAL, OF_ONE)
    for path, name in _names(document, datasets):
        if name in wrong:
            raise UserError(
                f"{dotted(path)} is {name}, which is for {'one label' if several else 'several labels'} a photo, and "
                f"Global.use_multilabel is {several}",
                where=f"{document.where(path)}, {document.where(SWITCH) or 'default of Global.use_multilabel'}",
                allowed=", ".join(sorted(right)),
                hint=f"-o Global.use_multilabel={not several}, or say what is meant by {dotted(path)}",
            )
    for path, value in DEFAULTS.items() if several else ():
        if not document.get(path):
            document.put(path, copy.deepcopy(value), document.where(SWITCH))
    return notes


def _names(document: Document, datasets: list[tuple]) -> list[tuple[tuple, str]]:
    found = [(path, document.get(path)) for path in (*datasets, ("Infer", "PostProcess", "name"))]
    found.append((("DataLoader", "Train", "sampler", "name"), document.get(("DataLoader", "Train", "sampler", "name"))))
    lists = [(section, mode) for section in ("Loss", "Metric") for mode in ("Train", "Eval")]
    lists.append(("DataLoader", "Train", "dataset", "batch_transform_ops"))
    for path in lists:
        found += [((*path, i), name) for i, entry in enumerate(document.get(path) or ()) for name in entry]
    return [(path, name) for path, name in found if name is not None]
