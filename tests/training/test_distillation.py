"""A teacher and what learns from it: configurations, the frozen teacher, its kept answers, photos without labels."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import numpy as np
import paddle
import pytest
from training_helpers import TRAIN, losses

from ppmobilenet.config import load_config
from ppmobilenet.errors import DataError, Stopped, UserError
from ppmobilenet.kernels import build
from ppmobilenet.models.family import classifier_of
from ppmobilenet.training import setting as settings
from ppmobilenet.training import trainer
from ppmobilenet.training.evaluator import evaluate
from ppmobilenet.training.teacher import Stages, build_teacher
from ppmobilenet.weights.files import read_weights
from ppmobilenet.workshop.export import export
from ppmobilenet.zoo import create_model

TAUGHT = (
    "Teacher.name=MobileNetV1_x0_25",
    "Loss.Train=[{DistillationKLDivLoss: {weight: 0.5, temperature: 2}}, {CELoss: {weight: 0.5}}]",
)
STILL = "DataLoader.Train.dataset.transform_ops.1={ResizeImage: {size: 32}}"
PIXELS = (("Train", 3), ("Eval", 2))  # where a NormalizeImage stands
NO_FLIP = "DataLoader.Train.dataset.transform_ops.2={ResizeImage: {size: 32}}"


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> Path:
    """Weights of a MobileNetV1_x0_25 for three classes, with answers that differ from photo to photo."""
    path = tmp_path_factory.mktemp("teacher") / "teacher.pdparams"
    paddle.seed(3)
    network = create_model("MobileNetV1_x0_25", class_num=3)
    for key, value in network.state_dict().items():
        if key.endswith("_variance"):
            value.set_value(value * 0.05)
    paddle.save(network.state_dict(), str(path))
    return path


@pytest.fixture
def taught(tiny_config, teacher):
    """Make a config of the tiny data set with a teacher."""
    quick = ("Arch.name=MobileNetV1_x0_25", "Global.eval_during_train=False", "Global.save_interval=-1")
    given = (*TAUGHT, f"Teacher.pretrained={teacher}", *quick)
    return lambda *overrides, out="out": tiny_config(*given, *overrides, out=out)


@pytest.fixture
def theirs(tiny_yaml, teacher, tmp_path) -> Path:
    """The tiny configuration as PaddleClas writes a distillation."""
    text = tiny_yaml.read_text()
    arch = f"""Arch:
  name: "DistillationModel"
  class_num: &class_num 3
  pretrained_list:
  freeze_params_list: [True, False]
  models:
    - Big:
        name: MobileNetV1_x0_25
        class_num: *class_num
        pretrained: {teacher}
        return_patterns: ["blocks[2]"]
    - Small:
        name: MobileNetV3_small_x0_35
        class_num: *class_num
        pretrained: False
        dropout_prob: null
  infer_model_name: "Small"
Infer:
  PostProcess: {{name: DistillationPostProcess, func: Topk, topk: 2}}
