"""Finds what is wrong with a data set before training does: every line, every photo, and both lists together."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from ppmobilenet.data.dataset import Listed, find_sides
from ppmobilenet.data.findings import Diagnosis
from ppmobilenet.data.label_lists import number_faults
from ppmobilenet.data.lists import Samples, Scanned, class_faults
from ppmobilenet.data.shards.check import check_bytes, same_photos
from ppmobilenet.data.shards.dataset import ShardListed, ShardSamples, label_fault
from ppmobilenet.errors import DamagedFileError, DataError
from ppmobilenet.photos.facts import groups, look_at_all
from ppmobilenet.photos.names import find_photos
from ppmobilenet.photos.shards import is_shards

UNBALANCED = 10  # the largest class has this many times the smallest one's photos
MANY = 5_000_000  # photos in shards: more are not compared before each training
UNSAFE = re.compile(r'[<>:"|?*\\\x00-\x1f]|[ .]$')
RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?$", re.I)


def examine(
    lists: Mapping[str, Listed],
    *,
    class_num: int | None = None,
    relabel: bool = False,
    photos: bool = True,
    workers: int | None = None,
) -> Diagnosis:
    """Examine list files (or a folder per class) and their photos; nothing is changed.

    Args:
        lists: by name; one named ``train`` is held against the others.
        class_num: if given, labels are below it.
        relabel: labels are numbered anew when they are read, so gaps are no fault.
        photos: read every photo too, not only the lists.
        workers: threads that decode; default one a core.
    """
    diagnosis = Diagnosis()
    read: dict[str, Samples] = {}
    class_names = None  # of the first list's class folders, which number the others'
    for name, listed in lists.items():
        try:
            if isinstance(listed, ShardListed):
                samples = _good_shards(diagnosis, listed, class_num, photos)
            elif listed.several:
                samples = _good_lines_of_several(diagnosis, listed, class_num)
            elif listed.path is None:
                samples, class_names = listed.folders(class_num, class_names)
            else:
                samples = _good_lines(diagnosis, listed, None if relabel else class_num)
        except (DataError, DamagedFileError) as error:
            hint = f" ({error.hint})" if error.hint else ""
            kind = "shards" if isinstance(listed, ShardListed) else "list"
            diagnosis.add(kind, error.where or listed.path or listed.root, error.message + hint)
            continue
        (_examine_several if samples.several else _examine_list)(diagnosis, name, samples, class_num, relabel)
        read[name] = samples
    _compare_labels(diagnosis, read)
    if not photos:
        _compare_paths(diagnosis, read)
    elif read:
        _examine_photos(diagnosis, read, workers)
    return diagnosis


def folders(root: str | os.PathLike) -> dict[str, Listed]:
    """Return a folder's train/, val/ and test/ of class folders or shards; where it has none, itself as ``train``."""
    if is_shards(root):
        return {"train": ShardListed(root, labelled=False)}
    names = {"train": "train", "val": "validation", "test": "test"}
    packed = {name: os.path.join(root, side) for side, name in names.items()}
    if any(map(is_shards, packed.values())):
        return {name: ShardListed(folder) for name, folder in packed.items() if is_shards(folder)}
    sides = find_sides(find_photos(root).names) if os.path.isdir(root) else {}
    found = {names[side]: Listed(None, os.path.join(root, folder)) for side, folder in sides.items()}
    return found or {"train": Listed(None, root)}


def _good_lines(diagnosis: Diagnosis, listed: Listed, class_num: int | None) -> Samples:
    path, (paths, labels, lines, faults) = listed.path, listed.scanned
    if class_num:
        beyond, advice = class_faults(labels, lines, class_num)
        if beyond:
            diagnosis.add("class count", path, f"{len(beyond)} labels are not below class_num {class_num}: {advice}")
            gone = {line for line, _ in beyond}
            rows = [row for row in zip(paths, labels, lines) if row[2] not in gone]
            paths, labels, lines = (list(column) for column in zip(*rows)) if rows else ([], [], [])
            faults = sorted(faults + beyond)
    return _kept_lines(diagnosis, listed, (paths, labels, lines, faults))


def _good_lines_of_several(diagnosis: Diagnosis, listed: Listed, class_num: int | None) -> Samples:
    paths, labels, lines, faults = listed.scanned
    beyond, advice = number_faults(labels, lines, class_num)
    if advice:
        diagnosis.add("class count", listed.path, advice)
        return Samples(listed.root, listed.path, paths, labels, lines)
    gone = {line for line, _ in beyond}
    rows = [row for row in zip(paths, labels, lines) if row[2] not in gone]
    paths, labels, lines = (list(column) for column in zip(*rows)) if rows else ([], [], [])
    return _kept_lines(diagnosis, listed, (paths, labels, lines, sorted(faults + beyond)))


