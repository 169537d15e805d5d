"""Export and prediction through the public interface: what comes out of a package is what the network says."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import paddle
import pytest
import yaml

from ppmobilenet.errors import DamagedFileError, DataError, NumericsError, UserError
from ppmobilenet.field.answers import Failure, softmax
from ppmobilenet.field.package import dump_json, open_package
from ppmobilenet.field.predictor import Predictor
from ppmobilenet.field.verify import verify
from ppmobilenet.workshop import golden_record
from ppmobilenet.workshop.forms import parse_forms
from ppmobilenet.workshop.making import PackageSpec, make_package
from ppmobilenet.zoo import create_model


def ops_for(size: int) -> list[dict]:
    return [
        {"DecodeImage": {"to_rgb": True, "channel_first": False}},
        {"ResizeImage": {"resize_short": size * 8 // 7}},
        {"CropImage": {"size": size}},
        {
            "NormalizeImage": {
                "scale": 1 / 255,
                "mean": [0.485, 0.456, 0.406],
                "std": [0.229, 0.224, 0.225],
                "order": "",
            }
        },
    ]


paddle_3 = pytest.mark.skipif(paddle.__version__.startswith("2."), reason="Paddle 2 writes .pdmodel only")
LABELS = [f"name {number}" for number in range(7)]


def lively(name: str, **kwargs) -> paddle.nn.Layer:
    """A network that answers different photos differently, with statistics as after some training."""
    paddle.seed(1)
    model = create_model(name, class_num=len(LABELS), **kwargs)
    rng = np.random.default_rng(1)
    for value in model.parameters():
        if value.ndim == 4:
            spread = (2 / np.prod(value.shape[1:])) ** 0.5
            value.set_value(rng.normal(0, spread, value.shape).astype("float32"))
        elif value.ndim == 2:
            # layers behind the pooling leave less of the differences
            spread = 0.04 if name.startswith(("MobileNetV1", "MobileNetV2")) else 0.15
            value.set_value(rng.normal(0, spread, value.shape).astype("float32"))
    model.train()
    with paddle.no_grad():
        for _ in range(15):
            model(paddle.to_tensor(rng.normal(0, 1, (8, 3, 32, 32)).cumsum(axis=-1).astype("float32") / 3))
    model.eval()
    return model


def photo(width=100, height=80, seed=0, suffix=".png") -> bytes:
    pixels = cv2.resize(np.random.default_rng(seed).integers(0, 255, (6, 8, 3), np.uint8), (width, height))
    return cv2.imencode(suffix, pixels)[1].tobytes()


@pytest.fixture(scope="module")
def model():
    return lively("MobileNetV2_x0_25")


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export") / "inference"
    photos = [photo(seed=seed, suffix=".jpg") for seed in range(3)]
    return make_package(
        model, PackageSpec(name="MobileNetV2_x0_25", ops=ops_for(32), labels=LABELS, photos=photos), folder
    )


@pytest.fixture(scope="module")
def plain(model, tmp_path_factory):
    """One form: for what needs a package and not every engine."""
    spec = PackageSpec(name="MobileNetV2_x0_25", ops=ops_for(32), labels=LABELS, to=["inference"], photos=[photo()])
    return make_package(model, spec, tmp_path_factory.mktemp("export") / "plain")


@pytest.fixture(scope="module")
def with_onnx(model, tmp_path_factory):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("paddle2onnx")
    folder = tmp_path_factory.mktemp("export") / "inference"
    return make_package(
        model,
        PackageSpec(name="MobileNetV2_x0_25", ops=ops_for(32), labels=LABELS, to=["onnx"], photos=[photo()]),
        folder,
    )


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


def test_preprocessing_equals_the_opencv_calls(exported):
    """Written out here once more: resize short to 36, centre crop 32, mean and deviation."""
    encoded = photo(width=90, height=50, suffix=".jpg")
    rgb = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1]
    resized = cv2.resize(rgb, (65, 36))  # 90 * 36 / 50 = 64.8
    cropped = resized[2:34, 16:48].astype(np.float32)
    expected = (cropped / 255 - np.float32([0.485, 0.456, 0.406])) / np.float32([0.229, 0.224, 0.225])
    got = Predictor(exported, backend="paddle").preprocess(encoded)
    assert np.abs(got - expected.transpose(2, 0, 1)).max() < 1e-5


def test_every_kind_of_source_gives_the_same_answer(exported, tmp_path):
    encoded = photo(seed=5)
    path = tmp_path / "mit Leerzeichen 照片.png"
    path.write_bytes(encoded)
    predictor = Predictor(exported, backend="paddle")
    rgb = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1]
    answers = [predictor(source) for source in (str(path), path, encoded, io.BytesIO(encoded), rgb)]
    assert len({(tuple(a.class_ids), tuple(a.scores)) for a in answers}) == 1
    first = answers[0]
    assert first.source == str(path) and len(first.class_ids) == 5
    assert first.label_names == [LABELS[number] for number in first.class_ids]
    assert first.scores == sorted(first.scores, reverse=True) and 0.99 < sum(first.scores) + 2 * first.scores[-1]
    assert set(first.to_dict()) == {"class_ids", "scores", "file_name", "label_names"}


@pytest.mark.parametrize("batch_size", [1, 3, 4, 100])
def test_a_bad_photo_costs_no_other(exported, batch_size):
    predictor = Predictor(exported, backend="paddle")
    sources = [photo(seed=seed) for seed in range(6)]
    alone = [predictor(source) for source in sources]
    sources[1], sources[5] = b"<html>not found</html>", "no/such/photo.jpg"
    answers = predictor(sources, batch_size=batch_size)
    assert [isinstance(a, Failure) for a in answers] == [False, True, False, False, False, True]
    assert "no/such/photo.jpg" in str(answers[5]) and answers[1].source == "bytes 1"
    for number in (0, 2, 3, 4):
        assert answers[number].class_ids == alone[number].class_ids
        assert np.allclose(answers[number].scores, alone[number].scores, atol=1e-6)


def test_single_bad_photos_raise_with_their_name(exported, tmp_path):
    predictor = Predictor(exported, backend="paddle")
    (tmp_path / "empty.jpg").write_bytes(b"")
    with pytest.raises(DataError, match="empty.jpg"):
        predictor(tmp_path / "empty.jpg")
    with pytest.raises(DataError, match="gone.jpg.*No such file"):
        predictor("gone.jpg")
    with pytest.raises(DataError, match=r"uint8 \[H, W, 3\], these are float32"):
        predictor(np.zeros((8, 8, 3), np.float32))
    with pytest.raises(DataError, match="no photo below"):
        predictor(tmp_path / "nothing") if (tmp_path / "nothing").mkdir() else predictor(tmp_path / "nothing")


def test_streaming_takes_an_endless_source(exported):
    def endless():
        while True:
            yield photo()

    answers = Predictor(exported, backend="paddle").stream(endless(), batch_size=2)
    assert [len(next(answers).class_ids) for _ in range(5)] == [5] * 5
    answers.close()


def test_topk_never_exceeds_the_classes(exported):
    assert len(Predictor(exported, backend="paddle", topk=50)(photo()).class_ids) == len(LABELS)


@paddle_3
def test_unknown_backend_and_missing_form_are_said(exported):
    with pytest.raises(UserError, match="did you mean 'onnxruntime'"):
        Predictor(exported, backend="onnxruntim")
    with pytest.raises(UserError, match=r"no fp32 form for it \(it has: inference, pdmodel, pdmodel-b1\)"):
        Predictor(exported, backend="onnxruntime")
    with pytest.raises(UserError, match="no int8 form"):
        Predictor(exported, backend="paddle", precision="int8")


@paddle_3
def test_auto_measures_once_and_remembers(exported, tmp_path, monkeypatch):
    monkeypatch.setenv("PPMOBILENET_HOME", str(tmp_path))
    chosen = Predictor(exported, threads=1).backend
    remembered = json.loads((tmp_path / "backends.json").read_text())
    (machine,) = remembered.values()
    (choice,) = machine.values()
    assert choice["backend"] == chosen and set(choice["milliseconds"]) == {"openvino", "paddle"}
    # a remembered choice is taken without measuring: one that measuring could not have made is taken too
    other = ({"openvino", "paddle"} - {chosen}).pop()
    choice["backend"] = other
    (tmp_path / "backends.json").write_text(json.dumps(remembered))
    assert Predictor(exported, threads=1).backend == other
    (tmp_path / "backends.json").write_text("damaged")
    assert Predictor(exported, threads=1).backend in ("openvino", "paddle")


def test_a_damaged_package_is_refused(exported, tmp_path):
    import shutil

    copy = shutil.copytree(exported, tmp_path / "copy")
    blob = bytearray((copy / "inference.pdiparams").read_bytes())
    blob[1000] ^= 1
    (copy / "inference.pdiparams").write_bytes(blob)
    with pytest.raises(DamagedFileError, match=r"inference\.pdiparams.*changed after the export"):
        Predictor(copy, backend="paddle")
    with pytest.raises(DamagedFileError, match=r"inference\.pdiparams"):
        verify(copy)


def test_a_departing_export_is_refused_and_leaves_the_old_one(exported, tmp_path, model):
    import shutil

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


@pytest.mark.parametrize("limit", [50_000, 700_000])
def test_a_disk_that_fills_up_is_said_and_leaves_the_old_export(exported, tmp_path, limit):
    """Paddle's own writer cuts the parameters short without a word; a limit on file size does what a full disk does."""
    import shutil
    import textwrap

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


