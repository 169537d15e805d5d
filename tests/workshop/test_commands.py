"""``export``, ``infer`` and ``verify`` as they are typed: what they print, write and return."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys

import cv2
import numpy as np
import pytest

from ppmobilenet.cli import main
from ppmobilenet.workshop.program import read_operators

CONFIG = """
Global: {{device: cpu, image_shape: [3, 32, 32], save_inference_dir: {folder}/inference, epochs: 1}}
Arch: {{name: MobileNetV1_x0_25, class_num: 3}}
Loss: {{Train: [{{CELoss: {{weight: 1.0}}}}], Eval: [{{CELoss: {{weight: 1.0}}}}]}}
Optimizer: {{name: Momentum, momentum: 0.9, lr: {{name: Cosine, learning_rate: 0.1}}}}
DataLoader:
  Train: &data
    dataset:
      name: ImageNetDataset
      image_root: {folder}
      cls_label_path: {folder}/list.txt
      transform_ops:
        - DecodeImage: {{to_rgb: True, channel_first: False}}
        - ResizeImage: {{resize_short: 36}}
        - CropImage: {{size: 32}}
        - NormalizeImage:
            {{scale: 1.0/255.0, mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225], order: ''}}
    sampler: {{name: DistributedBatchSampler, batch_size: 2, drop_last: False, shuffle: False}}
    loader: {{num_workers: 0, use_shared_memory: False}}
  Eval: *data
Infer:
  infer_imgs: {folder}/photos
  batch_size: 2
  PostProcess: {{name: Topk, topk: 5, class_id_map_file: {folder}/labels.txt}}
Metric: {{Train: [{{TopkAcc: {{topk: [1]}}}}], Eval: [{{TopkAcc: {{topk: [1]}}}}]}}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a config, three photos (one of them broken), a list and labels; exported once."""
    folder = tmp_path_factory.mktemp("commands")
    (folder / "photos").mkdir()
    rng = np.random.default_rng(0)
    for name in ("a.jpg", "ü b.jpg"):
        cv2.imencode(".jpg", rng.integers(0, 255, (50, 60, 3), np.uint8))[1].tofile(folder / "photos" / name)
    (folder / "list.txt").write_text("photos/a.jpg 0\nphotos/ü b.jpg 2\n", encoding="utf-8")
    (folder / "labels.txt").write_text("0 cat 🐱\n1 dog 犬\n2 Kätzchen\n", encoding="utf-8")
    (folder / "config.yaml").write_text(CONFIG.format(folder=folder))
    assert main(["export", "-c", str(folder / "config.yaml"), "--random-init"]) == 0
    (folder / "photos" / "z.jpg").write_bytes(b"<html></html>")
    return folder


def test_export_without_weights_is_refused(place, capsys):
    assert main(["export", "-c", str(place / "config.yaml")]) == 2
    error = capsys.readouterr().err
    assert "Global.pretrained_model" in error and "--random-init" in error and "Traceback" not in error


def test_export_says_a_shape_that_is_not_the_transforms(place, capsys):
    words = ["export", "-c", str(place / "config.yaml"), "--random-init", "-o", "Global.image_shape=[3, 64, 64]"]
    assert main(words) == 2
    assert re.search(r"image_shape(.|\n)*32", capsys.readouterr().err)


def test_what_trained_in_nhwc_is_deployed_in_nchw(place, tmp_path):
    """Paddle Lite, ONNX and Paddle Inference's fusions of the old format take no other layout."""
    words = ["-o", "Arch.data_format=NHWC", "--to", "pdmodel", "--output", str(tmp_path / "package")]
    assert main(["export", "-c", str(place / "config.yaml"), "--random-init", *words]) == 0
    operators, _ = read_operators(tmp_path / "package" / "inference.pdmodel", tmp_path / "package/inference.pdiparams")
    layouts = {attributes["data_format"] for kind, _, _, attributes in operators if "conv2d" in kind}
    assert layouts == {"NCHW"} and "transpose2" not in [kind for kind, *_ in operators]


def test_export_says_labels_of_another_model(place, capsys):
    words = ["export", "-c", str(place / "config.yaml"), "--random-init", "--output", str(place / "other")]
    words += ["-o", "Infer.PostProcess.class_id_map_file=ppcls/utils/imagenet1k_label_list.txt"]
    assert main(words) == 2
    assert "names class 999, but the model has 3 classes" in capsys.readouterr().err
    assert not (place / "other").exists()


