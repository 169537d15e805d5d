"""What a model answered on photos with several labels each: its table, and each label's figures."""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ppmobilenet import files
from ppmobilenet.errors import DamagedFileError

FILE_NAME = "labels.npz"
STEPS = 20  # of a threshold's curve


@dataclass(frozen=True)
class LabelPredictions:
    """One row a photo.

    Attributes:
        names: labels, K of them.
        paths: N photos.
        labels: [N, K] 0, 1, or -1 where nobody knows.
        scores: [N, K] probabilities.
        thresholds: [K] from which on a label is said to be there.
        about: what was evaluated: ``weights``, ``seconds``.
    """

    names: tuple[str, ...]
    paths: tuple[str, ...]
    labels: np.ndarray
    scores: np.ndarray
    thresholds: np.ndarray
    about: Mapping[str, object] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.labels)

    def save(self, path: str | Path) -> Path:
        """Write the table to a ``.npz`` without pickles."""
        path = Path(path)
        text = json.dumps({"names": self.names, "paths": self.paths, "about": dict(self.about)}).encode()
        arrays = {name: getattr(self, name) for name in ("labels", "scores", "thresholds")}
        with files.whole_file(path) as file:
            np.savez_compressed(file, text=np.frombuffer(text, np.uint8), **arrays)
        return path

    @classmethod
    def load(cls, path: str | Path) -> LabelPredictions:
        """Read what :meth:`save` wrote.

        Raises:
            DamagedFileError: it is not one, or it is cut short.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                text = json.loads(file["text"].tobytes())
                arrays = {name: file[name] for name in ("labels", "scores", "thresholds")}
                return cls(tuple(text["names"]), tuple(text["paths"]), **arrays, about=text["about"])
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise DamagedFileError(f"not a table of labels: {error}", where=path, hint="evaluate again") from error


class LabelCollector:
    """Gathers predictions batch by batch, in any order."""

    def __init__(self, names: Sequence[str], thresholds: Sequence[float]):
        self._names, self._thresholds = tuple(names), np.asarray(thresholds, np.float64)
        self._parts: list[tuple[np.ndarray, ...]] = []

    def add(self, scores: np.ndarray, labels: np.ndarray, indices: np.ndarray) -> None:
        """Take one batch: probabilities [n, K], labels [n, K], positions in the list of photos [n]."""
        self._parts.append((np.asarray(indices, np.int64), labels.astype(np.int8), scores.astype(np.float32)))

    def finish(self, paths: Sequence[str], **about: object) -> LabelPredictions:
        """Return the table in the list's order."""
        indices, labels, scores = (np.concatenate(part) for part in zip(*self._parts))
        order = np.argsort(indices, kind="stable")
        photos = tuple(str(paths[i]) for i in indices[order])
        return LabelPredictions(self._names, photos, labels[order], scores[order], self._thresholds, about)


def per_label(table: LabelPredictions) -> list[dict]:
    """Return each label's figures at its threshold, its average precision, and the threshold of its best F1.

    Labels that nobody knows are left out; average precision is None where no photo has the label.
    """
    rows = []
    for k, name in enumerate(table.names):
        known = table.labels[:, k] >= 0
        true, score = table.labels[known, k] > 0, table.scores[known, k]
        row = _figures(true, score, float(table.thresholds[k]))
        best, threshold = best_threshold(true, score)
        rows.append(
            {
                "label": k,
                "name": name,
                **row,
                "average_precision": average_precision(true, score),
                "best_f1": best,
                "best_threshold": threshold,
            }
        )
    return rows


def _figures(true: np.ndarray, score: np.ndarray, threshold: float) -> dict:
    said = score >= np.float32(threshold)
    right, ones, answers = int((said & true).sum()), int(true.sum()), int(said.sum())
    return {
        "threshold": threshold,
        "photos": len(true),
        "support": ones,
        "predicted": answers,
        "precision": right / max(1, answers),
        "recall": right / max(1, ones),
        "f1": 2 * right / max(1, answers + ones),
        "right": float((said == true).mean()) if len(true) else 0.0,
    }


def average_precision(true: np.ndarray, score: np.ndarray) -> float | None:
    """Return the area under precision over recall, steps as they are; equal scores are one step."""
    if not true.any():
        return None
    order = np.argsort(-score, kind="stable")
    hits = true[order].cumsum()
    last = np.flatnonzero(np.append(np.diff(score[order]) != 0, True))  # of each run of equal scores
    precision, recall = hits[last] / (last + 1), hits[last] / hits[-1]
    return float((np.diff(recall, prepend=0.0) * precision).sum())


def best_threshold(true: np.ndarray, score: np.ndarray) -> tuple[float, float]:
    """Return the best F1 that a threshold gives, and the threshold; 0 and 1 where no photo has the label."""
    if not true.any():
        return 0.0, 1.0
    order = np.argsort(-score, kind="stable")
    hits = true[order].cumsum()
    last = np.flatnonzero(np.append(np.diff(score[order]) != 0, True))
    f1 = 2 * hits[last] / (last + 1 + true.sum())
    best = int(f1.argmax())
    return float(f1[best]), float(score[order][last[best]])


def summary(table: LabelPredictions) -> dict:
    """Return the result in a few numbers, shares from 0 to 1; mAP is over the labels that some photo has."""
    known = table.labels >= 0
    said = table.scores >= table.thresholds.astype(np.float32)  # as a predictor compares
    right = (said == (table.labels > 0)) & known
    rows = per_label(table)
    precisions = [row["average_precision"] for row in rows if row["average_precision"] is not None]
    return {
        "photos": len(table),
        "labels": len(table.names),
        "right": float(right.sum() / max(1, known.sum())),
        "all_right": float((right | ~known).all(axis=1).mean()),
        "mAP": float(np.mean(precisions)) if precisions else 0.0,
        "macro_f1": float(np.mean([row["f1"] for row in rows if row["support"]] or [0.0])),
    }


def threshold_curve(table: LabelPredictions) -> list[dict]:
    """Return precision, recall and F1 over all labels together, for one threshold for all."""
    known = table.labels >= 0
    true, score = table.labels[known] > 0, table.scores[known]
    rows = [_figures(true, score, step / STEPS) for step in range(STEPS + 1)]
    return [{key: row[key] for key in ("threshold", "precision", "recall", "f1")} for row in rows]


def most_wrong(table: LabelPredictions, count: int) -> list[dict]:
    """Return the photos whose answer is furthest from a label, with that label."""
    apart = np.where(table.labels >= 0, np.abs(table.scores - table.labels), 0.0)
    worst = apart.argmax(axis=1)
    order = np.argsort(-apart.max(axis=1), kind="stable")[:count]
    return [
        {
            "path": table.paths[i],
            "label": table.names[worst[i]],
            "true": int(table.labels[i, worst[i]]),
            "score": float(table.scores[i, worst[i]]),
        }
        for i in order
    ]
