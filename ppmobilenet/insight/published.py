"""Accuracy and latency that others published for these networks: what the papers' multipliers cost and bring.

TensorFlow rounds widths to multiples of 8, Paddle does not; its accuracies stand for a width and a resolution, not
for one file of weights.
"""

from __future__ import annotations

from typing import NamedTuple

from ppmobilenet.weights import catalog

PC = "PaddleClas, docs/zh_CN/models/ImageNet1k"
PS = "PaddleSlim, docs/zh_cn/model_zoo.md"
TF = "tensorflow/models, research/slim/nets"


class Accuracy(NamedTuple):
    """ImageNet validation accuracy in percent."""

    source: str
    family: str
    scale: float
    resolution: int
    precision: str
    top1: float
    top5: float


class Latency(NamedTuple):
    """Milliseconds for one image, batch 1, on 1, 2 and 4 threads; Paddle Lite unless the device says otherwise."""

    source: str
    family: str
    scale: float
    resolution: int
    precision: str
    device: str
    ms_1: float | None
    ms_2: float | None
    ms_4: float | None


def scale_of(variant: str) -> float:
    """Return the width multiplier in a variant's name: ``"MobileNetV2_x0_75"`` -> 0.75."""
    _, mark, digits = variant.partition("_x")
    return float(digits.replace("_", ".")) if mark else 1.0


ACCURACY = (
    *(
        Accuracy(
            PC,
            row.model[: len("MobileNetV1")],
            scale_of(row.model),
            row.preprocessing.crop,
            "fp32 SSLD" if row.ssld else "fp32",
            row.top1,
            row.top5,
        )
        for row in catalog.ROWS
    ),
    Accuracy(TF, "MobileNetV1", 1.0, 224, "fp32", 70.9, 89.9),
    Accuracy(TF, "MobileNetV1", 1.0, 224, "int8 QAT", 69.7, 89.5),
    Accuracy(TF, "MobileNetV1", 1.0, 192, "fp32", 70.0, 89.2),
    Accuracy(TF, "MobileNetV1", 1.0, 192, "int8 QAT", 69.0, 88.9),
    Accuracy(TF, "MobileNetV1", 1.0, 160, "fp32", 68.0, 87.7),
    Accuracy(TF, "MobileNetV1", 1.0, 160, "int8 QAT", 67.3, 87.7),
    Accuracy(TF, "MobileNetV1", 1.0, 128, "fp32", 65.2, 85.8),
    Accuracy(TF, "MobileNetV1", 1.0, 128, "int8 QAT", 64.0, 85.5),
    Accuracy(TF, "MobileNetV1", 0.75, 224, "fp32", 68.4, 88.2),
    Accuracy(TF, "MobileNetV1", 0.75, 224, "int8 QAT", 67.9, 88.1),
    Accuracy(TF, "MobileNetV1", 0.75, 192, "fp32", 67.2, 87.3),
    Accuracy(TF, "MobileNetV1", 0.75, 192, "int8 QAT", 66.2, 87.1),
    Accuracy(TF, "MobileNetV1", 0.75, 160, "fp32", 65.3, 86.0),
    Accuracy(TF, "MobileNetV1", 0.75, 160, "int8 QAT", 63.9, 85.5),
    Accuracy(TF, "MobileNetV1", 0.75, 128, "fp32", 62.1, 83.9),
    Accuracy(TF, "MobileNetV1", 0.75, 128, "int8 QAT", 59.8, 82.8),
    Accuracy(TF, "MobileNetV1", 0.5, 224, "fp32", 63.3, 84.9),
    Accuracy(TF, "MobileNetV1", 0.5, 224, "int8 QAT", 62.2, 84.5),
    Accuracy(TF, "MobileNetV1", 0.5, 192, "fp32", 61.7, 83.6),
    Accuracy(TF, "MobileNetV1", 0.5, 192, "int8 QAT", 60.4, 83.2),
    Accuracy(TF, "MobileNetV1", 0.5, 160, "fp32", 59.1, 81.9),
    Accuracy(TF, "MobileNetV1", 0.5, 160, "int8 QAT", 57.7, 81.3),
    Accuracy(TF, "MobileNetV1", 0.5, 128, "fp32", 56.3, 79.4),
    Accuracy(TF, "MobileNetV1", 0.5, 128, "int8 QAT", 54.9, 78.9),
    Accuracy(TF, "MobileNetV1", 0.25, 224, "fp32", 49.8, 74.2),
    Accuracy(TF, "MobileNetV1", 0.25, 224, "int8 QAT", 48.2, 73.8),
    Accuracy(TF, "MobileNetV1", 0.25, 192, "fp32", 47.7, 72.3),
    Accuracy(TF, "MobileNetV1", 0.25, 192, "int8 QAT", 45.8, 71.9),
    Accuracy(TF, "MobileNetV1", 0.25, 160, "fp32", 45.5, 70.3),
    Accuracy(TF, "MobileNetV1", 0.25, 160, "int8 QAT", 43.5, 69.1),
    Accuracy(TF, "MobileNetV1", 0.25, 128, "fp32", 41.5, 66.3),
    Accuracy(TF, "MobileNetV1", 0.25, 128, "int8 QAT", 39.9, 65.8),
    Accuracy(TF, "MobileNetV2", 1.4, 224, "fp32", 75.0, 92.5),
    Accuracy(TF, "MobileNetV2", 1.3, 224, "fp32", 74.4, 92.1),
    Accuracy(TF, "MobileNetV2", 1.0, 224, "fp32", 71.8, 91.0),
    Accuracy(TF, "MobileNetV2", 1.0, 192, "fp32", 70.7, 90.1),
    Accuracy(TF, "MobileNetV2", 1.0, 160, "fp32", 68.8, 89.0),
    Accuracy(TF, "MobileNetV2", 1.0, 128, "fp32", 65.3, 86.9),
    Accuracy(TF, "MobileNetV2", 1.0, 96, "fp32", 60.3, 83.2),
    Accuracy(TF, "MobileNetV2", 0.75, 224, "fp32", 69.8, 89.6),
    Accuracy(TF, "MobileNetV2", 0.75, 192, "fp32", 68.7, 88.9),
    Accuracy(TF, "MobileNetV2", 0.75, 160, "fp32", 66.4, 87.3),
    Accuracy(TF, "MobileNetV2", 0.75, 128, "fp32", 63.2, 85.3),
    Accuracy(TF, "MobileNetV2", 0.75, 96, "fp32", 58.8, 81.6),
    Accuracy(TF, "MobileNetV2", 0.5, 224, "fp32", 65.4, 86.4),
    Accuracy(TF, "MobileNetV2", 0.5, 192, "fp32", 63.9, 85.4),
    Accuracy(TF, "MobileNetV2", 0.5, 160, "fp32", 61.0, 83.2),
    Accuracy(TF, "MobileNetV2", 0.5, 128, "fp32", 57.7, 80.8),
    Accuracy(TF, "MobileNetV2", 0.5, 96, "fp32", 51.2, 75.8),
    Accuracy(TF, "MobileNetV2", 0.35, 224, "fp32", 60.3, 82.9),
    Accuracy(TF, "MobileNetV2", 0.35, 192, "fp32", 58.2, 81.2),
    Accuracy(TF, "MobileNetV2", 0.35, 160, "fp32", 55.7, 79.1),
    Accuracy(TF, "MobileNetV2", 0.35, 128, "fp32", 50.8, 75.0),
    Accuracy(TF, "MobileNetV2", 0.35, 96, "fp32", 45.5, 70.4),
    Accuracy(PS, "MobileNetV1", 1.0, 224, "int8 PTQ", 70.18, 89.25),
    Accuracy(PS, "MobileNetV1", 1.0, 224, "int8 QAT", 70.6, 89.57),
    Accuracy(PS, "MobileNetV2", 1.0, 224, "int8 PTQ", 71.15, 90.11),
    Accuracy(PS, "MobileNetV2", 1.0, 224, "int8 QAT", 72.05, 90.63),
)

