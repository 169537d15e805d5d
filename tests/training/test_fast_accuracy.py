"""Three seeds of each pipeline on real photos: the fast one costs no accuracy. Slow: `pytest -m slow`."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest

from ppmobilenet.config import load_config
from ppmobilenet.training.trainer import train

CONFIG = """
Global:
  output_dir: {out}
  pretrained_model: {shared}/weights/MobileNetV1_x0_25
  device: cpu
  epochs: {epochs}
  seed: {seed}
  image_shape: [3, 128, 128]
Arch: {{name: MobileNetV1_x0_25, class_num: 10}}
Loss:
  Train: [CELoss: {{epsilon: 0.1}}]
Optimizer:
  name: Momentum
  lr: {{name: Cosine, learning_rate: 0.02, warmup_epoch: 1}}
  regularizer: {{name: L2, coeff: 0.0001}}
DataLoader:
  Train:
    pipeline: {pipeline}
    dataset:
      name: ImageNetDataset
      image_root: {shared}/data/clothing
      cls_label_path: {shared}/data/clothing/train_list.txt
      transform_ops:
        - DecodeImage: {{to_rgb: True, channel_first: False}}
        - RandCropImage: {{size: 128, scale: [0.25, 1.0]}}
        - RandFlipImage: {{flip_code: 1}}
        - NormalizeImage: {{order: ''}}
    sampler: {{name: DistributedBatchSampler, batch_size: 32, drop_last: True, shuffle: True}}
    loader: {{num_workers: 1}}
  Eval:
    dataset:
      name: ImageNetDataset
      image_root: {shared}/data/clothing
      cls_label_path: {shared}/data/clothing/val_list.txt
      transform_ops:
        - DecodeImage: {{to_rgb: True, channel_first: False}}
        - ResizeImage: {{resize_short: 146}}
        - CropImage: {{size: 128}}
        - NormalizeImage: {{order: ''}}
    sampler: {{name: DistributedBatchSampler, batch_size: 32, drop_last: False, shuffle: False}}
    loader: {{num_workers: 1}}
Metric:
  Eval: [TopkAcc: {{topk: [1]}}]
"""


@pytest.mark.slow
def test_the_fast_pipeline_costs_no_accuracy(shared, tmp_path):
    epochs = int(os.environ.get("PPMOBILENET_EPOCHS", 6))
    top1: dict[str, list[float]] = {"exact": [], "fast": []}
    for seed in (1, 2, 3):
        for pipeline in top1:
            folder = tmp_path / f"{pipeline}{seed}"
            path = tmp_path / "c.yaml"
            path.write_text(CONFIG.format(out=folder, shared=shared, seed=seed, pipeline=pipeline, epochs=epochs))
            result = train(load_config(path))
            top1[pipeline].append(result["top1"])
            print(json.dumps(top1), flush=True)
    spread = max(np.ptp(top1["exact"]), 2 / 341)
    assert np.mean(top1["fast"]) >= np.mean(top1["exact"]) - spread, top1
