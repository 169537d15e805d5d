"""What is found wrong with a data set, and the lists without it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ppmobilenet import files
from ppmobilenet.data.lists import Samples
from ppmobilenet.errors import UserError
from ppmobilenet.photos.names import lines_of

KEPT = 1000  # findings of one kind that are kept in full; more are only counted

# kind -> (is it an error?, what to do)
KINDS = {
    "class count": (True, "give class_num the number of the classes, or correct the labels"),
    "line": (True, "correct the line, or drop it with --fix"),
    "list": (True, "correct the list"),
    "shards": (True, "bring them whole and as they were: copy them again, or pack the photos anew into another folder"),
    "damaged shard": (True, "copy the shard again, or pack the photos anew into another folder"),
    "unreadable": (True, "replace the photo, or drop its line with --fix"),
    "label conflict": (True, "decide which label is right; --fix drops all of them"),
    "unseen label": (True, "add photos of this class to the training list"),
    "repeated line": (False, "drop it with --fix"),
    "spare classes": (False, "give class_num the number of the classes, unless photos of the others are to come"),
    "left out": (False, "convert what is a photo to JPEG or PNG"),
    "label gap": (False, "number the training list's labels without gaps, or relabel: True"),
    "class balance": (False, "collect more photos, or use sampler ClassBalancedBatchSampler"),
    "unsafe name": (False, "rename the photo"),
    "odd photo": (False, "look at it"),
    "exact duplicate": (False, "keep one of them; --fix does"),
    "near duplicate": (False, "keep one of them, if they show the same"),
    "suspect label": (False, "look at it: the photo is like those of another class; --fix leaves it out"),
    "in train and validation": (
        False,
        "accuracy looks better than it is; --fix takes them out of the training list, split-dataset avoids them",
    ),
}


@dataclass(frozen=True)
class Finding:
    """One fault: its kind (of :data:`KINDS`), the place (``train.txt:17``), what is wrong, the photos to look at."""

    kind: str
    where: str
    message: str
    photos: tuple[str, ...] = ()

    @property
    def is_error(self) -> bool:
        return KINDS[self.kind][0]


@dataclass
class Diagnosis:
    """What was found.

    Attributes:
        findings: at most 1000 of a kind.
        counts: of all findings, by kind.
        facts: of each list, for the summary: photos, classes, sizes, modes, mean, std ...
        dropped: of each list file, the lines that ``--fix`` leaves out.
    """

    findings: list[Finding] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    facts: dict[str, dict] = field(default_factory=dict)
    dropped: dict[str, set[int]] = field(default_factory=dict)

    def add(self, kind: str, where: object, message: str, photos: Sequence[str] = ()) -> None:
        self.counts[kind] = self.counts.get(kind, 0) + 1
        if self.counts[kind] <= KEPT:
            self.findings.append(Finding(kind, str(where), message, tuple(photos)))

    def drop(self, samples: Samples, place: int) -> None:
        """Have ``--fix`` leave out a sample's line; a class folder has none."""
        if samples.lines[place]:
            self.dropped.setdefault(str(samples.source), set()).add(int(samples.lines[place]))

    @property
    def errors(self) -> int:
        return sum(count for kind, count in self.counts.items() if KINDS[kind][0])

    @property
    def warnings(self) -> int:
        return sum(count for kind, count in self.counts.items() if not KINDS[kind][0])


def write_fixed(diagnosis: Diagnosis, folder: str | os.PathLike) -> list[Path]:
    """Write each list without its bad and repeated lines, as UTF-8 with plain line ends; no photo is touched.

    Lists of equal names are told apart by their folders: ``l1/list.txt`` and ``l2/list.txt`` become ``l1_list.txt`` and
    ``l2_list.txt``.

    Raises:
        UserError: nothing is replaced; there is no list to fix, or the folder cannot be written.
    """
    folder = Path(folder)
    names = Counter(Path(source).name for source in diagnosis.dropped)
    targets = {}
    for source in diagnosis.dropped:
        path = Path(source)
        own = path.name if names[path.name] == 1 else f"{path.resolve().parent.name}_{path.name}"
        targets[source] = folder / own
    if not targets:
        raise UserError(
            "class folders and shards have no list to fix",
            where="--fix",
            hint="ppmobilenet split-dataset writes good lists of class folders; shards are packed anew",
        )
    for source, target in targets.items():
        if target.exists() or list(targets.values()).count(target) > 1:
            raise UserError(
                f"--fix would replace {'the list' if target.exists() and target.samefile(source) else 'a file'}",
                where=target,
                hint="give another folder",
            )
    for source, target in targets.items():
        lines = lines_of(Path(source).read_bytes().decode("utf-8-sig"))
        dropped = diagnosis.dropped[source]
        kept = [line.strip() for number, line in enumerate(lines, 1) if number not in dropped and line.strip()]
        files.write_bytes(target, "".join(f"{line}\n" for line in kept).encode("utf-8"))
    return list(targets.values())
