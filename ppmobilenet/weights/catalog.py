"""The published weights: one typed row a file of PaddleClas's.

Addresses are those of PaddleClas's ``MODEL_URLS``; its SSLD files are named by putting ``_ssld`` in front of
``_pretrained``. Accuracy is ImageNet validation at 224 pixels (resize the short side to 256, crop the centre), from
PaddleClas's model documents. A row is *unverified* until ``ppmobilenet verify-zoo`` has downloaded the file, loaded it
strictly and entered its sha256 into ``verified.json``; with an ImageNet folder it enters the measured accuracy too.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from ppmobilenet.errors import UserError, did_you_mean

_HOST = "https://paddle-imagenet-models-name.bj.bcebos.com/dygraph"
VERIFIED = Path(__file__).with_name("verified.json")

# How a published multiply-add figure was counted
AS_BUILT = "convolutions and classifier as built"
AS_PAPER = "without the first block's expand convolution, which the paper's network has not"
WITH_NORM = "with two operations a value in each batch norm"


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
        model: what ``create_model`` builds.
        url: where PaddleClas keeps it.
        parameters: trainable parameters at 1000 classes, exact.
        madds: multiply-adds of one 224x224 image, convolutions and classifier, exact.
        top1, top5: published accuracy in percent.
        recipe: the YAML in ``configs/`` that evaluates it and trained it (SSLD files were trained by another, which
            is not among PaddleClas's recipes of these two families).
        published_parameters: in millions, as rounded by PaddleClas's document.
        published_madds: in millions, as rounded by its source.
        madds_source: that source.
        madds_counted: how that source counted, one of the constants above.
        ssld: trained by PaddleClas's SSLD distillation.
        preprocessing: for evaluation.
    """

    name: str
    model: str
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


# Howard et al. 2017, table 6; Sandler et al. 2018, table 4; PaddleClas's documents of the two families and of PP-LCNet
# (the first of them says 25 and 85 for V2 x0_25 and x0_5, which no way of counting gives)
_V1, _V2 = "arXiv 1704.04861, table 6", "arXiv 1801.04381, table 4"
_PC, _LCNET = "PaddleClas, MobileNetV2.md, FLOPs halved", "PaddleClas, PP-LCNet_en.md"

# model, parameters, multiply-adds, top-1, top-5, published: parameters, multiply-adds, source, way of counting
_TABLE = (
    ("MobileNetV1_x0_25", 470_072, 41_030_272, 51.4, 75.5, 0.46, 41, _V1, AS_BUILT),
    ("MobileNetV1_x0_5", 1_331_592, 149_497_088, 63.5, 84.7, 1.31, 149, _V1, AS_BUILT),
    ("MobileNetV1_x0_75", 2_585_560, 325_400_448, 68.8, 88.2, 2.55, 325, _V1, AS_BUILT),
    ("MobileNetV1", 4_231_976, 568_740_352, 70.99, 89.68, 4.19, 569, _V1, AS_BUILT),
    ("MobileNetV2_x0_25", 1_517_392, 30_480_864, 53.21, 76.52, 1.50, 34, _LCNET, WITH_NORM),
    ("MobileNetV2_x0_5", 1_965_736, 92_271_040, 65.03, 85.72, 1.93, 99, _LCNET, WITH_NORM),
    ("MobileNetV2_x0_75", 2_628_592, 186_650_528, 69.8, 89.0, 2.58, 175, _PC, AS_PAPER),
    ("MobileNetV2", 3_505_960, 313_619_328, 72.15, 90.65, 3.44, 300, _V2, AS_PAPER),
    ("MobileNetV2_x1_5", 6_852_712, 681_017_664, 74.1, 91.7, 6.76, 660, _PC, AS_PAPER),
    ("MobileNetV2_x2_0", 11_262_312, 1_188_808_448, 75.2, 92.6, 11.13, 1160, _PC, AS_PAPER),
)
# SSLD: same network, other weights: top-1, top-5
_SSLD = {"MobileNetV1": (77.9, 93.9), "MobileNetV2": (76.74, 93.39)}


def _row(
    model: str, parameters: int, madds: int, top1: float, top5: float, *published, ssld: bool = False
) -> Published:
    family = model[: len("MobileNetV1")]
    folder = f"{_HOST}/legendary_models" if family == "MobileNetV1" else _HOST
    name = f"{model}_ssld" if ssld else model
    return Published(
        name,
        model,
        f"{folder}/{name}_pretrained.pdparams",
        parameters,
        madds,
        top1,
        top5,
        f"configs/ImageNet/{family}/{model}.yaml",
        *published,
        ssld=ssld,
    )


ROWS = tuple(_row(*line) for line in _TABLE) + tuple(
    _row(*line[:3], *_SSLD[line[0]], *line[5:], ssld=True) for line in _TABLE if line[0] in _SSLD
)
CATALOG = {row.name: row for row in ROWS}


def find(model: str, use_ssld: bool = False) -> Published:
    """Return the published weights of a model.

    Raises:
        UserError: none were published, or none with SSLD.
    """
    name = f"{model}_ssld" if use_ssld and not model.endswith("_ssld") else model
    if name in CATALOG:
        return CATALOG[name]
    if use_ssld and model in CATALOG:
        raise UserError(
            f"PaddleClas published no SSLD weights of {model}",
            allowed="use_ssld with " + ", ".join(row.model for row in ROWS if row.ssld),
        )
    raise UserError(f"no published weights of {model!r}", hint=did_you_mean(model, CATALOG))


def verified() -> dict[str, dict]:
    """Return what ``ppmobilenet verify-zoo`` has found: row name -> sha256, size, date and, if measured, top1, top5."""
    return json.loads(VERIFIED.read_text(encoding="utf-8"))


def as_text() -> str:
    """Return the catalogue as a table for people."""
    lines = [f"{'name':<18} {'top-1':>6} {'top-5':>6} {'Mparams':>8} {'MMAdds':>7}  {'status':<12} address"]
    for row in ROWS:
        size, madds = row.parameters / 1e6, row.madds / 1e6
        lines.append(
            f"{row.name:<18} {row.top1:>6} {row.top5:>6} {size:>8.2f} {madds:>7.1f}  {row.status:<12} {row.url}"
        )
    return "\n".join(lines)
