"""MobileNetV2: whose files, and what was published (Sandler et al. 2018, table 4; TensorFlow; Paddle)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import product
from math import ceil

from ppmobilenet.models.widths import scaled_width
from ppmobilenet.weights.layouts import (
    AS_PAPER,
    PC,
    PS,
    TF,
    WITH_NORM,
    Layouts,
    count_blocks,
    number_blocks,
    register,
    scales,
)
from ppmobilenet.weights.schemes import PARAM_ATTR, Scheme

_TORCHVISION = (
    ("stem", "features.0.{0,1}"),
    ("dw", "features.1.conv.0.{0,1}"),
    ("out", "features.1.conv.{1,2}"),
    ("expand", "features.<i>.conv.0.{0,1}"),
    ("dw", "features.<i>.conv.1.{0,1}"),
    ("out", "features.<i>.conv.{2,3}"),
    ("last", "features.<x>.{0,1}"),
)

SCHEMES = (
    Scheme(
        "paddleclas-v2",
        "PaddleClas MobileNetV2 (also this project's)",
        (
            ("stem", "conv1.{_conv,_batch_norm}"),
            ("expand", "<p>conv<s>.<u>._expand_conv.{_conv,_batch_norm}"),
            ("dw", "<p>conv<s>.<u>._bottleneck_conv.{_conv,_batch_norm}"),
            ("out", "<p>conv<s>.<u>._linear_conv.{_conv,_batch_norm}"),
            ("last", "conv9.{_conv,_batch_norm}"),
        ),
        ("out",),
    ),
    Scheme(
        "param-attr-v2",
        "Paddle static graph MobileNetV2 (ParamAttr names)",
        (
            ("stem", "conv1_1"),
            ("expand", "conv<s>_<i>_expand"),
            ("dw", "conv<s>_<i>_dwise"),
            ("out", "conv<s>_<i>_linear"),
            ("last", "conv9"),
        ),
        ("fc10",),
        ends=PARAM_ATTR,
    ),
    Scheme("torchvision-v2", "torchvision MobileNetV2", _TORCHVISION, ("classifier.1",), torch=True),
    Scheme("paddle-vision-v2", "paddle.vision MobileNetV2", _TORCHVISION, ("classifier.1",)),
    Scheme(
        "timm-v2",
        "timm mobilenetv2",
        (
            ("stem", "{conv_stem,bn1}"),
            ("dw", "blocks.0.<i>.{conv_dw,bn1}"),
            ("out", "blocks.0.<i>.{conv_pw,bn2}"),
            ("expand", "blocks.<s>.<i>.{conv_pw,bn1}"),
            ("dw", "blocks.<s>.<i>.{conv_dw,bn2}"),
            ("out", "blocks.<s>.<i>.{conv_pwl,bn3}"),
            ("last", "{conv_head,bn2}"),
        ),
        ("classifier",),
        torch=True,
    ),
    Scheme(
        "pytorch-v2-tutorial",
        "the plain PyTorch MobileNetV2 of tutorials (features.N.conv.M)",
        (
            ("stem", "features.0.{0,1}"),
            ("dw", "features.1.conv.{0,1}"),
            ("out", "features.1.conv.{3,4}"),
            ("expand", "features.<i>.conv.{0,1}"),
            ("dw", "features.<i>.conv.{3,4}"),
            ("out", "features.<i>.conv.{6,7}"),
            ("last", "features.<x>.{0,1}"),
            ("last", "conv.{0,1}"),
        ),
        ("classifier.1", "classifier"),
        torch=True,
    ),
)

# Table 2 of the paper: channels out and units of each stage
STAGES = ((16, 1), (24, 2), (32, 3), (64, 4), (96, 3), (160, 3), (320, 1))
DEPTHS = (1.0, 1.2, 1.4, 2.0)  # 1.1 and 1.2 round to the same units, as do 1.4 and 1.5


def guess(stem: int, outs: list[int], shapes: dict) -> dict | None:
    last = shapes.get("last.weight", (None,))[0]
    expansion = round(shapes["block.1.dw.weight"][0] / outs[0], 3) if "block.1.dw.weight" in shapes else 6
    for divisor, fixed, depth, scale in product((None, 8, 4, 16), (False, True), DEPTHS, scales(outs[-1], 320)):
        if fixed and (scale, depth) == (1.0, 1.0):
            continue
        if stem != (32 if fixed else scaled_width(32, scale, divisor)):
            continue
        expected = []
        for i, (channels, units) in enumerate(STAGES):
            units = units if fixed and i in (0, len(STAGES) - 1) else ceil(units * depth)
            expected += [scaled_width(channels, scale, divisor)] * units
        if outs != expected:
            continue
        usual = 1280 if fixed else scaled_width(1280, max(1.0, scale), divisor)
        told = (
            ("expansion", expansion, 6),
            ("divisor", divisor, None),
            ("depth", depth, 1.0),
            ("fix_stem_head", fixed, False),
            ("last_channel", usual if last is None else last, usual),
        )
        return {"scale": scale, **{key: value for key, value, default in told if value != default}}
    return None


def in_order(kinds: str) -> list[str] | None:
    match = re.fullmatch("c(p?dp)((?:pdp)+)p", kinds)
    if match is None:
        return None
    unit = ("expand", "dw", "out")
    return [*number_blocks([unit[3 - len(match[1]) :], *[unit] * (len(match[2]) // 3)]), "last"]


def torchvision(arrays: Mapping) -> dict[str, tuple[str, str | None]]:
    blocks = count_blocks(arrays)
    places = {"stem": ("features.0.0", "features.0.1")}
    places["block.0.dw"] = ("features.1.conv.0.0", "features.1.conv.0.1")
    places["block.0.out"] = ("features.1.conv.1", "features.1.conv.2")
    for i in range(1, blocks):
        at = f"features.{i + 1}.conv"
        places[f"block.{i}.expand"] = (f"{at}.0.0", f"{at}.0.1")
        places[f"block.{i}.dw"] = (f"{at}.1.0", f"{at}.1.1")
        places[f"block.{i}.out"] = (f"{at}.2", f"{at}.3")
    places["last"] = (f"features.{blocks + 1}.0", f"features.{blocks + 1}.1")
    places["head"] = ("classifier.1", None)
    return places


# PaddleClas's documents of the family (it says 25 and 85 for x0_25 and x0_5, which no way of counting gives) and of
# PP-LCNet
_PAPER, _PC, _LCNET = (
    "arXiv 1801.04381, table 4",
    "PaddleClas, MobileNetV2.md, FLOPs halved",
    "PaddleClas, PP-LCNet_en.md",
)
_SD855, _SD835, _KIRIN, _PIXEL = "Snapdragon 855", "Snapdragon 835", "Kirin 970", "Pixel 1, TF Lite"

LAYOUTS = register(
    Layouts(
        "MobileNetV2",
        SCHEMES,
        guess,
        in_order,
        activation="relu6",
        identity_expansion=True,
        writes={"torchvision": torchvision},
        published=(
            ("MobileNetV2_x0_25", {"scale": 0.25}, 1_517_392, 30_480_864, 53.21, 76.52, 1.50, 34, _LCNET, WITH_NORM),
            ("MobileNetV2_x0_5", {"scale": 0.5}, 1_965_736, 92_271_040, 65.03, 85.72, 1.93, 99, _LCNET, WITH_NORM),
            ("MobileNetV2_x0_75", {"scale": 0.75}, 2_628_592, 186_650_528, 69.8, 89.0, 2.58, 175, _PC, AS_PAPER),
            ("MobileNetV2", {"scale": 1.0}, 3_505_960, 313_619_328, 72.15, 90.65, 3.44, 300, _PAPER, AS_PAPER),
            ("MobileNetV2_x1_5", {"scale": 1.5}, 6_852_712, 681_017_664, 74.1, 91.7, 6.76, 660, _PC, AS_PAPER),
            ("MobileNetV2_x2_0", {"scale": 2.0}, 11_262_312, 1_188_808_448, 75.2, 92.6, 11.13, 1160, _PC, AS_PAPER),
        ),
        ssld={"MobileNetV2": (76.74, 93.39)},
        accuracy=(
            (TF, "fp32", 1.4, {224: (75.0, 92.5)}),
            (TF, "fp32", 1.3, {224: (74.4, 92.1)}),
            (TF, "fp32", 1.0, {224: (71.8, 91.0), 192: (70.7, 90.1), 160: (68.8, 89.0)}),
            (TF, "fp32", 1.0, {128: (65.3, 86.9), 96: (60.3, 83.2)}),
            (TF, "fp32", 0.75, {224: (69.8, 89.6), 192: (68.7, 88.9), 160: (66.4, 87.3)}),
            (TF, "fp32", 0.75, {128: (63.2, 85.3), 96: (58.8, 81.6)}),
            (TF, "fp32", 0.5, {224: (65.4, 86.4), 192: (63.9, 85.4), 160: (61.0, 83.2)}),
            (TF, "fp32", 0.5, {128: (57.7, 80.8), 96: (51.2, 75.8)}),
            (TF, "fp32", 0.35, {224: (60.3, 82.9), 192: (58.2, 81.2), 160: (55.7, 79.1)}),
            (TF, "fp32", 0.35, {128: (50.8, 75.0), 96: (45.5, 70.4)}),
            (PS, "int8 PTQ", 1.0, {224: (71.15, 90.11)}),
            (PS, "int8 QAT", 1.0, {224: (72.05, 90.63)}),
        ),
        latency=(
            (PC, "fp32", 0.25, f"{_SD855} armv8", {224: (3.46, 2.51, 2.03)}),
            (PC, "fp32", 0.5, f"{_SD855} armv8", {224: (7.69, 4.92, 3.57)}),
            (PC, "fp32", 0.75, f"{_SD855} armv8", {224: (13.69, 8.6, 5.82)}),
            (PC, "fp32", 1.0, f"{_SD855} armv8", {224: (20.74, 12.71, 8.1)}),
            (PC, "fp32", 1.5, f"{_SD855} armv8", {224: (40.79, 24.49, 15.5)}),
            (PC, "fp32", 2.0, f"{_SD855} armv8", {224: (67.5, 40.03, 25.55)}),
            (TF, "fp32", 1.4, _PIXEL, {224: (138.0,)}),
            (TF, "fp32", 1.3, _PIXEL, {224: (123.0,)}),
            (TF, "fp32", 1.0, _PIXEL, {224: (73.8,), 192: (55.1,), 160: (40.2,), 128: (27.6,), 96: (17.6,)}),
            (TF, "fp32", 0.75, _PIXEL, {224: (55.8,), 192: (41.6,), 160: (30.4,), 128: (21.9,), 96: (14.2,)}),
            (TF, "fp32", 0.5, _PIXEL, {224: (28.7,), 192: (21.1,), 160: (14.9,), 128: (9.9,), 96: (6.4,)}),
            (TF, "fp32", 0.35, _PIXEL, {224: (19.7,), 192: (14.6,), 160: (10.5,), 128: (6.9,), 96: (4.5,)}),
            (PS, "fp32", 1.0, f"{_SD835} armv7", {224: (65.72, 38.13, 25.16)}),
            (PS, "fp32", 1.0, f"{_SD835} armv8", {224: (61.36, 36.2, 22.85)}),
            (PS, "int8 QAT", 1.0, f"{_SD835} armv7", {224: (48.37, 30.2, 21.93)}),
            (PS, "int8 QAT", 1.0, f"{_SD835} armv8", {224: (46.15, 27.31, 18.31)}),
            (PS, "int8 PTQ", 1.0, f"{_SD835} armv7", {224: (48.35, 30.31, 22.15)}),
            (PS, "int8 PTQ", 1.0, f"{_SD835} armv8", {224: (45.87, 27.41, 18.22)}),
            (PS, "fp32", 1.0, f"{_SD855} armv7", {224: (25.04, 15.29, 9.66)}),
            (PS, "fp32", 1.0, f"{_SD855} armv8", {224: (22.91, 14.18, 8.83)}),
            (PS, "int8 QAT", 1.0, f"{_SD855} armv7", {224: (28.16, 18.33, 11.81)}),
            (PS, "int8 QAT", 1.0, f"{_SD855} armv8", {224: (16.92, 11.16, 7.41)}),
            (PS, "int8 PTQ", 1.0, f"{_SD855} armv7", {224: (28.16, 18.39, 11.83)}),
            (PS, "int8 PTQ", 1.0, f"{_SD855} armv8", {224: (16.94, 11.18, 7.42)}),
            (PS, "fp32", 1.0, f"{_KIRIN} armv7", {224: (70.42, 42.08, 25.19)}),
            (PS, "fp32", 1.0, f"{_KIRIN} armv8", {224: (68.96, 39.21, 22.66)}),
            (PS, "int8 QAT", 1.0, f"{_KIRIN} armv7", {224: (53.0, 31.53, 22.14)}),
            (PS, "int8 QAT", 1.0, f"{_KIRIN} armv8", {224: (49.49, 28.09, 18.73)}),
            (PS, "int8 PTQ", 1.0, f"{_KIRIN} armv7", {224: (53.1, 31.8, 21.83)}),
            (PS, "int8 PTQ", 1.0, f"{_KIRIN} armv8", {224: (49.38, 28.24, 18.36)}),
        ),
    )
)
