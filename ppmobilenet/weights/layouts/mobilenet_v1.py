"""MobileNetV1: whose files, and what was published (Howard et al. 2017, table 6; TensorFlow; Paddle)."""

from __future__ import annotations

import re

from ppmobilenet.weights.layouts import AS_BUILT, PADDLE_FILES, PC, PS, TF, Layouts, number_blocks, register, scales
from ppmobilenet.weights.schemes import PARAM_ATTR, Scheme

SCHEMES = (
    Scheme(
        "paddleclas-v1",
        "PaddleClas MobileNetV1 (also this project's)",
        (
            ("stem", "conv.{conv,bn}"),
            ("dw", "blocks.<i>.depthwise_conv.{conv,bn}"),
            ("out", "blocks.<i>.pointwise_conv.{conv,bn}"),
        ),
        ("fc",),
    ),
    Scheme(
        "paddleclas-v1-first",
        "PaddleClas MobileNetV1 of 2020 (also PaddleDetection's trunk)",
        (
            ("stem", "conv1.{_conv,_batch_norm}"),
            ("dw", "conv<b>._depthwise_conv.{_conv,_batch_norm}"),
            ("out", "conv<b>._pointwise_conv.{_conv,_batch_norm}"),
        ),
        ("out",),
    ),
    Scheme(
        "paddle-vision-v1",
        "paddle.vision MobileNetV1",
        (("stem", "conv1.{0,1}"), ("dw", "conv<b>._depthwise_conv.{0,1}"), ("out", "conv<b>._pointwise_conv.{0,1}")),
        ("fc",),
    ),
    Scheme(
        "paddle-vision-v1-first",
        "paddle.vision MobileNetV1 of Paddle 2.0",
        (
            ("stem", "conv1.{_conv,_norm_layer}"),
            ("dw", "conv<b>._depthwise_conv.{_conv,_norm_layer}"),
            ("out", "conv<b>._pointwise_conv.{_conv,_norm_layer}"),
        ),
        ("fc",),
    ),
    Scheme(
        "param-attr-v1",
        "Paddle static graph MobileNetV1 (ParamAttr names)",
        (("stem", "conv1"), ("dw", "conv<b>_dw"), ("out", "conv<b>_sep")),
        ("fc7",),
        ends=PARAM_ATTR,
    ),
    Scheme(
        "timm-v1",
        "timm mobilenetv1",
        (("stem", "{conv_stem,bn1}"), ("dw", "blocks.<s>.<i>.{conv_dw,bn1}"), ("out", "blocks.<s>.<i>.{conv_pw,bn2}")),
        ("classifier",),
        torch=True,
        activation="relu6",  # as TensorFlow's release; Paddle's use ReLU
    ),
    Scheme(
        "pytorch-v1-stages",
        "PyTorch MobileNetV1 in three stages (RetinaFace)",
        (("stem", "stage1.0.{0,1}"), ("dw", "stage<s>.<i>.{0,1}"), ("out", "stage<s>.<i>.{3,4}")),
        ("fc",),
        torch=True,
    ),
    Scheme(
        "pytorch-v1-sequence",
        "PyTorch MobileNetV1 as one sequence (model.N.M)",
        (("stem", "model.0.{0,1}"), ("dw", "model.<i>.{0,1}"), ("out", "model.<i>.{3,4}")),
        ("fc",),
        torch=True,
    ),
)

# Table 1 of the paper: each block's channels out
WIDTHS = (64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)


def guess(stem: int, outs: list[int], shapes: dict) -> dict | None:
    for scale in scales(outs[-1], WIDTHS[-1]):
        if stem == int(32 * scale) and outs == [int(w * scale) for w in WIDTHS]:
            return {"scale": scale}
    return None


def in_order(kinds: str) -> list[str] | None:
    return number_blocks([("dw", "out")] * kinds.count("d")) if re.fullmatch("c(dp)+", kinds) else None


_PAPER = "arXiv 1704.04861, table 6"
_SD855, _SD835, _KIRIN = "Snapdragon 855", "Snapdragon 835", "Kirin 970"