def test_the_package_carries_the_accuracy_that_training_measured(place, tmp_path):
    import paddle

    from ppmobilenet.zoo import create_model

    paddle.save(create_model("MobileNetV1_x0_25", class_num=3).state_dict(), str(tmp_path / "best_model.pdparams"))
    paddle.save({"metric": 0.8125, "epoch": 4}, str(tmp_path / "best_model.pdstates"))
    words = ["export", "-c", str(place / "config.yaml"), "-o", f"Global.pretrained_model={tmp_path / 'best_model'}"]
    assert main([*words, "--to", "pdmodel", "--output", str(tmp_path / "out")]) == 0
    (row,) = json.loads((tmp_path / "out/package.json").read_text(encoding="utf-8"))["accuracy"]
    assert row["top1"] == 0.8125 and row["epoch"] == 4


def test_infer_from_the_package_answers_the_good_and_names_the_bad(place, capsys):
    saved = place / "answers.jsonl"
    words = ["infer", "-m", str(place / "inference"), "-i", str(place / "photos"), "--backend", "paddle"]
    assert main([*words, "--save", str(saved)]) == 3
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 2 and "ü b.jpg" in out and "Kätzchen" in out and "cat 🐱" in out
    assert "z.jpg" in err and "1 of 3 photos could not be used" in err and "Traceback" not in err
    lines = [json.loads(line) for line in saved.read_text(encoding="utf-8").splitlines()]
    keys = {line["file_name"].rpartition("/")[2]: sorted(line) for line in lines}
    answer = ["class_ids", "file_name", "label_names", "scores"]
    assert keys == {"a.jpg": answer, "z.jpg": ["error", "file_name"], "ü b.jpg": answer}


def test_infer_from_weights_writes_what_paddleclas_writes(place, capsys):
    words = ["infer", "-c", str(place / "config.yaml"), "--random-init", "-o", f"Infer.save_dir={place}/out/"]
    assert main([*words, "-o", "Infer.PostProcess.topk=2"]) == 3
    answers = json.loads((place / "out.json").read_text(encoding="utf-8"))
    assert len(answers) == 3 and len(answers[0]["class_ids"]) == 2


