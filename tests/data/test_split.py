"""A folder is split in proportion, and duplicates stay together."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from picture_helpers import data, scene

from ppmobilenet.cli import main
from ppmobilenet.data.lists import read_list
from ppmobilenet.data.split import choose_validation, split_folder
from ppmobilenet.errors import UserError


def test_validation_is_chosen_in_proportion_by_whole_groups():
    rng = np.random.default_rng(0)
    group = rng.integers(0, 15_000, 20_000)
    labels = group % 10
    in_val = choose_validation(group, labels, 0.2, 1)
    assert not set(group[in_val]) & set(group[~in_val])
    for label in range(10):
        assert abs(in_val[labels == label].mean() - 0.2) < 0.001
    # two photos of a class: one each; one photo, or one group, or a group of two classes: training
    labels = np.array([0, 0, 1, 2, 2, 3, 4, 3, 3])
    group = np.array([0, 1, 2, 3, 3, 4, 4, 5, 6])
    in_val = choose_validation(group, labels, 0.5, 0)
    assert in_val[:2].sum() == 1 and not in_val[2:7].any() and in_val[7:].any()


def test_split_keeps_classes_in_proportion_and_duplicates_together(tmp_path, capsys):
    root = tmp_path / "photos é"
    for label, count in enumerate((20, 10)):
        (root / f"name {label}").mkdir(parents=True)
        for i in range(count):
            (root / f"name {label}/{i}.jpg").write_bytes(data(scene(100 * label + i)))
    for i in range(4):
        copy = cv2.resize(scene(i), (60, 60))
        (root / f"name 0/{i} again.jpg").write_bytes(data(copy))
    (root / "name 1/broken.jpg").write_bytes(b"x")
    made = split_folder(root, tmp_path / "lists", val=0.25, seed=3)
    sides = [read_list(path, root) for path in (made.train_list, made.val_list)]
    assert len(sides[0]) + len(sides[1]) == 34 and made.grouped == 8
    assert [int((sides[1].labels == c).sum()) for c in range(2)] == pytest.approx([6, 2.5], abs=1)
    names = [{path for path, _ in side} for side in sides]
    for i in range(4):
        pair = {f"{root}/name 0/{i}.jpg", f"{root}/name 0/{i} again.jpg"}
        assert pair <= names[0] or pair <= names[1]
    assert made.left_out and "broken.jpg" in made.left_out[0]
    assert made.label_list.read_text() == "0 name 0\n1 name 1\n"
    again = split_folder(root, tmp_path / "again", val=0.25, seed=3)
    assert again.val_list.read_bytes() == made.val_list.read_bytes()
    assert split_folder(root, tmp_path / "other", val=0.25, seed=4).val_list.read_bytes() != made.val_list.read_bytes()
    with pytest.raises(UserError, match="train_list.txt: this list is there already"):
        split_folder(root, tmp_path / "lists", seed=9)
    assert read_list(made.train_list, root).labels.tolist() == sides[0].labels.tolist()
    with pytest.raises(UserError, match="below 1"):
        split_folder(root, tmp_path, val=1.5)
    assert main(["split-dataset", str(root), "-o", str(tmp_path / "cli")]) == 0
    assert "left out" in capsys.readouterr().out
