"""Keys that speak of the same thing: which of them counts, and what is said of the others.

What somebody types (``-o``, and the run's folder after ``-c``) counts before what stands in a file. Where a key would
lose to another one, the loser is taken out of the tree, so that the effective configuration says what is done; where a
typed key can change nothing, a note says what it lacks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from ppmobilenet import registry
from ppmobilenet.config.check import dotted
from ppmobilenet.config.parts import SHARDS
from ppmobilenet.config.reading import Document, is_typed
from ppmobilenet.errors import UserError

# where weights come from, the first that is given; a typed one comes before all that is not (training/start.py)
STARTS = (("Global", "checkpoints"), ("Global", "pretrained_model"), ("Arch", "pretrained"))
LABELS = ("Infer", "PostProcess", "class_id_map_file")
LABEL_FILES = ("label_list.txt", "label.txt")  # what split-dataset and PaddleClas write, and PaddleX
SHIPPED_LABELS = "imagenet1k_label_list.txt"  # any path that ends so means ours


def settle_rivals(document: Document, source: Path) -> list[str]:
    """Let one key of each pair of rivals count, in the tree. Returns notes for the log.

    Args:
        document: checked.
        source: the file, beside which a label file may lie.

    Raises:
        UserError: two typed keys, or two keys of a file, that contradict each other.
    """
    notes: list[str] = []
    _refuse_nothing(document)
    _class_num(document, notes)
    _start(document, notes)
    _rate(document, notes)
    _one_of_two(document, ("Optimizer", "weight_decay"), ("Optimizer", "regularizer", "coeff"), notes)
    _one_of_two(document, ("Optimizer", "clip_norm"), ("Optimizer", "clip_global_norm"), notes)
    _seed(document, notes)
    _never_reached(document, notes)
    _labels(document, source, notes)
    if document.get(("Arch", "drop_rate")):
        notes.append(
            f"{document.where(('Arch', 'drop_rate'))}: Arch.drop_rate {document.get(('Arch', 'drop_rate'))} drops "
            "features in front of the classifier; PaddleClas takes it and never does"
        )
    for need in NEEDS:
        notes += need.notes(document)
    return notes


def _refuse_nothing(document: Document) -> None:
    """Refuse no epochs where nothing else is learned either."""
    epochs = ("Global", "epochs")
    if document.get(epochs) == 0 and not document.get(("Arch", "solve_head")):
        raise UserError(
            "Global.epochs is 0, and nothing would be learned",
            where=document.where(epochs),
            allowed="an integer, at least 1; 0 beside Arch.solve_head",
        )


def _class_num(document: Document, notes: list[str]) -> None:
    """PaddleClas's older files give the class count in Global."""
    old_at, new_at = ("Global", "class_num"), ("Arch", "class_num")
    old, new = document.get(old_at), document.get(new_at)
    if old is None or document.get(("Arch",)) is None:
        return
    if new is None or (document.typed(old_at) and not document.typed(new_at)):
        if new not in (None, old):
            notes.append(f"{document.where(old_at)}: so Arch.class_num is {old}, not {new} as in the file")
        document.put(new_at, old, document.where(old_at))
    elif document.typed(new_at) and not document.typed(old_at):
        document.put(old_at, new, document.where(new_at))
    elif new != old:
        raise UserError(
            f"Global.class_num is {old}, Arch.class_num is {new}",
            where=f"{document.where(old_at)}, {document.where(new_at)}",
            hint="delete Global.class_num, PaddleClas's old place for it",
        )


def _start(document: Document, notes: list[str]) -> None:
    given = [path for path in STARTS if document.get(path)]
    typed = [path for path in given if document.typed(path)]
    for path in given if typed else ():
        # `auto` stays: it goes on with this folder's own run, which began with what is typed again
        if path in typed or document.get(path) == "auto":
            continue
        place = document.where(typed[0])
        if not place.startswith("-c "):  # a run's folder is its best weights: nobody asks for what it began with
            notes.append(f"{document.where(path)}: {dotted(path)} is passed over for {place}")
        document.put(path, False if path == ("Arch", "pretrained") else None, place)


