"""Keys that speak of the same thing: what is typed counts, and what loses is said."""

from __future__ import annotations

import pytest

from ppmobilenet.config import load_config
from ppmobilenet.errors import UserError

BASE = {"    values: [": "    base_batch_size: 256\n    values: ["}
LR = "Optimizer.lr"


def said(config, *words: str) -> None:
    """There is one note, and it has the words."""
    (note,) = config.notes
    for word in words:
        assert word in note


def test_a_typed_rate_scales_the_files_values(load):
    config = load(f"{LR}.learning_rate=0.001")
    assert config.get(f"{LR}.values") == (0.001, 0.0001, 1e-5, 1e-6)
    said(config, "-o Optimizer.lr.learning_rate=0.001", "in proportion", "a.yaml:")
    assert load(f"{LR}.learning_rate=0.1").notes == ()


def test_a_typed_rate_is_the_rate_whatever_the_batch(repo, tmp_path):
    """V1's recipe: values for 256 photos, trained with batches of 64."""
    from ppmobilenet.training.optim import build_schedule

    config = load_config(repo / "configs/ImageNet/MobileNetV1/MobileNetV1.yaml", [f"{LR}.learning_rate=0.001"])
    assert len(config.notes) == 2 and "base_batch_size=256 would" in config.notes[1]
    config.dump(tmp_path / "effective.yaml")
    for kept in (config, load_config(tmp_path / "effective.yaml")):
        schedule = build_schedule(kept.optimizer.lr, 120, 10, 64)
        assert [schedule.at(epoch * 10) for epoch in (0, 30, 60)] == pytest.approx([1e-3, 1e-4, 1e-5])
    both = [f"{LR}.learning_rate=0.001", f"{LR}.base_batch_size=256"]
    scaled = load_config(repo / "configs/ImageNet/MobileNetV1/MobileNetV1.yaml", both)
    assert build_schedule(scaled.optimizer.lr, 120, 10, 64).at(0) == pytest.approx(0.00025)


def test_typed_values_are_not_scaled_either(load):
    config = load(f"{LR}.values=[0.3, 0.2, 0.1, 0.05]", replace=BASE)
    assert config.get(f"{LR}.values")[0] == 0.3 and config.get(f"{LR}.base_batch_size") is None
    assert load(replace=BASE).get(f"{LR}.base_batch_size") == 256


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ([f"{LR}.learning_rate=0.2", f"{LR}.values=[1, 0.1, 0.01, 0.001]"], ["learning_rate is 0.2", "leave one"]),
        (["Optimizer.weight_decay=1e-4", "Optimizer.regularizer.coeff=2e-4"], ["weight_decay is 0.0001", "leave one"]),
        (["Optimizer.clip_norm=1", "Optimizer.clip_global_norm=2"], ["clip_norm is 1", "leave one"]),
        (["Global.class_num=10", "Arch.class_num=9"], ["Global.class_num is 10, Arch.class_num is 9"]),
    ],
)
def test_two_typed_keys_that_contradict(load, typed, words):
    with pytest.raises(UserError) as wrong:
        load(*typed)
    for word in [*words, "-o "]:
        assert word in str(wrong.value)


@pytest.mark.parametrize(
    ("typed", "key", "value", "words"),
    [
        ("Optimizer.weight_decay=1e-4", "Optimizer.regularizer.coeff", 1e-4, ["regularizer.coeff is passed over"]),
        ("Optimizer.weight_decay=0.0", "Optimizer.regularizer.coeff", 0.0, ["regularizer.coeff is passed over"]),
        ("Global.class_num=10", "Arch.class_num", 10, ["Arch.class_num is 10, not 1000"]),
        ("Global.epochs=20", "Global.epochs", 20, ["decay_epochs 30, 60, 90 is never reached in 20 epochs"]),
        ("AMP.level=O1", "AMP.level", "O1", ["changes nothing", "a CPU computes in float32", "AMP.use_amp=True"]),
        ("AMP={level: O1}", "AMP.level", "O1", ["changes nothing"]),
        ("Arch.use_ssld=True", "Arch.use_ssld", True, ["changes nothing", "Arch.pretrained=True"]),
        (f"{LR}.warmup_start_lr=0.1", f"{LR}.warmup_start_lr", 0.1, ["changes nothing", "warmup_epoch"]),
        (f"{LR}.last_epoch=3", f"{LR}.last_epoch", 3, ["changes nothing here", "checkpoint"]),
        (f"{LR}.epochs=3", f"{LR}.epochs", 3, ["changes nothing here", "Global.epochs says it"]),
        ("DataLoader.Eval.dataset.max_bad_samples=3", "Global.epochs", 120, ["changes nothing", "every photo"]),
    ],
)
def test_what_is_typed_counts_or_is_said(load, typed, key, value, words):
    config = load(typed)
    assert config.get(key) == value
    said(config, *words)


