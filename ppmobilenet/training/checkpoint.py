"""Saving and resuming.

Under ``output_dir`` stand the names that PaddleClas writes, ``latest``, ``best_model`` and ``epoch_N`` with
``.pdparams``, ``.pdopt``, ``.pdstates`` (and ``.pdema``), and ``best_model/model.pdparams``. They are hard links to a
file in ``checkpoints/NNNNNN/``: each save is one such folder, complete and never changed after its rename (see
:mod:`.disk`). The two newest folders stay, so a run that is killed while it replaces the names, or a disk that spoils
the last save, costs nothing but the steps since the one before.
"""

from __future__ import annotations

import os
import queue
import re
import shutil
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import paddle

from ppmobilenet import files
from ppmobilenet.errors import DamagedFileError, NumericsError, UserError
from ppmobilenet.telling import log
from ppmobilenet.training import disk
from ppmobilenet.training.state import TrainState
from ppmobilenet.weights.files import read_pickle, read_weights
from ppmobilenet.weights.matching import Wanted, match
from ppmobilenet.weights.writing import PADDLE_NAMES, write_pickle

FOLDER = "checkpoints"
KEPT = 2
OURS = "ppmobilenet"  # our entry in a .pdstates beside PaddleClas's metric and epoch
_NUMBERED = re.compile(r"\d{6,}")


@dataclass(frozen=True)
class Snapshot:
    """A training state as the writer gets it.

    What a forward pass changes is copied when it is made. What only a change of the weights touches may still be the
    live tensors: the writer copies those while the next gradients are computed, see :meth:`Writer.settle`.

    Attributes:
        files: suffix -> plain value, with arrays or tensors in it.
        names: public names that the files get: ``("latest", "best_model")``.
        step: for messages.
    """

    files: Mapping[str, object]
    names: Sequence[str]
    step: int

    def hosted(self) -> Snapshot:
        """Return it with every tensor copied into host memory."""
        return Snapshot({suffix: _hosted(value) for suffix, value in self.files.items()}, self.names, self.step)


def _hosted(value: object) -> object:
    if isinstance(value, paddle.Tensor):
        return value.numpy()
    if isinstance(value, Mapping):
        return {key: _hosted(inner) for key, inner in value.items()}
    return type(value)(map(_hosted, value)) if isinstance(value, (list, tuple)) else value


def snapshot(state: TrainState, metric: float, names: Sequence[str]) -> Snapshot:
    """Take hold of a state. Nothing but forward passes may follow before it is :meth:`Snapshot.hosted`.

    Args:
        state: at rest between two steps.
        metric: the evaluation that belongs to it, 0.0 if there was none.
        names: see :class:`Snapshot`.
    """
    layers = state.model.state_dict()
    parameter_names = {key: value.name for key, value in layers.items()}
    # statistics of batch norm change in every forward pass
    weights = {key: value.numpy() if value.stop_gradient else value for key, value in layers.items()}
    parts: dict[str, object] = {"pdparams": {**weights, PADDLE_NAMES: parameter_names}}
    if state.ema.average:
        parts = {"pdparams": {**state.ema.average, PADDLE_NAMES: parameter_names}, "pdema": parts["pdparams"]}
    parts["pdopt"] = [state.optimizer_state()]
    parts["pdstates"] = {"metric": float(metric), "epoch": state.epoch, OURS: state.numbers()}
    return Snapshot(parts, tuple(names), state.step)


def write(folder: Path, shot: Snapshot, keep_epochs: int | None = None) -> Path:
    """Write a snapshot under a run's folder, give it its names, and remove what is no longer kept.

    Raises:
        OSError: what was there before still is.
        NumericsError: a tensor is not finite; nothing was written.
    """
    shot = shot.hosted()
    _refuse_non_finite(shot)
    home = folder / FOLDER
    home.mkdir(parents=True, exist_ok=True)
    target = home / f"{max([0, *map(int, _versions(home))]) + 1:06d}"
    disk.write_folder(
        target,
        {
            f"model.{suffix}": lambda file, value=value: write_pickle(value, file)
            for suffix, value in shot.files.items()
        },
        {"names": list(shot.names), "step": shot.step},
    )
    give_names(folder, target)
    for old in _versions(home)[:-KEPT]:
        _remove(home / old)
    if keep_epochs is not None:
        _forget_epochs(folder, keep_epochs)
    return target


def _refuse_non_finite(shot: Snapshot) -> None:
    for suffix in ("pdparams", "pdema"):
        for key, value in shot.files.get(suffix, {}).items():
            if isinstance(value, np.ndarray) and value.dtype.kind == "f" and not np.isfinite(value).all():
                raise NumericsError(
                    f"{key} holds NaN or infinity after step {shot.step}; this state is not saved",
                    hint="a lower Optimizer.lr.learning_rate; the last checkpoint is as it was",
                )


