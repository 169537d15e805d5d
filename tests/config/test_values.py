"""What a configuration gives back: values, defaults, places, copies, the effective YAML."""

from __future__ import annotations

import copy
import json
import os
import pickle
import subprocess
import sys

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ppmobilenet.config import Config, MissingKey, load_config, parts, schema
from ppmobilenet.config.fields import Inner, Key, Term, plain
from ppmobilenet.config.reading import scalar
from ppmobilenet.config.tree import to_yaml
from ppmobilenet.errors import UserError

MULTI_SCALE = {
    "      name: ImageNetDataset": "      name: MultiScaleDataset",
    """      name: DistributedBatchSampler
      batch_size: 64
      drop_last: False
      shuffle: True
""": """      name: MultiScaleSampler
      scales: [160, 192, 224, 288, 320]
      first_bs: 64
      divided_factor: 32
      is_training: True
""",
}


def test_published_quirks(load):
    config = load()
    ops = config["DataLoader"]["Train"]["dataset"]["transform_ops"]
    assert [next(iter(op)) for op in ops] == ["DecodeImage", "RandCropImage", "RandFlipImage", "NormalizeImage"]
    assert ops[3]["NormalizeImage"]["scale"] == 1 / 255
    assert ops[3]["NormalizeImage"]["order"] == ""
    assert config["Optimizer"]["regularizer"]["coeff"] == 3e-5
    assert config["Infer"]["transforms"][4] == {"ToCHWImage": {}}  # the null of `- ToCHWImage:`
    assert config["Global"]["checkpoints"] is None


def test_multi_scale_recipe_loads(load):
    # training sizes are the sampler's scales: they are neither compared nor set by Global.resolution
    config = load("Global.resolution=192", replace=MULTI_SCALE)
    assert config["DataLoader"]["Train"]["sampler"]["scales"] == (160, 192, 224, 288, 320)
    assert config["DataLoader"]["Eval"]["dataset"]["transform_ops"][2] == {"CropImage": {"size": 192}}
    assert "changes nothing in training" in config.notes[0]
    with pytest.raises(UserError, match="unknown key DataLoader.Train.sampler.batch_size(.|\n)*first_bs"):
        load("DataLoader.Train.sampler.batch_size=8", replace=MULTI_SCALE)


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("Global.epochs=5", "Global.epochs", 5),
        ("DataLoader.Train.sampler.batch_size=32", "DataLoader.Train.sampler.batch_size", 32),
        (
            "DataLoader.Train.dataset.transform_ops.1.RandCropImage.size=160",
            "DataLoader.Train.dataset.transform_ops.1.RandCropImage.size",
            160,
        ),
        ("Global.seed=7", "Global.seed", 7),
        ("Global.update_freq=4", "Global.update_freq", 4),
        ("EMA.decay=0.99", "EMA.decay", 0.99),
        ("Arch.scale=0.35", "Arch.scale", 0.35),
        ("Arch.pretrained=True", "Arch.pretrained", True),
        ("Arch.pretrained=weights/a.npz", "Arch.pretrained", "weights/a.npz"),
        ("Optimizer.regularizer.coeff=1e-5", "Optimizer.regularizer.coeff", 1e-5),
        ("Optimizer.lr.learning_rate=1.0/255.0", "Optimizer.lr.learning_rate", 1 / 255),
        ("Optimizer.lr.base_batch_size=256", "Optimizer.lr.base_batch_size", 256),
        ("Global.output_dir=runs/lr=0.1,wd=1e-4", "Global.output_dir", "runs/lr=0.1,wd=1e-4"),
        ("Global.output_dir=a #1: b", "Global.output_dir", "a #1: b"),
        ("Global.output_dir=2024", "Global.output_dir", "2024"),
        ("Global.output_dir=1e-5", "Global.output_dir", "1e-5"),
        ("Global.output_dir=dir", "Global.output_dir", "dir"),
        ("Global.output_dir=max", "Global.output_dir", "max"),
        ("Global.output_dir=C:\\runs", "Global.output_dir", "C:\\runs"),
        ("Global.output_dir=фото", "Global.output_dir", "фото"),
        ("Global.pretrained_model=None", "Global.pretrained_model", None),
        ("Global.pretrained_model='None'", "Global.pretrained_model", "None"),
        ("Global.pretrained_model=", "Global.pretrained_model", None),
        ("Global.cpu_kernels=off", "Global.cpu_kernels", "off"),
        ("Global.device=gpu:1", "Global.device", "gpu:1"),
        ("Arch.freeze=[conv, blocks.0]", "Arch.freeze", ("conv", "blocks.0")),
        ("Arch.freeze=*.bn", "Arch.freeze", "*.bn"),
        ("DataLoader.Train.pipeline=exact", "DataLoader.Train.pipeline", "exact"),
        ("Metric.Eval.0.TopkAcc.topk=[1, 3]", "Metric.Eval.0.TopkAcc.topk", (1, 3)),
        (
            "Optimizer={name: Momentum, momentum: 0.8, lr: {name: Cosine, learning_rate: 0.1}}",
            "Optimizer.momentum",
            0.8,
        ),
        (" Global.epochs = 5 ", "Global.epochs", 5),
    ],
)
def test_override(load, override, key, value):
    config = load(override)
    assert config.get(key) == value
    assert type(config.get(key)) is type(value)
    assert config.where(key).startswith("-o ")