def test_an_export_by_paddleclas_opens_too(exported, tmp_path):
    """A folder with inference.yml and Paddle files, no package.json."""
    import shutil

    copy = shutil.copytree(exported, tmp_path / "copy")
    (copy / "package.json").unlink()
    shutil.rmtree(copy / "golden")
    theirs, ours = Predictor(copy, backend="paddle"), Predictor(exported, backend="paddle")
    assert theirs(photo()).to_dict() == ours(photo()).to_dict()
    assert theirs.decision.output == "probabilities"


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


# ---------------------------------------------------------------------------------------------------------------------
# ONNX


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


def test_prediction_with_onnx_imports_no_paddle(with_onnx, tmp_path):
    (tmp_path / "a.png").write_bytes(photo())
    script = (
        "import sys\n"
        "class No:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('paddle', 'torch'): raise ModuleNotFoundError(name, name=name)\n"
        "sys.meta_path.insert(0, No())\n"
        "from ppmobilenet import Predictor\n"
        f"print(Predictor({str(with_onnx)!r}, backend='onnxruntime')({str(tmp_path / 'a.png')!r}).label_names[0])\n"
        "from ppmobilenet.field.verify import verify\n"
        f"assert verify({str(with_onnx)!r}).passed\n"
        "assert 'paddle' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("name ")


# ---------------------------------------------------------------------------------------------------------------------
# verify


def test_verify_passes_and_names_what_it_compared(exported):
    report = verify(exported, images=[photo(seed=seed) for seed in range(3)])
    assert report.passed and report.first_departure is None
    stages = {row.stage for row in report.rows}
    assert {"files", "decode", "resize", "crop", "normalise", "probabilities", "top-1"} <= stages
    assert "pdmodel-b1, openvino" in report.table()


@pytest.mark.parametrize(
    "change, stage",
    [
        (lambda ops: ops[1].update(interpolation="nearest"), "resize"),
        (lambda ops: ops[2].update(size=[32, 30]), "crop"),
        (lambda ops: ops[3].update(mean=[0.5, 0.5, 0.5]), "normalise"),
        (lambda ops: ops[0].update(to_rgb=False), "decode"),
    ],
)
def test_verify_names_the_first_stage_that_departs(plain, tmp_path, change, stage):
    import shutil

    copy = shutil.copytree(plain, tmp_path / "copy")
    meta = json.loads((copy / "package.json").read_text(encoding="utf-8"))
    change(meta["preprocess"]["ops"])
    dump_json(meta, copy / "package.json")
    report = verify(copy)
    assert not report.passed and report.first_departure.stage == stage
    assert f"departs first at: {stage}" in report.table()


def test_verify_judges_the_other_forms_where_an_engine_refuses_one(exported, with_onnx, tmp_path, capsys):
    import shutil

    from ppmobilenet.cli import main
    from ppmobilenet.field.package import list_files

    copy = shutil.copytree(exported, tmp_path / "copy")
    (copy / "inference.onnx").write_bytes((with_onnx / "inference.onnx").read_bytes()[:-5000])
    meta = json.loads((copy / "package.json").read_text(encoding="utf-8"))
    meta["forms"].insert(0, open_package(with_onnx).form("onnx"))
    meta["files"] = list_files(copy)
    dump_json(meta, copy / "package.json")
    assert main(["verify", str(copy), "--json", str(tmp_path / "v.json")]) == 5
    out = capsys.readouterr().out
    assert "FAIL: ONNX Runtime cannot open the model" in out and "departs first at: probabilities (onnx, onnxr" in out
    rows = json.loads((tmp_path / "v.json").read_text())["rows"]
    passed = {row["subject"]: row["passed"] for row in rows if row["stage"] == "probabilities"}
    assert passed.pop("onnx, onnxruntime") is False and len(passed) >= 2 and all(passed.values())


@paddle_3
def test_an_engine_that_keeps_compiled_models_sees_a_new_export(tmp_path):
    """OpenVINO's cache must not answer for the model that lay in the folder before."""
    answers = []
    for favoured in (1, 5):
        model = create_model("MobileNetV2_x0_25", class_num=len(LABELS))
        model.out.bias.set_value(np.eye(len(LABELS), dtype="float32")[favoured] * 5)
        folder = make_package(
            model,
            PackageSpec(name="x", ops=ops_for(32), labels=LABELS, to=["pdmodel"], photos=[photo()]),
            tmp_path / "e",
        )
        answers.append(Predictor(folder, backend="openvino")(photo()).class_ids[0])
    assert answers == [1, 5]


@paddle_3
def test_verify_finds_a_model_that_was_exchanged(exported, tmp_path):
    """Another network's files, with hashes to match: only the recorded answer can tell."""
    import shutil

    from ppmobilenet.field.package import list_files

    other = make_package(
        create_model("MobileNetV2_x0_25", class_num=len(LABELS)),
        PackageSpec(name="x", ops=ops_for(32), labels=LABELS, photos=[photo()]),
        tmp_path / "other",
    )
    copy = shutil.copytree(exported, tmp_path / "copy")
    for name in ("inference.json", "inference.pdmodel", "inference.pdiparams"):
        shutil.copy(other / name, copy / name)
    meta = json.loads((copy / "package.json").read_text(encoding="utf-8"))
    meta["files"] = list_files(copy)
    dump_json(meta, copy / "package.json")
    report = verify(copy)
    assert report.first_departure.stage == "probabilities"


def test_the_golden_photo_is_kept_small_and_readable():
    small, suffix = golden_record.golden_photo(photo(suffix=".jpg"))
    assert suffix == ".jpg" and small == photo(suffix=".jpg")
    large, suffix = golden_record.golden_photo(photo(width=3000, height=1000))
    assert suffix == ".jpg" and cv2.imdecode(np.frombuffer(large, np.uint8), 1).shape == (341, 1024, 3)


# ---------------------------------------------------------------------------------------------------------------------
# real weights


def test_released_weights_name_the_photos(shared, tmp_path):
    from ppmobilenet.photos.labels import IMAGENET_LABELS, label_names, read_labels

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


def test_every_kind_of_photo_gets_the_same_answer(exported):
    from PIL import Image

    predict = Predictor(exported, backend="paddle")
    data = photo(seed=5)
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), 1)[:, :, ::-1]
    wanted = predict(data).scores
    exif = Image.Exif()
    exif[274] = 6  # stored turned to the left
    turned = io.BytesIO()
    Image.fromarray(np.rot90(pixels)).save(turned, "PNG", exif=exif)
    pictures = [pixels, Image.fromarray(pixels), data, Image.open(turned)]
    streams = (io.BytesIO(data) for _ in range(2))
    for several in (pictures, tuple(pictures), iter(pictures), np.stack([pixels, pixels]), streams):
        answers = predict(several)
        assert len(answers) in (2, 4) and all(answer.scores == wanted for answer in answers)


