"""``Global.data``: all the paths of a data set in one place."""

from __future__ import annotations

import pytest

from ppmobilenet.config import load_config

RECIPE = "quick_start/MobileNetV2_finetune.yaml"
OURS = ["train_list.txt", "val_list.txt", "label_list.txt"]


def paths(config) -> tuple:
    sides = [(side.dataset.image_root, side.dataset.cls_label_path) for side in (config.train, config.eval)]
    return (*sides, config.infer.infer_imgs, config.infer.post.class_id_map_file)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (
            ["train_list.txt", "val_list.txt", "label_list.txt"],
            ("", "train_list.txt", "", "val_list.txt", "label_list.txt"),
        ),
        (["train.txt", "val.txt", "label.txt"], ("", "train.txt", "", "val.txt", "label.txt")),
        (["train/a/1.png", "val/a/2.png"], ("/train", None, "/val", None, None)),
        ([], ("", "train_list.txt", "", "val_list.txt", None)),  # the message is then of the list that is not there
    ],
)
def test_it_sets_every_path(tmp_path, files, expected):
    root = tmp_path / "my photos"
    root.mkdir()
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    config = load_config(RECIPE, [f'Global.data="{root}"'])
    train, train_list, val, val_list, labels = expected
    assert paths(config) == (
        (f"{root}{train}", train_list and f"{root}/{train_list}"),
        (f"{root}{val}", val_list and f"{root}/{val_list}"),
        str(root),
        labels and f"{root}/{labels}",
    )
    config.dump(tmp_path / "again.yaml")
    assert paths(load_config(tmp_path / "again.yaml")) == paths(config)


def test_shards_are_found_with_the_class_names_that_pack_copied(tmp_path):
    for name in ("train/index.json", "val/index.json", "train/label_list.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    config = load_config(RECIPE, [f"Global.data={tmp_path}", "DataLoader.Train.dataset.delimiter=' '"])
    root, sides = str(tmp_path), (config.train.dataset, config.eval.dataset)
    names = f"{root}/train/label_list.txt"
    assert paths(config) == ((f"{root}/train", None), (f"{root}/val", None), f"{root}/val", names)
    assert [side.name for side in sides] == ["ShardDataset"] * 2
    assert [side.parameters["image_root"] for side in sides] == [f"{root}/train", f"{root}/val"]
    config.dump(tmp_path / "again.yaml")
    assert paths(load_config(tmp_path / "again.yaml")) == paths(config)


def test_what_is_typed_beside_it_stays(tmp_path):
    typed = "DataLoader.Eval.dataset.cls_label_path=other.txt"
    config = load_config(RECIPE, [f"Global.data={tmp_path}", typed])
    assert config.eval.dataset.cls_label_path == "other.txt"
    assert config.eval.dataset.image_root == str(tmp_path)
    config.dump(tmp_path / "again.yaml")
    assert load_config(tmp_path / "again.yaml").eval.dataset.cls_label_path == "other.txt"