LAYOUTS = register(
    Layouts(
        "MobileNetV1",
        SCHEMES,
        guess,
        in_order,
        published=(
            ("MobileNetV1_x0_25", {"scale": 0.25}, 470_072, 41_030_272, 51.4, 75.5, 0.46, 41, _PAPER, AS_BUILT),
            ("MobileNetV1_x0_5", {"scale": 0.5}, 1_331_592, 149_497_088, 63.5, 84.7, 1.31, 149, _PAPER, AS_BUILT),
            ("MobileNetV1_x0_75", {"scale": 0.75}, 2_585_560, 325_400_448, 68.8, 88.2, 2.55, 325, _PAPER, AS_BUILT),
            ("MobileNetV1", {"scale": 1.0}, 4_231_976, 568_740_352, 70.99, 89.68, 4.19, 569, _PAPER, AS_BUILT),
        ),
        ssld={"MobileNetV1": (77.9, 93.9)},
        address=f"{PADDLE_FILES}/legendary_models",
        accuracy=(
            (TF, "fp32", 1.0, {224: (70.9, 89.9), 192: (70.0, 89.2), 160: (68.0, 87.7), 128: (65.2, 85.8)}),
            (TF, "int8 QAT", 1.0, {224: (69.7, 89.5), 192: (69.0, 88.9), 160: (67.3, 87.7), 128: (64.0, 85.5)}),
            (TF, "fp32", 0.75, {224: (68.4, 88.2), 192: (67.2, 87.3), 160: (65.3, 86.0), 128: (62.1, 83.9)}),
            (TF, "int8 QAT", 0.75, {224: (67.9, 88.1), 192: (66.2, 87.1), 160: (63.9, 85.5), 128: (59.8, 82.8)}),
            (TF, "fp32", 0.5, {224: (63.3, 84.9), 192: (61.7, 83.6), 160: (59.1, 81.9), 128: (56.3, 79.4)}),
            (TF, "int8 QAT", 0.5, {224: (62.2, 84.5), 192: (60.4, 83.2), 160: (57.7, 81.3), 128: (54.9, 78.9)}),
            (TF, "fp32", 0.25, {224: (49.8, 74.2), 192: (47.7, 72.3), 160: (45.5, 70.3), 128: (41.5, 66.3)}),
            (TF, "int8 QAT", 0.25, {224: (48.2, 73.8), 192: (45.8, 71.9), 160: (43.5, 69.1), 128: (39.9, 65.8)}),
            (PS, "int8 PTQ", 1.0, {224: (70.18, 89.25)}),
            (PS, "int8 QAT", 1.0, {224: (70.6, 89.57)}),
        ),
        latency=(
            (PC, "fp32", 0.25, f"{_SD855} armv8", {224: (2.88, 1.82, 1.26)}),
            (PC, "fp32", 0.5, f"{_SD855} armv8", {224: (8.74, 5.26, 3.09)}),
            (PC, "fp32", 0.75, f"{_SD855} armv8", {224: (17.84, 10.61, 6.21)}),
            (PC, "fp32", 1.0, f"{_SD855} armv8", {224: (30.24, 17.86, 10.3)}),
            (PS, "fp32", 1.0, f"{_SD835} armv7", {224: (96.19, 53.21, 32.45)}),
            (PS, "fp32", 1.0, f"{_SD835} armv8", {224: (88.5, 47.95, 27.52)}),
            (PS, "int8 QAT", 1.0, f"{_SD835} armv7", {224: (60.82, 32.19, 16.43)}),
            (PS, "int8 QAT", 1.0, f"{_SD835} armv8", {224: (56.43, 29.54, 15.11)}),
            (PS, "int8 PTQ", 1.0, f"{_SD835} armv7", {224: (60.56, 32.4, 16.66)}),
            (PS, "int8 PTQ", 1.0, f"{_SD835} armv8", {224: (56.53, 29.72, 15.15)}),
            (PS, "fp32", 1.0, f"{_SD855} armv7", {224: (33.51, 19.58, 11.75)}),
            (PS, "fp32", 1.0, f"{_SD855} armv8", {224: (31.35, 18.54, 10.08)}),
            (PS, "int8 QAT", 1.0, f"{_SD855} armv7", {224: (36.71, 21.63, 11.04)}),
            (PS, "int8 QAT", 1.0, f"{_SD855} armv8", {224: (14.02, 8.2, 4.26)}),
            (PS, "int8 PTQ", 1.0, f"{_SD855} armv7", {224: (37.05, 21.71, 11.08)}),
            (PS, "int8 PTQ", 1.0, f"{_SD855} armv8", {224: (14.09, 8.19, 4.29)}),
            (PS, "fp32", 1.0, f"{_KIRIN} armv7", {224: (101.25, 56.41, 35.65)}),
            (PS, "fp32", 1.0, f"{_KIRIN} armv8", {224: (94.9, 51.73, 31.95)}),
            (PS, "int8 QAT", 1.0, f"{_KIRIN} armv7", {224: (62.5, 32.19, 16.6)}),
            (PS, "int8 QAT", 1.0, f"{_KIRIN} armv8", {224: (57.75, 29.21, 15.07)}),
            (PS, "int8 PTQ", 1.0, f"{_KIRIN} armv7", {224: (62.44, 32.26, 16.62)}),
            (PS, "int8 PTQ", 1.0, f"{_KIRIN} armv8", {224: (57.83, 29.26, 15.12)}),
        ),
    )
)
