"""Converting weight files: any kind and naming in, ours or torchvision's out."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml

from ppmobilenet.errors import UserError
from ppmobilenet.weights import naming
from ppmobilenet.weights.inspecting import inspect_weights
from ppmobilenet.weights.layouts import LAYOUTS
from ppmobilenet.weights.loading import LoadReport, load_weights
from ppmobilenet.weights.schemes import EPSILON
from ppmobilenet.weights.unfolding import unfold_bn
from ppmobilenet.weights.writing import write_weights


@dataclass(frozen=True)
class Conversion:
    """What :func:`convert_weights` did; ``str()`` is what the command prints.

    Attributes:
        report: of the strict load in between.
        output: the file written.
        tensors: how many it holds.
        photos: images used to recalibrate the batch norms, 0 without ``unfold_bn``.
    """

    report: LoadReport
    output: Path
    tensors: int
    photos: int = 0

    def __str__(self) -> str:
        lines = [f"{self.report.path}: {self.report} ({self.report.scheme})"]
        if self.photos:
            lines.append(f"batch norms recalibrated on {self.photos} photos")
        elif self.report.bn_folded:
            lines.append("its batch norm is folded away: to fine-tune from it, add --unfold-bn PHOTOS")
        return "\n".join((*lines, f"{self.output}: {self.tensors} tensors written"))


def convert_weights(
    model,
    source: str | os.PathLike,
    output: str | os.PathLike,
    *,
    to: str = "paddle",
    scheme: str | None = None,
    allow_missing: Iterable[str] = (),
    calibration: Iterable[np.ndarray] | None = None,
) -> Conversion:
    """Load a file strictly into its network and write it anew.

    Args:
        model: the file's network (``create_model(...)``), whose class count is the file's.
        source: a weight file of any kind and naming.
        output: ends in ``.pdparams``, ``.npz`` or ``.safetensors``.
        to: key names to write: ``"paddle"`` (PaddleClas's and ours), or ``"torchvision"`` where the family has them.
        scheme: force the naming of ``source``.
        allow_missing: keys that ``source`` may lack.
        calibration: image batches, float32 [N, 3, H, W]: recalibrate the batch norms of a folded file with them.

    Returns:
        What was done.

    Raises:
        UserError: the file does not fit the network, or the network has no torchvision layout.
        DamagedFileError, NumericsError: as :func:`ppmobilenet.weights.loading.load_weights`.
    """
    namings = dict.fromkeys(["paddle", *(name for layouts in LAYOUTS.values() for name in layouts.writes)])
    if to not in namings:
        raise UserError(f"unknown output naming {to!r}", allowed=", ".join(namings))
    report = load_weights(model, source, class_num_may_differ=False, allow_missing=allow_missing, scheme=scheme)
    photos = unfold_bn(model, calibration) if calibration is not None else 0
    state = model.state_dict()
    arrays = {key: tensor.numpy() for key, tensor in state.items()}
    names = {key: tensor.name for key, tensor in state.items()}
    if to != "paddle":
        arrays, names = renamed(arrays, to, getattr(model, "computes", {})), None
    path = write_weights(arrays, output, names)
    return Conversion(report, path, len(arrays), photos)


def architecture_of(
    source: str | os.PathLike, name: str | None = None, options: Iterable[str] = (), scheme: str | None = None
) -> dict:
    """Return the ``Arch`` section that builds a file's network.

    Args:
        source: the weight file.
        name: the network's name; None takes the name and arguments that the file's shapes tell.
        options: ``"divisor=8"``: arguments with it, YAML values.
        scheme: force the naming of ``source``.

    Raises:
        UserError: the shapes are those of no network known and ``name`` is None, or an option without ``=``.
    """
    found = inspect_weights(source, scheme)
    if name is None and found.architecture is None:
        raise UserError(
            f"its network cannot be told: {found.text}",
            where=source,
            hint="name it: --arch MobileNetV2 --arch-option scale=0.6 ...",
        )
    arch: dict = {"name": name or found.architecture.name}
    if found.architecture:
        told = found.architecture.arguments
        arch.update(told if name is None else {key: told[key] for key in ("class_num",) if key in told})
    for option in options:
        key, equals, value = option.partition("=")
        if not equals:
            raise UserError(f"--arch-option {option!r} has no '='", allowed="KEY=VALUE, for example divisor=8")
        arch[key] = yaml.safe_load(value)
    return arch


def renamed(arrays: Mapping[str, np.ndarray], to: str, computes: Mapping[str, float] | None = None) -> dict:
    """Name our network's arrays as another project does: ``mobilenet_v2().load_state_dict`` takes ``"torchvision"``.

    What the other project's network computes otherwise (batch norm's epsilon, V3's gates) goes into the values.

    Args:
        arrays: the network's key -> array.
        to: whose naming.
        computes: what the network computes with, see :attr:`ppmobilenet.weights.schemes.Scheme.computes`.

    Raises:
        UserError: that project has no such family, or no place for what the network has: a trained expand convolution
            in the first block, squeeze-excitation of another width, padding or pooling of its own.
    """
    layout, computes = naming.read_layout(arrays), dict(computes or {})
    known = LAYOUTS[layout.family]
    if to not in known.writes:
        able = " or ".join(family for family, layouts in LAYOUTS.items() if to in layouts.writes)
        raise UserError(f"{to} has no {layout.family}: only {able} can be written in its naming")
    scheme = next(row for row in known.schemes if row.name.startswith(f"{to}-"))
    foreign = [name for name, value in computes.items() if value and name not in scheme.computes]
    if foreign:
        raise UserError(
            f"the network computes with {', '.join(foreign)}, which {to}'s has not",
            hint="write .pdparams, .npz or .safetensors in Paddle naming",
        )
    neutral, _ = naming.neutral_arrays(layout, arrays)
    places = known.writes[to](neutral)
    expansion = {name: neutral.pop(name) for name in list(neutral) if name.rpartition(".")[0] not in places}
    if expansion and not (known.identity_expansion and naming.is_identity_expansion(expansion)):
        raise UserError(
            f"its first block has a trained expand convolution, which {to}'s layout has no place for",
            hint="write .pdparams, .npz or .safetensors in Paddle naming; only networks that came from "
            "torchvision, timm or paddle.vision can go back",
        )
    known.adapt(neutral, computes, scheme.computes) if scheme.computes else None
    made = {}
    for unit, (conv, norm) in places.items():
        if f"{unit}.weight" not in neutral:
            continue  # a network without classifier
        weight = neutral[f"{unit}.weight"]
        if norm is None:  # a linear layer
            made[f"{conv}.weight"] = np.ascontiguousarray(weight.T if weight.ndim == 2 else weight[:, :, 0, 0])
        else:
            made[f"{conv}.weight"] = weight
        if norm:
            variance = neutral[f"{unit}.variance"]
            factor = np.sqrt((variance.astype("float64") + scheme.epsilon) / (variance + EPSILON))
            made[f"{norm}.weight"] = (neutral[f"{unit}.scale"] * factor).astype("float32")
            made[f"{norm}.bias"] = neutral[f"{unit}.offset"]
            made[f"{norm}.running_mean"] = neutral[f"{unit}.mean"]
            made[f"{norm}.running_var"] = variance
            made[f"{norm}.num_batches_tracked"] = np.array(0, "int64")
        else:
            made[f"{conv}.bias"] = neutral.get(f"{unit}.bias", np.zeros(len(made[f"{conv}.weight"]), "float32"))
    return made