def _versions(home: Path) -> list[str]:
    """The names of the saves, oldest first."""
    names = os.listdir(home) if home.is_dir() else []
    return sorted((name for name in names if _NUMBERED.fullmatch(name)), key=int)


def give_names(folder: Path, version: Path) -> None:
    """Link the public names to a save; the manifest of each name comes last."""
    manifest = disk.read_manifest(version / disk.MANIFEST)
    for name in manifest["names"]:
        for file in manifest["files"]:
            disk.give_name(version / file, folder / f"{name}.{file.partition('.')[2]}")
        if "model.pdema" not in manifest["files"] and (folder / f"{name}.pdema").exists():
            os.unlink(folder / f"{name}.pdema")
        if name == "best_model":
            (folder / name).mkdir(exist_ok=True)
            disk.give_name(version / "model.pdparams", folder / name / "model.pdparams")
        disk.give_name(version / disk.MANIFEST, folder / f"{name}.{disk.MANIFEST}")
    files.sync(folder)


def _remove(version: Path) -> None:
    """Remove a save so that a half-removed one is none."""
    dead = version.with_name(f".{version.name}.old")
    os.rename(version, dead)
    shutil.rmtree(dead, ignore_errors=True)


def _forget_epochs(folder: Path, keep: int) -> None:
    found = {int(m[1]) for name in os.listdir(folder) if (m := re.fullmatch(r"epoch_(\d+)\.manifest\.json", name))}
    for epoch in sorted(found)[:-keep]:
        for suffix in (disk.MANIFEST, "pdparams", "pdopt", "pdstates", "pdema"):
            (folder / f"epoch_{epoch}.{suffix}").unlink(missing_ok=True)


class Writer:
    """Writes snapshots in a thread of its own, one after the other.

    Use as a context: leaving it waits for the last save, and raises what went wrong with it.
    """

    def __init__(self, folder: Path, keep_epochs: int | None = None):
        self.folder, self._keep = folder, keep_epochs
        self._tasks: queue.Queue = queue.Queue(maxsize=1)
        self._error: BaseException | None = None
        self._copied = threading.Event()
        self._copied.set()
        self._thread = threading.Thread(target=self._work, name="checkpoint writer", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        while (shot := self._tasks.get()) is not None:
            try:
                shot = shot.hosted()
                self._copied.set()
                write(self.folder, shot, self._keep)
            except (OSError, UserError) as error:
                self._error = error
            finally:
                self._copied.set()
                self._tasks.task_done()
        self._tasks.task_done()

    def save(self, shot: Snapshot) -> None:
        """Hand over a snapshot; waits only while an earlier one is still being written."""
        self._tasks.join()
        self.check()
        self._copied.clear()
        self._tasks.put(shot)

    def settle(self) -> None:
        """Return when the last snapshot is a copy: before this, no weight may change."""
        self._copied.wait()

    def check(self) -> None:
        """Raise what went wrong with an earlier save.

        Raises:
            UserError: the disk is full, the folder read-only, ...
            NumericsError: the state was not finite.
        """
        error, self._error = self._error, None
        if isinstance(error, UserError):
            raise error
        if error is not None:
            raise UserError(
                f"the checkpoint cannot be written: {error.strerror or error}",
                where=error.filename or self.folder,
                hint="make room or choose another Global.output_dir; the checkpoint before is whole: go on from it "
                "with -o Global.checkpoints=auto",
            ) from error

    def wait(self) -> None:
        """Return when everything is on the disk."""
        self._tasks.join()
        self.check()

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind, error, trace) -> None:
        self._tasks.join()
        self._tasks.put(None)
        self._thread.join()
        if kind is None:
            self.check()


@dataclass(frozen=True)
class Found:
    """A checkpoint to resume from: ``place("pdopt")`` is its file, whether it is there or not."""

    stem: Path

    def place(self, suffix: str) -> Path:
        return self.stem.with_name(f"{self.stem.name}.{suffix}")

    def __str__(self) -> str:
        return str(self.stem)