def test_what_is_no_photo_costs_no_other(exported):
    predict = Predictor(exported, backend="paddle")
    answers = predict([photo(), np.zeros((0, 5, 3), np.uint8), 3.5, None, np.zeros((9, 9), np.uint8), photo()])
    assert [isinstance(answer, Failure) for answer in answers] == [False, True, True, True, True, False]
    assert "a float is no photo" in str(answers[2])
    with pytest.raises(DataError, match="a NoneType is no photo"):
        predict(None)


@pytest.mark.parametrize("name, value", [("threads", 0), ("threads", -3), ("topk", 0), ("batch_size", 0)])
def test_numbers_that_make_no_sense_are_refused(exported, name, value):
    with pytest.raises(UserError, match=f"{name} {value}\n  allowed: 1 and above"):
        if name == "batch_size":
            Predictor(exported, backend="paddle")([photo()], batch_size=value)
        else:
            Predictor(exported, backend="paddle", **{name: value})


@pytest.mark.parametrize(
    "change",
    [
        lambda meta: meta["labels"].__setitem__(2, "another name"),
        lambda meta: meta["labels"].__delitem__(slice(5, None)),
        lambda meta: meta["output"].update(kind="logits"),
        lambda meta: meta["files"].pop(),
        lambda meta: meta.pop("sha256"),
    ],
)
def test_a_changed_package_json_is_said(plain, tmp_path, change):
    import shutil

    copy = shutil.copytree(plain, tmp_path / "copy")
    meta = json.loads((copy / "package.json").read_text(encoding="utf-8"))
    change(meta)
    (copy / "package.json").write_text(json.dumps(meta), encoding="utf-8")
    with pytest.raises(DamagedFileError, match=r"package.json was changed after the export"):
        Predictor(copy)
    report = verify(copy)
    assert report.first_departure.stage == "files" and "changed after the export" in report.table()


