"""The real published files of ../shared, each loaded for what it is."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ppmobilenet.errors import UserError
from ppmobilenet.weights.convert import architecture_of, convert_weights
from ppmobilenet.weights.inspecting import inspect_weights
from ppmobilenet.weights.loading import load_weights

paddle = pytest.importorskip("paddle")
cv2 = pytest.importorskip("cv2")
from ppmobilenet.zoo import create_model  # noqa: E402

# what each photo shows; the two that are left out show a rabbit's cheek and a lighter from very near
TOP1 = {
    "ILSVRC2012_val_00020010.jpeg": "Weimaraner",
    "ILSVRC2012_val_00030010.jpeg": "black grouse",
    "coral_cat_720p.jpg": "Egyptian cat",
}


@pytest.fixture(scope="module")
def weights(shared) -> Path:
    return shared / "weights"


@pytest.fixture(scope="module")
def photos(shared) -> tuple[list[str], np.ndarray]:
    """Names and float32 [N, 3, 224, 224] of the photos, by the OpenCV calls that PaddleClas's Eval list stands for."""
    batch = []
    for name in TOP1:
        image = cv2.cvtColor(cv2.imread(str(shared / "images" / name)), cv2.COLOR_BGR2RGB)
        height, width = image.shape[:2]
        scale = 256 / min(height, width)
        image = cv2.resize(image, (round(width * scale), round(height * scale)))
        top, left = (image.shape[0] - 224) // 2, (image.shape[1] - 224) // 2
        crop = image[top : top + 224, left : left + 224] / 255.0
        batch.append(((crop - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]).transpose(2, 0, 1))
    return list(TOP1), np.stack(batch).astype("float32")


@pytest.fixture(scope="module")
def labels(shared) -> list[str]:
    lines = (shared / "reference" / "imagenet1k_label_list.txt").read_text(encoding="utf-8").splitlines()
    return [line.split(" ", 1)[1] for line in lines]


def outputs(model, images: np.ndarray) -> np.ndarray:
    model.eval()
    with paddle.no_grad():
        return model(paddle.to_tensor(images)).numpy()


def assert_names(logits: np.ndarray, names: list[str], labels: list[str]) -> None:
    found = {name: labels[row.argmax()].split(",")[0] for name, row in zip(names, logits)}
    print(found)
    assert found == TOP1


def test_torchvision_file_whose_batch_norm_is_folded(weights, photos, labels):
    model = create_model("MobileNetV2")
    report = load_weights(model, weights / "MobileNetV2_torchvision_bnfolded.npz")
    assert str(report).startswith("267 of 267 tensors loaded") and report.bn_folded
    assert_names(outputs(model, photos[1]), photos[0], labels)


def test_v1_as_its_author_saved_it_equals_its_conversion(weights, photos, labels):
    logits = []
    for file in ("MobileNetV1_x0_25.npz", "MobileNetV1_x0_25_torch_legacy.pth.tar"):
        model = create_model("MobileNetV1_x0_25")
        report = load_weights(model, weights / file)
        assert report.loaded == report.total == 137
        logits.append(outputs(model, photos[1]))
    np.testing.assert_array_equal(*logits)
    assert_names(logits[0], photos[0], labels)


def test_the_fluid_trunk_needs_its_missing_classifier_allowed(weights, caplog):
    with pytest.raises(UserError) as caught:
        load_weights(create_model("MobileNetV2"), weights / "MobileNetV2_fluid")
    assert "266 of 267 tensors fit" in str(caught.value) and "out.weight (its fc10_weights)" in str(caught.value)
    assert "--allow-missing out.weight" in str(caught.value)
    with caplog.at_level(logging.INFO, "ppmobilenet"):
        report = load_weights(create_model("MobileNetV2"), weights / "MobileNetV2_fluid", allow_missing=["out.weight"])
    assert (report.loaded, report.missing) == (266, {"out.weight": "fc10_weights"})
    assert "missing, as allowed: out.weight (its fc10_weights)" in str(report)
    assert "its program computes with relu, this model with relu6" in str(report)
    assert "Arch.activation=relu" in caplog.text


