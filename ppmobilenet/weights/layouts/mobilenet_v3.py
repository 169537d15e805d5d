"""MobileNetV3: whose files, and what was published (Howard et al. 2019; Paddle)."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product

import numpy as np

from ppmobilenet.errors import UserError
from ppmobilenet.models.widths import scaled_width
from ppmobilenet.weights.layouts import (
    AS_BUILT,
    NORM_ONCE,
    PADDLE_FILES,
    PC,
    Layouts,
    Untold,
    count_blocks,
    number_blocks,
    register,
    scales,
)
from ppmobilenet.weights.schemes import PARAM_ATTR, Scheme


def _paddle(block: str, conv: str = "{conv,bn}", gate: str = "mid_se.conv") -> tuple[tuple[str, str], ...]:
    return (
        ("expand", f"{block}.expand_conv.{conv}"),
        ("dw", f"{block}.bottleneck_conv.{conv}"),
        ("se1", f"{block}.{gate}1"),
        ("se2", f"{block}.{gate}2"),
        ("out", f"{block}.linear_conv.{conv}"),
    )


# gates of slope 1/6 and no factor behind the dropout, where Paddle's have 0.2 and 0.8
_PAPER = {"se_slope": 1 / 6, "kept": 1.0}


def _timm(name: str, text: str, last: str) -> Scheme:
    """timm's names; ``last`` tells the last convolution's batch norm from that of a block's expansion."""
    rows = (
        ("stem", "{conv_stem,bn1}"),
        ("last", f"{last}.{{conv,bn1}}"),
        ("dw", "blocks.0.<i>.{conv_dw,bn1}"),
        ("out", "blocks.0.<i>.{conv_pw,bn2}"),
        ("expand", "blocks.<s>.<i>.{conv_pw,bn1}"),
        ("dw", "blocks.<s>.<i>.{conv_dw,bn2}"),
        ("se1", "blocks.<s>.<i>.se.conv_reduce"),
        ("se2", "blocks.<s>.<i>.se.conv_expand"),
        ("out", "blocks.<s>.<i>.{conv_pwl,bn3}"),
        ("last2", "conv_head"),
    )
    return Scheme(name, text, rows, ("classifier",), torch=True, computes=_PAPER)


SCHEMES = (
    Scheme(
        "paddleclas-v3",
        "PaddleClas MobileNetV3 (also this project's)",
        (
            ("stem", "conv.{conv,bn}"),
            *_paddle("blocks.<i>"),
            ("last", "last_second_conv.{conv,bn}"),
            ("last2", "last_conv"),
        ),
        ("fc",),
    ),
    Scheme(
        "paddleclas-v3-first",
        "PaddleClas MobileNetV3 of 2020 (also PaddleDetection's trunk)",
        (
            ("stem", "conv1.{conv,bn}"),
            *_paddle("conv<s>"),
            ("last", "last_second_conv.{conv,bn}"),
            ("last2", "last_conv"),
        ),
        ("out",),
    ),
    Scheme(
        "paddleocr-v3-stages",
        "PaddleOCR's MobileNetV3 trunk in stages (detection)",
        (("stem", "conv.{conv,bn}"), *_paddle("stage<s>.<i>"), ("last", "stage<s>.<i>.{conv,bn}")),
        (),
    ),
    Scheme(
        "paddleocr-v3-blocks",
        "PaddleOCR's MobileNetV3 trunk in one sequence (recognition, orientation)",
        (("stem", "conv1.{conv,bn}"), *_paddle("blocks.<i>"), ("last", "conv2.{conv,bn}")),
        (),
    ),
    Scheme(
        "param-attr-v3",
        "Paddle static graph MobileNetV3 (ParamAttr names)",
        (
            ("stem", "conv1"),
            ("expand", "conv<s>_expand"),
            ("dw", "conv<s>_depthwise"),
            ("se1", "conv<s>_se_1"),
            ("se2", "conv<s>_se_2"),
            ("out", "conv<s>_linear"),
            ("last", "conv_last"),
            ("last2", "last_1x1_conv"),
        ),
        ("fc",),
        ends=PARAM_ATTR,
    ),
    Scheme(
        "torchvision-v3",
        "torchvision MobileNetV3",
        (
            ("stem", "features.0.{0,1}"),
            # the first block has no expansion; large's has no gate either
            ("dw", "features.1.block.0.{0,1}"),
            ("se1", "features.1.block.1.fc1"),
            ("se2", "features.1.block.1.fc2"),
            ("out", "features.1.block.1.{0,1}"),
            ("out", "features.1.block.2.{0,1}"),
            ("expand", "features.<i>.block.0.{0,1}"),
            ("dw", "features.<i>.block.1.{0,1}"),
            ("se1", "features.<i>.block.2.fc1"),
            ("se2", "features.<i>.block.2.fc2"),
            ("out", "features.<i>.block.2.{0,1}"),
            ("out", "features.<i>.block.3.{0,1}"),
            ("last", "features.<x>.{0,1}"),
            ("last2", "classifier.0"),
        ),
        ("classifier.3",),
        torch=True,
        epsilon=1e-3,
        computes=_PAPER,
    ),
    _timm("timm-v3", "timm mobilenetv3_large", "blocks.6.0"),
    _timm("timm-v3-small", "timm mobilenetv3_small", "blocks.5.0"),
    Scheme(
        "paddle-vision-v3",
        "paddle.vision MobileNetV3",
        (
            ("stem", "conv.{0,1}"),
            *_paddle("blocks.<i>", "{0,1}", "mid_se.fc"),
            ("last", "lastconv.{0,1}"),
            ("last2", "classifier.0"),
        ),
        ("classifier.3",),
        epsilon=1e-3,
        computes=_PAPER,
    ),
)

