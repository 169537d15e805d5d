"""What a model answered on a list of photos: the one table behind every figure of a report.

It keeps the best answers of each photo, not all scores, so 50,000 photos of 1000 classes are 3 MB.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ppmobilenet import files
from ppmobilenet.errors import DamagedFileError, DataError, UserError

FILE_NAME = "predictions.npz"
LINEAR = "linear_predictions.npz"  # of the linear classifier on the frozen trunk, for comparison
SUSPECTS = "suspects.json"  # training photos whose labels look wrong
UNUSED = "unused.json"  # files that nothing was learned from, each with the reason
KEPT = 5


@dataclass(frozen=True)
class Predictions:
    """One row a photo.

    Attributes:
        names: class names, K of them.
        paths: N photos.
        labels: [N] true class.
        classes: [N, k] predicted classes, the best first, k = min(5, K).
        scores: [N, k] their probabilities.
        true_scores: [N] probability of the true class.
        about: what was evaluated: ``weights``, ``seconds``.
    """

    names: tuple[str, ...]
    paths: tuple[str, ...]
    labels: np.ndarray
    classes: np.ndarray
    scores: np.ndarray
    true_scores: np.ndarray
    about: Mapping[str, object] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def correct(self) -> np.ndarray:
        """[N] whether the best answer is the true class."""
        return self.classes[:, 0] == self.labels

    def save(self, path: str | Path) -> Path:
        """Write the table to a ``.npz`` without pickles."""
        path = Path(path)
        text = json.dumps({"names": self.names, "paths": self.paths, "about": dict(self.about)}).encode()
        with files.whole_file(path) as file:
            np.savez_compressed(
                file,
                text=np.frombuffer(text, np.uint8),
                labels=self.labels,
                classes=self.classes,
                scores=self.scores,
                true_scores=self.true_scores,
            )
        return path

    @classmethod
    def load(cls, path: str | Path) -> Predictions:
        """Read what :meth:`save` wrote.

        Raises:
            UserError: there is no such file.
            DamagedFileError: it is not one, or it is cut short.
        """
        path = Path(path)
        if not path.is_file():
            raise UserError("no such file", where=path, hint="evaluate first: it writes this file")
        try:
            with np.load(path, allow_pickle=False) as file:
                text = json.loads(file["text"].tobytes())
                arrays = {name: file[name] for name in ("labels", "classes", "scores", "true_scores")}
                return cls(tuple(text["names"]), tuple(text["paths"]), **arrays, about=text["about"])
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise DamagedFileError(f"not a table of predictions: {error}", where=path, hint="evaluate again") from error


class Collector:
    """Gathers predictions batch by batch, in any order.

    Args:
        names: class names; more scores than names is an error.
    """

    def __init__(self, names: Sequence[str]):
        self.names = tuple(names)
        self._parts: list[tuple[np.ndarray, ...]] = []

    def add(self, scores: np.ndarray, labels: np.ndarray, indices: np.ndarray) -> None:
        """Take one batch.

        Args:
            scores: [n, K] probabilities.
            labels: [n] true classes.
            indices: [n] positions in the list of photos.
        """
        scores, labels = np.asarray(scores, np.float32), np.asarray(labels, np.int64)
        if scores.ndim != 2 or scores.shape[1] != len(self.names):
            raise DataError(f"scores of shape {list(scores.shape)}, there are {len(self.names)} class names")
        if len(labels) and not 0 <= labels.min() <= labels.max() < len(self.names):
            raise DataError(f"labels {labels.min()} to {labels.max()}", allowed=f"0 to {len(self.names) - 1}")
        k = min(KEPT, scores.shape[1])
        best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        rows = np.arange(len(labels))
        self._parts.append(
            (np.asarray(indices, np.int64), labels, best, np.take_along_axis(scores, best, 1), scores[rows, labels])
        )

    def finish(self, paths: Sequence[str], **about: object) -> Predictions:
        """Return the table in the list's order.

        Args:
            paths: the whole list that the indices point into.
            **about: what to remember of the evaluation.
        """
        if not self._parts:
            raise DataError("no photo was evaluated")
        indices, labels, classes, scores, true_scores = (np.concatenate(part) for part in zip(*self._parts))
        order = np.argsort(indices, kind="stable")
        return Predictions(
            self.names,
            tuple(str(paths[i]) for i in indices[order]),
            labels[order].astype(np.int32),
            classes[order].astype(np.int32),
            scores[order],
            true_scores[order],
            about,
        )