"""
    text = text.replace("Arch:\n  name: MobileNetV2_x0_25\n  class_num: 3\n", arch)
    text = text.replace(
        "Train: [CELoss: {epsilon: 0.1}]",
        "Train: [DistillationDMLLoss: {weight: 1.0, model_name_pairs: [[Small, Big]]}]",
    )
    text = text.replace("TopkAcc: {topk", "DistillationTopkAcc: {model_key: Small, topk")
    path = tmp_path / "theirs.yaml"
    path.write_text(text)
    return path


def test_paddleclas_distillation_is_read_as_student_and_teacher(theirs, teacher, tmp_path):
    config = load_config(theirs)
    assert (config.arch.name, config.arch.class_num, dict(config.arch.parameters)["dropout_prob"]) == (
        *("MobileNetV3_small_x0_35", 3),
        None,
    )
    assert (config.teacher.name, config.teacher.pretrained) == ("MobileNetV1_x0_25", str(teacher))
    assert config.loss.train[0].parameters["model_name_pairs"] == (("Student", "Teacher"),)
    assert config.infer.post.name == "Topk" and config.infer.post.topk == 2
    assert config.where("Arch.dropout_prob").startswith(f"{theirs}:")
    assert load_config(theirs, ["Arch.models.1.Small.dropout_prob=0.1"]).arch.parameters["dropout_prob"] == 0.1
    config.dump(tmp_path / "again.yaml")
    assert load_config(tmp_path / "again.yaml").to_dict() == config.to_dict()


def test_what_is_typed_of_a_teacher_stands_above_the_files(theirs):
    """So does the command in the message about a teacher that is not built here."""
    elsewhere = ["Arch.models.0.Big.name=ResNet50_vd"]
    with pytest.raises(UserError) as refused:
        load_config(theirs, elsewhere)
    said = "Teacher.pretrained=teacher.onnx"
    assert f"-o {said}" in refused.value.hint
    teacher = load_config(theirs, [*elsewhere, said]).teacher
    assert (teacher.name, teacher.pretrained) == ("Exported", "teacher.onnx")
    assert load_config(theirs, ["Teacher.name=MobileNetV2"]).teacher.name == "MobileNetV2"


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("Arch.freeze_params_list=[False, False]", "mutual learning"),
        ("Arch.freeze_params_list=[True, True]", "no network is trained"),
        ("Arch.freeze_params_list=[True]", "2 times True or False"),
        ("Arch.infer_model_name=Big", "'Small' is trained"),
        ("Arch.models.0.Big.name=ResNet50_vd", "Teacher.pretrained=teacher.onnx"),
        ("Arch.models=[]", "Arch.models has 0 networks"),
        ("Arch.models.0.Big.freeze=trunk", "unknown key Teacher.freeze"),
        ("Loss.Train.0.DistillationDMLLoss.temperature=2", "unknown key"),
    ],
)
def test_a_distillation_that_cannot_be_is_refused(theirs, override, words):
    with pytest.raises(UserError, match=words):
        load_config(theirs, [override])


@pytest.mark.parametrize("kernels", ["off", "on"])
def test_paddleclas_distillation_trains_and_the_teacher_stays(theirs, tmp_path, monkeypatch, kernels):
    if kernels == "on":
        try:
            build.load_library()
        except build.Unavailable as reason:
            pytest.skip(f"no kernels here: {reason}")
    seen = []
    built = settings.build_teacher
    monkeypatch.setattr(settings, "build_teacher", lambda *a, **k: seen.append(built(*a, **k)) or seen[-1])

    def digests(teacher):
        return {k: hashlib.sha256(v.numpy().tobytes()).hexdigest() for k, v in teacher.network.state_dict().items()}

    config = load_config(
        theirs, [f"Global.output_dir={tmp_path}/out", "Global.epochs=1", f"Global.cpu_kernels={kernels}"]
    )
    before = digests(built(config.teacher, 3, config.train.dataset.transform_ops, device="cpu", cpu_kernels="off"))
    result = trainer.train(config)
    (teacher,) = seen
    assert digests(teacher) == before
    assert not any(layer.training for layer in teacher.network.sublayers(include_self=True))
    assert all(p.grad is None and p.stop_gradient for p in teacher.network.parameters())
    log = (tmp_path / "out/train.log").read_text()
    assert "PaddleClas leaves a frozen teacher in training mode" in log
    assert "teacher: cpu_kernels: " + {"off": "off", "on": "27 layers fused"}[kernels] in log
    student = read_weights(tmp_path / "out/best_model_student.pdparams")
    best = read_weights(tmp_path / "out/best_model.pdparams")
    assert student.keys() == best.keys() == create_model("MobileNetV3_small_x0_35").state_dict().keys()
    assert evaluate(load_config(tmp_path / "out"))["top1"] == result["best_metric"]


def test_any_section_may_get_a_teacher_and_a_loss_must_ask_it(tiny_config, taught, tmp_path):
    trainer.train(taught("Global.epochs=1"))
    for config, words in [
        (taught("Loss.Train=[CELoss]"), "no loss asks the Teacher"),
        (tiny_config(TAUGHT[1]), "asks a teacher, and there is no Teacher"),
        (taught("Loss.Eval=[DistillationKLDivLoss]", "Global.eval_during_train=True"), "evaluation has none"),
        (taught("Teacher.class_num=5"), "Teacher.class_num is 5"),
        (taught("Teacher.pretrained=False"), "its answers would be random"),
        (taught("Arch.cache_features=True", "Arch.freeze=trunk"), "Arch.freeze"),
        (taught("Loss.Train=[DistillationDistanceLoss: {key: 'blocks[99]'}]"), "has no layer"),
        (taught("Loss.Train=[DistillationDistanceLoss: {key: feature}]"), "did you mean 'features'"),
        (taught("Loss.Train=[DistillationDistanceLoss: {key: nothing}]"), "known: features, logits, .*, fc and what"),
        (taught("Loss.Train=[DistillationKLDivLoss: {temperature: 0}]"), "temperature"),
    ]:
        with pytest.raises(UserError, match=words):
            trainer.train(config)
    with pytest.raises(UserError, match="there is no Teacher"):
        tiny_config("DataLoader.UnLabelTrain.dataset.image_root=x")


def test_layers_may_be_compared(tiny_config, teacher, tmp_path):
    """Relations among photos between layers of any width; distances where they are equal."""
    keys = "student_keepkeys: [conv3, logits], teacher_keepkeys: ['blocks[3]', logits]"
    learn = (f"Teacher.pretrained={teacher}", "Teacher.name=MobileNetV1_x0_25", "Global.epochs=1")
    trainer.train(tiny_config(*learn, f"Loss.Train=[DistillationRKDLoss: {{target_size: 1, {keys}}}]"))
    asks = "Loss.Train=[DistillationDistanceLoss: {key: 'blocks[3]'}]"
    with pytest.raises(UserError, match="the student's layer gives"):
        trainer.train(tiny_config(*learn, "Arch.name=MobileNetV1_x0_5", asks))
    trainer.train(tiny_config(*learn, "Arch.name=MobileNetV1_x0_25", asks))


def test_features_are_what_the_classifier_gets_in_any_family(tiny_config, tmp_path):
    """Of MobileNetV2 and V3, whose layers have other names; dropout, which spoils the student's, comes after."""
    paddle.seed(3)
    network = create_model("MobileNetV2_x0_25", class_num=3)
    paddle.save(network.state_dict(), str(tmp_path / "teacher.pdparams"))
    network.eval()
    watched = Stages(network, ["features"], "Teacher")
    answers = network(paddle.rand([2, 3, 32, 32]))
    classifier = getattr(network, classifier_of(network))
    np.testing.assert_array_equal(classifier(watched["features"]).numpy(), answers.numpy())
    learn = (f"Teacher.pretrained={tmp_path / 'teacher.pdparams'}", "Teacher.name=MobileNetV2_x0_25", "Global.epochs=1")
    asks = "Loss.Train=[DistillationDistanceLoss: {key: features}]"
    trainer.train(tiny_config(*learn, "Arch.name=MobileNetV3_small_x0_35", asks))
    with pytest.raises(UserError, match="the student's layer gives .256.*the teacher's .1280"):
        trainer.train(tiny_config(*learn, "Arch.name=MobileNetV1_x0_25", asks))


