"""Other people's programs on our packages: PaddleX's and PaddleClas's own predictors give our answers.

``make programs`` installs PaddleX into an environment of its own (its dependencies are not ours) and runs this file.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import paddle
import pytest
from hearing import heard
from PIL import Image

from ppmobilenet.field.package import open_package
from ppmobilenet.field.predictor import Predictor
from ppmobilenet.photos.labels import IMAGENET_LABELS, label_names, read_labels
from ppmobilenet.workshop.making import PackageSpec, make_package
from ppmobilenet.zoo import create_model

pytestmark = pytest.mark.slow

NORMALISE = {"scale": 1 / 255, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "order": ""}
USUAL = [{"ResizeImage": {"resize_short": 256}}, {"CropImage": {"size": 224}}, {"NormalizeImage": NORMALISE}]
SMALL = ("MobileNetV1_x0_25", "MobileNetV1_x0_25.npz")
PIL_BICUBIC = {"interpolation": "bicubic", "backend": "pil"}
# case -> network, weights, classes (10: the pretrained trunk with a head that is drawn here), evaluation chain
CASES = {
    "usual": ("MobileNetV2", "MobileNetV2_torchvision_bnfolded.npz", 1000, USUAL),
    "pil-bicubic": (*SMALL, 1000, [{"ResizeImage": {"resize_short": 256, **PIL_BICUBIC}}, *USUAL[1:]]),
    "pil": (*SMALL, 1000, [{"ResizeImage": {"size": 224, "backend": "pil"}}, USUAL[2]]),
    "bicubic-10-classes": (
        *SMALL,
        10,
        [
            {"ResizeImage": {"resize_short": 200, "interpolation": "bicubic"}},
            {"CropImage": {"size": [192, 160]}},
            USUAL[2],
        ],
    ),
}


@pytest.fixture(scope="module")
def photos(shared, tmp_path_factory) -> list[str]:
    """20 photos from five: as they are, upright only by their EXIF orientation, a detail, small as PNG."""
    folder = tmp_path_factory.mktemp("photos")
    for number, path in enumerate(sorted((shared / "images").iterdir())[:5]):
        pixels = cv2.imread(str(path))
        height, width = pixels.shape[:2]
        (folder / f"{number}-whole.jpg").write_bytes(path.read_bytes())
        turned = Image.Exif()
        turned[0x0112] = 6
        Image.fromarray(pixels[:, :, ::-1]).save(folder / f"{number}-turned.jpg", quality=90, exif=turned)
        cv2.imwrite(str(folder / f"{number}-detail.jpg"), pixels[height // 8 : -height // 4, width // 5 :])
        cv2.imwrite(str(folder / f"{number}-small.png"), cv2.resize(pixels, (width // 3, height // 3)))
    found = sorted(map(str, folder.iterdir()))
    assert len(found) == 20
    return found


@pytest.fixture(scope="module", params=list(CASES))
def package(request, shared, photos, tmp_path_factory):
    name, weights, class_num, ops = CASES[request.param]
    model = create_model(name, pretrained=shared / "weights" / weights, class_num=class_num)
    labels = label_names(read_labels(IMAGENET_LABELS), 1000, IMAGENET_LABELS)
    if class_num != 1000:
        head = next(value for value in reversed(model.parameters()) if value.ndim == 2)
        head.set_value(np.random.default_rng(1).normal(0, 0.2, head.shape).astype("float32"))
        labels = [f"Sorte {number}: 品种" for number in range(class_num)]
    model.eval()
    return make_package(
        model,
        PackageSpec(
            name=name,
            ops=ops,
            labels=labels,
            to=["inference", "pdmodel", "onnx"],
            photos=[Path(photo).read_bytes() for photo in photos[:4]],
        ),
        tmp_path_factory.mktemp("programs") / request.param,
    )


def answers(python, script: str, repo, *arguments: str, **environment: str) -> list[dict]:
    done = subprocess.run(
        [str(python), str(repo / "tests/peers" / script), *arguments],
        capture_output=True,
        text=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONIOENCODING": "utf-8", **environment},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def same(theirs: list[dict], package, photos) -> None:
    ours = Predictor(package, backend="paddle")(photos)
    assert len(theirs) == len(ours) == 20
    for their, our in zip(theirs, ours):
        assert their["class_ids"] == our.class_ids and their["label_names"] == our.label_names, our
        assert their["scores"] == pytest.approx(our.scores, abs=2e-5), our
    assert len({tuple(our.class_ids) for our in ours}) > 10, "a comparison of one answer proves little"


@pytest.mark.parametrize("engine", ["paddle", "onnxruntime"])
def test_paddlex_gives_our_answers(package, photos, repo, tmp_path, engine):
    python = repo / ".venv-paddlex/bin/python"
    if not python.is_file():
        pytest.skip("PaddleX is not installed (make programs)")
    offline = {"PADDLE_PDX_DISABLE_MODEL_SOURCE_CHECK": "True", "PADDLE_PDX_CACHE_HOME": str(tmp_path)}
    same(answers(python, "paddlex_answers.py", repo, str(package), engine, *photos, **offline), package, photos)


@pytest.mark.parametrize("use_onnx", [False, True])
def test_paddleclas_gives_our_answers(package, photos, repo, use_onnx):
    if importlib.util.find_spec("paddleclas") is None:
        pytest.skip("paddleclas is not installed (pip install --no-deps paddleclas==2.6.0)")
    environment = {} if paddle.__version__.startswith("2.") else {"FLAGS_enable_pir_api": "0"}
    arguments = (str(package), str(use_onnx), *photos)
    same(answers(sys.executable, "paddleclas_answers.py", repo, *arguments, **environment), package, photos)


def test_paddlex_does_not_take_what_it_would_do_otherwise(shared, photos, repo, tmp_path):
    """Of two resizes it does the last, without a word: it must refuse the package by its name."""
    python = repo / ".venv-paddlex/bin/python"
    if not python.is_file():
        pytest.skip("PaddleX is not installed (make programs)")
    name, weights, _, _ = CASES["pil"]
    with heard() as said:
        folder = make_package(
            create_model(name, pretrained=shared / "weights" / weights),
            PackageSpec(
                name=name,
                ops=[{"ResizeImage": {"size": 64}}, {"ResizeImage": {"size": 224}}, USUAL[2]],
                labels=[str(number) for number in range(1000)],
                photos=[Path(photos[0]).read_bytes()],
            ),
            tmp_path / "e",
        )
    assert [line for line in said if line.startswith("inference.yml: not for PaddleX's own predictor: it does Resize")]
    done = subprocess.run(
        [str(python), str(repo / "tests/peers/paddlex_answers.py"), str(folder), "paddle", photos[0]],
        capture_output=True,
        text=True,
        env={**os.environ, "PADDLE_PDX_DISABLE_MODEL_SOURCE_CHECK": "True", "PADDLE_PDX_CACHE_HOME": str(tmp_path)},
    )
    assert done.returncode != 0 and "not for PaddleX" in done.stderr and not done.stdout.startswith("{")
    assert Predictor(open_package(folder), backend="paddle")(photos[0]).class_ids