def test_overrides_apply_in_order(load):
    assert load("Global.epochs=5", "Global.epochs=6")["Global"]["epochs"] == 6


@pytest.mark.parametrize(
    "key, default",
    [
        ("Arch.dropout", 0.0),
        ("Arch.class_num", 1000),
        ("DataLoader.Train.loader.num_workers", 4),
        ("DataLoader.Train.sampler.batch_size", 64),
    ],
)
def test_null_is_the_default(load, key, default):
    config = load(f"{key}=null")
    *section, name = key.split(".")
    node = config
    for part in section:
        node = node[part]
    assert name not in node and config.get(key) == default


def test_null_stays_where_it_means_something(load):
    place = "DataLoader.Train.dataset.transform_ops.3.NormalizeImage.order"
    assert load(f"{place}=null").get(place) is None  # PaddleClas: channels last


def test_a_bound_of_the_table_holds_for_a_constructors_parameter(load):
    with pytest.raises(UserError, match="learning_rate is -1\n  allowed: a number, at least 0"):
        load("Optimizer.lr.learning_rate=-1")


def test_defaults_and_places(load, line_of, tmp_path):
    config = load()
    assert config.get("Global.update_freq") == 1
    assert config["Global"].get("update_freq") == 1
    assert config.get("EMA.decay") == 0.9999 and "EMA" not in config
    assert config.get("Global.seed") is None and config.get("Global.seed", 3) == 3
    assert config.get("DataLoader.Train.pipeline") == "fast" and config.get("DataLoader.Eval.pipeline") == "exact"
    assert config.get("Arch.infer_add_softmax") is True
    assert config.get("Arch.data_format") == "NCHW"  # the constructor's
    assert config.where("Arch.class_num") == f"{tmp_path / 'a.yaml'}:{line_of('class_num')}"
    assert config.where("DataLoader.Train.dataset.transform_ops.1.RandCropImage.size").endswith(
        f":{line_of('size: 224')}"
    )
    assert config.where("Global.seed") == "default of Global.seed"
    assert config.source == str(tmp_path / "a.yaml")
    with pytest.raises(KeyError, match="epochs"):
        config.get("Global.epoch")  # a typo in our own code


def test_missing_section_is_a_user_error(load):
    config = load(text="Arch: {name: MobileNetV2}\n")
    with pytest.raises(MissingKey, match="DataLoader is missing"):
        config["DataLoader"]
    assert "DataLoader" not in config and config.get("DataLoader") is None