def _good_shards(diagnosis: Diagnosis, listed: ShardListed, class_num: int | None, photos: bool) -> ShardSamples:
    """Open shards and say what is wrong with their labels and, with ``photos``, with their bytes."""
    samples = listed.opened
    fault, advice = label_fault(samples, class_num)
    if fault:
        diagnosis.add("class count", samples.source, f"{fault}: {advice}")
    for where, damage in check_bytes(samples.shards) if photos else ():
        diagnosis.add("damaged shard", where, damage)
    return samples


def _kept_lines(diagnosis: Diagnosis, listed: Listed, scanned: Scanned) -> Samples:
    path, (paths, labels, lines, faults) = listed.path, scanned
    diagnosis.dropped[str(path)] = {line for line, _ in faults}
    for line, fault in faults:
        diagnosis.add("line", f"{path}:{line}", fault)
    if not paths:
        raise DataError("the list holds no good line", where=path)
    return Samples(listed.root, path, paths, labels, lines)


def _examine_several(diagnosis: Diagnosis, name: str, samples: Samples, class_num: int | None, relabel: bool) -> None:
    """What is wrong with the labels of photos that have several."""
    _find_repeats(diagnosis, samples)
    _find_unsafe_names(diagnosis, samples)
    ones, zeros = (samples.labels == 1).sum(axis=0), (samples.labels == 0).sum(axis=0)
    diagnosis.facts[name] = {
        "source": str(samples.source),
        "photos": len(samples),
        "classes": samples.labels.shape[1],
        "largest_class": int(ones.max()),
        "smallest_class": int(ones.min()),
        "unknown_labels": int((samples.labels < 0).sum()),
    }
    for answer, count in ((1, ones), (0, zeros)) if name == "train" else ():
        for label in np.flatnonzero(count == 0):
            told = f"label {label} is {answer} for no photo: there is nothing to learn of it"
            diagnosis.add("class balance", samples.source, told)
    for place in np.flatnonzero((samples.labels < 0).all(axis=1)):
        diagnosis.add("odd photo", samples.where(int(place)), "every label is -1: nobody knows anything of it")


def _examine_list(diagnosis: Diagnosis, name: str, samples: Samples, class_num: int | None, relabel: bool) -> None:
    if samples.remark:
        diagnosis.add("left out", samples.source, samples.remark.partition(": ")[2])
    if not isinstance(samples, ShardSamples):  # no name is there twice in a tar, and no system has to write it
        _find_repeats(diagnosis, samples)
        _find_unsafe_names(diagnosis, samples)
    counts = samples.counts
    labels = np.array(sorted(counts))
    present = np.array([counts[label] for label in labels.tolist()])
    diagnosis.facts[name] = {
        "source": str(samples.source),
        "photos": len(samples),
        "classes": len(present),
        "largest_class": int(present.max()),
        "smallest_class": int(present.min()),
    }
    if labels[0] < 0:
        diagnosis.facts[name] |= {"classes": 0}
        return  # packed without labels
    top = int(labels[-1])
    count = len(labels) if relabel else top + 1
    if class_num and count > class_num and relabel:  # without, it was said of the lines
        told = f"there are {count} labels, and class_num is {class_num}: -o Arch.class_num={count}"
        diagnosis.add("class count", samples.source, told)
    if class_num and count < class_num and name == "train":
        told = f"there are photos of {count} classes, and class_num is {class_num}: -o Arch.class_num={count}"
        diagnosis.add("spare classes", samples.source, told)
    if top + 1 > len(labels) and not relabel:
        # the first of them are enough, and a mistyped label may be a thousand million
        gaps = np.setdiff1d(np.arange(min(top, len(labels) + 5)), labels)[:5]
        some = ", ".join(map(str, gaps)) + (" ..." if top + 1 - len(labels) > len(gaps) else "")
        diagnosis.add("label gap", samples.source, f"no photo has the label {some} (labels go to {top})")
    if len(present) == 1:
        diagnosis.add("class balance", samples.source, "all photos have one label: there is nothing to learn")
    elif present.max() >= UNBALANCED * present.min():
        most, least = labels[present.argmax()], labels[present.argmin()]
        message = f"class {most} has {present.max()} photos, class {least} has {present.min()}"
        diagnosis.add("class balance", samples.source, message)


