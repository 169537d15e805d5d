"""Which networks with learned weights can be had here, and what each is worth on these photos."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ppmobilenet.config import load_config
from ppmobilenet.errors import DamagedFileError, UserError
from ppmobilenet.machine import cache_folder
from ppmobilenet.registry import MODELS
from ppmobilenet.weights import catalog
from ppmobilenet.weights.download import published_file
from ppmobilenet.weights.files import resolve
from ppmobilenet.weights.inspecting import inspect_weights

AUTO = "auto"
RECIPE = "quick_start/MobileNetV2_finetune.yaml"  # its network is downloaded where none is there
COMPARED = 3  # files of the cache that are tried on the photos
LARGEST = 600e6  # multiply-adds of a network that is tried without being asked for


@dataclass(frozen=True)
class Candidate:
    """A network that could be fitted.

    Attributes:
        name: of the network.
        arguments: what the weights need of it besides.
        weights: the file or folder.
        why: it is one.
        side: of its image, and of the photo's short side that this is cut from.
    """

    name: str
    arguments: Mapping
    weights: Path
    why: str
    side: tuple[int, int] = field(default=(224, 256))


def candidates(model: str, weights: str | None) -> list[Candidate]:
    """Return the networks to choose from, at least one.

    Args:
        model: ``"auto"`` or a network's name.
        weights: a weight file; None: the published ones, of the cache or downloaded.

    Raises:
        UserError: there are no weights; what is lacking, and how to get it.
        DamagedFileError: a file that is not whole.
    """
    if model != AUTO:
        MODELS.resolve(model, "--model")  # a mistyped name is said before anything is read
    if weights is not None:
        return [_of_file(model, weights)]
    if model != AUTO:
        return [_published(model, f"--model {model}")]
    cached = sorted(filter(_is_cached, catalog.rows().values()), key=lambda row: -row.top1)
    fitting = [row for row in cached if row.madds <= LARGEST] or cached
    if fitting:
        return [_of_row(row, _cached(row), "its published weights are in the cache") for row in fitting[:COMPARED]]
    default = load_config(RECIPE).arch.name
    return [_published(default, "no weights were there, and the recipe was measured with this network")]


def _of_file(model: str, weights: str) -> Candidate:
    found = inspect_weights(weights)
    if found.architecture is None:
        raise UserError(
            f"these weights are of no network here: {found.text}",
            where=weights,
            hint=f"ppmobilenet convert-weights {weights} --inspect shows what they are",
        )
    known = found.architecture
    if model not in (AUTO, known.name) and MODELS.own_name(model) != known.name:
        raise UserError(
            f"--weights are {known.name}'s, and --model is {model}", where=weights, hint="leave --model out"
        )
    arguments = {key: value for key, value in known.arguments.items() if key != "class_num"}
    return Candidate(known.name, arguments, resolve(weights), "its weights were given", _side(known.name))


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