def test_what_layers_give_is_kept_too(taught, monkeypatch, tmp_path):
    """A run with kept outputs of layers equals, bit for bit, one that asks anew each time."""
    asks = "Loss.Train=[{DistillationKLDivLoss: {}}, {DistillationDistanceLoss: {key: avg_pool, act: sigmoid}}]"
    for keep in (True, False):
        with monkeypatch.context() as patch:
            counted = Counted(patch, keep)
            trainer.train(taught(asks, STILL, NO_FLIP, out=f"kept{keep}"))
            assert counted.photos == TRAIN * (1 if keep else 2)
    assert losses(tmp_path / "keptTrue") == losses(tmp_path / "keptFalse")


class Counted:
    """Counts what a run's teacher is asked."""

    def __init__(self, monkeypatch, keep=True):
        self.photos = 0
        built = settings.build_teacher

        def build(*args, **keywords):
            teacher = built(*args, **keywords)
            run = teacher._run
            teacher._run = lambda images: self._count(images) or run(images)
            return teacher

        monkeypatch.setattr(settings, "build_teacher", build)
        if not keep:
            monkeypatch.setattr(settings, "keep_answers", lambda loader, *rest: loader)

    def _count(self, images):
        self.photos += len(images)


@pytest.mark.parametrize(
    ("overrides", "epochs", "asked"), [((STILL, NO_FLIP), 2, 1), (("Teacher.views=2",), 3, 2), ((), 2, 2)]
)
def test_each_view_is_answered_once(taught, monkeypatch, tmp_path, overrides, epochs, asked):
    for keep in (True, False):
        if not keep and "Teacher.views=2" in overrides:
            continue  # without kept answers the views do not come again
        with monkeypatch.context() as patch:
            counted = Counted(patch, keep)
            trainer.train(taught(f"Global.epochs={epochs}", *overrides, out=f"kept{keep}"))
            assert counted.photos == TRAIN * (asked if keep else epochs)
    if "Teacher.views=2" not in overrides:
        assert losses(tmp_path / "keptTrue") == losses(tmp_path / "keptFalse")


