"""Export through the public interface: what is in a package is what the network says, in every form."""

from __future__ import annotations

import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import cv2
import numpy as np
import paddle
import pytest
import yaml
from packages import LABELS, lively, ops_for, paddle_3, photo

from ppmobilenet.errors import NumericsError, UserError
from ppmobilenet.field.answers import softmax
from ppmobilenet.field.package import open_package
from ppmobilenet.field.predictor import Predictor
from ppmobilenet.photos.labels import IMAGENET_LABELS, label_names, read_labels
from ppmobilenet.workshop import golden_record
from ppmobilenet.workshop.forms import parse_forms
from ppmobilenet.workshop.making import PackageSpec, make_package
from ppmobilenet.zoo import create_model


@pytest.mark.parametrize(
    "name, size, inside",
    [
        ("MobileNetV1_x0_25", 32, True),
        ("MobileNetV1_x0_25", 64, False),
        ("MobileNetV2_x0_25", 32, False),
        ("MobileNetV2_x0_25", 64, True),
        ("MobileNetV3_small_x0_35", 64, True),
        ("MobileNetV4_conv_small", 64, True),
    ],
)
def test_exported_equals_eager(tmp_path, name, size, inside):
    model = lively(name, **({"same_padding": True} if "V3" in name else {}))
    folder = make_package(
        model,
        PackageSpec(name=name, ops=ops_for(size), labels=LABELS, photos=[photo()], softmax_inside=inside),
        tmp_path / "e",
    )
    predictor = Predictor(folder, backend="paddle")
    batch = np.stack([predictor.preprocess(photo(seed=seed)) for seed in range(3)])
    assert batch.shape == (3, 3, size, size) and batch.dtype == np.float32
    with paddle.no_grad():
        logits = model(paddle.to_tensor(batch)).numpy()
    assert np.ptp(logits, axis=0).max() > 0.1, "a comparison of constants proves nothing"
    expected = softmax(logits) if inside else logits
    bound = 1e-5 if inside else 1e-4
    assert np.abs(predictor.run(batch) - expected).max() < bound
    assert predictor.package.meta["output"]["kind"] == ("probabilities" if inside else "logits")
    assert np.allclose(predictor.probabilities(batch), softmax(logits), atol=1e-5)


@paddle_3
def test_both_paddle_forms_share_one_parameters_file(exported):
    names = {p.name for p in exported.iterdir()}
    assert {"inference.json", "inference.pdmodel", "inference.pdiparams", "inference.yml", "package.json"} <= names
    forms = {form["name"]: form for form in open_package(exported).meta["forms"]}
    assert set(forms) == {"inference", "pdmodel", "pdmodel-b1"}
    assert all(form["compared"] and form["max_difference"] < 1e-5 for form in forms.values())


def test_a_departing_export_is_refused_and_leaves_the_old_one(exported, tmp_path, model):
    class Departing(paddle.nn.Layer):
        """In the exported program the numbers are others: what a broken converter does."""

        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self, x):
            x = self.inner(x)
            return x if paddle.in_dynamic_mode() else x + 0.01

    copy = shutil.copytree(exported, tmp_path / "copy")
    before = {p: p.read_bytes() for p in copy.rglob("*") if p.is_file()}
    with pytest.raises(NumericsError, match="departs from the model at logits"):
        make_package(
            Departing(),
            PackageSpec(name="x", ops=ops_for(32), labels=LABELS, photos=[photo()], softmax_inside=False),
            copy,
        )
    assert {p: p.read_bytes() for p in copy.rglob("*") if p.is_file()} == before


def test_bounds_follow_the_networks_own_rounding(tmp_path):
    """Logits of thousands round at 1e-4: that is no departure, and a thousandth of them still is."""

    class Rough(paddle.nn.Layer):
        def __init__(self, factor):
            super().__init__()
            self.inner, self.factor = lively("MobileNetV1_x0_25"), factor

        def forward(self, x):
            return self.inner(x) * (3000 if paddle.in_dynamic_mode() else self.factor)

    spec = PackageSpec(name="x", ops=ops_for(32), labels=LABELS, photos=[photo()], softmax_inside=False)
    package = open_package(make_package(Rough(3000), spec, tmp_path / "right"))
    assert max(form["max_difference"] for form in package.meta["forms"]) > 1e-4, "no rounding to be seen"
    assert 1e-4 < package.meta["bounds"]["logits"] < 1e-3 * np.abs(package.golden("logits")).max()
    with pytest.raises(NumericsError, match="departs from the model at logits"):
        make_package(Rough(3003), spec, tmp_path / "wrong")