# the paper's tables 1 and 2: width out, expanded width, gate
ROWS = {
    "large": (
        *((16, 16, False), (24, 64, False), (24, 72, False), (40, 72, True), (40, 120, True), (40, 120, True)),
        *((80, 240, False), (80, 200, False), (80, 184, False), (80, 184, False), (112, 480, True), (112, 672, True)),
        *((160, 672, True), (160, 960, True), (160, 960, True)),
    ),
    "small": (
        *((16, 16, True), (24, 72, False), (24, 88, False), (40, 96, True), (40, 240, True), (40, 240, True)),
        *((48, 120, True), (48, 144, True), (96, 288, True), (96, 576, True), (96, 576, True)),
    ),
}
SQUEEZED = (None, 8)


def _matching(stem: int | None, outs: list[int]) -> tuple[str, float] | None:
    """Return size and scale whose stem (None: any) and block outputs these are."""
    for size, rows in ROWS.items():
        for scale in scales(outs[-1], rows[-1][0]):
            fits = stem in (None, scaled_width(16, scale, 8))
            if fits and outs == [scaled_width(row[0], scale, 8) for row in rows]:
                return size, scale
    return None


def _expansions(size: str, scale: float, shapes: Mapping) -> list[tuple[int, int]]:
    """Return (a file's, ours) expanded widths of the blocks behind the first, whose depth a file tells otherwise."""
    pairs = []
    for i, (_, expanded, _) in enumerate(ROWS[size]):
        if i and f"block.{i}.dw.weight" in shapes:
            pairs.append((shapes[f"block.{i}.dw.weight"][0], scaled_width(expanded, scale, 8)))
    return pairs