def test_a_package_without_its_package_json_is_incomplete(exported, tmp_path):
    import shutil

    copy = shutil.copytree(exported, tmp_path / "copy")
    (copy / "package.json").unlink()
    with pytest.raises(DamagedFileError, match="package.json is missing"):
        Predictor(copy)


@paddle_3
def test_a_missing_file_is_said_by_whoever_does_without_it(exported, tmp_path, caplog):
    import shutil

    copy = shutil.copytree(exported, tmp_path / "copy")
    (copy / "inference.json").unlink()
    assert Predictor(copy, backend="openvino")(photo()).scores
    assert "inference.json missing; answers come from pdmodel-b1" in caplog.text
    predictor = Predictor(copy, backend="paddle")
    assert predictor.form["name"] == "pdmodel" and "inference.json missing; answers come from pdmodel\n" in caplog.text
    (copy / "inference.pdmodel").unlink()
    with pytest.raises(DamagedFileError, match="'inference.json' is missing"):
        Predictor(copy, backend="paddle")


def test_an_operator_of_a_later_version_is_named(exported, tmp_path):
    import shutil

    copy = shutil.copytree(exported, tmp_path / "copy")
    meta = json.loads((copy / "package.json").read_text(encoding="utf-8"))
    meta["preprocess"]["ops"].insert(1, {"op": "Sharpen"})
    dump_json(meta, copy / "package.json")
    for use in (Predictor, verify):
        with pytest.raises(UserError, match="the operator 'Sharpen'"):
            use(copy)