def _rate(document: Document, notes: list[str]) -> None:
    section = ("Optimizer", "lr")
    rate_at, values_at, base_at = ((*section, key) for key in ("learning_rate", "values", "base_batch_size"))
    rate, values, base = map(document.get, (rate_at, values_at, base_at))
    if rate is not None and document.typed(rate_at) and values:
        if document.typed(values_at) and values[0] != rate:
            raise UserError(
                f"Optimizer.lr.learning_rate is {rate}, Optimizer.lr.values begin with {values[0]}",
                where=f"{document.where(rate_at)}, {document.where(values_at)}",
                hint="leave one of the two out: learning_rate alone scales the file's values in proportion",
            )
        if values[0] == 0 and rate:
            raise UserError(
                f"Optimizer.lr.values {values} begin with 0 and cannot be scaled to {rate}",
                where=document.where(values_at),
                hint="-o Optimizer.lr.values=[...]",
            )
        if values[0] != rate:
            scaled = [float(f"{value * rate / values[0]:.12g}") for value in values]
            place = document.where(rate_at)
            notes.append(f"{place}: Optimizer.lr.values become {scaled}, in proportion ({document.where(values_at)})")
            document.put(values_at, scaled, place)
    typed = next((path for path in (rate_at, values_at) if document.typed(path) and document.get(path)), None)
    if typed and base and not document.typed(base_at):
        place = document.where(typed)
        notes.append(
            f"{place}: used as it is, whatever the batch size: base_batch_size {base} ({document.where(base_at)}) does "
            f"not scale it; -o Optimizer.lr.base_batch_size={base} would"
        )
        document.put(base_at, None, place)


def _one_of_two(document: Document, weaker: tuple, stronger: tuple, notes: list[str]) -> None:
    """Two keys of which the second counts where both are given, unless the first alone is typed."""
    one, other = document.get(weaker), document.get(stronger)
    if one is None or other is None or one == other:
        return
    if document.typed(weaker) and document.typed(stronger):
        raise UserError(
            f"{dotted(weaker)} is {one}, {dotted(stronger)} is {other}: one of them can be",
            where=f"{document.where(weaker)}, {document.where(stronger)}",
            hint="leave one of the two out",
        )
    beaten, kept = (stronger, weaker) if document.typed(weaker) else (weaker, stronger)
    place = document.where(beaten)
    notes.append(f"{place}: {dotted(beaten)} is passed over for {dotted(kept)} ({document.where(kept)})")
    if stronger[-1] == "coeff" and kept == weaker:
        document.put(stronger, one, document.where(weaker))  # the section's name, L1 or L2, stays
    else:
        document.put(beaten, None, document.where(kept))


def _seed(document: Document, notes: list[str]) -> None:
    """A sampler's own seed draws its sizes; who types the run's asks for that one."""
    run_at, own_at = ("Global", "seed"), ("DataLoader", "Train", "sampler", "seed")
    own = document.get(own_at)
    if own is None or not document.typed(run_at) or document.typed(own_at) or document.get(run_at) in (None, own):
        return
    place = document.where(run_at)
    notes.append(f"{place}: the sizes of batches are drawn by it too, not by {dotted(own_at)} {own} of the file")
    document.put(own_at, None, place)


def _never_reached(document: Document, notes: list[str]) -> None:
    """A shorter run than the file's may end before the rate ever falls."""
    epochs_at = ("Global", "epochs")
    epochs = document.get(epochs_at)
    if not epochs or not document.typed(epochs_at):
        return
    for key in ("decay_epochs", "step_size"):
        path = ("Optimizer", "lr", key)
        value = document.get(path)
        late = [at for at in (value if isinstance(value, list) else [value] if value else ()) if at >= epochs]
        if late:
            shown = ", ".join(f"{at:g}" for at in late)
            notes.append(
                f"{document.where(path)}: {dotted(path)} {shown} is never reached in {epochs} epochs "
                f"({document.where(epochs_at)}); -o {dotted(path)}=... sets it for a run of this length"
            )


