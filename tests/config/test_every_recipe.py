"""Every training YAML of PaddleClas that names a MobileNet: it trains, or it is refused with what does its job here.

The files themselves come from a checkout of PaddleClas's ``develop`` branch, beside this one or in PADDLECLAS_DIR; what
they are made of is tried on structures of our own.
"""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from ppmobilenet.config import load_config
from ppmobilenet.errors import UserError
from ppmobilenet.training.trainer import train

REPO = Path(__file__).resolve().parents[2]
CHECKOUT = Path(os.environ.get("PADDLECLAS_DIR") or REPO.parent / "PaddleClas")
WIDTHS = ("x0_35", "x0_5", "x0_75", "x1_0", "x1_25")
RECOGNITION, PRUNING, QUANTIZATION = (
    "Arch.name is RecModel",
    "Slim.prune takes filters out",
    "quantize -c .* --method qat",
)
FOREIGN_TEACHER = "ResNet50_vd is not built here.*\n.*\n.*Teacher.pretrained=teacher.onnx"
TRAINS = ""
PHOTOS = 4
# path below ppcls/configs -> what the refusal says; TRAINS: it trains
RECIPES = {
    "ImageNet/Distillation/mv3_large_x1_0_distill_mv3_small_x1_0": TRAINS,
    **{f"ImageNet/MobileNetV1/MobileNetV1{width}": TRAINS for width in ("", "_x0_25", "_x0_5", "_x0_75")},
    **{f"ImageNet/MobileNetV2/MobileNetV2{w}": TRAINS for w in ("", "_x0_25", "_x0_5", "_x0_75", "_x1_5", "_x2_0")},
    **{f"ImageNet/MobileNetV3/MobileNetV3_{size}_{w}": TRAINS for size in ("large", "small") for w in WIDTHS},
    **{f"ImageNet/MobileNetV3/MobileNetV3_small_x1_0_{kind}": TRAINS for kind in ("fp32_ultra", "ampo2_ultra")},
    **{f"ImageNet/MobileNetV4/MobileNetV4_conv_{size}": TRAINS for size in ("small", "medium", "large")},
    **{f"ImageNet/MobileNetV4/MobileNetV4_hybrid_{size}": TRAINS for size in ("medium", "large")},
    **{
        f"PULC/{task}/MobileNetV3_small_x0_35": TRAINS
        for task in (
            *("car_exists", "code_exists", "language_classification", "person_attribute", "person_exists"),
            *("safety_helmet", "text_image_orientation", "textline_orientation", "vehicle_attribute"),
        )
    },
    "PULC/traffic_sign/MobileNetV3_samll_x0_35": TRAINS,
    "Products/MV3_Large_1x_Aliproduct_DLBHC": RECOGNITION,
    "multi_scale/MobileNetV1_multi_scale": TRAINS,
    "quick_start/MobileNetV1_retrieval": RECOGNITION,
    "quick_start/MobileNetV3_large_x1_0": TRAINS,
    "quick_start/professional/MobileNetV1_multilabel": TRAINS,
    "quick_start/professional/MobileNetV3_large_x1_0_CIFAR100_finetune": TRAINS,
    "quick_start/professional/R50_vd_distill_MV3_large_x1_0_CIFAR100": FOREIGN_TEACHER,
    "slim/MobileNetV3_large_x1_0_prune": PRUNING,
    "slim/MobileNetV3_large_x1_0_quantization": QUANTIZATION,
}


@pytest.fixture(scope="module")
def recipes() -> Path:
    """The folder of PaddleClas's configurations."""
    if not (CHECKOUT / "ppcls/configs").is_dir():
        pytest.skip("no checkout of PaddleClas beside this one (or in PADDLECLAS_DIR): its YAMLs are not ours")
    return CHECKOUT / "ppcls/configs"


def test_the_table_has_every_recipe(recipes):
    found = {
        path.relative_to(recipes).with_suffix("").as_posix()
        for path in recipes.rglob("*.yaml")
        if "MobileNet" in path.read_text(encoding="utf-8")
    }
    assert found == set(RECIPES) and len(RECIPES) == 47


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_read_as_it_stands_or_refused_with_what_to_do(recipes, name):
    path, refused = recipes / f"{name}.yaml", RECIPES[name]
    if refused:
        with pytest.raises(UserError, match=refused) as error:
            load_config(path)
        assert error.value.where and error.value.hint
    else:
        load_config(path)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("quick_start/professional/R50_vd_distill_MV3_large_x1_0_CIFAR100", "Teacher.pretrained=teacher.onnx"),
        ("slim/MobileNetV3_large_x1_0_prune", "Slim=null"),
        ("slim/MobileNetV3_large_x1_0_quantization", "Slim=null"),
    ],
)
def test_a_refused_recipe_is_read_with_what_the_refusal_says(recipes, name, said):
    path = recipes / f"{name}.yaml"
    with pytest.raises(UserError) as refused:
        load_config(path)
    assert f"-o {said}" in refused.value.hint
    load_config(path, [said])


