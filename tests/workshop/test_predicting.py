"""Prediction from a package: any kind of source, one bad photo among good ones, the choice of an engine."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest
from packages import LABELS, ops_for, paddle_3, photo
from PIL import Image

from ppmobilenet.errors import DataError, UserError
from ppmobilenet.field.answers import Failure
from ppmobilenet.field.predictor import Predictor
from ppmobilenet.workshop.making import PackageSpec, make_package
from ppmobilenet.zoo import create_model


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


def test_every_kind_of_photo_gets_the_same_answer(exported):
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


def test_what_is_no_photo_costs_no_other(exported):
    predict = Predictor(exported, backend="paddle")
    answers = predict([photo(), np.zeros((0, 5, 3), np.uint8), 3.5, None, np.zeros((9, 9), np.uint8), photo()])
    assert [isinstance(answer, Failure) for answer in answers] == [False, True, True, True, True, False]
    assert "a float is no photo" in str(answers[2])
    with pytest.raises(DataError, match="a NoneType is no photo"):
        predict(None)


def test_single_bad_photos_raise_with_their_name(exported, tmp_path):
    predictor = Predictor(exported, backend="paddle")
    (tmp_path / "empty.jpg").write_bytes(b"")
    with pytest.raises(DataError, match="empty.jpg"):
        predictor(tmp_path / "empty.jpg")
    with pytest.raises(DataError, match="gone.jpg.*does not exist"):
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


@pytest.mark.parametrize("name, value", [("threads", 0), ("threads", -3), ("topk", 0), ("batch_size", 0)])
def test_numbers_that_make_no_sense_are_refused(exported, name, value):
    with pytest.raises(UserError, match=f"{name} {value}\n  allowed: 1 and above"):
        if name == "batch_size":
            Predictor(exported, backend="paddle")([photo()], batch_size=value)
        else:
            Predictor(exported, backend="paddle", **{name: value})


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


def test_an_export_by_paddleclas_opens_too(exported, tmp_path):
    """A folder with inference.yml and Paddle files, no package.json."""
    copy = shutil.copytree(exported, tmp_path / "copy")
    (copy / "package.json").unlink()
    shutil.rmtree(copy / "golden")
    theirs, ours = Predictor(copy, backend="paddle"), Predictor(exported, backend="paddle")
    assert theirs(photo()).to_dict() == ours(photo()).to_dict()
    assert theirs.decision.output == "probabilities"


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
