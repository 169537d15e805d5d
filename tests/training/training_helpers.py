"""What the tests of training share."""

from __future__ import annotations

import csv
from pathlib import Path

import cv2
import numpy as np

CLASSES = 3
TRAIN, VAL = 40, 13

YAML = """
Global:
  output_dir: {out}
  device: cpu
  epochs: 2
  seed: 7
  save_interval: 1
  eval_during_train: True
  eval_interval: 1
  print_batch_step: 1
  image_shape: [3, 32, 32]
  cpu_kernels: "off"
Arch:
  name: MobileNetV2_x0_25
  class_num: 3
Loss:
  Train: [CELoss: {{epsilon: 0.1}}]
  Eval: [CELoss: {{weight: 1.0}}]
Optimizer:
  name: Momentum
  lr: {{name: Cosine, learning_rate: 0.02, warmup_epoch: 1}}
  regularizer: {{name: L2, coeff: 0.0001}}
DataLoader:
  Train:
    dataset:
      name: ImageNetDataset
      image_root: {data}
      cls_label_path: {data}/train_list.txt
      transform_ops:
        - DecodeImage: {{to_rgb: True, channel_first: False}}
        - RandCropImage: {{size: 32}}
        - RandFlipImage: {{flip_code: 1}}
        - NormalizeImage: {{scale: 1.0/255.0, mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225], order: ''}}
    sampler: {{name: DistributedBatchSampler, batch_size: 8, drop_last: False, shuffle: True}}
    loader: {{num_workers: 0}}
  Eval:
    dataset:
      name: ImageNetDataset
      image_root: {data}
      cls_label_path: {data}/val_list.txt
      transform_ops:
        - DecodeImage: {{to_rgb: True, channel_first: False}}
        - ResizeImage: {{size: 32}}
        - NormalizeImage: {{scale: 1.0/255.0, mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225], order: ''}}
    sampler: {{name: DistributedBatchSampler, batch_size: 4, drop_last: False, shuffle: False}}
    loader: {{num_workers: 0}}
Metric:
  Train: [TopkAcc: {{topk: [1, 5]}}]
  Eval: [TopkAcc: {{topk: [1, 5]}}]
"""


def write_photos(folder: Path, count: int, seed: int) -> list[str]:
    """Write photos whose class is their colour, under noise; return the lines of a list file."""
    rng = np.random.default_rng(seed)
    lines = []
    for i in range(count):
        label = i % CLASSES
        image = rng.integers(0, 120, (40, 36, 3))
        image[..., label] += 100
        name = f"{folder.name}/{i:03}.png"
        assert cv2.imwrite(str(folder / f"{i:03}.png"), image.astype(np.uint8))
        lines.append(f"{name} {label}\n")
    return lines


def losses(folder: Path) -> dict[int, str]:
    """Step -> loss as it stands in steps.csv, all digits."""
    with open(folder / "steps.csv", newline="") as file:
        return {int(row["step"]): row["loss"] for row in csv.DictReader(file)}
