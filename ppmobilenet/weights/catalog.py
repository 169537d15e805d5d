"""The published weights: one typed row a file of PaddleClas's.

Addresses are those of PaddleClas's ``MODEL_URLS``; its SSLD files are named by putting ``_ssld`` in front of
``_pretrained``. Accuracy is ImageNet validation (short side to 256, centre of 224; MobileNetV4 other sizes), from
PaddleClas's model documents. A row is *unverified* until ``ppmobilenet verify-zoo`` has downloaded the file, loaded it
strictly and entered its sha256 into ``verified.json``; with an ImageNet folder it enters the measured accuracy too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ppmobilenet.errors import UserError, did_you_mean
from ppmobilenet.weights.layouts import LAYOUTS, Layouts

VERIFIED = Path(__file__).with_name("verified.json")


@dataclass(frozen=True)
class Preprocessing:
    """What the published weights were evaluated with: RGB, short side to ``resize``, centre ``crop``, normalised."""

    resize: int = 256
    crop: int = 224
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Published:
    """One published weight file.

    Attributes:
        name: of the row: the model's, with ``_ssld`` for the distilled ones.
        family: its network's, as in :class:`ppmobilenet.models.Family`.
        model: what ``create_model`` builds.
        arguments: what that name fixes, with the scale: ``{"scale": 1.0}``.
        url: where PaddleClas keeps it.
        parameters: trainable parameters at 1000 classes, exact.
        madds: multiply-adds of one 224x224 image, convolutions and classifier, exact.
        top1, top5: published accuracy in percent.
        recipe: the YAML in ``configs/`` that evaluates it and trained it (SSLD files were trained by another, which
            is not among PaddleClas's recipes of these families).
        published_parameters: in millions, as rounded by PaddleClas's document.
        published_madds: in millions, as rounded by its source, at the size of :attr:`preprocessing`.
        madds_source: that source.
        madds_counted: how that source counted, a constant of :mod:`.layouts`.
        ssld: trained by PaddleClas's SSLD distillation.
        preprocessing: for evaluation.
        md5: of the file, where it is known.
    """

    name: str
    family: str
    model: str
    arguments: Mapping
    url: str
    parameters: int
    madds: int
    top1: float
    top5: float
    recipe: str
    published_parameters: float
    published_madds: float
    madds_source: str
    madds_counted: str
    ssld: bool = False
    preprocessing: Preprocessing = Preprocessing()
    md5: str | None = None

    @property
    def any_scale(self) -> str:
        """The name that builds the same network at any ``scale``; the model's own where it has no multiplier."""
        return re.sub(r"_x\d[\d_]*$", "", self.model)

    @property
    def scale(self) -> float:
        """Width multiplier."""
        return self.arguments.get("scale", 1.0)

    @property
    def sha256(self) -> str | None:
        """Of the file, once somebody has verified it."""
        return verified().get(self.name, {}).get("sha256")

    @property
    def status(self) -> str:
        """``"unverified"``; or ``"loads"``, and the accuracy if that was measured: ``"loads, top-1 70.99 %"``."""
        entry = verified().get(self.name)
        if entry is None:
            return "unverified"
        return f"loads, top-1 {entry['top1']:.2f} %" if "top1" in entry else "loads"


def rows() -> dict[str, Published]:
    """Return every published file by its name: each family's as its layouts have them, SSLD's behind all others."""
    found = [_row(layouts, False, line) for layouts in LAYOUTS.values() for line in layouts.published]
    found += [
        _row(layouts, True, line)
        for layouts in LAYOUTS.values()
        for line in layouts.published
        if line[0] in layouts.ssld
    ]
    return {row.name: row for row in found}


def _row(layouts: Layouts, ssld: bool, line: tuple) -> Published:
    model, arguments, parameters, madds, *tops, published_parameters, published_madds, source, counted = line
    name = f"{model}_ssld" if ssld else model
    return Published(
        name,
        layouts.family,
        model,
        arguments,
        f"{layouts.address}/{name}_pretrained.pdparams",
        parameters,
        madds,
        *(layouts.ssld[model] if ssld else tops),
        f"configs/ImageNet/{layouts.family}/{model}.yaml",
        published_parameters,
        published_madds,
        source,
        counted,
        ssld,
        Preprocessing(*(layouts.evaluated[model],) * 2) if model in layouts.evaluated else Preprocessing(),
        None if ssld else layouts.md5.get(model),
    )


def find(model: str, use_ssld: bool = False) -> Published:
    """Return the published weights of a model.

    Raises:
        UserError: none were published, or none with SSLD.
    """
    name, known = f"{model}_ssld" if use_ssld and not model.endswith("_ssld") else model, rows()
    if name in known:
        return known[name]
    if use_ssld and model in known:
        raise UserError(
            f"PaddleClas published no SSLD weights of {model}",
            allowed="use_ssld with " + ", ".join(row.model for row in known.values() if row.ssld),
        )
    raise UserError(f"no published weights of {model!r}", hint=did_you_mean(model, known))


def verified() -> dict[str, dict]:
    """Return what ``ppmobilenet verify-zoo`` has found: row name -> sha256, size, date and, if measured, top1, top5."""
    return json.loads(VERIFIED.read_text(encoding="utf-8"))


def as_text() -> str:
    """Return the catalogue as a table for people."""
    width = max(len(name) for name in rows())
    lines = [f"{'name':<{width}} {'top-1':>6} {'top-5':>6} {'Mparams':>8} {'MMAdds':>7}  {'status':<12} address"]
    for row in rows().values():
        size, madds = row.parameters / 1e6, row.madds / 1e6
        lines.append(
            f"{row.name:<{width}} {row.top1:>6} {row.top5:>6} {size:>8.2f} {madds:>7.1f}  {row.status:<12} {row.url}"
        )
    return "\n".join(lines)