def test_a_typed_clip_beats_the_files(load):
    both = {"  momentum: 0.9\n": "  momentum: 0.9\n  clip_global_norm: 5.0\n"}
    config = load("Optimizer.clip_norm=1.0", replace=both)
    assert config.get("Optimizer.clip_global_norm") is None and config.get("Optimizer.clip_norm") == 1.0
    said(config, "clip_global_norm is passed over", "-o Optimizer.clip_norm=1.0")


def test_a_typed_seed_draws_the_sizes_too(load, recipe):
    """MultiScaleSampler may have a seed of its own."""
    sampler = recipe[recipe.index("    sampler:") :]
    sampler = sampler[: sampler.index("    loader:")]
    own = "    sampler: {name: MultiScaleSampler, scales: [160, 192], first_bs: 8, seed: 7}\n"
    config = load("Global.seed=3", replace={sampler: own})
    assert config.get("DataLoader.Train.sampler.seed") is None
    said(config, "-o Global.seed=3", "not by DataLoader.Train.sampler.seed 7 of the file")
    kept = load("Global.seed=3", "DataLoader.Train.sampler.seed=5", replace={sampler: own})
    assert kept.get("DataLoader.Train.sampler.seed") == 5 and not kept.notes
    assert load(replace={sampler: own}).get("DataLoader.Train.sampler.seed") == 7


def test_needs_that_are_met_are_not_noted(load):
    assert not load("AMP.level=O1", "AMP.use_amp=True").notes
    assert not load("Arch.use_ssld=True", "Arch.pretrained=True").notes
    assert not load("Global.eval_interval=2", "Global.keep_checkpoints=3").notes
    assert load("Global.eval_interval=2", "Global.eval_during_train=False").notes
    assert load("Global.keep_checkpoints=3", "Global.save_interval=-1").notes


def test_names_of_the_classes_lie_beside_the_list(load, tmp_path):
    """Only roots and lists were given: the recipe's own label file is not there."""
    (tmp_path / "photos").mkdir()
    typed = [f"DataLoader.Eval.dataset.cls_label_path={tmp_path}/photos/val_list.txt", "Arch.class_num=3"]
    key, names = "Infer.PostProcess.class_id_map_file", tmp_path / "photos" / "label_list.txt"
    assert load(*typed).get(key).endswith("imagenet1k_label_list.txt")
    names.write_text("0 a\n1 b\n2 c\n")
    config = load(*typed)
    assert config.get(key) == str(names)
    said(config, str(names), "is not there")
    assert load(*typed, f"{key}=mine.txt").get(key) == "mine.txt", "what is typed has to be there"
    assert load(typed[0]).get(key).endswith("imagenet1k_label_list.txt"), "1000 classes: the names that we ship"
    for null in (load(*typed, f"{key}=null"), load(*typed, replace={"ppcls/utils/imagenet1k_label_list.txt": "null"})):
        assert null.get(key) is None and not null.notes, "who says null goes without names"
        null.dump(tmp_path / "effective.yaml")
        assert load_config(tmp_path / "effective.yaml").get(key) is None
    (tmp_path / "own.txt").write_text("0 a\n1 b\n2 c\n")
    named = {"ppcls/utils/imagenet1k_label_list.txt": "own.txt"}
    assert load(*typed, replace=named).get(key) == "own.txt", "the file's own lies beside the file"
    bare = load(*typed, replace={"    class_id_map_file: ppcls/utils/imagenet1k_label_list.txt\n": ""})
    assert bare.get(key) == str(names)
    said(bare, "no Infer.PostProcess.class_id_map_file is given")