LATENCY = (
    Latency(PC, "MobileNetV1", 0.25, 224, "fp32", "Snapdragon 855 armv8", 2.88, 1.82, 1.26),
    Latency(PC, "MobileNetV1", 0.5, 224, "fp32", "Snapdragon 855 armv8", 8.74, 5.26, 3.09),
    Latency(PC, "MobileNetV1", 0.75, 224, "fp32", "Snapdragon 855 armv8", 17.84, 10.61, 6.21),
    Latency(PC, "MobileNetV1", 1.0, 224, "fp32", "Snapdragon 855 armv8", 30.24, 17.86, 10.3),
    Latency(PC, "MobileNetV2", 0.25, 224, "fp32", "Snapdragon 855 armv8", 3.46, 2.51, 2.03),
    Latency(PC, "MobileNetV2", 0.5, 224, "fp32", "Snapdragon 855 armv8", 7.69, 4.92, 3.57),
    Latency(PC, "MobileNetV2", 0.75, 224, "fp32", "Snapdragon 855 armv8", 13.69, 8.6, 5.82),
    Latency(PC, "MobileNetV2", 1.0, 224, "fp32", "Snapdragon 855 armv8", 20.74, 12.71, 8.1),
    Latency(PC, "MobileNetV2", 1.5, 224, "fp32", "Snapdragon 855 armv8", 40.79, 24.49, 15.5),
    Latency(PC, "MobileNetV2", 2.0, 224, "fp32", "Snapdragon 855 armv8", 67.5, 40.03, 25.55),
    Latency(TF, "MobileNetV2", 1.4, 224, "fp32", "Pixel 1, TF Lite", 138.0, None, None),
    Latency(TF, "MobileNetV2", 1.3, 224, "fp32", "Pixel 1, TF Lite", 123.0, None, None),
    Latency(TF, "MobileNetV2", 1.0, 224, "fp32", "Pixel 1, TF Lite", 73.8, None, None),
    Latency(TF, "MobileNetV2", 1.0, 192, "fp32", "Pixel 1, TF Lite", 55.1, None, None),
    Latency(TF, "MobileNetV2", 1.0, 160, "fp32", "Pixel 1, TF Lite", 40.2, None, None),
    Latency(TF, "MobileNetV2", 1.0, 128, "fp32", "Pixel 1, TF Lite", 27.6, None, None),
    Latency(TF, "MobileNetV2", 1.0, 96, "fp32", "Pixel 1, TF Lite", 17.6, None, None),
    Latency(TF, "MobileNetV2", 0.75, 224, "fp32", "Pixel 1, TF Lite", 55.8, None, None),
    Latency(TF, "MobileNetV2", 0.75, 192, "fp32", "Pixel 1, TF Lite", 41.6, None, None),
    Latency(TF, "MobileNetV2", 0.75, 160, "fp32", "Pixel 1, TF Lite", 30.4, None, None),
    Latency(TF, "MobileNetV2", 0.75, 128, "fp32", "Pixel 1, TF Lite", 21.9, None, None),
    Latency(TF, "MobileNetV2", 0.75, 96, "fp32", "Pixel 1, TF Lite", 14.2, None, None),
    Latency(TF, "MobileNetV2", 0.5, 224, "fp32", "Pixel 1, TF Lite", 28.7, None, None),
    Latency(TF, "MobileNetV2", 0.5, 192, "fp32", "Pixel 1, TF Lite", 21.1, None, None),
    Latency(TF, "MobileNetV2", 0.5, 160, "fp32", "Pixel 1, TF Lite", 14.9, None, None),
    Latency(TF, "MobileNetV2", 0.5, 128, "fp32", "Pixel 1, TF Lite", 9.9, None, None),
    Latency(TF, "MobileNetV2", 0.5, 96, "fp32", "Pixel 1, TF Lite", 6.4, None, None),
    Latency(TF, "MobileNetV2", 0.35, 224, "fp32", "Pixel 1, TF Lite", 19.7, None, None),
    Latency(TF, "MobileNetV2", 0.35, 192, "fp32", "Pixel 1, TF Lite", 14.6, None, None),
    Latency(TF, "MobileNetV2", 0.35, 160, "fp32", "Pixel 1, TF Lite", 10.5, None, None),
    Latency(TF, "MobileNetV2", 0.35, 128, "fp32", "Pixel 1, TF Lite", 6.9, None, None),
    Latency(TF, "MobileNetV2", 0.35, 96, "fp32", "Pixel 1, TF Lite", 4.5, None, None),
    Latency(PS, "MobileNetV1", 1.0, 224, "fp32", "Snapdragon 835 armv7", 96.19, 53.21, 32.45),
    Latency(PS, "MobileNetV1", 1.0, 224, "fp32", "Snapdragon 835 armv8", 88.5, 47.95, 27.52),
    Latency(PS, "MobileNetV1", 1.0, 224, "int8 QAT", "Snapdragon 835 armv7", 60.82, 32.19, 16.43),
    Latency(PS, "MobileNetV1", 1.0, 224, "int8 QAT", "Snapdragon 835 armv8", 56.43, 29.54, 15.11),
    Latency(PS, "MobileNetV1", 1.0, 224, "int8 PTQ", "Snapdragon 835 armv7", 60.56, 32.4, 16.66),
    Latency(PS, "MobileNetV1", 1.0, 224, "int8 PTQ", "Snapdragon 835 armv8", 56.53, 29.72, 15.15),
    Latency(PS, "MobileNetV2", 1.0, 224, "fp32", "Snapdragon 835 armv7", 65.72, 38.13, 25.16),
    Latency(PS, "MobileNetV2", 1.0, 224, "fp32", "Snapdragon 835 armv8", 61.36, 36.2, 22.85),
    Latency(PS, "MobileNetV2", 1.0, 224, "int8 QAT", "Snapdragon 835 armv7", 48.37, 30.2, 21.93),
    Latency(PS, "MobileNetV2", 1.0, 224, "int8 QAT", "Snapdragon 835 armv8", 46.15, 27.31, 18.31),
    Latency(PS, "MobileNetV2", 1.0, 224, "int8 PTQ", "Snapdragon 835 armv7", 48.35, 30.31, 22.15),
    Latency(PS, "MobileNetV2", 1.0, 224, "int8 PTQ", "Snapdragon 835 armv8", 45.87, 27.41, 18.22),
    Latency(PS, "MobileNetV1", 1.0, 224, "fp32", "Snapdragon 855 armv7", 33.51, 19.58, 11.75),
    Latency(PS, "MobileNetV1", 1.0, 224, "fp32", "Snapdragon 855 armv8", 31.35, 18.54, 10.08),
    Latency(PS, "MobileNetV1", 1.0, 224, "int8 QAT", "Snapdragon 855 armv7", 36.71, 21.63, 11.04),
    Latency(PS, "MobileNetV1", 1.0, 224, "int8 QAT", "Snapdragon 855 armv8", 14.02, 8.2, 4.26),
    Latency(PS, "MobileNetV1", 1.0, 224, "int8 PTQ", "Snapdragon 855 armv7", 37.05, 21.71, 11.08),
    Latency(PS, "MobileNetV1", 1.0, 224, "int8 PTQ", "Snapdragon 855 armv8", 14.09, 8.19, 4.29),
    Latency(PS, "MobileNetV2", 1.0, 224, "fp32", "Snapdragon 855 armv7", 25.04, 15.29, 9.66),
    Latency(PS, "MobileNetV2", 1.0, 224, "fp32", "Snapdragon 855 armv8", 22.91, 14.18, 8.83),
    Latency(PS, "MobileNetV2", 1.0, 224, "int8 QAT", "Snapdragon 855 armv7", 28.16, 18.33, 11.81),
    Latency(PS, "MobileNetV2", 1.0, 224, "int8 QAT", "Snapdragon 855 armv8", 16.92, 11.16, 7.41),
    Latency(PS, "MobileNetV2", 1.0, 224, "int8 PTQ", "Snapdragon 855 armv7", 28.16, 18.39, 11.83),
    Latency(PS, "MobileNetV2", 1.0, 224, "int8 PTQ", "Snapdragon 855 armv8", 16.94, 11.18, 7.42),
    Latency(PS, "MobileNetV1", 1.0, 224, "fp32", "Kirin 970 armv7", 101.25, 56.41, 35.65),
    Latency(PS, "MobileNetV1", 1.0, 224, "fp32", "Kirin 970 armv8", 94.9, 51.73, 31.95),
    Latency(PS, "MobileNetV1", 1.0, 224, "int8 QAT", "Kirin 970 armv7", 62.5, 32.19, 16.6),
    Latency(PS, "MobileNetV1", 1.0, 224, "int8 QAT", "Kirin 970 armv8", 57.75, 29.21, 15.07),
    Latency(PS, "MobileNetV1", 1.0, 224, "int8 PTQ", "Kirin 970 armv7", 62.44, 32.26, 16.62),
    Latency(PS, "MobileNetV1", 1.0, 224, "int8 PTQ", "Kirin 970 armv8", 57.83, 29.26, 15.12),
    Latency(PS, "MobileNetV2", 1.0, 224, "fp32", "Kirin 970 armv7", 70.42, 42.08, 25.19),
    Latency(PS, "MobileNetV2", 1.0, 224, "fp32", "Kirin 970 armv8", 68.96, 39.21, 22.66),
    Latency(PS, "MobileNetV2", 1.0, 224, "int8 QAT", "Kirin 970 armv7", 53.0, 31.53, 22.14),
    Latency(PS, "MobileNetV2", 1.0, 224, "int8 QAT", "Kirin 970 armv8", 49.49, 28.09, 18.73),
    Latency(PS, "MobileNetV2", 1.0, 224, "int8 PTQ", "Kirin 970 armv7", 53.1, 31.8, 21.83),
    Latency(PS, "MobileNetV2", 1.0, 224, "int8 PTQ", "Kirin 970 armv8", 49.38, 28.24, 18.36),
)

DEVICES = tuple(dict.fromkeys(row.device for row in LATENCY))


def accuracy(family: str, scale: float, resolution: int, precision: str = "fp32") -> list[Accuracy]:
    """Return the published rows for one network; ``precision`` is ``"fp32"``, ``"fp32 SSLD"``, ``"int8 PTQ"``, ..."""
    wanted = (family, scale, resolution, precision)
    return [row for row in ACCURACY if row[1:5] == wanted]


def latency(family: str, scale: float, resolution: int, precision: str, device: str, threads: int) -> float | None:
    """Return the published milliseconds for one network on one device, or None."""
    wanted = (family, scale, resolution, precision, device)
    return next((getattr(row, f"ms_{threads}") for row in LATENCY if row[1:6] == wanted), None)