def without_labels(tiny, tmp_path) -> tuple[str, ...]:
    (tmp_path / "photos.txt").write_text("".join(f"val/{i:03}.png\n" for i in range(11)))
    given = {
        "dataset.name": "ImageNetDataset",
        "dataset.image_root": tiny,
        "dataset.cls_label_path": tmp_path / "photos.txt",
        "dataset.transform_ops": "[DecodeImage: {}, RandCropImage: {size: 32}, NormalizeImage: {order: ''}]",
        "sampler.batch_size": 4,
        "sampler.shuffle": True,
        "loader.num_workers": 0,
    }
    return tuple(f"DataLoader.UnLabelTrain.{key}={value}" for key, value in given.items())


def test_photos_without_labels_join_and_a_resumed_run_goes_on_exactly(taught, tiny, tmp_path, monkeypatch):
    joined = (*without_labels(tiny, tmp_path), "Teacher.views=2", "EMA.decay=0.9", "Global.save_steps=1")
    counted = Counted(monkeypatch)
    trainer.train(taught(*joined, out="straight"))
    assert counted.photos == 2 * TRAIN + 2 * 11
    change = trainer._change_weights

    def stop_after(state):
        change(state)
        if state.update == 7:
            raise Stopped("here")

    monkeypatch.setattr(trainer, "_change_weights", stop_after)
    with pytest.raises(Stopped):
        trainer.train(taught(*joined, out="twice"))
    monkeypatch.setattr(trainer, "_change_weights", change)
    trainer.train(taught(*joined, "Global.checkpoints=auto", out="twice"))
    one, other = (read_weights(tmp_path / out / "latest.pdparams") for out in ("straight", "twice"))
    assert all(np.array_equal(one[key], other[key]) for key in one)
    plain = taught("Teacher.views=2", "EMA.decay=0.9", out="alone")
    trainer.train(plain)
    alone = read_weights(tmp_path / "alone/latest.pdparams")
    assert any(not np.array_equal(one[key], alone[key]) for key in one)


def test_a_photo_without_label_that_is_not_there_is_named(taught, tiny, tmp_path):
    joined = without_labels(tiny, tmp_path)
    (tmp_path / "photos.txt").write_text("val/000.png 7\nval/nobody.png\n")
    with pytest.raises(DataError, match=r"photos.txt:2.*nobody.png does not exist"):
        trainer.train(taught(*joined))


