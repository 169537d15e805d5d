"""Folders of photos: what is a photo, which folders are classes, and what split-dataset makes of them."""

from __future__ import annotations

import json
import re

import cv2
import numpy as np
import pytest

from ppmobilenet.cli import main
from ppmobilenet.data import doctor
from ppmobilenet.data.dataset import Listed, scan_folders
from ppmobilenet.data.split import split_folder
from ppmobilenet.errors import DataError
from ppmobilenet.photos.names import find_photos, list_photos, photo_suffixes


def put(root, *names: str) -> None:
    """Write a photo of its own under each name; its format is the suffix's, a JPEG where OpenCV writes none."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(list(name.encode())).integers(0, 256, (6, 6, 3), dtype=np.uint8)
        pixels = cv2.resize(noise, (48, 48), interpolation=cv2.INTER_CUBIC)
        suffix = path.suffix if path.suffix not in (".jfif", ".mpo", ".jpe") else ".jpg"
        path.write_bytes(cv2.imencode(suffix, pixels)[1].tobytes())


def junk(root) -> None:
    """Write what archives and systems leave beside class folders."""
    for name in ("__MACOSX/cat/._1.jpg", ".cache/1.jpg", "cat/._1.jpg", "cat/.DS_Store", "@eaDir/cat/1.jpg"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


@pytest.mark.parametrize("suffix", [".jfif", ".mpo", ".jpe", ".avif", ".jp2", ".tif", ".gif", ".ppm", ".JPG"])
def test_what_the_decoder_reads_is_a_photo(tmp_path, suffix):
    if suffix.lower() not in photo_suffixes():
        pytest.skip(f"this OpenCV reads no {suffix}")
    put(tmp_path, *(f"{name}/{i}{suffix}" for name in ("cat", "dog") for i in range(2)))
    made = split_folder(tmp_path, tmp_path / "lists")
    assert (made.train, made.val, made.classes, made.left_out) == (2, 2, ["cat", "dog"], [])
    assert len(list_photos(tmp_path)) == 4


def test_what_is_no_photo_is_counted_and_said(tmp_path, caplog, capsys):
    put(tmp_path, "cat/1.png", "dog/1.png")
    junk(tmp_path)
    for name in ("cat/2.heic", "cat/3.HEIC", "notes.txt", "dog/README"):
        (tmp_path / name).write_bytes(b"x")
    assert list_photos(tmp_path) == [str(tmp_path / "cat/1.png"), str(tmp_path / "dog/1.png")]
    assert "2 .heic" in caplog.text and "1 .txt" in caplog.text and "1 without a suffix" in caplog.text
    assert find_photos(tmp_path).left_out["hidden"] == 5
    assert main(["split-dataset", str(tmp_path), "-o", str(tmp_path / "l")]) == 0
    assert "2 .heic" in capsys.readouterr().out
    found = [f.message for f in doctor.examine({"train": Listed(None, tmp_path)}).findings if f.kind == "left out"]
    assert len(found) == 1 and "2 .heic" in found[0]
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/1.heic").write_bytes(b"x")
    with pytest.raises(DataError, match=r"(?s)no photo below.*1 .heic"):
        list_photos(tmp_path / "empty")


def test_classes_are_what_holds_usable_photos(tmp_path):
    put(tmp_path, "cat/1.png", "cat/2.png", "dog/1.png", "dog/2.png")
    junk(tmp_path)
    (tmp_path / "aaa").mkdir()
    assert scan_folders(tmp_path)[1] == ["cat", "dog"]
    (tmp_path / "aaa/1.jpg").write_bytes(b"x")
    made = split_folder(tmp_path, tmp_path / "lists")
    assert made.label_list.read_text() == "0 cat\n1 dog\n" and any("aaa" in note for note in made.notes)
    assert {line[-1] for line in made.train_list.read_text().split("\n") if "cat" in line} == {"0"}


def test_the_training_folder_numbers_the_validation_folders(tmp_path):
    put(tmp_path, "train/cat/1.png", "train/dog/1.png", "val/dog/2.png")
    names = scan_folders(tmp_path / "train")[1]
    assert scan_folders(tmp_path / "val", names=names)[0].labels.tolist() == [1]
    put(tmp_path, "val/cow/2.png")
    with pytest.raises(DataError, match="no training photo is of the class 'cow'"):
        scan_folders(tmp_path / "val", names=names)


@pytest.mark.parametrize("val", ["val", "Validation"])
def test_parts_of_a_data_set_keep_their_photos_in_one_numbering(tmp_path, capsys, val):
    put(tmp_path, "train/cat/1.png", "train/cow/1.png", "train/dog/1.png", f"{val}/dog/2.png", f"{val}/cat/2.png")
    put(tmp_path, "test/cow/3.png", "extra/cow/4.png", "test/5.png")
    saved = tmp_path / "said.json"
    assert main(["split-dataset", str(tmp_path), "-o", str(tmp_path / "l"), "--json", str(saved)]) == 0
    lists = {name: (tmp_path / f"l/{name}_list.txt").read_text() for name in ("train", "val", "test", "label")}
    assert lists["label"] == "0 cat\n1 cow\n2 dog\n"
    assert lists["train"] == "train/cat/1.png 0\ntrain/cow/1.png 1\ntrain/dog/1.png 2\n"
    assert lists["val"] == f"{val}/cat/2.png 0\n{val}/dog/2.png 2\n" and lists["test"] == "test/cow/3.png 1\n"
    out = capsys.readouterr().out
    assert "parts of a data set" in out and "2 photos that lie elsewhere" in out and "validation: cow" in out
    assert "Arch.class_num=3" in out and json.loads(saved.read_text())["test"] == 1
    with pytest.raises(DataError, match="parts of a data set, not classes"):
        scan_folders(tmp_path)
    assert main(["check-dataset", "--root", str(tmp_path)]) == 0
    assert "validation: 2 photos" in capsys.readouterr().out


def test_parts_that_disagree_are_refused_and_a_test_folder_alone_leaves_validation_to_draw(tmp_path):
    put(tmp_path, *(f"train/{name}/{i}.png" for name in ("cat", "dog") for i in range(5)), "test/cat/9.png")
    made = split_folder(tmp_path, tmp_path / "l")
    assert (made.train, made.val, made.test) == (8, 2, 1)
    put(tmp_path, "test/yak/9.png")
    with pytest.raises(DataError, match="no photos of yak"):
        split_folder(tmp_path, tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("names", "start", "words"),
    [
        (("pets/cat/1.png", "pets/dog/1.png"), "", "cat, dog.*give .*/pets"),
        (("cat/1.png", "cat/2.png"), "", "one class folder with photos, 'cat'"),
        (("train/cat/1.png", "train/dog/1.png"), "", "give .*/train"),
        (("cat/1.png", "dog/1.png"), "cat", "1 photos lie in the folder itself"),
    ],
)
def test_the_wrong_level_says_the_right_one(tmp_path, names, start, words):
    put(tmp_path, *names)
    with pytest.raises(DataError) as error:
        split_folder(tmp_path / start, tmp_path / "l")
    assert re.search(words, str(error.value), re.S) and not (tmp_path / "l").exists()


def test_a_class_without_validation_is_said(tmp_path):
    put(tmp_path, *(f"cat/{i}.png" for i in range(5)), "dog/1.png")
    made = split_folder(tmp_path, tmp_path / "l")
    assert any("without a photo for validation" in note and "dog" in note for note in made.notes)
