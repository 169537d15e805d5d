"""Photos whose label is likely wrong: by what a linear classifier says of photos that it has not seen."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from ppmobilenet.data.lists import Samples


@dataclass(frozen=True)
class Suspect:
    """A photo and what speaks against its label.

    Attributes:
        path: of the photo.
        where: its line in the list.
        line: the line's number; 0 where a folder is its label.
        given, likely: names of classes.
        given_score, likely_score: their probabilities.
    """

    path: str
    where: str
    line: int
    given: str
    likely: str
    given_score: float
    likely_score: float

    def to_dict(self) -> dict:
        return asdict(self)


def suspects(samples: Samples, readable: np.ndarray, scores: np.ndarray, names: Sequence[str]) -> list[Suspect]:
    """Return the photos whose labels are likely wrong, the likeliest first.

    Args:
        samples: of the list.
        readable: bool [N], the photos that the scores are of.
        scores: [n, K], probabilities that a classifier gave which has not seen the photo.
        names: of the classes.

    Raises:
        ModuleNotFoundError: cleanlab is not installed.
    """
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    places = np.flatnonzero(readable)
    labels = samples.labels[places]
    present = np.unique(labels)  # cleanlab wants classes without gaps
    alone = np.bincount(labels) == 1  # nothing was there to know its only photo by
    dense = scores[:, present].astype(np.float64)
    dense /= dense.sum(axis=1, keepdims=True)
    given = np.searchsorted(present, labels)
    # as many as both of cleanlab's rules call wrong: one alone names many that are right
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of classes of few photos
        count = int(find_label_issues(given, dense, filter_by="both", n_jobs=1).sum())
    order = np.argsort(get_label_quality_scores(given, dense, method="self_confidence"), kind="stable")[:count]
    found = []
    for i in order.tolist():
        place, likely = int(places[i]), int(present[dense[i].argmax()])
        own = int(labels[i])
        if likely == own or alone[own]:
            continue
        found.append(
            Suspect(
                *(samples.path(place), samples.where(place), int(samples.lines[place]), names[own], names[likely]),
                *(round(float(scores[i, own]), 4), round(float(scores[i, likely]), 4)),
            )
        )
    return found


def available() -> bool:
    """Whether cleanlab is installed."""
    return find_spec("cleanlab") is not None


def lines(found: Sequence[Suspect], shown: int = 5) -> list[str]:
    """Return them for people."""
    said = [
        f"{s.where}: {Path(s.path).name} is labelled {s.given}, looks like {s.likely} ({100 * s.likely_score:.0f} %)"
        for s in found[:shown]
    ]
    return said + ([f"and {len(found) - shown} more"] if len(found) > shown else [])