def _find_repeats(diagnosis: Diagnosis, samples: Samples) -> None:
    first: dict[str, int] = {}
    for place, (path, label) in enumerate(samples):
        before = first.setdefault(os.path.normpath(path), place)
        if before == place:
            continue
        there = samples.where(before)
        if not np.array_equal(samples.labels[before], label):
            message = f"label {label}, but {there} gives the same photo label {samples.labels[before]}"
            diagnosis.add("label conflict", samples.where(place), message, (path,))
            diagnosis.drop(samples, before)
            diagnosis.drop(samples, place)
        else:
            diagnosis.add("repeated line", samples.where(place), f"the same photo as in {there}")
            diagnosis.drop(samples, place)


def _find_unsafe_names(diagnosis: Diagnosis, samples: Samples) -> None:
    lower: dict[str, str] = {}
    for place in range(len(samples)):
        name = samples.name(place)
        parts = [part for part in name.split("/") if part not in (".", "..")]
        fault = None
        if any(UNSAFE.search(part) or RESERVED.match(part) for part in parts):
            fault = "Windows cannot have this name"
        elif any(len(os.fsencode(part)) > 200 for part in parts):
            fault = "the name is longer than some systems take"
        elif unicodedata.normalize("NFC", name) != name:
            fault = "the name has accents as separate characters (NFD); other systems may not find it"
        elif lower.setdefault(name.lower(), name) != name:
            fault = f"only the case tells it from {lower[name.lower()]!r}"
        if fault:
            diagnosis.add("unsafe name", samples.where(place), f"{name!r}: {fault}", (samples.path(place),))


def _compare_labels(diagnosis: Diagnosis, read: Mapping[str, Samples]) -> None:
    if "train" not in read:
        return
    if read["train"].several:
        return  # that a label is 1 for no training photo was said of the training list
    for samples in read.values():
        for label in sorted(samples.counts.keys() - read["train"].counts.keys()):
            place = int(np.flatnonzero(samples.labels == label)[0])
            diagnosis.add("unseen label", samples.where(place), f"no photo of the training list has the label {label}")


def _compare_paths(diagnosis: Diagnosis, read: Mapping[str, Samples]) -> None:
    """Find photos of the training list in the others by their paths alone."""
    if "train" not in read or len(read) == 1:
        return
    train = read["train"]
    if any(isinstance(samples, ShardSamples) for samples in read.values()):
        _compare_shards(diagnosis, read)
        return
    places = {hash(os.path.normpath(path)): place for place, (path, _) in enumerate(train)}
    leaks: dict[int, list[tuple[Samples, int]]] = {}
    for name, samples in read.items():
        for other, (path, _) in enumerate(samples if name != "train" else ()):
            place = places.get(hash(os.path.normpath(path)))
            if place is not None and os.path.normpath(train.path(place)) == os.path.normpath(path):
                _report_pair(diagnosis, read, ("train", place), (name, other), "exact duplicate")
                leaks.setdefault(place, []).append((samples, other))
    _drop_leaks(diagnosis, train, leaks)


def _compare_shards(diagnosis: Diagnosis, read: Mapping[str, Samples]) -> None:
    """Find training photos in other shards by what their indexes say; not among so many that it would take long."""
    train = read["train"]
    for name, samples in read.items():
        both = isinstance(train, ShardSamples) and isinstance(samples, ShardSamples)
        if name != "train" and both and len(train) + len(samples) <= MANY:
            for place, other in same_photos(train.shards, samples.shards):
                _report_pair(diagnosis, read, ("train", place), (name, other), "exact duplicate")