def test_a_run_teaches_by_its_folder_and_is_fed_the_pixels_it_was_trained_on(tiny_config, tmp_path):
    half, other = "[0.5, 0.5, 0.5]", [f"DataLoader.{m}.dataset.transform_ops.{i}.NormalizeImage" for m, i in PIXELS]
    run = tiny_config(
        *("Arch.name=MobileNetV1_x0_25", "Global.epochs=1"),
        *(f"{at}.{key}={half}" for at in other for key in ("mean", "std")),
        out="large",
    )
    trainer.train(run)
    config = tiny_config(TAUGHT[1], f"Teacher.pretrained={tmp_path}/large", "Global.epochs=1")
    assert config.teacher.name == "Exported"
    ops = config.train.dataset.transform_ops
    pixels = np.random.default_rng(1).integers(0, 256, (4, 3, 32, 32)) / 255.0
    mean, std = (np.array(v).reshape(1, 3, 1, 1) for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    seen, theirs = (paddle.to_tensor(x.astype("float32")) for x in ((pixels - mean) / std, (pixels - 0.5) / 0.5))
    whole = build_teacher(config.teacher, 3, ops, device="cpu", cpu_kernels="off")
    alone = shutil.copy(tmp_path / "large/best_model.pdparams", tmp_path / "alone.pdparams")
    by_name = tiny_config(*TAUGHT, f"Teacher.pretrained={alone}").teacher
    plain = build_teacher(by_name, 3, ops, device="cpu", cpu_kernels="off")
    np.testing.assert_allclose(whole(seen).numpy(), plain(theirs).numpy(), rtol=1e-3)
    assert not np.allclose(whole(seen).numpy(), plain(seen).numpy(), rtol=1e-2)
    trainer.train(config)
    with pytest.raises(UserError, match="normalised otherwise") as refused:
        trainer.train(tiny_config(*TAUGHT, f"Teacher.pretrained={tmp_path}/large/best_model"))
    assert f"Teacher.pretrained={tmp_path}/large" in refused.value.hint
    with pytest.raises(UserError, match="of 3 classes, and Arch.class_num is 4"):
        build_teacher(config.teacher, 4, ops, device="cpu")


def test_a_package_and_an_onnx_file_teach_as_the_network_does(tiny_config, teacher, tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("paddle2onnx")
    other = "[0.5, 0.5, 0.5]"
    big = tiny_config(
        *("Arch.name=MobileNetV1_x0_25", f"Global.pretrained_model={teacher}"),
        f"DataLoader.Eval.dataset.transform_ops.2.NormalizeImage.mean={other}",
        f"DataLoader.Eval.dataset.transform_ops.2.NormalizeImage.std={other}",
    )
    package = export(big, to="onnx", output=tmp_path / "package")
    config = tiny_config(*TAUGHT, f"Teacher.pretrained={teacher}")
    ops = config.train.dataset.transform_ops
    built = build_teacher(config.teacher, 3, ops, device="cpu", cpu_kernels="off")
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 256, (4, 3, 32, 32)) / 255.0
    mean, std = (np.array(v).reshape(1, 3, 1, 1) for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    seen, half = (paddle.to_tensor(x.astype("float32")) for x in ((pixels - mean) / std, (pixels - 0.5) / 0.5))

    def shares(logits):
        return paddle.nn.functional.softmax(logits).numpy()

    for named, photos in ((f"package:{package}", seen), (f"{package}/inference.onnx", half)):
        exported = tiny_config(TAUGHT[1], f"Teacher.pretrained={named}")
        assert exported.teacher.name == "Exported"
        answers = build_teacher(exported.teacher, 3, ops, device="cpu")(photos)
        np.testing.assert_allclose(shares(answers), shares(built(half)), atol=1e-5)
    trainer.train(tiny_config(TAUGHT[1], f"Teacher.pretrained=package:{package}", "Global.epochs=1"))
    with pytest.raises(UserError, match="of 3 classes, and Arch.class_num is 4"):
        build_teacher(exported.teacher.of({"pretrained": f"package:{package}"}), 4, ops, device="cpu")
    with pytest.raises(UserError, match="and no Teacher.name says"):
        trainer.train(tiny_config(TAUGHT[1], "Teacher.pretrained=weights.pdparams"))