def find(wanted: str, output_dir: str | Path, arch: str) -> Found | None:
    """Return the checkpoint that ``Global.checkpoints`` names.

    Args:
        wanted: ``auto``: the newest under ``output_dir`` that verifies, None if there is none at all; or a path with
            or without ``.pdparams``; or a run's folder.
        output_dir: of this run.
        arch: PaddleClas's documents show ``output_dir/<Arch>/latest``; that is found, too.

    Raises:
        UserError: there is no such checkpoint.
        DamagedFileError: it is not what was written, or none of several is.
    """
    if wanted == "auto":
        return _newest(Path(output_dir))
    stem = Path(wanted[: -len(".pdparams")] if wanted.endswith(".pdparams") else wanted)
    if not _file(stem, "pdparams").is_file():
        nested = stem.parent / arch / stem.name
        if _file(nested, "pdparams").is_file():
            stem = nested
        elif stem.is_dir() and (found := _newest(stem)):
            return found
        else:
            raise UserError(
                f"there is no checkpoint {str(stem)!r} (no {stem.name}.pdparams)",
                where="Global.checkpoints",
                allowed="a path such as output/latest, a run's folder, or auto",
            )
    manifest = _file(stem, disk.MANIFEST)
    if not manifest.is_file():
        for suffix in ("pdopt", "pdstates"):
            if not _file(stem, suffix).is_file():
                raise UserError(
                    f"{stem.name}.{suffix} is missing beside {stem.name}.pdparams",
                    where="Global.checkpoints",
                    hint="to start from these weights with a new optimizer, give them as Global.pretrained_model",
                )
        log.info("%s has no manifest (PaddleClas's, or an older one): taken as it is", stem)
        return Found(stem)
    try:
        _verify_name(stem)
        return Found(stem)
    except DamagedFileError as error:
        if stem.name != "latest":
            raise DamagedFileError(
                error.message, where=error.where, hint=f"-o Global.checkpoints={stem.parent} takes the newest whole one"
            ) from error
        log.warning("passed over %s: %s", stem, error)
        return _newest(stem.parent)


def _file(stem: Path, suffix: str) -> Path:
    return stem.with_name(f"{stem.name}.{suffix}")


def _verify_name(stem: Path) -> dict:
    manifest = disk.read_manifest(_file(stem, disk.MANIFEST))
    disk.verify(manifest["files"], lambda name: _file(stem, name.partition(".")[2]))
    return manifest


def _newest(folder: Path) -> Found | None:
    """The newest save of a run that verifies: its folders first, then the public names by step."""
    damaged = []
    home = folder / FOLDER
    for name in reversed(_versions(home)):
        try:
            manifest = disk.read_manifest(home / name / disk.MANIFEST)
            disk.verify(manifest["files"], lambda file, name=name: home / name / file)
            return Found(home / name / "model")
        except DamagedFileError as error:
            damaged.append(error)
            log.warning("passed over %s: %s", home / name, error)
    by_step = []
    for path in folder.glob(f"*.{disk.MANIFEST}") if folder.is_dir() else ():
        stem = path.with_name(path.name[: -len(disk.MANIFEST) - 1])
        try:
            by_step.append((disk.read_manifest(path).get("step", 0), stem.name))
        except DamagedFileError as error:
            damaged.append(error)
    for _, name in sorted(by_step, reverse=True):
        try:
            _verify_name(folder / name)
            return Found(folder / name)
        except DamagedFileError as error:
            damaged.append(error)
            log.warning("passed over %s: %s", folder / name, error)
    if damaged:
        raise DamagedFileError(
            f"none of the run's checkpoints is what was written; the newest: {damaged[0]}",
            where=folder,
            hint="start anew in another Global.output_dir, or from weights you trust by Global.pretrained_model",
        )
    if _file(folder / "latest", "pdparams").is_file():  # PaddleClas's: no manifest
        return Found(folder / "latest")
    return None


def restore(state: TrainState, found: Found) -> None:
    """Set a state to what a checkpoint holds; a fault leaves it untouched as far as the weights go.

    Raises:
        UserError: the checkpoint of another network, classifier or optimizer.
        DamagedFileError: a file is damaged.
    """
    wanted, weights = Wanted.by(state.model), {}
    for suffix in ("pdparams", "pdema"):
        if found.place(suffix).is_file():
            arrays = read_weights(found.place(suffix))
            weights[suffix] = match(wanted, arrays, found.place(suffix), class_num_may_differ=False).values
    states = read_pickle(found.place("pdstates"))
    if not isinstance(states, Mapping) or not isinstance(states.get(OURS, {}), Mapping):
        raise DamagedFileError("no training state", where=found.place("pdstates"))
    state.set_optimizer_state(read_pickle(found.place("pdopt")), found.place("pdopt"))
    # with EMA, .pdparams holds the average and .pdema the weights that are trained
    model = state.model.state_dict()
    for key, array in weights.get("pdema", weights["pdparams"]).items():
        model[key].set_value(array.astype(str(model[key].dtype).rsplit(".", 1)[-1], copy=False))
    if state.ema.average:
        state.ema.load(weights["pdparams"])
    saved = states.get(OURS)
    if saved:
        state.set_numbers(saved)
    else:
        epoch, metric = states.get("epoch", 0), states.get("metric", -1.0)
        state.set_numbers({"epoch": int(epoch), "best_metric": float(metric), "best_epoch": int(epoch)})


def finish_names(folder: Path) -> None:
    """Give the newest save its names if the run was killed before it could."""
    versions = _versions(folder / FOLDER)
    if versions:
        version = folder / FOLDER / versions[-1]
        try:
            give_names(folder, version)
        except DamagedFileError as error:
            log.warning("left the names as they are: %s", error)
    for leftover in (folder / FOLDER).glob(".*"):
        shutil.rmtree(leftover, ignore_errors=True)