def test_fluid_trunk_with_a_new_classifier(weights):
    report = load_weights(create_model("MobileNetV2", class_num=10, activation="relu"), weights / "MobileNetV2_fluid")
    assert str(report) == "265 of 267 tensors loaded; head skipped: 1000 -> 10 classes"


FLUID_PROGRAM = """
import sys
import numpy as np, paddle
from ppmobilenet.weights.files import read_weights
folder, images, result = sys.argv[1:]
paddle.enable_static()
program = paddle.static.Program.parse_from_string(open(folder + "/__model__", "rb").read())
block = program.global_block()
pool = [op for op in block.ops if op.type == "pool2d"][-1]
while block.ops[-1] is not pool and block.ops[-1].type != "pool2d":
    block._remove_op(len(block.ops) - 1)
feed = block.ops[0].output("Out")[0]
block._remove_op(0)
scope = paddle.static.global_scope()
for name, array in read_weights(folder).items():
    scope.var(name).get_tensor().set(np.array(array), paddle.CPUPlace())
executor = paddle.static.Executor(paddle.CPUPlace())
np.save(result, executor.run(program, feed={feed: np.load(images)}, fetch_list=[pool.output("Out")[0]])[0])
"""


def test_fluid_features_equal_its_programs(weights, photos, tmp_path, repo, monkeypatch):
    np.save(tmp_path / "images.npy", photos[1])
    monkeypatch.setenv("FLAGS_enable_pir_api", "0")
    words = [weights / "MobileNetV2_fluid", tmp_path / "images.npy", tmp_path / "features.npy"]
    subprocess.run([sys.executable, "-c", FLUID_PROGRAM, *map(str, words)], cwd=repo, check=True, capture_output=True)
    expected = np.load(tmp_path / "features.npy").reshape(len(photos[0]), 1280)
    difference = {}
    for activation in ("relu", "relu6"):
        model = create_model("MobileNetV2", class_num=0, activation=activation)
        load_weights(model, weights / "MobileNetV2_fluid")
        difference[activation] = float(np.abs(outputs(model, photos[1]) - expected).max())
    print(difference)
    assert difference["relu"] < 1e-5
    assert difference["relu6"] > 0.1, "the program was exported with ReLU: ReLU6 must differ"


def test_fluid_network_is_told_with_its_activation(weights):
    assert architecture_of(weights / "MobileNetV2_fluid") == {"name": "MobileNetV2", "activation": "relu"}


@pytest.mark.parametrize("name", ["MobileNetV1_x0_25", "MobileNetV2_x0_5"])
def test_another_family_s_trunk_is_refused_in_one_line(weights, name):
    with pytest.raises(UserError) as caught:
        load_weights(create_model(name), weights / "MobileNetV3_large_x0_5_ppocr_pretrained")
    assert "these are the weights of a MobileNetV3 (PaddleOCR's" in str(caught.value)
    assert f"the model is a {name[:11]}" in str(caught.value) and "\n" not in str(caught.value)


def test_unfolding_keeps_the_outputs_and_makes_training_mode_right(weights, photos, tmp_path):
    source = weights / "MobileNetV2_torchvision_bnfolded.npz"
    folded = create_model("MobileNetV2")
    load_weights(folded, source)
    expected = outputs(folded, photos[1])
    done = convert_weights(create_model("MobileNetV2"), source, tmp_path / "w.pdparams", calibration=[photos[1]])
    assert done.photos == 3 and "recalibrated on 3 photos" in str(done)
    model = create_model("MobileNetV2")
    report = load_weights(model, tmp_path / "w.pdparams")
    assert not report.bn_folded
    scale = np.abs(expected).max()
    assert np.abs(outputs(model, photos[1]) - expected).max() < 1e-3 * scale
    # on the photos of the calibration, training mode computes what evaluation does; the folded network is far off
    departed = {}
    for name, network in (("unfolded", model), ("folded", folded)):
        network.train()
        with paddle.no_grad():
            logits = network(paddle.to_tensor(photos[1])).numpy()
        departed[name] = float(np.abs(logits - expected).max() / scale)
    print(departed)
    assert departed["unfolded"] < 0.01 < 0.3 < departed["folded"]
    # the first block's expansion is the identity still: the file can go back to torchvision's naming
    back = convert_weights(create_model("MobileNetV2"), tmp_path / "w.pdparams", tmp_path / "b.npz", to="torchvision")
    assert back.tensors == 314