@pytest.mark.parametrize("limit", [50_000, 700_000])
def test_a_disk_that_fills_up_is_said_and_leaves_the_old_export(exported, tmp_path, limit):
    """Paddle's own writer cuts the parameters short without a word; a limit on file size does what a full disk does."""

    copy = shutil.copytree(exported, tmp_path / "copy")
    before = {p: p.read_bytes() for p in copy.rglob("*") if p.is_file()}
    script = f"""
        import resource, signal, sys
        from ppmobilenet.workshop.making import PackageSpec, make_package
        from ppmobilenet.errors import UserError
        from ppmobilenet.zoo import create_model
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        model = create_model("MobileNetV1_x0_25", class_num=2)
        resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
        ops = [{{"ResizeImage": {{"size": 32}}}}, {{"NormalizeImage": {{"order": ""}}}}]
        try:
            make_package(model, PackageSpec("x", ops, ["a", "b"], ["pdmodel"]), {str(copy)!r})
        except UserError as error:
            print(error)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True)
    assert "cannot write" in done.stdout and "Traceback" not in done.stderr, done.stderr
    assert {p: p.read_bytes() for p in copy.rglob("*") if p.is_file()} == before
    assert [p.name for p in tmp_path.iterdir()] == ["copy"]


def test_paddleclas_own_operators_read_inference_yml(exported, peer):
    """Its deploy/python preprocessing and Topk, built from our inference.yml, give our tensor and names."""
    content = yaml.safe_load((exported / "inference.yml").read_text(encoding="utf-8"))
    encoded = photo(seed=3)
    value = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1]
    for operator in peer.preprocess.create_operators(content["PreProcess"]["transform_ops"]):
        value = operator(value)
    predictor = Predictor(exported, backend="paddle")
    assert np.abs(value - predictor.preprocess(encoded)).max() < 1e-5
    theirs = peer.postprocess.Topk(**content["PostProcess"]["Topk"])(predictor.run(value[None]))[0]
    assert theirs["label_names"] == predictor(encoded).label_names


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_embedded_preprocessing_takes_pixels(model, tmp_path, layout, exported):
    folder = make_package(
        model,
        PackageSpec(name="x", ops=ops_for(32), labels=LABELS, photos=[photo()], embed_preprocess=layout),
        tmp_path / "e",
    )
    embedded, plain = Predictor(folder, backend="paddle"), Predictor(exported, backend="paddle")
    tensor = embedded.preprocess(photo(seed=4))
    assert tensor.dtype == np.uint8 and tensor.shape == ((3, 32, 32) if layout == "NCHW" else (32, 32, 3))
    assert embedded(photo(seed=4)).scores == pytest.approx(plain(photo(seed=4)).scores, abs=1e-5)
    listed = [
        next(iter(op)) for op in yaml.safe_load((folder / "inference.yml").read_text())["PreProcess"]["transform_ops"]
    ]
    assert "NormalizeImage" not in listed


def test_forms_are_named(tmp_path):
    assert parse_forms("inference, onnx") == ["inference", "onnx"]
    with pytest.raises(UserError, match="unknown form 'onx'(.|\n)*did you mean 'onnx'"):
        parse_forms("onx")


def test_onnx_equals_eager_at_any_batch(with_onnx, model):
    assert sorted(p.name for p in with_onnx.iterdir()) == ["golden", "inference.onnx", "inference.yml", "package.json"]
    predictor = Predictor(with_onnx)
    assert predictor.backend == "onnxruntime"
    batch = np.stack([predictor.preprocess(photo(seed=seed)) for seed in range(5)])
    with paddle.no_grad():
        expected = softmax(model(paddle.to_tensor(batch)).numpy())
    assert np.abs(predictor.run(batch) - expected).max() < 1e-5


def test_the_onnx_file_asks_for_no_more_than_it_needs(with_onnx):
    """ONNX Runtime 1.17 refuses a file with a domain newer than its own, used or not."""
    import onnx

    model, form = onnx.load(str(with_onnx / "inference.onnx")), open_package(with_onnx).form("onnx")
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 13)] and model.ir_version == 7
    assert [value.name for value in model.graph.input] == ["x"] == [form["input"]]
    assert [value.name for value in model.graph.output] == ["output"] == [form["output"]]


def test_the_golden_photo_is_kept_small_and_readable():
    small, suffix = golden_record.golden_photo(photo(suffix=".jpg"))
    assert suffix == ".jpg" and small == photo(suffix=".jpg")
    large, suffix = golden_record.golden_photo(photo(width=3000, height=1000))
    assert suffix == ".jpg" and cv2.imdecode(np.frombuffer(large, np.uint8), 1).shape == (341, 1024, 3)


def test_released_weights_name_the_photos(shared, tmp_path):
    model = create_model("MobileNetV1_x0_25", pretrained=shared / "weights/MobileNetV1_x0_25.npz")
    ops = ops_for(224)
    photos = sorted((shared / "images").iterdir())
    labels = label_names(read_labels(IMAGENET_LABELS), 1000, "")
    folder = make_package(
        model,
        PackageSpec(name="MobileNetV1_x0_25", ops=ops, labels=labels, photos=[p.read_bytes() for p in photos]),
        tmp_path / "e",
    )
    answers = {Path(a.source).stem: a for a in Predictor(folder, backend="paddle")(shared / "images")}
    assert answers["ILSVRC2012_val_00030010"].label_names[0] == "black grouse"
    assert answers["ILSVRC2012_val_00020010"].label_names[0] == "Weimaraner"
    assert answers["coral_cat_720p"].label_names[0] == "Egyptian cat"


class Digamma(paddle.nn.Layer):
    """Ends in an operator that neither ONNX nor Lite has."""

    def __init__(self):
        super().__init__()
        self.fc = paddle.nn.Linear(3, 3)

    def forward(self, x):
        return paddle.digamma(self.fc(x.mean(axis=[2, 3])) + 10)


@paddle_3
def test_an_operator_that_onnx_lacks_is_named(tmp_path):
    pytest.importorskip("paddle2onnx")
    with pytest.raises(UserError, match="no ONNX for the operators digamma"):
        make_package(
            Digamma(), PackageSpec(name="x", ops=ops_for(32), labels=list("abc"), to=["onnx"]), tmp_path / "out"
        )
    assert not list(tmp_path.iterdir())
