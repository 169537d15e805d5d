"""What to do next, in sentences, from what is known of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ppmobilenet.report import figures
from ppmobilenet.report.predictions import Predictions

Advice = tuple[str, "str | None"]  # a sentence, and the command that does it

GOOD = 0.9  # share of right answers above which a class needs no word
FEW = 20  # photos that judge a class
WIDE = 0.04  # half of an interval that is worth a word
BY_HEART = 0.1  # right answers more among the training photos than among those held out
NAMED = 3
LINEAR_BETTER = (
    "A linear classifier on the features as they came is right more often here. Where fit kept this network, its "
    "probabilities were the better ones on other photos, which neither had seen: the difference may be chance."
)


def advise(
    table: Predictions,
    linear: Predictions | None = None,
    suspects: Sequence[Mapping] = (),
    curves: Sequence[Mapping[str, float]] = (),
    package: Path | None = None,
    folder: Path | None = None,
    again: str | None = None,
) -> list[Advice]:
    """Return what to do next, the most useful first.

    Args:
        table: the evaluation.
        linear: of a linear classifier on the same photos.
        suspects: photos whose labels look wrong.
        curves: rows of the run's metrics file.
        package: exported from the run.
        folder: of the run.
        again: the command that learns from more photos as well.
    """
    found = figures.accuracy(table)
    said: list[Advice] = []
    if suspects:
        photos = f"the {len(suspects)} photos" if len(suspects) > 1 else "the photo"
        said.append((f"Look at {photos} under Labels to check; correct what is wrong.", None))
    said += _weak_classes(table)
    said += _training(found, linear, curves)
    low, high = found["interval"]
    if (high - low) / 2 > WIDE:
        leave = f"{found['photos']} photos that judge leave {100 * low:.0f} to {100 * high:.0f} % open"
        said.append((f"To be surer, judge by more photos: {leave}, four times as many half of that.", None))
    if again is not None:
        said.append(("With more photos, go on from what it has learned.", again))
    if package is not None:
        said.append(("Try it on a photo that it has never seen.", f"ppmobilenet infer -m {package} -i PHOTO"))
        said.append(("Show it things, on a phone too.", f"ppmobilenet serve {package}"))
    elif folder is not None:
        said.append(("Write the package for the field, and prove it.", f"ppmobilenet export -c {folder}"))
    return said


def _weak_classes(table: Predictions) -> list[Advice]:
    rows, cells = figures.per_class(table), figures.confusion(table)
    weak = sorted((row for row in rows if row["support"] and row["recall"] < GOOD), key=lambda row: row["recall"])
    said: list[Advice] = []
    for row in weak[:NAMED]:
        right = f"{row['correct']} of {row['support']} right"
        mistakes = [(n, table.names[p]) for t, p, n in cells if t == row["class"] and p != t]
        often, taken = max(mistakes)
        if 2 * often > row["support"] - row["correct"]:
            right += f", mostly taken for {taken}" if len(mistakes) > 1 else f", the others taken for {taken}"
        said.append((f"Collect more photos of {row['name']}: {right}.", None))
    few = [row for row in rows if 0 < row["support"] < FEW]
    if few:
        names = ", ".join(row["name"] for row in few[:NAMED]) + (f" and {len(few) - NAMED} more" if few[NAMED:] else "")
        least = min(few, key=lambda row: row["support"])
        low, high = figures.interval(least["correct"], least["support"])
        tells = f"{least['support']} of {least['name']} say only that {100 * low:.0f} to {100 * high:.0f} % are right"
        said.append(
            (f"Have {FEW} photos or more to judge {names} by (fit holds a fifth of a class out): {tells}.", None)
        )
    return said


def knows_by_heart(found: Mapping, curves: Sequence[Mapping[str, float]]) -> bool:
    """Whether the network is right so much more often on its training photos that more epochs will not help.

    Args:
        found: its accuracy on the photos held out.
        curves: rows of the run's metrics file.
    """
    learned = curves[-1].get("train_top1") if curves else None
    return learned is not None and learned - found["top1"] > BY_HEART


def _training(found: Mapping, linear: Predictions | None, curves: Sequence[Mapping[str, float]]) -> list[Advice]:
    said: list[Advice] = []
    if knows_by_heart(found, curves):
        known = f"{100 * curves[-1]['train_top1']:.0f} % of its training photos"
        said.append((f"It knows {known}: more photos will help, more epochs will not.", None))
    if linear is not None and found["right"] < figures.accuracy(linear)["right"]:
        said.append((LINEAR_BETTER, None))
    return said
