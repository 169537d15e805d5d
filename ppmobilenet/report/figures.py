"""The figures of an evaluation, from a table of predictions: accuracy, per class, confusion, calibration."""

from __future__ import annotations

from math import sqrt

import numpy as np

from ppmobilenet.report.predictions import Predictions
from ppmobilenet.training.metrics import BINS, reliability


def interval(right: int, photos: int) -> tuple[float, float]:
    """Return the 95 % confidence interval of a share (Wilson 1927): 147 of 153 is 91.7 to 98.2 %."""
    if not photos:
        return 0.0, 1.0
    z, share = 1.959964, right / photos
    middle, spread = share + z * z / (2 * photos), z * sqrt(share * (1 - share) / photos + (z / (2 * photos)) ** 2)
    whole = 1 + z * z / photos
    return max(0.0, (middle - spread) / whole), min(1.0, (middle + spread) / whole)


def accuracy(table: Predictions) -> dict:
    """Return the share of right answers with its 95 % interval."""
    right, photos = int(table.correct.sum()), len(table)
    return {"right": right, "photos": photos, "top1": right / photos, "interval": list(interval(right, photos))}


def summary(table: Predictions) -> dict:
    """Return the result in a few numbers, shares from 0 to 1.

    ``top5`` is top-k with k = min(5, classes); ``nll`` the mean negative log of the true class's probability;
    ``macro_f1`` the mean over the classes that occur among labels or answers.
    """
    rows = [row for row in per_class(table) if row["support"] or row["predicted"]]
    return {
        "photos": len(table),
        "classes": len(table.names),
        "top1": float(table.correct.mean()),
        "top5": float((table.classes == table.labels[:, None]).any(axis=1).mean()),
        "macro_f1": float(np.mean([row["f1"] for row in rows])),
        "nll": float(-np.log(np.maximum(table.true_scores, 1e-12)).mean()),
        "mean_confidence": float(table.scores[:, 0].mean()),
        "ece": calibration(table)["ece"],
    }


def per_class(table: Predictions) -> list[dict]:
    """Return support, precision, recall and F1 of each class; 0 where there is nothing to divide by."""
    count = len(table.names)
    support = np.bincount(table.labels, minlength=count)
    predicted = np.bincount(table.classes[:, 0], minlength=count)
    correct = np.bincount(table.labels[table.correct], minlength=count)
    precision = correct / np.maximum(predicted, 1)
    recall = correct / np.maximum(support, 1)
    f1 = 2 * correct / np.maximum(support + predicted, 1)
    return [
        {
            "class": i,
            "name": table.names[i],
            "support": int(support[i]),
            "predicted": int(predicted[i]),
            "correct": int(correct[i]),
            "precision": float(precision[i]),
            "recall": float(recall[i]),
            "f1": float(f1[i]),
        }
        for i in range(count)
    ]


def confusion(table: Predictions) -> list[tuple[int, int, int]]:
    """Return the cells that are not zero: (true class, predicted class, photos), the largest first."""
    count = len(table.names)
    cells, photos = np.unique(table.labels.astype(np.int64) * count + table.classes[:, 0], return_counts=True)
    order = np.lexsort((cells, -photos))
    return [(int(c // count), int(c % count), int(n)) for c, n in zip(cells[order], photos[order])]


def calibration(table: Predictions, bins: int = BINS) -> dict:
    """Return the expected calibration error and the bins of the reliability diagram, see :func:`.reliability`."""
    error, rows = reliability(table.scores[:, 0], table.correct, bins)
    return {"ece": error, "bins": rows}


def most_wrong(table: Predictions, count: int) -> list[int]:
    """Return the rows of wrong answers, those furthest above the true class's probability first."""
    excess = table.scores[:, 0] - table.true_scores
    wrong = np.flatnonzero(~table.correct)
    return [int(i) for i in wrong[np.argsort(-excess[wrong], kind="stable")][:count]]


def least_certain(table: Predictions, count: int) -> list[int]:
    """Return the rows whose two best answers are closest."""
    if table.scores.shape[1] < 2:
        return []
    margin = table.scores[:, 0] - table.scores[:, 1]
    return [int(i) for i in np.argsort(margin, kind="stable")[:count]]