def _examine_photos(diagnosis: Diagnosis, read: Mapping[str, Samples], workers: int | None) -> None:
    """Look at every photo once; less than 100 bytes of each are kept."""
    names = list(read)
    ends = np.cumsum([len(read[name]) for name in names])
    total = int(ends[-1])
    digests, pictures = np.zeros(total, "V16"), np.zeros(total, np.uint64)
    colours, sizes = np.zeros((total, 48), np.uint8), np.zeros((total, 2), np.int32)
    sums = {name: np.zeros((2, 3)) for name in names}
    tallies: dict[str, dict] = {name: {} for name in names}

    def owner(at: int) -> tuple[str, int]:
        number = int(np.searchsorted(ends, at, side="right"))
        return names[number], at - (int(ends[number - 1]) if number else 0)

    paths = (path for name in names for path, _ in read[name])
    for at, facts in enumerate(look_at_all(paths, total, workers)):
        name, place = owner(at)
        samples = read[name]
        path, where = samples.path(place), samples.where(place)
        if facts.fault:
            diagnosis.add("unreadable", where, f"{path}: {facts.fault}", (path,))
            diagnosis.drop(samples, place)
            continue
        for note in facts.notes:
            diagnosis.add("odd photo", where, f"{path}: {note}", (path,))
        for key in (facts.kind, facts.mode, f"EXIF rotation {facts.orientation}"):
            tallies[name][key] = tallies[name].get(key, 0) + 1
        sums[name] += facts.sums
        digests[at], pictures[at], colours[at], sizes[at] = facts.digest, facts.picture, facts.colours, facts.size
    for name, part in zip(names, np.split(sizes, ends[:-1])):
        found = part[part[:, 0] > 0]
        if not len(found):
            continue
        mean, square = sums[name] / len(found)
        tallies[name].pop("EXIF rotation 1", None)
        area = found.astype(np.int64).prod(axis=1)
        diagnosis.facts[name] |= {
            "median_size": [int(v) for v in np.median(found, axis=0)],
            "smallest": found[area.argmin()].tolist(),
            "largest": found[area.argmax()].tolist(),
            "mean": [round(float(v), 4) for v in mean],
            "std": [round(float(v), 4) for v in np.sqrt(np.maximum(square - mean**2, 0))],
            "kinds": tallies[name],
        }
    good = np.flatnonzero(sizes[:, 0])
    same, alike = groups(digests[good], pictures[good], colours[good])
    for number in np.flatnonzero(alike != np.arange(len(good))):
        # each is told once, and as the stronger kind: the same file, else nearly the same picture
        kind, first = ("exact", same[number]) if same[number] != number else ("near", alike[number])
        _report_pair(diagnosis, read, owner(int(good[first])), owner(int(good[number])), f"{kind} duplicate")
    if "train" in read and len(read) > 1:
        training = good < len(read["train"])  # the training list comes first
        shared: dict[int, list[tuple[Samples, int]]] = {}
        for at, group in zip(good[~training].tolist(), alike[~training].tolist()):
            name, place = owner(at)
            shared.setdefault(group, []).append((read[name], place))
        members = zip(good[training].tolist(), alike[training].tolist())
        _drop_leaks(diagnosis, read["train"], {place: shared[group] for place, group in members if group in shared})


def _report_pair(diagnosis: Diagnosis, read: Mapping[str, Samples], one, other, kind: str) -> None:
    (name, place), (other_name, other_place) = one, other
    samples, others = read[name], read[other_name]
    pair = samples.path(place), others.path(other_place)
    if pair[0] == pair[1] and name == other_name:
        return  # a repeated line, which the list's part told
    same = "the same file" if kind == "exact duplicate" else "nearly the same picture"
    first = samples.where(place)  # of class folders this is the photo itself
    message = f"{pair[1]}: {same} as {first}" + (f" ({pair[0]})" if str(first) != pair[0] else "")
    labels = samples.labels[place].tolist(), others.labels[other_place].tolist()
    if labels[0] != labels[1]:
        message += f", which has label {labels[0]}, not {labels[1]}"
    if labels[0] != labels[1] and kind == "exact duplicate":
        diagnosis.add("label conflict", others.where(other_place), message, pair)
        diagnosis.drop(samples, place)
        diagnosis.drop(others, other_place)
    elif name != other_name:
        diagnosis.add("in train and validation", others.where(other_place), message, pair)
    else:
        diagnosis.add(kind, others.where(other_place), message, pair)
        if kind == "exact duplicate":
            diagnosis.drop(others, other_place)


def _drop_leaks(diagnosis: Diagnosis, train: Samples, leaks: Mapping[int, Sequence[tuple[Samples, int]]]) -> None:
    """Have ``--fix`` take out of the training list what another list shows too.

    Where that is a class's last training photo, the other lists give it up instead: a class that is not trained would
    be judged.

    Args:
        diagnosis: receives the lines.
        train: the training list.
        leaks: place in it -> the same in other lists.
    """
    if train.several:
        for place in leaks:
            diagnosis.drop(train, place)
        return
    gone = diagnosis.dropped.get(str(train.source), set())
    left = Counter(int(label) for label, line in zip(train.labels, train.lines) if int(line) not in gone)
    for place, others in leaks.items():
        label = int(train.labels[place])
        if train.lines[place] and int(train.lines[place]) in gone:
            continue
        if left[label] > 1:
            left[label] -= 1
            diagnosis.drop(train, place)
        else:
            for samples, other in others:
                diagnosis.drop(samples, other)