def test_inspection_of_every_real_file(weights):
    facts = {path.name: inspect_weights(path) for path in sorted(weights.iterdir())}
    told = {name: (found.scheme, str(found.architecture), found.bn_folded) for name, found in facts.items()}
    assert told == {
        "MobileNetV1_x0_25.npz": ("paddleclas-v1", "MobileNetV1_x0_25", False),
        "MobileNetV1_x0_25_torch_legacy.pth.tar": ("pytorch-v1-stages", "MobileNetV1_x0_25", False),
        "MobileNetV2_fluid": ("param-attr-v2", "MobileNetV2 with activation='relu'", False),
        "MobileNetV2_torchvision_bnfolded.npz": ("torchvision-v2", "MobileNetV2", True),
        "MobileNetV3_large_x0_5_ppocr_pretrained.pdparams": (
            *("paddleocr-v3-stages", "MobileNetV3_large_x0_5 with class_expand=0, class_num=0"),
            False,
        ),
        "MobileNetV3_small_google_bnfolded.npz": (
            "torchvision-v3",
            "MobileNetV3_small_x1_0 with se_divisor=8, expand_first=False, class_expand=1024, last_conv_bias=True",
            True,
        ),
        "MobileNetV3_small_x0_5_ppocr_en_rec.pdparams": (
            *("paddleocr-v3-blocks", "MobileNetV3_small_x0_5 with class_expand=0, class_num=0"),
            False,
        ),
        "PaddleOCR_cls_MobileNetV3_small_x0_35": (
            *("paddle-automatic", "MobileNetV3_small_x0_35 with class_expand=0, class_num=2"),
            False,
        ),
        "PaddleOCR_det_MobileNetV3_large_x0_5_no_se": (
            *("param-attr-v3", "MobileNetV3_large_x0_5 with use_se=False, class_expand=0, class_num=0"),
            False,
        ),
    }
    assert all(tensor.not_finite == 0 for found in facts.values() for tensor in found.tensors)


def run_tool(repo: Path, *words: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "tools/convert_weights.py", *map(str, words)]
    return subprocess.run(command, cwd=repo, capture_output=True, text=True)


def test_the_command_inspects_converts_and_refuses(weights, shared, tmp_path, repo):
    legacy = weights / "MobileNetV1_x0_25_torch_legacy.pth.tar"
    looked = run_tool(repo, legacy, "--inspect")
    assert looked.returncode == 0 and "pytorch-v1-stages" in looked.stdout and "module.fc.bias" in looked.stdout
    done = run_tool(repo, legacy, "--arch", "MobileNetV1_x0_25", "-o", tmp_path / "w.safetensors")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.split("network: Arch: ")[1].splitlines()[0]) == {"name": "MobileNetV1_x0_25"}
    assert "137 of 137 tensors loaded" in done.stdout and "137 tensors written" in done.stdout
    model = create_model("MobileNetV1_x0_25")
    assert load_weights(model, tmp_path / "w").loaded == 137
    refused = run_tool(repo, weights / "MobileNetV2_fluid", "-o", tmp_path / "no.pdparams")
    assert refused.returncode == 2 and "--allow-missing out.weight" in refused.stderr
    assert not (tmp_path / "no.pdparams").exists() and "Traceback" not in refused.stderr
    allowed = run_tool(
        repo, weights / "MobileNetV2_fluid", "-o", tmp_path / "yes.pdparams", "--allow-missing", "out.weight"
    )
    assert allowed.returncode == 0 and "missing, as allowed: out.weight (its fc10_weights)" in allowed.stdout, (
        allowed.stderr
    )


def test_the_command_unfolds_with_photos(weights, shared, tmp_path, repo):
    source = weights / "MobileNetV2_torchvision_bnfolded.npz"
    done = run_tool(repo, source, "-o", tmp_path / "w.pdparams", "--unfold-bn", shared / "images")
    assert done.returncode == 0, done.stderr
    assert "batch norms recalibrated on 5 photos" in done.stdout
    assert not load_weights(create_model("MobileNetV2"), tmp_path / "w").bn_folded