def tiny_data(config, folder: Path) -> list[str]:
    """Write four photos with the labels that a configuration's data sets want; return the overrides that name them."""
    classes = config.arch.class_num
    label = ",".join(["0", "1"] * classes)[: 2 * classes - 1] if config.run.use_multilabel else "{i}"
    for i in range(PHOTOS):
        pixels = np.random.default_rng(i).integers(0, 255, (80, 80, 3), np.uint8)
        cv2.imwrite(str(folder / f"{i}.png"), pixels)
    between = config.train.dataset.delimiter or "\t"
    (folder / "four.txt").write_text("".join(f"{i}.png{between}{label.format(i=i % 2)}\n" for i in range(PHOTOS)))
    batch = "first_bs" if config.train.sampler.name == "MultiScaleSampler" else "batch_size"
    overrides = [f"DataLoader.Train.sampler.{batch}={PHOTOS}", f"DataLoader.Eval.sampler.batch_size={PHOTOS}"]
    for mode in ("Train", "Eval"):
        dataset = f"DataLoader.{mode}.dataset"
        overrides += [f"{dataset}.image_root={folder}", f"{dataset}.cls_label_path={folder}/four.txt"]
        overrides.append(f"DataLoader.{mode}.loader.num_workers=0")
    return overrides


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, refused in RECIPES.items() if refused is TRAINS])
def test_a_recipe_takes_a_step(recipes, name, tmp_path):
    path = recipes / f"{name}.yaml"
    common = [
        *("Global.device=cpu", f"Global.output_dir={tmp_path}/out", "Global.epochs=1", "Global.save_interval=-1"),
        *("Global.start_eval_epoch=0", "Global.update_freq=1", "Global.seed=1"),
        # the recipes' rates are for batches of hundreds: one such step of four photos may end in infinity
        "Optimizer.lr.learning_rate=0.001",
        "Arch.models.0.Teacher.pretrained=False" if "Distillation" in name else "Arch.pretrained=False",
    ]
    config = load_config(path, common)
    small = [] if "CIFAR" in name else ["Global.resolution=64"]
    if config.train.sampler.name == "MultiScaleSampler":
        small.append("DataLoader.Train.sampler.scales=[64, 32]")
    labels = "imagenet1k_label_list.txt"
    if config.infer.post.class_id_map_file and not config.infer.post.class_id_map_file.endswith(labels):
        small.append("Infer.PostProcess.class_id_map_file=null")
    result = train(load_config(path, [*common, *small, *tiny_data(config, tmp_path)]), random_init=True)
    assert result["step"] == 1 and result["evaluated"] == PHOTOS


# ---------------------------------------------------------------------------------------------------------------------
# the same kinds, written by us


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "Arch: {name: RecModel, Backbone: {name: MobileNetV2_x0_5}, Head: {name: FC, class_num: 7}}",
            "configs/ImageNet/MobileNetV2/MobileNetV2_x0_5.yaml -o Arch.class_num=7",
        ),
        (
            "Arch: {name: MobileNetV3_large_x1_0}\nSlim: {prune: {name: l1_norm, pruned_ratio: 0.2}}",
            "-o Teacher.name=MobileNetV3_large_x1_0 -o Teacher.pretrained=FILE",
        ),
        ("Arch: {name: MobileNetV1}\nSlim: {quant: {name: pact}}", "quantize -c .*recipe.yaml -o Slim=null"),
        (
            "Arch: {name: MobileNetV1}\nLoss: {Train: [DistillationPairLoss: {base_loss_name: MGDLoss}]}",
            "DistillationRKDLoss takes layers of any two widths",
        ),
    ],
)
def test_other_tasks_are_refused_with_what_does_their_job(tmp_path, text, words):
    path = written(tmp_path, text)
    with pytest.raises(UserError, match=words) as error:
        load_config(path)
    assert str(error.value.where).startswith(f"{path}:")


def test_what_the_hints_say_is_read(tmp_path):
    text = "Arch: {name: MobileNetV1, class_num: 5}\nSlim: {quant: {name: pact}}"
    assert load_config(written(tmp_path, text), ["Slim=null"]).arch.name == "MobileNetV1"
    learn = ["Teacher.name=MobileNetV2", "Teacher.pretrained=FILE", "Loss.Train=[DistillationKLDivLoss]"]
    config = load_config(written(tmp_path, "Arch: {name: MobileNetV2_x0_5, class_num: 5}"), learn)
    assert config.teacher.name == "MobileNetV2" and config.loss.train[0].name == "DistillationKLDivLoss"


def test_a_threshold_for_two_classes(tmp_path):
    text = """
Arch: {name: MobileNetV3_small_x0_35, class_num: 2, use_sync_bn: True}
Infer: {PostProcess: {name: ThreshOutput, threshold: 0.9, label_0: nobody, label_1: someone}}
Metric: {Train: [TopkAcc: {topk: [1, 2]}], Eval: [TprAtFpr: {max_fpr: null}, TopkAcc: {topk: [1, 2]}]}
"""
    config = load_config(written(tmp_path, text))
    assert config.decision == {"threshold": 0.9} and config.labels.names == ("nobody", "someone")
    assert config.metric.eval[0].name == "TprAtFpr"
    with pytest.raises(UserError, match="ThreshOutput is for two classes"):
        load_config(written(tmp_path, text), ["Arch.class_num=3"]).decision  # noqa: B018
    with pytest.raises(UserError, match="threshold is 7"):
        load_config(written(tmp_path, text), ["Infer.PostProcess.threshold=7"]).decision  # noqa: B018