def test_the_photo_that_is_typed_counts_before_the_files_list(place, capsys, tmp_path):
    listed = f"Infer.infer_list={place}/list.txt"
    words = ["infer", "-c", str(place / "config.yaml"), "--random-init", "-o", listed]
    assert main([*words, "-o", f"Infer.infer_imgs={place}"]) == 0
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 2 and "passed over" not in err
    for one in (["-i", str(place / "photos/a.jpg")], ["-o", f"Infer.infer_imgs={place}/photos/a.jpg"]):
        assert main([*words, *one]) == 0
        out, err = capsys.readouterr()
        assert len(out.splitlines()) == 1 and f"Infer.infer_list {place}/list.txt is passed over" in err
    assert main([*words, "-i", str(place), "--infer-list", str(place / "list.txt")]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_infer_by_a_list_into_a_table(place, capsys):
    saved = place / "answers.csv"
    words = ["infer", "-m", str(place / "inference"), "-i", str(place), "--infer-list", str(place / "list.txt")]
    assert main([*words, "--backend", "paddle", "--topk", "1", "--save", str(saved)]) == 0
    with open(saved, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["file_name"] for row in rows] == [f"{place}/photos/a.jpg", f"{place}/photos/ü b.jpg"]
    assert rows[0]["label_name"] in ("cat 🐱", "dog 犬", "Kätzchen") and 0 <= float(rows[0]["score"]) <= 1


CONSOLES = {
    "cp1252": {"PYTHONIOENCODING": "cp1252"},
    "ASCII": {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
}


@pytest.mark.parametrize("console", CONSOLES)
def test_a_label_that_the_console_cannot_show_costs_nothing(place, console, tmp_path):
    """Under ASCII the file's own name cannot be shown either, and comes with odd bytes in it."""
    command = [sys.executable, "-m", "ppmobilenet", "infer", "-m", place / "inference", "-i", place / "photos"]
    command += ["--backend", "paddle", "--topk", "3", "--save", tmp_path / "a.jsonl", "--json"]
    done = subprocess.run(command, capture_output=True, env={**os.environ, **CONSOLES[console]})
    error = done.stderr.decode("ascii", "replace")
    assert done.returncode == 3 and "Traceback" not in error and "UnicodeEncodeError" not in error
    assert "dog \\u72ac" in error, "with --json the lines for people stand there"
    shown = json.loads(done.stdout.decode({"cp1252": "cp1252", "ASCII": "ascii"}[console]))
    saved = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text(encoding="utf-8").splitlines()]
    assert shown == saved and len(saved) == 3
    assert {"cat 🐱", "dog 犬", "Kätzchen"} == set(saved[0]["label_names"])
    names = {os.fsencode(line["file_name"].encode("utf-8", "surrogateescape")) for line in saved}
    assert os.fsencode(place / "photos/ü b.jpg") in names


def test_a_reader_that_goes_away_costs_no_answer(place, tmp_path):
    command = [sys.executable, "-m", "ppmobilenet", "infer", "-m", place / "inference", "-i", place / "photos"]
    command += ["--backend", "paddle", "--save", tmp_path / "a.csv"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    error = process.stderr.read().decode()
    assert process.wait() == 3 and "Traceback" not in error and "Broken" not in error
    with open(tmp_path / "a.csv", encoding="utf-8", newline="") as file:
        assert len(list(csv.reader(file))) == 1 + 2 * 3 + 1


@pytest.mark.parametrize(
    "words, message",
    [
        (["-m", "DIR"], "which photos"),
        (["-i", "a.jpg"], "give either -c CONFIG"),
        (["-m", "nowhere", "-i", "PHOTOS"], "'nowhere' is not a folder"),
        (["-m", "PHOTOS", "-i", "PHOTOS"], "neither package.json nor inference.yml"),
        (["-m", "DIR", "-i", "nothing.jpg"], "'nothing.jpg' does not exist"),
        (["-m", "DIR", "-i", "PHOTOS", "--infer-list", "PHOTOS/a.jpg"], "is not UTF-8"),
        (["-m", "DIR", "-i", "PHOTOS", "--save", "x.xml"], "a name ending in .jsonl, .csv, .json"),
        (["-m", "DIR", "-i", "PHOTOS", "--save", "/proc/x.csv"], "cannot write /proc/x.csv"),
    ],
)
def test_infer_says_what_is_wrong(place, capsys, words, message):
    named = {"DIR": str(place / "inference"), "PHOTOS": str(place / "photos")}
    words = [word.replace("PHOTOS", named["PHOTOS"]) for word in words]
    assert main(["infer", *(named.get(word, word) for word in words)]) in (2, 3)
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error


def test_verify_compares_with_evaluation(place, capsys, tmp_path):
    words = ["verify", str(place / "inference"), "--images", str(place / "photos/a.jpg"), "--json", str(tmp_path / "v")]
    assert main(words) == 0
    assert "every comparison that could run here holds" in capsys.readouterr().out
    content = json.loads((tmp_path / "v").read_text())
    assert content["passed"] and content["first_departure"] is None and len(content["rows"]) > 8


def test_verify_fails_where_another_model_is_the_reference(place, capsys, tmp_path):
    """Weights that are not those of the package: the reference itself departs from the golden record."""
    import paddle

    from ppmobilenet.zoo import create_model

    other = create_model("MobileNetV1_x0_25", class_num=3)
    other.fc.bias.set_value(paddle.to_tensor([3.0, 0.0, -3.0]))
    np.savez(tmp_path / "other.npz", **{key: value.numpy() for key, value in other.state_dict().items()})
    words = ["verify", str(place / "inference"), "-c", str(place / "config.yaml")]
    assert main([*words, "--checkpoint", str(tmp_path / "other.npz")]) == 5
    out = capsys.readouterr().out
    assert "departs first at: logits (eager to golden)" in out
    assert re.search(r"resize +evaluation to package +0\.0e\+00.*pass", out)


def test_verify_names_preprocessing_that_differs_from_evaluation(place, capsys):
    words = ["verify", str(place / "inference"), "-c", str(place / "config.yaml"), "-o", "Arch.pretrained=False"]
    words += ["-o", "DataLoader.Eval.dataset.transform_ops.1.ResizeImage.resize_short=40"]
    words += ["-o", f"Global.pretrained_model={place / 'any'}"]
    from ppmobilenet.zoo import create_model

    model = create_model("MobileNetV1_x0_25", class_num=3)
    np.savez(place / "any.npz", **{key: value.numpy() for key, value in model.state_dict().items()})
    assert main(words) == 5
    assert "departs first at: resize (evaluation to package)" in capsys.readouterr().out