def test_paddlexs_names_are_what_they_are(load):
    from ppmobilenet.zoo import create_model, list_models

    config = load("Arch.name=MobileNetV2_x1_0", "DataLoader.Train.dataset.name=ClsDataset")
    assert config.get("Arch.name") == "MobileNetV2"
    assert config.get("DataLoader.Train.dataset.name") == "ImageNetDataset"
    assert "MobileNetV2_x1_0 is PaddleX's name of MobileNetV2" in config.notes[0]
    assert type(create_model("MobileNetV1_x1_0", scale=0.25, class_num=2)).__name__ == "MobileNetV1"
    assert {name[:-11] for name in list_models("*x1_0")} == {"MobileNetV3"}, "whose published names end so"
    with pytest.raises(UserError, match="unknown model 'MobileNetV3_x1_0'"):
        load("Arch.name=MobileNetV3_x1_0")


PADDLEX = """
Global:
  model: MobileNetV2_x1_0
  mode: train # check_dataset/train/evaluate/predict
  dataset_dir: "/data/my flowers"
  device: gpu:0,1,2,3
  output: "output"
CheckDataset:
  split: {enable: False, train_percent: null}
Train:
  num_classes: 102
  epochs_iters: 20
  batch_size: 256
  learning_rate: 0.13
  pretrain_weight_path: null
  warmup_steps: 5
Evaluate:
  weight_path: "output/best_model/best_model.pdparams"
"""
PADDLECLAS_2_0 = """
mode: 'train'
ARCHITECTURE:
    name: "MobileNetV1"
pretrained_model: ""
model_save_dir: "./output/"
classes_num: 10
epochs: 120
image_shape: [3, 224, 224]
LEARNING_RATE:
   function: 'Piecewise'
   params: {lr: 0.1, decay_epochs: [30, 60, 90], gamma: 0.1}
OPTIMIZER:
    function: 'Momentum'
    regularizer: {function: 'L2', factor: 0.00003}
TRAIN:
    batch_size: 256
    file_list: "./flowers/train_list.txt"
    data_dir: "./flowers/"
    transforms:
        - ToCHWImage:
VALID:
    file_list: "./flowers/val_list.txt"
    data_dir: "./flowers/"
"""


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            PADDLEX,
            [
                "a PaddleX 3 module configuration of MobileNetV2_x1_0",
                "configs/ImageNet/MobileNetV2/MobileNetV2.yaml",
                "-o Arch.class_num=102",
                "-o 'DataLoader.Train.dataset.cls_label_path=/data/my flowers/train.txt'",
                "-o Optimizer.lr.warmup_epoch=5",
            ],
        ),
        (
            PADDLECLAS_2_0,
            [
                "PaddleClas 2.0 or older of MobileNetV1",
                "configs/ImageNet/MobileNetV1/MobileNetV1.yaml",
                "-o Arch.class_num=10",
                "-o DataLoader.Eval.dataset.cls_label_path=./flowers/val_list.txt",
                "-o Optimizer.regularizer.coeff=3e-05",
            ],
        ),
        (PADDLEX.replace("MobileNetV2_x1_0", "ResNet50"), ["of 'ResNet50'", "networks: MobileNetV1"]),
        (
            "Global: {model_dir: ./x}\nDistillation: {alpha: 1.0}\nQuantAware: {use_pact: true}\nTrainConfig: {}\n",
            ["automatic compression (QuantAware, TrainConfig)", "ppmobilenet quantize -c RUN --method qat"],
        ),
        ("Global: {model_name: x}\nPreProcess: {}\nPostProcess: {}\n", ["inference.yml", "infer -m"]),
    ],
    ids=["PaddleX", "PaddleClas 2.0", "another network", "PaddleSlim ACT", "inference.yml"],
)
def test_other_programs_files_are_known_for_what_they_are(load, repo, text, words):
    with pytest.raises(UserError) as refused:
        load(text=text)
    message = str(refused.value)
    for word in words:
        assert word in message, message
    assert "unknown key" not in message and "a.yaml" in message
    if "ppmobilenet train" in message:  # what it says to type is a configuration
        options = [o.split(None, 1)[1] for o in message.split(" \\\n    ")[1:]]
        recipe = next(part for part in message.split() if part.startswith("configs/"))
        load_config(repo / recipe, [option.strip("'") for option in options])