def guess(stem: int, outs: list[int], shapes: dict) -> dict | None:
    found = _matching(stem, outs)
    if found is None:
        return None
    size, scale = found
    if any(theirs != ours for theirs, ours in _expansions(size, scale, shapes)):
        return None
    squeezed = {i: shapes[f"block.{i}.se1.weight"][0] for i in range(len(outs)) if f"block.{i}.se1.weight" in shapes}
    divisor = next(
        (
            divisor
            for divisor in SQUEEZED
            if all(c == scaled_width(shapes[f"block.{i}.dw.weight"][0] // 4, 1.0, divisor) for i, c in squeezed.items())
        ),
        None,
    )
    told = (
        ("use_se", bool(squeezed), True),
        ("se_divisor", divisor, None),
        ("expand_first", "block.0.expand.weight" in shapes, True),
        ("class_expand", shapes.get("last2.weight", (0,))[0], 1280),
        ("last_conv_bias", "last2.bias" in shapes, False),
    )
    return {"size": size, "scale": scale, **{key: value for key, value, usual in told if value != usual}}


def refusal(stem: int, outs: list[int], shapes: dict) -> str | None:
    """Say whose width rule a file follows that is not built here."""
    found = _matching(None, outs)
    if found is None:
        return None
    size, scale = found
    pairs = [(stem, scaled_width(16, scale, 8)), *_expansions(size, scale, shapes)]
    if all(theirs == ours for theirs, ours in pairs):
        return None
    return (
        f"a MobileNetV3 {size} x{scale:g} by the width rule of TensorFlow and timm (its first widths: "
        f"{', '.join(str(theirs) for theirs, _ in pairs[:6])}; Paddle's: {', '.join(str(o) for _, o in pairs[:6])}): "
        "they multiply the ratio of expansion by the rounded width, Paddle the table's expanded width, so that only "
        "x1.0 is the same network"
    )


def in_order(kinds: str) -> list[str] | None:
    """Name the convolutions of a network whose kinds these are, whichever options it was built with."""
    for rows, gates, first, tail in product(ROWS.values(), (True, False), (True, False), (2, 1, 0)):
        blocks = []
        for i, (_, _, gate) in enumerate(rows):
            gated = ("se1", "se2") if gate and gates else ()
            blocks.append(("expand", "dw", *gated, "out") if i or first else ("dw", *gated, "out"))
        units = [*number_blocks(blocks), *("last", "last2")[:tail]]
        if kinds == "c" + "".join("d" if unit.endswith(".dw") else "p" for unit in units[1:]):
            return units
    return None


def torchvision(arrays: Mapping) -> dict[str, tuple[str, str | None]]:
    """Place what torchvision's network has; its gates' widths are those of no argument.

    Raises:
        UserError: the gates are of another width, or there are none; no convolution behind the pooling.
    """
    blocks = count_blocks(arrays)
    if "last2.weight" not in arrays:
        raise UserError("torchvision's MobileNetV3 has a layer behind the pooling, this one has none (class_expand=0)")
    places: dict[str, tuple[str, str | None]] = {"stem": ("features.0.0", "features.0.1")}
    rows = next((rows for rows in ROWS.values() if len(rows) == blocks), ())
    for i, (_, _, gated) in enumerate(rows):
        name, at = f"block.{i}", f"features.{i + 1}.block"
        units = (*(("expand",) if i else ()), "dw", *(("se",) if gated else ()), "out")
        for j, unit in enumerate(units):
            if unit == "se":
                places |= {f"{name}.se{n}": (f"{at}.{j}.fc{n}", "") for n in (1, 2)}
                has, c = arrays.get(f"{name}.se1.weight"), len(arrays[f"{name}.dw.weight"])
                if has is None or len(has) != scaled_width(c // 4, 1.0, 8):
                    raise UserError(
                        f"squeeze-excitation of block {i} is {'missing' if has is None else f'{len(has)} wide'}; "
                        f"torchvision's is {scaled_width(c // 4, 1.0, 8)} wide",
                        hint="only networks that came from torchvision, timm or paddle.vision can go back; "
                        "write .pdparams, .npz or .safetensors in Paddle naming",
                    )
            else:
                places[f"{name}.{unit}"] = (f"{at}.{j}.0", f"{at}.{j}.1")
    last = f"features.{blocks + 1}"
    return {
        **places,
        "last": (f"{last}.0", f"{last}.1"),
        "last2": ("classifier.0", None),
        "head": ("classifier.3", None),
    }


def adapt(arrays: dict[str, np.ndarray], theirs: Mapping[str, float], ours: Mapping[str, float]) -> list[str]:
    """Make a file of another slope and dropout compute the same here, exactly: both are factors of linear layers."""
    notes = []
    slope, kept = (np.float32(theirs[key] / ours.get(key, theirs[key])) for key in ("se_slope", "kept"))
    gates = [name for name in arrays if name.rpartition(".")[0].endswith(".se2")]
    for name in gates if slope != 1 else ():
        arrays[name] = arrays[name] * slope
    if gates and slope != 1:
        notes.append(f"gates' slope {theirs['se_slope']:.3g} as weights for {ours['se_slope']:.3g}")
    if kept != 1 and "head.weight" in arrays:
        arrays["head.weight"] = arrays["head.weight"] * kept
        notes.append(f"classifier times {kept:.3g} for the dropout's factor in evaluation")
    return notes


_PC_DOC = "PaddleClas, MobileNetV3.md, FLOPs halved"
_SD855 = "Snapdragon 855 armv8"


def _row(size: str, scale: float, name: str, *figures) -> tuple:
    counted = AS_BUILT if (size, scale) == ("small", 0.35) else NORM_ONCE
    return f"MobileNetV3_{size}_{name}", {"size": size, "scale": scale}, *figures, _PC_DOC, counted


LAYOUTS = register(
    Layouts(
        "MobileNetV3",
        SCHEMES,
        guess,
        in_order,
        plain=("se1", "se2", "last2"),
        writes={"torchvision": torchvision},
        activation="hardswish",
        adapt=adapt,
        refusal=refusal,
        # Google's, and what timm took from there (``tf_``)
        untold=(Untold({"same_padding": True}, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),),
        published=(
            _row("small", 0.35, "x0_35", 1_665_954, 13_161_528, 53.0, 76.4, 1.66, 13),
            _row("small", 0.5, "x0_5", 1_902_536, 20_759_280, 59.2, 81.5, 1.9, 21.5),
            _row("small", 0.75, "x0_75", 2_375_106, 43_048_536, 66.0, 86.3, 2.37, 44),
            _row("small", 1.0, "x1_0", 2_939_958, 60_119_520, 68.2, 88.1, 2.94, 61.5),
            _row("small", 1.25, "x1_25", 3_627_370, 95_364_424, 70.7, 89.5, 3.62, 97.5),
            _row("large", 0.35, "x0_35", 2_104_328, 37_188_872, 64.3, 85.5, 2.1, 38.5),
            _row("large", 0.5, "x0_5", 2_673_422, 66_704_432, 69.2, 88.5, 2.67, 69),
            _row("large", 0.75, "x0_75", 3_912_248, 143_780_440, 73.1, 91.1, 3.91, 148),
            _row("large", 1.0, "x1_0", 5_480_206, 219_799_200, 75.3, 92.3, 5.47, 225),
            _row("large", 1.25, "x1_25", 7_443_308, 349_965_896, 76.4, 93.0, 7.44, 357),
        ),
        ssld={
            "MobileNetV3_small_x0_35": (55.6, 77.7),
            "MobileNetV3_small_x1_0": (71.3, 90.1),
            "MobileNetV3_large_x1_0": (79.0, 94.5),
        },
        # stood in paddle.vision's source in 2022 for the same addresses; of the SSLD files none is known
        md5={
            "MobileNetV3_small_x0_35": "938f11e720fdd04fe46a68322155f7e3",
            "MobileNetV3_small_x0_5": "4ccb3f48b940edacdf37e227c2b77ac2",
            "MobileNetV3_small_x0_75": "ea999201351e094d3e71c3c00584098d",
            "MobileNetV3_small_x1_0": "96d99be8a67d6431ba7de6149f15b23d",
            "MobileNetV3_small_x1_25": "69b75ae25115475af20d0f1af67412c0",
            "MobileNetV3_large_x0_35": "64864e5bff400eca62566c32270f7afc",
            "MobileNetV3_large_x0_5": "d6da6f4fb5d27901be64c7acc26288d0",
            "MobileNetV3_large_x0_75": "5af6995c37d468d8e3ddee69cc238ed7",
            "MobileNetV3_large_x1_0": "8f8b4359af8093191628e410438ca858",
            "MobileNetV3_large_x1_25": "0a092f2906ef0ae8267e4756449cc90a",
        },
        address=f"{PADDLE_FILES}/legendary_models",
        latency=(
            (PC, "fp32", "MobileNetV3_small_x0_35", _SD855, {224: (2.23, 1.66, 1.43)}),
            (PC, "fp32", "MobileNetV3_small_x0_5", _SD855, {224: (2.89, 2.04, 1.62)}),
            (PC, "fp32", "MobileNetV3_small_x0_75", _SD855, {224: (4.5, 2.96, 2.19)}),
            (PC, "fp32", "MobileNetV3_small_x1_0", _SD855, {224: (5.63, 3.65, 2.6)}),
            (PC, "fp32", "MobileNetV3_small_x1_25", _SD855, {224: (7.88, 4.91, 3.45)}),
            (PC, "fp32", "MobileNetV3_large_x0_35", _SD855, {224: (4.43, 3.11, 2.41)}),
            (PC, "fp32", "MobileNetV3_large_x0_5", _SD855, {224: (6.5, 4.22, 3.15)}),
            (PC, "fp32", "MobileNetV3_large_x0_75", _SD855, {224: (11.53, 7.06, 4.94)}),
            (PC, "fp32", "MobileNetV3_large_x1_0", _SD855, {224: (16.55, 10.09, 6.84)}),
            (PC, "fp32", "MobileNetV3_large_x1_25", _SD855, {224: (24.52, 14.76, 9.89)}),
        ),
    )
)