PARTS = {
    "run": parts.Run, "amp": parts.Amp, "arch": parts.Arch, "optimizer": parts.Optimizer, "ema": parts.Ema,
    "train": parts.TrainSource, "eval": parts.EvalSource, "infer": parts.Infer, "teacher": parts.Teacher,
    "unlabelled": parts.UnlabelledSource,
}  # fmt: skip


TEACHING = (
    *("Teacher.name=MobileNetV1", "Teacher.pretrained=a.npz", "Teacher.views=3"),
    *("DataLoader.UnLabelTrain.dataset={name: ImageNetDataset, image_root: x}", "DataLoader.UnLabelTrain.sampler={}"),
)


def test_parts_hold_what_the_mapping_says(load):
    """Given or not: a part's field is the value at its dotted key, whose default stands at the field alone."""
    seen = set()

    def compare(part, at):
        for called, (name, known) in part.known().items():
            value, place = getattr(part, name), f"{at}.{called}"
            if isinstance(known, Inner):
                compare(value, place)
            elif isinstance(known, Key):
                seen.add(place)
                assert plain(config.get(place)) == value, place
            else:
                assert value == plain(config.get(place) or ()), place

    for config in (load(), load("Global.epochs=7", "EMA.decay=0.5", "Arch.freeze=[conv1]", "AMP.level=O2", *TEACHING)):
        for name, kind in PARTS.items():
            if part := getattr(config, name):
                compare(part, kind.at)
    assert seen == set(schema.KEYS)
    assert config.run.epochs == 7 and config.ema.decay == 0.5 and config.arch.freeze == ("conv1",)
    assert config.arch.parameters == {"class_num": 1000} and config.optimizer.parameters["momentum"] == 0.9
    assert config.loss.eval[0].name == "CELoss" and config.loss.eval[0].weight == 1.0
    assert config.train.sampler.parameters["shuffle"] is True


def test_a_part_that_cannot_be_guessed_says_so_once_it_is_asked(load):
    config = load(text="Arch: {name: MobileNetV2}\nDataLoader: {Eval: {loader: {num_workers: 1}}}\n")
    assert not config.train and not config.eval.dataset and config.eval.loader.num_workers == 1
    assert not config.ema and config.loss.train == (Term("CELoss"),)
    for ask, missing in (
        (lambda: config.train.dataset, "DataLoader.Train is missing"),
        (lambda: config.eval.dataset.image_root, "DataLoader.Eval.dataset is missing"),
        (lambda: config.optimizer.lr, "Optimizer is missing"),
    ):
        with pytest.raises(MissingKey, match=missing):
            ask()


def test_what_is_paddleclas_alone_is_accepted_and_said(load):
    (note,) = load("Global.use_dali=True").notes
    assert "Global.use_dali is PaddleClas's and changes nothing here" in note and "pipeline: fast" in note
    assert not load("Global.use_dali=False").notes


def test_read_only_and_copies(load):
    config = load()
    with pytest.raises(TypeError):
        config["Global"]["epochs"] = 3
    copied = config.to_dict()
    copied["Global"]["epochs"] = 3
    copied["Metric"]["Eval"].clear()
    assert config["Global"]["epochs"] == 120 and config["Metric"]["Eval"]
    assert json.loads(json.dumps(config.to_dict())) == config.to_dict()
    assert pickle.loads(pickle.dumps(config)) == config
    assert copy.deepcopy(config["Arch"]) == config["Arch"]
    assert {**config["Arch"]} == {"name": "MobileNetV1", "class_num": 1000}


def test_effective_yaml_loads_again(load, tmp_path):
    config = load(
        "Global.resolution=160", "Global.output_dir=1e-5", "Arch.pretrained='on'", "EMA.decay=1e-7", "Global.seed=0"
    )
    config.dump(tmp_path / "effective.yaml")
    again = load_config(tmp_path / "effective.yaml")
    assert again == config
    assert yaml.safe_load((tmp_path / "effective.yaml").read_text())["Global"]["resolution"] == 160
    assert not list(tmp_path.glob("*.partial"))