def _labels(document: Document, source: Path, notes: list[str]) -> None:
    """Find the names of the classes beside the lists where the file names none, or one that is not there."""
    named = document.get(LABELS)
    if document.typed(LABELS) or (named is None and LABELS in document.marks):  # null is said: without names
        return
    if named and any(p.is_file() for p in _places(str(named), source)):
        return
    if named and Path(str(named)).name == SHIPPED_LABELS and document.get(("Arch", "class_num")) in (None, 1000):
        return
    if named is None and _named_by_itself(document.get(("Infer", "PostProcess")) or {}):
        return
    for mode in ("Eval", "Train"):
        dataset = document.get(("DataLoader", mode, "dataset")) or {}
        listed, root = dataset.get("cls_label_path"), dataset.get("image_root")
        folders = [Path(str(listed)).expanduser().parent] if listed else []
        folders += [Path(str(root)).expanduser()] if root else []
        for found in (folder / name for folder in folders for name in LABEL_FILES):
            if found.is_file():
                why = f"{dotted(LABELS)} {named!r} is not there" if named else f"no {dotted(LABELS)} is given"
                notes.append(f"the names of the classes are those of {found}, beside the photos ({why})")
                document.put(LABELS, str(found), f"found beside {listed or root}")
                return


def _named_by_itself(post: Mapping) -> bool:
    """Whether a post-process says what its classes are called: ``PersonAttribute``, ``ThreshOutput.label_0``."""
    known = registry.POSTPROCESSES.get(post.get("name", ""))
    return bool(getattr(known, "names", ())) or "label_0" in post


def _places(named: str, source: Path) -> tuple[Path, Path]:
    path = Path(named).expanduser()
    return path, source.parent / path


class _Need(NamedTuple):
    """Typed keys that change nothing where something else is not so."""

    keys: tuple[str, ...]  # dotted; a section and a dot means all in it
    holds: Callable[[Document], object]
    lacks: str

    def notes(self, document: Document) -> list[str]:
        if self.holds(document):
            return []
        found = []
        for path, place in document.marks.items():
            key = dotted(path)
            meant = any(key.startswith(k) if k.endswith(".") else key == k for k in self.keys)
            if meant and is_typed(place) and document.get(path):
                found.append(f"{place}: changes nothing{self.lacks}")
        return found


NEEDS = (
    _Need(
        ("AMP.",),
        lambda d: d.get(("AMP", "use_amp")),
        ", for AMP.use_amp is off: -o AMP.use_amp=True, on a GPU (a CPU computes in float32 in any case)",
    ),
    _Need(
        ("Global.eval_interval", "Global.start_eval_epoch"),
        lambda d: d.get(("Global", "eval_during_train")) is not False,
        ", for Global.eval_during_train is off",
    ),
    _Need(
        ("Global.keep_checkpoints",),
        lambda d: d.get(("Global", "save_interval")) is None or d.get(("Global", "save_interval")) > 0,
        ", for Global.save_interval writes no epoch_N",
    ),
    _Need(
        ("Arch.use_ssld",),
        lambda d: d.get(("Arch", "pretrained")) is True,
        ", for it chooses among the published weights: -o Arch.pretrained=True takes those",
    ),
    _Need(
        ("Optimizer.lr.warmup_start_lr",),
        lambda d: d.get(("Optimizer", "lr", "warmup_epoch")),
        ", for there is no warm-up: -o Optimizer.lr.warmup_epoch=...",
    ),
    _Need(
        ("Optimizer.regularizer.name", "Optimizer.no_weight_decay_name", "Optimizer.one_dim_param_no_weight_decay"),
        lambda d: d.get(("Optimizer", "regularizer", "coeff")) or d.get(("Optimizer", "weight_decay")),
        ", for nothing decays: -o Optimizer.regularizer.coeff=...",
    ),
    _Need(
        ("DataLoader.Eval.dataset.max_bad_samples", "DataLoader.Eval.dataset.batch_transform_ops"),
        lambda d: False,
        ", for an evaluation takes every photo, as it is",
    ),
    *(
        _Need(
            tuple(f"DataLoader.{side}.dataset.{key}" for key in ("cls_label_path", "delimiter")),
            lambda d, side=side: d.get(("DataLoader", side, "dataset", "name")) != SHARDS,
            ", for shards bring their labels with them: ppmobilenet pack LIST packs corrected ones",
        )
        for side in ("Train", "Eval")
    ),
    _Need(
        ("Global.resolution",),
        lambda d: not d.get(("DataLoader", "Train", "sampler", "scales")),
        " in training, whose sizes are DataLoader.Train.sampler.scales; evaluation and export have it",
    ),
)
