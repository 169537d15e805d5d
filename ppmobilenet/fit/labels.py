"""Wrong labels in any lists of photos (``check-dataset --labels``): found by what the photos look like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from ppmobilenet.config.parts import SHARDS
from ppmobilenet.data.dataset import Listed
from ppmobilenet.data.findings import Diagnosis
from ppmobilenet.data.lists import Samples
from ppmobilenet.data.shards.dataset import ShardListed
from ppmobilenet.errors import UserError
from ppmobilenet.field.answers import softmax
from ppmobilenet.fit import plan
from ppmobilenet.fit.bench import Bench
from ppmobilenet.fit.comparison import compare
from ppmobilenet.fit.network import Candidate
from ppmobilenet.fit.plan import EVAL, TRAIN, Decision
from ppmobilenet.fit.probe import probe
from ppmobilenet.fit.suspects import suspects
from ppmobilenet.photos.labels import read_labels
from ppmobilenet.training.solved_head import solve

KIND = "suspect label"
ANY = 1_000_000  # unreadable photos are told of elsewhere


def doubt_labels(
    diagnosis: Diagnosis, lists: Mapping[str, Listed], networks: Sequence[Candidate], seed: int = 0
) -> None:
    """Add the photos whose labels are likely wrong to a diagnosis, the likeliest of each list first.

    The training list is judged by cross-validation, each other list by a classifier of the training list.

    Args:
        diagnosis: of the same lists; ``--fix`` will leave the suspects out.
        lists: by name, ``train`` among them.
        networks: the one whose features tell the photos apart best is taken.
        seed: of the cross-validation.

    Raises:
        UserError: the lists cannot be read as they are.
    """
    broken = [kind for kind in ("line", "list", "class count", "unseen label") if diagnosis.counts.get(kind)]
    if broken or "train" not in lists:
        what = f"of {broken[0]!r} errors" if broken else "there is no training list"
        raise UserError(f"labels cannot be looked at because {what}", where="--labels", hint="correct the lists first")
    for listed in lists.values():
        if listed.several:
            raise UserError(
                "one class a photo is looked at, and these photos have several labels",
                where=listed.path,
                hint="leave --labels out",
            )
        if isinstance(listed, ShardListed):
            ShardListed(listed.root).samples()  # the doctor takes those, too, of which nobody said what they show
    if len(np.unique(lists["train"].samples()[0].labels)) < 2:
        raise UserError(
            "all photos of the training list are of one class: none can look like another", where="--labels"
        )
    names = class_names(lists)
    with TemporaryDirectory() as folder:
        bench, found, training = None, {}, lists["train"]
        known = _of_list(training, len(names))
        entry = compare(networks, known, training.samples()[0], Path(folder) / "networks", seed)
        candidate = Candidate.of(entry["chosen"])
        for name, listed in lists.items():
            config = plan.configuration([*_of_list(listed, len(names)), *plan.of_network(candidate, "")])
            bench = bench or Bench(config, Path(folder))
            found[name] = bench.inputs(config.train, name)
    inputs, readable, samples = found.pop("train")
    labels = samples.labels[readable]
    known = probe(inputs, labels, len(names), seed, readable)
    _add(diagnosis, samples, readable, known.scores, names)
    linear = solve(inputs, labels, len(names), known.penalty)
    for inputs, readable, samples in found.values():
        _add(diagnosis, samples, readable, softmax(linear.logits(inputs)), names)


def class_names(lists: Mapping[str, Listed]) -> list[str]:
    """Return the names of the classes: of their folders, or of a label file beside the training list."""
    training = lists["train"]
    if training.path is None:
        return training.class_names
    count = int(training.samples()[0].labels.max()) + 1
    beside = (training.path.with_name(name) for name in ("label_list.txt", "label.txt"))
    named = next((read_labels(path) for path in beside if path.is_file()), {})
    return [named.get(number, f"class {number}") for number in range(max(count, len(named)))]


def _of_list(listed: Listed, classes: int) -> list[Decision]:
    made = [
        Decision("Arch.class_num", classes, ""),
        Decision("Infer.PostProcess.class_id_map_file", None, ""),
        Decision(f"{TRAIN}.max_bad_samples", ANY, ""),
    ]
    for side in (TRAIN, EVAL):
        made.append(Decision(f"{side}.image_root", str(listed.root), ""))
        made.append(Decision(f"{side}.cls_label_path", listed.path and str(listed.path), ""))
        if isinstance(listed, ShardListed):
            made.append(Decision(f"{side}.name", SHARDS, ""))
        else:
            made.append(Decision(f"{side}.delimiter", listed.delimiter, ""))
    return made


def _add(
    diagnosis: Diagnosis, samples: Samples, readable: np.ndarray, scores: np.ndarray, names: Sequence[str]
) -> None:
    for one in suspects(samples, readable, scores, names):
        sure = f"{100 * one.likely_score:.0f} %, {one.given} {100 * one.given_score:.0f} %"
        diagnosis.add(
            KIND,
            one.where,
            f"{Path(one.path).name} is labelled {one.given}, looks like {one.likely} ({sure})",
            (one.path,),
        )
        if one.line:
            diagnosis.dropped.setdefault(str(samples.source), set()).add(one.line)
