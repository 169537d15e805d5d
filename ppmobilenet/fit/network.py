"""Which networks with learned weights can be had here, and what each is worth on these photos."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ppmobilenet.config import load_config
from ppmobilenet.errors import DamagedFileError, UserError
from ppmobilenet.machine import cache_folder
from ppmobilenet.registry import MODELS
from ppmobilenet.telling import log
from ppmobilenet.weights import catalog
from ppmobilenet.weights.download import published_file
from ppmobilenet.weights.files import EXTENSIONS, resolve
from ppmobilenet.weights.inspecting import Inspection, inspect_weights
from ppmobilenet.weights.layouts import LAYOUTS

AUTO = "auto"
RECIPE = "quick_start/MobileNetV2_finetune.yaml"  # its network is downloaded where none is there
COMPARED = 3  # files of the cache that are tried on the photos
LARGEST = 600e6  # multiply-adds of a network that is tried without being asked for


@dataclass(frozen=True)
class Candidate:
    """A network that could be fitted, and how it is shown a photo.

    Attributes:
        name: of the network.
        arguments: what the weights need of it besides.
        weights: the file or folder.
        why: it is one.
        side: of its image, and of the photo's short side that this is cut from.
        mean, std: of its pixels, which are from 0 to 1 before.
    """

    name: str
    arguments: Mapping
    weights: Path
    why: str
    side: tuple[int, int] = (224, 256)
    mean: tuple[float, float, float] = catalog.Preprocessing.mean
    std: tuple[float, float, float] = catalog.Preprocessing.std

    def told(self) -> dict:
        """Return it in plain values."""
        return {**asdict(self), "weights": str(self.weights.absolute())}

    @classmethod
    def of(cls, told: Mapping) -> Candidate:
        """Return it of plain values."""
        pairs = {key: tuple(told[key]) for key in ("side", "mean", "std")}
        return cls(**{**told, **pairs, "weights": Path(told["weights"])})

    def shown_whole(self) -> Candidate:
        """Return the same network, shown the whole of a photo's short side."""
        return replace(self, side=(self.side[0], self.side[0]))


def candidates(model: str, weights: str | None) -> list[Candidate]:
    """Return the networks to choose from, at least one; one whose file does not tell how it sees photos, each way.

    Args:
        model: ``"auto"`` or a network's name.
        weights: a weight file, or a folder of some; None: the published ones, of the cache or downloaded.

    Raises:
        UserError: there are no weights; what is lacking, and how to get it.
        DamagedFileError: a file that is not whole.
    """
    if model != AUTO:
        MODELS.resolve(model, "--model")  # a mistyped name is said before anything is read
    found = _with_weights(model, weights)
    return [shown for one in found for shown in (one, one.shown_whole())]


def _with_weights(model: str, weights: str | None) -> list[Candidate]:
    if weights is not None:
        files = _files_in(Path(weights).expanduser())
        return _of_folder(model, weights, files) if files else _of_file(model, inspect_weights(weights))
    if model != AUTO:
        return [_published(model, f"--model {model}")]
    cached = sorted(filter(_is_cached, catalog.rows().values()), key=lambda row: -row.top1)
    fitting = [row for row in cached if row.madds <= LARGEST] or cached
    if fitting:
        return [_of_row(row, _cached(row), "its published weights are in the cache") for row in fitting[:COMPARED]]
    default = load_config(RECIPE).arch.name
    return [_published(default, "no weights were there, and the recipe was measured with this network")]


def _files_in(folder: Path) -> list[Path]:
    """Return the weight files of a folder that holds several; none where it is one itself, of parameters."""
    if not folder.is_dir() or folder != resolve(folder):
        return []
    if not any(_is_weights(file) for file in folder.iterdir()):
        return []
    return sorted(file for file in folder.iterdir() if _is_weights(file) or (file.is_dir() and file.name[0] != "."))


def _is_weights(file: Path) -> bool:
    return file.is_file() and file.name.endswith(EXTENSIONS) and file.suffix != ".pdiparams"


def _of_folder(model: str, folder: str, files: Sequence[Path]) -> list[Candidate]:
    """Return what is in a folder of weight files, the quickest network first."""
    found, refused = [], []
    for file in files:
        try:
            found += _of_file(model, inspect_weights(file))
        except UserError as error:
            refused.append(f"{file.name}: {error.message}")
    if not found:
        raise UserError(
            f"no weights of {'a network here' if model == AUTO else model}", where=folder, hint="; ".join(refused[:3])
        )
    for said in refused:
        log.info("passed over: %s", said)
    return sorted(found, key=lambda one: madds(one.name))


def _of_file(model: str, found: Inspection) -> list[Candidate]:
    """Return a file's network, in each way that it may see photos."""
    if found.architecture is None:
        raise UserError(
            f"these weights are of no network here: {found.text}",
            where=found.path,
            hint=f"ppmobilenet convert-weights {found.path} --inspect shows what they are",
        )
    known = found.architecture
    if model not in (AUTO, known.name) and MODELS.own_name(model) != known.name:
        raise UserError(
            f"--weights are {known.name}'s, and --model is {model}", where=found.path, hint="leave --model out"
        )
    arguments = {key: value for key, value in known.arguments.items() if key != "class_num"}
    one = Candidate(known.name, arguments, found.path, "its weights were given", _side(known.name))
    others = (
        replace(one, arguments={**arguments, **way.arguments}, mean=way.mean, std=way.std)
        for way in LAYOUTS[found.family].untold
    )
    return [one, *others]


def madds(model: str) -> float:
    """Return the multiply-adds of a network with published weights, else infinity."""
    row = catalog.rows().get(model)
    return row.madds if row else float("inf")


def _published(model: str, why: str) -> Candidate:
    """Return a network with its published weights, the distilled ones where there are such and they are there."""
    row = catalog.find(model)
    distilled = catalog.rows().get(f"{row.model}_ssld")
    if distilled is not None and not _is_cached(row) and _is_cached(distilled):
        row = distilled
    try:
        return _of_row(row, published_file(row.name), why)
    except DamagedFileError:
        raise
    except UserError as error:
        raise UserError(
            f"fitting begins with weights that were learned on many photos, and there are none: {error.message}",
            where=error.where,
            hint="--weights FILE with weights of a MobileNet (.pdparams, .pth, .safetensors, a folder of parameters); "
            f"or bring {row.url} into {cache_folder('weights')}",
        ) from error


def _of_row(row: catalog.Published, file: Path, why: str) -> Candidate:
    return Candidate(row.model, {}, Path(file), why, _side(row.model))


def _cached(row: catalog.Published) -> Path:
    return cache_folder("weights") / row.url.rsplit("/", 1)[1]


def _is_cached(row: catalog.Published) -> bool:
    return _cached(row).is_file()


def _side(model: str) -> tuple[int, int]:
    row = catalog.rows().get(model)
    return (row.preprocessing.crop, row.preprocessing.resize) if row else (224, 256)
