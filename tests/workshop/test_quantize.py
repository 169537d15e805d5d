"""int8: what is quantized, what stays float, what is refused, and that the answers stay those of the float model."""

from __future__ import annotations

import json
import platform
import re
from pathlib import Path

import cv2
import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from hearing import heard

from ppmobilenet.cli import main
from ppmobilenet.data.loader import Batch
from ppmobilenet.errors import UserError
from ppmobilenet.field.package import open_package
from ppmobilenet.field.predictor import Predictor
from ppmobilenet.workshop.int8_accuracy import Int8Report, form_accuracies
from ppmobilenet.workshop.int8_arithmetic import Int8Program
from ppmobilenet.workshop.int8_plan import Int8Settings, layer_errors, layers_meant, plan_layers, quantizable_layers
from ppmobilenet.workshop.making import PackageSpec, make_package
from ppmobilenet.workshop.qat import fine_tune
from ppmobilenet.workshop.quantizers import count_quantized
from ppmobilenet.zoo import create_model

pytestmark = pytest.mark.skipif(paddle.__version__.startswith("2."), reason="int8 needs Paddle 3")
OPS = [
    {"ResizeImage": {"size": 32}},
    {"NormalizeImage": {"scale": 1 / 255, "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25], "order": ""}},
]
LABELS = list("abcde")


def colours(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Photos of which the class can be told: noise in one of five colours; uint8 RGB and labels."""
    rng = np.random.default_rng(3)
    shades = np.array([[200, 60, 60], [60, 200, 60], [60, 60, 200], [180, 180, 60], [60, 180, 180]])
    labels = np.arange(count) % 5
    photos = shades[labels][:, None, None] + rng.normal(0, 12, (count, 32, 32, 3))
    photos = np.clip(photos, 0, 255).astype(np.uint8)
    return photos, labels


def tensors_of(photos: np.ndarray) -> np.ndarray:
    return ((photos.astype(np.float32) / 255 - 0.5) / 0.25).transpose(0, 3, 1, 2).copy()


@pytest.fixture(scope="module")
def trained():
    """A network that tells the colours (random layers, a fitted classifier), photos and their labels."""
    paddle.seed(0)
    model = create_model("MobileNetV1_x0_25", class_num=5)
    photos, labels = colours(160)
    tensors = tensors_of(photos)
    rng = np.random.default_rng(1)
    for value in model.parameters():
        if value.ndim == 4:
            spread = (2 / np.prod(value.shape[1:])) ** 0.5
            value.set_value(rng.normal(0, spread, value.shape).astype("float32"))
    features: list[np.ndarray] = []
    model.fc.register_forward_pre_hook(lambda _layer, given: features.append(given[0].numpy()))
    with paddle.no_grad():
        model.train()
        for start in range(0, 15 * 32, 32):
            model(paddle.to_tensor(tensors[np.arange(start, start + 32) % 160]))
        model.eval()
        features.clear()
        model(paddle.to_tensor(tensors))
    model.fc._forward_pre_hooks.clear()
    with_one = np.c_[features[0], np.ones(160)]
    ridge = with_one.T @ with_one + 3 * np.eye(with_one.shape[1])
    solved = np.linalg.solve(ridge, with_one.T @ np.eye(5)[labels]) * 3
    model.fc.weight.set_value(solved[:-1].astype("float32"))
    model.fc.bias.set_value(solved[-1].astype("float32"))
    with paddle.no_grad():
        accuracy = (model(paddle.to_tensor(tensors)).numpy().argmax(axis=1) == labels).mean()
    assert accuracy > 0.6, f"the test's own network does not tell the colours: {accuracy}"
    return model, photos, labels


def png(photo: np.ndarray) -> bytes:
    return cv2.imencode(".png", np.ascontiguousarray(photo[:, :, ::-1]))[1].tobytes()


@pytest.fixture(scope="module")
def package(trained, tmp_path_factory):
    model, photos, _ = trained
    folder = tmp_path_factory.mktemp("int8") / "package"
    plan = planned(model, tensors_of(photos[:24]), keep_float=["fc", "conv2_1_dw_weights"])
    pytest.importorskip("onnxruntime")
    pytest.importorskip("paddle2onnx")
    to = ["pdmodel", "onnx"]
    with heard() as said:
        make_package(
            model,
            PackageSpec(
                name="x",
                ops=OPS,
                labels=LABELS,
                to=to,
                photos=[png(p) for p in photos[:3]],
                int8=plan,
                softmax_inside=False,
            ),
            folder,
        )
    return folder, plan, "\n".join(said)


def planned(network, tensors: np.ndarray, **settings):
    return plan_layers(network, tensors, Int8Settings(**settings))


def departure(folder, photos, backend) -> float:
    """How far int8 logits are from the float ones: relative Euclidean distance."""
    whole = Predictor(folder, backend="paddle").run(tensors_of(photos))
    int8 = Predictor(folder, backend=backend, precision="int8").run(tensors_of(photos))
    return float(np.linalg.norm(int8 - whole) / np.linalg.norm(whole))


@pytest.mark.parametrize("backend", ["paddle", "onnxruntime"])
def test_int8_answers_as_float(package, trained, backend):
    """The network of this test is fragile (random layers): 28 layers of int8 move its logits by some tenths."""
    assert 1e-3 < departure(package[0], trained[1], backend) < 0.35


def computed(folder, tensors: np.ndarray) -> np.ndarray:
    return Int8Program(folder / "int8/inference.pdmodel", folder / "int8/inference.pdiparams")(tensors)


def as_paddle_says(folder, tensors: np.ndarray) -> np.ndarray:
    """The int8 program as Paddle Inference runs it one operator after another, nothing fused and without oneDNN."""
    config = paddle.inference.Config(*(str(folder / "int8" / f"inference.{end}") for end in ("pdmodel", "pdiparams")))
    config.disable_glog_info()
    config.switch_ir_optim(False)
    config.disable_mkldnn()
    predictor = paddle.inference.create_predictor(config)
    predictor.get_input_handle(predictor.get_input_names()[0]).copy_from_cpu(tensors)
    predictor.run()
    return predictor.get_output_handle(predictor.get_output_names()[0]).copy_to_cpu()


class Gated(paddle.nn.Layer):
    """What later MobileNets are made of: hard-swish, a gate over the channels, 5x5 filters, a residual."""

    def __init__(self):
        super().__init__()
        self.stem = paddle.nn.Conv2D(3, 16, 3, stride=2, padding=1)
        self.wide = paddle.nn.Conv2D(16, 16, 5, padding=2, groups=16)
        self.less, self.more = paddle.nn.Conv2D(16, 8, 1), paddle.nn.Conv2D(8, 16, 1)
        self.grouped = paddle.nn.Conv2D(16, 16, 3, padding="SAME", stride=2, groups=4)
        self.pool, self.fc, self.last = paddle.nn.AdaptiveAvgPool2D(1), paddle.nn.Linear(16, 5), F.swish

    def forward(self, x):
        x = F.hardswish(self.stem(x))
        gate = F.hardsigmoid(self.more(F.relu6(self.less(self.pool(x)))), slope=0.2)
        x = x + self.wide(x) * gate
        return self.last(self.fc(self.pool(F.swish(self.grouped(x))).flatten(1)))


def test_the_int8_program_is_computed_by_its_own_definition(package, trained, tmp_path):
    """Sums of whole numbers are exact, so only a rounding that is a tie to the last bit of float32 may differ."""
    paddle.seed(5)
    tensors = tensors_of(trained[1][:24])
    network = Gated()
    gated = make_package(
        network,
        PackageSpec(
            name="x",
            ops=OPS,
            labels=LABELS,
            to=["pdmodel"],
            photos=[png(trained[1][0])],
            int8=planned(network, tensors),
        ),
        tmp_path / "gated",
    )
    for folder in (package[0], gated):
        mine, paddles = computed(folder, tensors), as_paddle_says(folder, tensors)
        assert np.linalg.norm(mine - paddles) < 0.02 * np.linalg.norm(paddles)
        assert (np.abs(mine - paddles).max(axis=1) < 1e-4).mean() > 0.5, "most photos meet no tie at all"


def test_an_operator_without_known_arithmetic_is_named_and_nothing_is_lost(trained, tmp_path):
    odd = Gated()
    odd.last = F.leaky_relu
    photos = trained[1]
    paths = [(str(tmp_path / f"{number}.png"), 0) for number in range(3)]
    for (path, _), photo in zip(paths, photos):
        Path(path).write_bytes(png(photo))
    with heard() as said:
        folder = make_package(
            odd,
            PackageSpec(
                name="x",
                ops=OPS,
                labels=LABELS,
                to=["pdmodel"],
                photos=[png(photos[0])],
                int8=planned(odd, tensors_of(photos[:4])),
            ),
            tmp_path / "odd",
            accuracy=lambda written: form_accuracies(written, paths),
        )
    assert "the arithmetic of the operator 'leaky_relu' is not known" in "\n".join(said)
    rows = open_package(folder).meta["accuracy"]
    assert [row["computed"] for row in rows] == [False, False] and rows[-1]["form"] == "pdmodel-int8"
    assert "could not be computed" in Int8Report(folder, "ptq", rows, [], []).table()


def test_what_was_asked_to_stay_float_does(package, trained):
    folder, plan, said = package
    everything = len(quantizable_layers(trained[0]))
    assert plan.kept == ["fc", "blocks.0.depthwise_conv.conv"]
    forms = {form["name"]: form for form in open_package(folder).meta["forms"]}
    assert forms["pdmodel-int8"]["quantized_layers"] == everything - 2
    assert forms["onnx-int8"]["quantized_layers"] == everything - 2
    assert f"int8: {everything - 2} of {everything} layers quantized by PTQ" in said
    entry = open_package(folder).meta["int8"]
    assert entry["kept_float"] == plan.kept and len(entry["worst_layers"]) == 10


def test_onnx_int8_is_a_quarter(package):
    folder = package[0]
    assert (folder / "int8/inference.onnx").stat().st_size < 0.5 * (folder / "inference.onnx").stat().st_size


def test_onnx_int8_asks_for_no_more_than_it_needs(package):
    import onnx

    form = open_package(package[0]).form("onnx-int8")
    model = onnx.load(str(package[0] / form["files"][0]))
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", form["opset"])] == [("", 13)]
    assert model.graph.output[0].name == form["output"] == "output" and model.graph.input[0].name == form["input"]


def test_layer_errors_find_the_layer_that_int8_hurts(trained):
    """One weight a thousand times the others leaves one step for the rest of its channel."""
    model, photos, _ = trained
    before = {error.layer: error.error for error in layer_errors(model, tensors_of(photos[:2]))}
    assert all(0 < error < 0.2 for error in before.values())
    layer = dict(model.named_sublayers())["blocks.3.pointwise_conv.conv"]
    kept = layer.weight.numpy().copy()
    spoiled = kept.copy()
    spoiled[:, 0] *= 1000
    try:
        layer.weight.set_value(spoiled)
        # the input channel of the huge weight is made zero, so that float output needs the small weights
        scale = dict(model.named_sublayers())["blocks.3.depthwise_conv.bn"]
        gamma, beta = scale.weight.numpy().copy(), scale.bias.numpy().copy()
        scale.weight.set_value(np.r_[0, gamma[1:]].astype("float32"))
        scale.bias.set_value(np.r_[0, beta[1:]].astype("float32"))
        worst = layer_errors(model, tensors_of(photos[:2]))[0]
        scale.weight.set_value(gamma)
        scale.bias.set_value(beta)
    finally:
        layer.weight.set_value(kept)
    assert worst.layer == "blocks.3.pointwise_conv.conv" and worst.error > 5 * before[worst.layer]


def test_a_float_layer_of_whole_numbers_runs(trained, tmp_path):
    """Paddle takes such weights for int8; converted weights have identity convolutions."""
    model, photos, _ = trained
    layer = dict(model.named_sublayers())["blocks.12.pointwise_conv.conv"]
    kept = layer.weight.numpy().copy()
    try:
        layer.weight.set_value(np.eye(len(kept), dtype="float32")[:, : kept.shape[1], None, None])
        plan = planned(model, tensors_of(photos[:8]), keep_float=["blocks.12"])
        make_package(
            model,
            PackageSpec(name="x", ops=OPS, labels=LABELS, to=["pdmodel"], photos=[png(photos[0])], int8=plan),
            tmp_path / "out",
        )
    finally:
        layer.weight.set_value(kept)
    assert Predictor(tmp_path / "out", backend="paddle", precision="int8").form["name"] == "pdmodel-int8"


def test_an_error_threshold_keeps_the_worst_float(trained):
    tensors = tensors_of(trained[1][:2])
    bound = planned(trained[0], tensors).errors[2].error
    plan = planned(trained[0], tensors, max_layer_error=bound)
    assert plan.kept == [error.layer for error in plan.errors[:2]]


@pytest.mark.parametrize(
    "pattern, message", [("conv2_1_dw_weigths", "did you mean 'conv2_1_dw_weights'"), ("*", "nothing is left")]
)
def test_bad_patterns_are_said(trained, pattern, message):
    with pytest.raises(UserError, match=message):
        planned(trained[0], tensors_of(trained[1][:1]), keep_float=[pattern])


def test_gates_are_named_by_what_they_do():
    """Squeeze-excitation's two layers in each block that has it; a network without any keeps nothing float so."""
    network = create_model("MobileNetV3_small_x0_35", class_num=2)
    kept = layers_meant(network, ["gates", "fc"])
    assert len(kept) == 2 * 9 + 1 and kept[:2] == ["blocks.0.mid_se.conv1", "blocks.0.mid_se.conv2"]
    assert layers_meant(create_model("MobileNetV1_x0_25", class_num=2), ["gates"]) == []


class Thirds:
    """Batches of tensors, as a loader gives them; nobody knows their labels."""

    batch_size, bad_samples = 32, 0

    def __init__(self, tensors):
        self._batches = [Batch(tensors[i : i + 32], np.zeros(32, np.int64), np.arange(32)) for i in range(0, 96, 32)]

    def __len__(self):
        return len(self._batches)

    def __iter__(self):
        return iter(self._batches)

    def set_epoch(self, epoch, start_step=0):
        pass


def test_qat_learns_to_agree_and_exports(trained, tmp_path):
    model, photos, _ = trained
    student, teacher = (create_model("MobileNetV1_x0_25", class_num=5) for _ in range(2))
    for copy in (student, teacher):
        copy.set_state_dict(model.state_dict())
        copy.eval()
    tensors = tensors_of(photos)
    plan = planned(student, tensors[:8], method="qat", keep_float=["conv.conv"])

    with heard() as said:
        plan.trained = fine_tune(student, teacher, Thirds(tensors), plan)
    told = [line for line in said if line.startswith("QAT")]  # the others are the trainer's steps
    assert len(told) == 2 and "agrees with float" in told[-1]
    folder = make_package(
        model,
        PackageSpec(
            name="x", ops=OPS, labels=LABELS, to=["pdmodel"], photos=[png(photos[0])], int8=plan, softmax_inside=False
        ),
        tmp_path / "package",
    )
    assert count_quantized(folder / "int8/inference.pdmodel") == len(quantizable_layers(model)) - 1
    with paddle.no_grad():
        simulated = plan.trained(paddle.to_tensor(tensors)).numpy()
    # a value that lies between two steps may be rounded the other way, and changes all answers of its photo
    near = np.abs(computed(folder, tensors) - simulated).max(axis=1) <= 0.05 * np.abs(simulated).max()
    assert near.mean() > 0.98
    int8 = Predictor(folder, backend="paddle", precision="int8").run(tensors)
    assert np.corrcoef(simulated.ravel(), int8.ravel())[0, 1] > 0.8, "the engine answers as the trained network does"


def good(row: dict) -> bool:
    return row["agreement"] >= 0.9


def test_the_command_reports_what_int8_costs(trained, tmp_path, capsys):
    model, photos, labels = trained
    from test_commands import CONFIG

    np.savez(tmp_path / "w.npz", **{key: value.numpy() for key, value in model.state_dict().items()})
    (tmp_path / "photos").mkdir()
    lines = []
    for number in range(40):
        (tmp_path / f"photos/{number}.png").write_bytes(png(photos[number]))
        lines.append(f"photos/{number}.png {labels[number]}\n")
    (tmp_path / "list.txt").write_text("".join(lines))
    (tmp_path / "labels.txt").write_text("".join(f"{n} {name}\n" for n, name in enumerate(LABELS)))
    text = (
        CONFIG.format(folder=tmp_path).replace("class_num: 3", "class_num: 5").replace("resize_short: 36", "size: 32")
    )
    text = text.replace(
        "mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225]", "mean: [.5,.5,.5], std: [.25,.25,.25]"
    )
    (tmp_path / "config.yaml").write_text(text)
    words = ["quantize", "-c", str(tmp_path / "config.yaml"), "-o", f"Global.pretrained_model={tmp_path / 'w.npz'}"]
    words += [
        "--to",
        "pdmodel",
        "--photos",
        "16",
        "--output",
        str(tmp_path / "out"),
        "--json",
        str(tmp_path / "r.json"),
    ]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "of 40 photos" in out and "worst layers" in out
    report = json.loads((tmp_path / "r.json").read_text())
    float_row, arm, int8 = report["accuracy"]
    assert float_row["agreement"] == 1.0 and float_row["top1"] > 0.6 and 0.5 < int8["agreement"] <= 1.0
    assert [row["computed"] for row in report["accuracy"]] == [False, True, False]
    assert float_row["processor"] == int8["processor"] == platform.machine() and arm["processor"] == "arm"
    answers = computed(tmp_path / "out", tensors_of(photos[:40])).argmax(axis=1)
    assert arm["top1"] == round(float((answers == labels[:40]).mean()), 5)
    assert report["verdict"]["form"] == "int8 program" and report["verdict"]["agreement"] == arm["agreement"]
    assert f"pdmodel-int8 on {platform.machine()}: top-1" in out and "int8 program on arm, computed: top-1" in out
    made = open_package(tmp_path / "out")
    assert made.meta["accuracy"] == report["accuracy"]
    np.testing.assert_array_equal(made.golden("output_int8"), computed(tmp_path / "out", made.golden("tensor"))[0])
    assert main(["verify", str(tmp_path / "out"), "--images", str(tmp_path / "photos")]) == (0 if good(arm) else 5)
    judged = re.findall(r"(?m)^top-1 +(\S+int8.*|int8 program.*)$", capsys.readouterr().out)
    assert any(line.endswith(f"41 photos, of {platform.machine()}; the computed row decides") for line in judged)
    assert re.match(r"int8 program, arm, computed at the export .* 0\.9 +(pass|FAIL): 40 photos", judged[-1])
    assert main([*words, "--keep-float", "nothing_like_it"]) == 2
    assert "no layer fits 'nothing_like_it'" in capsys.readouterr().err
    assert main([*words, "-o", "DataLoader.Train.dataset.cls_label_path=gone.txt"]) in (2, 3)
    assert "gone.txt" in capsys.readouterr().err


def test_nb_int8_is_at_most_a_third(trained, tmp_path, lite_python):
    model, photos, _ = trained
    with heard() as said:
        folder = make_package(
            model,
            PackageSpec(
                name="x",
                ops=OPS,
                labels=LABELS,
                to=["lite-armv8", "lite-armv7"],
                photos=[png(photos[0])],
                int8=planned(model, tensors_of(photos[:8])),
            ),
            tmp_path / "package",
        )
    assert (folder / "armv8_int8.nb").stat().st_size < 0.4 * (folder / "armv8_fp32.nb").stat().st_size
    assert "int8 on 32-bit ARM was measured slower" in "\n".join(said)
    assert [form["name"] for form in open_package(folder).meta["forms"]] == [
        "lite-armv8-fp32", "lite-armv7-fp32", "pdmodel-int8", "lite-armv8-int8", "lite-armv7-int8",
    ]  # fmt: skip


def test_released_weights_keep_their_answers_in_int8(shared, tmp_path):
    """MobileNetV1_x0_25 on real photos: the logits of int8 go with those of float."""
    model = create_model("MobileNetV1_x0_25", pretrained=shared / "weights/MobileNetV1_x0_25.npz")
    ops = [{"ResizeImage": {"resize_short": 256}}, {"CropImage": {"size": 224}}, {"NormalizeImage": {"order": ""}}]
    from ppmobilenet.field.preprocessing import deployment_ops
    from ppmobilenet.photos.operators import build

    photos = sorted((shared / "data/clothing/train").rglob("*.jpg"))[::60] + sorted((shared / "images").iterdir())
    tensors = np.stack([np.ascontiguousarray(build(deployment_ops(ops))(photo)) for photo in photos])
    folder = make_package(
        model,
        PackageSpec(
            name="x",
            ops=ops,
            labels=[str(n) for n in range(1000)],
            to=["pdmodel"],
            photos=[photos[-1].read_bytes()],
            softmax_inside=False,
            int8=planned(model, tensors),
        ),
        tmp_path / "package",
    )
    whole = Predictor(folder, backend="paddle").run(tensors)
    int8 = Predictor(folder, backend="paddle", precision="int8").run(tensors)
    assert np.corrcoef(whole.ravel(), int8.ravel())[0, 1] > 0.98
    assert (whole.argmax(axis=1) == int8.argmax(axis=1)).mean() >= 0.75
