"""A folder is split in proportion, and duplicates stay together."""

from __future__ import annotations

import re

import cv2
import numpy as np
import pytest
from picture_helpers import data, scene

from ppmobilenet.cli import main
from ppmobilenet.data.dataset import scan_folders
from ppmobilenet.data.lists import read_list
from ppmobilenet.data.split import Earlier, choose_validation, split_folder
from ppmobilenet.errors import DataError, UserError
from ppmobilenet.photos.labels import read_labels


def photo_folder(root, classes: dict[str, int]) -> None:
    """Write class folders of so many photos; the same call writes the same pictures."""
    for place, (name, photos) in enumerate(classes.items()):
        (root / name).mkdir(parents=True)
        for number in range(photos):
            (root / name / f"{number}.jpg").write_bytes(data(scene(100 * place + number)))


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


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        ("a\tb", "c", "holds the control character '\\t': 'a\\tb'"),
        ("a\u2028b", "c", "holds the control character"),
        ("a\x85b", "c", "holds the control character"),
        ("cat", "cat ", "differ in nothing but spaces around their names: 'cat' and 'cat '"),
    ],
)
def test_names_of_classes_that_no_label_list_gives_back(tmp_path, first, second, words):
    """Said before anything is written, and of folders without lists as well."""
    photo_folder(tmp_path / "photos", {first: 3, second: 3})
    for read in (lambda root: split_folder(root, tmp_path / "lists"), scan_folders):
        with pytest.raises(DataError, match=re.escape(words)) as caught:
            read(tmp_path / "photos")
        assert "rename the folder" in str(caught.value)
    assert not (tmp_path / "lists").exists()


def test_names_of_classes_come_back_as_they_are(tmp_path):
    names = ["a  b", "c\xa0d", "\u732b \U0001f408", "e\u3000f"]
    photo_folder(tmp_path / "photos", {name: 2 for name in names})
    found = split_folder(tmp_path / "photos", tmp_path / "lists")
    assert sorted(read_labels(found.label_list).values()) == sorted(names) == found.classes


def test_a_test_photo_stays_where_it_is(tmp_path):
    """Also where it looks like a photo that an earlier split had for training."""
    photo_folder(tmp_path / "photos/train", {"a": 4, "b": 4})
    photo_folder(tmp_path / "photos/test", {"a": 4, "b": 4})  # the same pictures
    first = split_folder(tmp_path / "photos", tmp_path / "first")
    assert first.test == 8
    sides = dict.fromkeys((line.rsplit(" ", 1)[0] for line in first.train_list.read_text().splitlines()), "train")
    again = split_folder(tmp_path / "photos", tmp_path / "again", earlier=Earlier(first.classes, sides))
    assert again.test_list.read_text() == first.test_list.read_text()


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