scalars = st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.floats(allow_nan=False, width=32) | st.text()
trees = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(min_size=1), inner, max_size=4),
    max_leaves=12,
)


@given(trees)
def test_any_tree_survives_the_dump(tree):
    from ppmobilenet.config.reading import parse_yaml

    assert parse_yaml(to_yaml({"top": tree}), "a.yaml").tree == {"top": tree}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1.0/255.0", 1 / 255),
        ("1/256", 1 / 256),
        ("1e-5", 1e-5),
        ("1E5", 1e5),
        (".5", 0.5),
        ("-3", -3),
        ("1:30", "1:30"),
        ("007", "007"),
        ("2024-01-01", "2024-01-01"),
        ("1/0", "1/0"),
        ("a/b", "a/b"),
        ("9" * 5000, "9" * 5000),
        ("None", None),
        ("~", None),
        ("yes", True),
        ("max", "max"),
        ("__import__('os')", "__import__('os')"),
    ],
)
def test_scalars(text, value):
    assert scalar(text) == value and type(scalar(text)) is type(value)


@pytest.mark.parametrize("config", ["configs"])
def test_every_shipped_configuration(repo, config, tmp_path):
    files = sorted((repo / config).rglob("*.yaml"))
    assert len(files) >= 11
    for file in files:
        loaded = load_config(file)
        loaded.dump(tmp_path / "again.yaml")
        assert load_config(tmp_path / "again.yaml") == loaded, file
        # MobileNetV4 is trained at a smaller size than it is evaluated at, with dropout that PaddleClas leaves out
        told = ("training sees", "Arch.drop_rate") if "MobileNetV4" in file.name else ()
        notes = [note for note in loaded.notes if not any(words in note for words in told)]
        assert not notes, file
        head = file.read_text(encoding="utf-8").split("Global:")[0]
        assert "Hardware" in head and "Expected" in head and "ppmobilenet train -c" in head, f"{file} lacks its header"
        resized = load_config(file, ["Global.resolution=96"])
        assert list(resized["Global"]["image_shape"]) == [3, 96, 96]


def test_recipes_hold_the_published_models(repo):
    from ppmobilenet.zoo import list_models

    recipes = {f.stem: load_config(f) for f in (repo / "configs" / "ImageNet").rglob("*.yaml")}
    assert set(recipes) == {*list_models()} - {"MobileNetV3_small", "MobileNetV3_large"}
    epochs = {"MobileNetV1": 120, "MobileNetV2": 240, "MobileNetV3": 360, "MobileNetV4_conv_small": 2400}
    epochs |= {"MobileNetV4_conv_large": 600, "MobileNetV4_hybrid_large": 600, "MobileNetV4": 500}
    for name, recipe in recipes.items():
        assert recipe["Arch"]["name"] == name
        assert recipe["Global"]["epochs"] == epochs.get(name, epochs[name[: len("MobileNetV1")]])
        assert recipe["Optimizer"]["lr"]["name"] == ("Piecewise" if "MobileNetV1" in name else "Cosine")


def test_loads_the_same_in_a_locale_without_utf8(repo, tmp_path):
    file = tmp_path / "a.yaml"
    file.write_bytes("﻿Global:\r\n  output_dir: ./фото\r\nArch:\r\n  name: MobileNetV2\r\n".encode())
    code = (
        "import sys; from ppmobilenet.config import load_config; c = load_config('a.yaml', sys.argv[1:]);"
        "print(ascii(c['Global']['output_dir']), ascii(c['Global']['save_inference_dir']));"
        "c.dump('b.yaml'); print(load_config('b.yaml') == c)"
    )
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONPATH": str(repo)}
    command = [sys.executable, "-W", "ignore", "-c", code, "Global.save_inference_dir=ü".encode()]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout.split() == [ascii("./фото"), ascii("ü"), "True"], done.stderr


def test_user_error_is_public(load):
    import ppmobilenet

    assert ppmobilenet.load_config is load_config and issubclass(MissingKey, UserError)
    assert isinstance(load(), Config)
