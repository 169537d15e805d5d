"""Several labels a photo, and two classes that do not weigh the same: from the list to the package."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from ppmobilenet import Predictor
from ppmobilenet.cli import main
from ppmobilenet.config import load_config
from ppmobilenet.config.fields import Term
from ppmobilenet.data.dataset import Listed
from ppmobilenet.data.doctor import examine
from ppmobilenet.errors import DataError, UserError
from ppmobilenet.field import infer
from ppmobilenet.field.answers import PersonAttribute
from ppmobilenet.field.decision import Decision
from ppmobilenet.field.package import open_package
from ppmobilenet.field.verify import verify
from ppmobilenet.report.after import evaluate_and_report, train_and_report
from ppmobilenet.report.several import average_precision, best_threshold
from ppmobilenet.training.label_metrics import ATTRMetric, TprAtFpr
from ppmobilenet.training.metrics import Totals, build_metrics
from ppmobilenet.workshop.export import export, quantize
from ppmobilenet.workshop.from_config import infer_job, trained_model
from ppmobilenet.workshop.int8_plan import Int8Settings

YAML = """
Global: {{output_dir: {out}/run, device: cpu, epochs: 30, seed: 3, save_interval: -1, eval_interval: 15,
  image_shape: [3, 64, 64], cpu_kernels: "off", save_inference_dir: {out}/package, use_multilabel: True}}
Arch: {{name: MobileNetV1_x0_25, class_num: 3}}
Loss:
  Train: [MultiLabelLoss: {{weight: 1.0, weight_ratio: True, size_sum: True}}]
  Eval: [MultiLabelLoss: {{weight: 1.0, weight_ratio: True, size_sum: True}}]
Optimizer: {{name: Momentum, lr: {{name: Cosine, learning_rate: 0.01}}}}
DataLoader:
  Train:
    dataset:
      name: MultiLabelDataset
      image_root: {data}
      cls_label_path: {data}/train.txt
      label_ratio: True
      transform_ops: &ops
        - DecodeImage: {{to_rgb: True, channel_first: False}}
        - ResizeImage: {{size: [64, 64]}}
        - NormalizeImage: {{scale: 1.0/255.0, mean: [0.5, 0.5, 0.5], std: [0.25, 0.25, 0.25], order: ''}}
    sampler: {{name: DistributedBatchSampler, batch_size: 10, shuffle: True}}
    loader: {{num_workers: 0}}
  Eval:
    dataset:
      name: MultiLabelDataset
      image_root: {data}
      cls_label_path: {data}/val.txt
      label_ratio: True
      transform_ops: *ops
    sampler: {{name: DistributedBatchSampler, batch_size: 5}}
    loader: {{num_workers: 0}}
Infer:
  PostProcess: {{name: MultiLabelThreshOutput, threshold: [0.5, 0.4, 0.6]}}
Metric:
  Eval: [ATTRMetric: , HammingDistance: , AccuracyScore: {{base: sample}}]
"""


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """A folder of photos whose labels are the colours that are bright, and their lists."""
    root = tmp_path_factory.mktemp("several")
    rng = np.random.default_rng(0)
    for name, count in (("train", 40), ("val", 12)):
        lines = []
        for i in range(count):
            labels = [int(c) for c in f"{rng.integers(8):03b}"]
            pixels = rng.integers(0, 90, (36, 40, 3)) + 150 * np.array(labels)[::-1]
            cv2.imwrite(str(root / f"{name}{i}.png"), pixels.astype(np.uint8))
            if i == 3:
                labels[1] = -1
            lines.append(f"{name}{i}.png\t{','.join(map(str, labels))}\n")
        (root / f"{name}.txt").write_text("".join(lines))
    return root


@pytest.fixture(scope="module")
def trained(photos, tmp_path_factory) -> Path:
    """A folder with the configuration and its run."""
    out = tmp_path_factory.mktemp("out")
    (out / "several.yaml").write_text(YAML.format(data=photos, out=out))
    train_and_report(load_config(out / "several.yaml"))
    return out


def test_labels_are_learned_judged_and_shown(trained, photos):
    with open(trained / "run/metrics.csv", newline="") as file:
        last = list(csv.DictReader(file))[-1]
    assert float(last["eval_mA"]) > 0.75 > 0.3 > float(last["eval_HammingDistance"]) and last["train_AccuracyScore"]
    result = evaluate_and_report(load_config(trained / "run"))
    with open(trained / "run/metrics.csv", newline="") as file:
        assert result["mA"] == pytest.approx(max(float(r["eval_mA"] or 0) for r in csv.DictReader(file)), abs=1e-6)
    report = json.loads((trained / "run/report/report.json").read_text())
    assert [row["name"] for row in report["per_label"]] == ["class 0", "class 1", "class 2"]
    assert [row["threshold"] for row in report["per_label"]] == [0.5, 0.4, 0.6]
    assert report["per_label"][1]["photos"] == 11  # one is -1
    right = sum(row["right"] * row["photos"] for row in report["per_label"]) / 35
    assert report["summary"]["right"] == pytest.approx(right) and report["summary"]["mAP"] > 0.75
    assert (trained / "run/report/per_label.csv").is_file() and len(report["thresholds"]) == 21
    assert "Furthest from a label" in (trained / "run/report/report.html").read_text()


def test_the_package_says_every_label_that_is_there(trained, photos, tmp_path, capsys):
    config = load_config(trained / "run")
    folder = export(config, to="inference,onnx", output=tmp_path / "package")
    package = open_package(folder)
    assert package.meta["format_version"] == 2 and not (folder / "inference.yml").exists()
    assert package.meta["decision"] == {"several": True, "thresholds": [0.5, 0.4, 0.6]}
    assert package.meta["accuracy"][0]["ATTRMetric"] > 0.75
    report = verify(folder, photos, model=trained_model(config, package))
    assert report.passed and {row.stage for row in report.rows} >= {"labels", "probabilities", "answer"}
    paths = [str(photos / f"val{i}.png") for i in range(12)]
    answers = Predictor(folder, backend="onnxruntime")(paths)
    job = infer_job(config, str(photos / "val0.png"))
    assert job.classifier(str(photos / "val0.png")).class_ids == answers[0].class_ids
    wanted = [line.split("\t")[1].strip() for line in (photos / "val.txt").read_text().splitlines()]
    right = [
        int(label) in (-1, int(k in answer.class_ids))
        for answer, labels in zip(answers, wanted)
        for k, label in enumerate(labels.split(","))
    ]
    assert np.mean(right) > 0.75
    assert all(score >= [0.5, 0.4, 0.6][k] for a in answers for k, score in zip(a.class_ids, a.scores))
    assert [str(a).endswith("none of the labels") for a in answers] == [not a.class_ids for a in answers]
    with pytest.raises(UserError, match="format version"):
        meta = json.loads((folder / "package.json").read_text())
        (folder / "package.json").write_text(json.dumps({**meta, "format_version": 3}))
        open_package(folder)


@pytest.mark.slow
def test_logits_and_int8_of_several_labels(trained, tmp_path):
    config = load_config(trained / "run", ["Arch.infer_add_softmax=False"])
    folder = export(config, to="onnx", output=tmp_path / "logits")
    assert open_package(folder).meta["output"]["kind"] == "logits" and verify(folder).passed
    report = quantize(load_config(trained / "run"), Int8Settings(photos=8), tmp_path / "int8", to="pdmodel")
    for row in report.accuracy:
        assert 0 <= row["photos"] <= row["labels"] <= 1
    # float, and what a board computes; Paddle's own int8 on x86 rounds otherwise
    exact = [report.accuracy[0], *(row for row in report.accuracy if row["computed"])]
    assert len(exact) > 1 and all(row["labels"] > 0.6 and row["agreement"] > 0.7 for row in exact)
    assert "labels right" in report.table()


def test_what_does_not_fit_is_refused(trained):
    file = trained / "several.yaml"
    for override, words in [
        ("Loss.Train=[CELoss]", "Loss.Train.0 is CELoss, which is for one label"),
        ("Metric.Eval=[TopkAcc: {topk: 1}]", "TopkAcc, which is for one label"),
        ("Global.use_multilabel=False", "MultiLabelDataset, which is for several labels"),
        ("DataLoader.Eval.dataset={name: ImageNetDataset, image_root: x}", "ImageNetDataset, which is for one label"),
        ("DataLoader.Train.dataset.batch_transform_ops=[MixupOperator: {alpha: 1}]", "MixupOperator"),
        ("DataLoader.Train.sampler.name=ClassBalancedBatchSampler", "ClassBalancedBatchSampler"),
        ("Infer.PostProcess={name: ThreshOutput, threshold: 0.5}", "ThreshOutput"),
    ]:
        with pytest.raises(UserError, match=words):
            load_config(file, [override])
    with pytest.raises(UserError, match="2 thresholds, and Arch.class_num is 3"):
        load_config(file, ["Infer.PostProcess.threshold=[0.5, 0.5]"]).decision  # noqa: B018
    found = load_config(file, ["Global.use_multilabel=null", "Metric=null", "Loss=null"])
    assert found.run.use_multilabel and found.metric.train == (Term("AccuracyScore", {}),)
    assert found.loss.train[0].name == "MultiLabelLoss" and any("MultiLabelDataset" in note for note in found.notes)


def test_faults_of_a_list_are_named(photos, tmp_path):
    (tmp_path / "list.txt").write_text(
        "train0.png\t0,1,0\ntrain1.png\t0,2,0\ntrain2.png 1,1\nnobody.png\t0,0,0\ntrain3.png\ntrain4.png\t-1,-1,-1\n"
    )
    listed = Listed(tmp_path / "list.txt", photos, several=True)
    with pytest.raises(DataError) as error:
        listed.samples(3)
    for words in ("list.txt:2: '2' among the labels", "list.txt:3: 2 labels, and class_num is 3", "list.txt:4:", ":5:"):
        assert words in str(error.value)
    found = examine({"train": Listed(tmp_path / "list.txt", photos, several=True)}, class_num=3, photos=False)
    kinds = {finding.kind for finding in found.findings}
    assert {"line", "class balance", "odd photo"} <= kinds and found.dropped[str(tmp_path / "list.txt")] == {2, 3, 4, 5}
    (tmp_path / "list.txt").write_text("train0.png\t0,1\ntrain1.png\t0,1\ntrain0.png\t1,1\n")
    listed = Listed(tmp_path / "list.txt", photos, several=True)
    with pytest.raises(DataError, match="Arch.class_num=2"):
        listed.samples(3)
    assert "label conflict" in {f.kind for f in examine({"train": listed}, class_num=2, photos=True).findings}


def test_a_list_of_several_labels_is_known_for_one(photos, tmp_path, capsys):
    lists = [str(photos / f"{name}.txt") for name in ("train", "val")]
    assert main(["check-dataset", "--root", str(photos), "--list", *lists]) == 0
    assert "40 photos" in capsys.readouterr().out
    with pytest.raises(DataError, match="several labels each, '.,.,.'") as refused:
        Listed(lists[0], photos).samples(3)
    assert "dataset.name=MultiLabelDataset" in refused.value.hint


def test_names_that_a_post_process_has_are_not_looked_for_beside_the_photos(trained, photos):
    (photos / "label_list.txt").write_text("0 red\n1 green\n2 blue\n")
    try:
        assert load_config(trained / "several.yaml").labels.file == str(photos / "label_list.txt")
        person = load_config(trained / "several.yaml", ["Infer.PostProcess={name: PersonAttribute}"])
        assert person.labels.file is None and person.labels.names[22] == "Female"
    finally:
        (photos / "label_list.txt").unlink()


def test_attribute_metric_by_its_definition():
    rng = np.random.default_rng(2)
    logits, labels = rng.normal(size=(30, 4)), rng.integers(-1, 2, (30, 4))
    totals = Totals()
    for part in (slice(0, 7), slice(7, 30)):
        totals.add(len(labels[part]), 0.0, ATTRMetric().count(logits[part], labels[part]))
    found = totals.means(ATTRMetric())
    said = logits > 0.5
    recalls = [[(said[labels[:, k] == 1, k]).mean(), (~said[labels[:, k] == 0, k]).mean()] for k in range(4)]
    assert found["mA"] == pytest.approx(np.mean(recalls))
    assert found["label_pos_recall"] == pytest.approx(np.mean([r[0] for r in recalls]))
    said &= labels >= 0
    share = [(s & (t == 1)).sum() / max(1, (s | (t == 1)).sum()) for s, t in zip(said, labels)]
    assert found["instance_acc"] == pytest.approx(np.mean(share))


@pytest.mark.parametrize("max_fpr", [None, 0.1, 0.0])
def test_tpr_at_fpr_by_trying_every_threshold(max_fpr):
    rng = np.random.default_rng(4)
    labels = rng.integers(0, 2, 200)
    logits = rng.normal(size=(200, 2))
    logits[:, 1] += 1.5 * labels
    score = 1 / (1 + np.exp(logits[:, 0] - logits[:, 1]))
    best = max(
        ((score[labels == 1] > i / 10000).mean(), -i)
        for i in range(10000)
        if (score[labels == 0] > i / 10000).mean() <= (0.001 if max_fpr is None else max_fpr)
    )
    metric = TprAtFpr(max_fpr)
    found = metric.figures(metric.count(logits, labels), 200)
    assert (found["tpr"], found["threshold"]) == pytest.approx((best[0], -best[1] / 10000))
    both = build_metrics([Term("TprAtFpr", {"max_fpr": max_fpr}), Term("TopkAcc", {"topk": [1, 2]})], 2)
    assert both.names == ("tpr", "fpr", "threshold", "top1", "top2") and both.score(found) == found["tpr"]
    with pytest.raises(UserError, match="for 2 classes"):
        build_metrics([Term("TprAtFpr")], 3)


def test_average_precision_and_best_threshold():
    true, score = np.array([1, 0, 1, 0, 1], bool), np.array([0.9, 0.8, 0.7, 0.7, 0.1])
    assert average_precision(true, score) == pytest.approx((1 + 2 / 4 + 3 / 5) / 3)
    assert best_threshold(true, score) == pytest.approx((0.75, 0.1))
    assert average_precision(np.zeros(2, bool), score[:2]) is None


def test_two_classes_with_a_threshold_and_a_person():
    meta = {"output": {"kind": "probabilities", "class_num": 2}, "decision": {"threshold": 0.8}}
    decision = Decision.of(meta)
    for share, wanted in ((0.79, (0, 0.21)), (0.8, (1, 0.8))):
        answer = decision.answer(np.array([1 - share, share], np.float32), ["nobody", "someone"], "x", 5)
        assert (answer.class_ids[0], answer.scores[0]) == pytest.approx(wanted)
    scores = np.full(26, 0.2)
    scores[[1, 3, 5, 11, 18, 20, 22, 24]] = [0.35, 0.9, 0.8, 0.7, 0.55, 0.6, 0.9, 0.5]
    post = PersonAttribute()
    decision = Decision.of({"output": {"kind": "logits", "class_num": 26}, "decision": post.decision(26)})
    said = decision.answer(scores, list(post.names), "x", 5)
    assert said.attributes == [
        *("Female", "Age18-60", "Side", "Glasses: True", "Hat: False", "HoldObjectsInFront: False", "No bag"),
        *("Upper: LongSleeve UpperLogo", "Lower:  Trousers", "No boots"),
    ]
    assert said.label_names == ["Glasses", "LongSleeve", "UpperLogo", "Trousers", "Age18-60", "Female", "Side"]
    assert said.to_dict()["attributes"] == said.attributes
    for wrong in (
        {"several": True, "thresholds": [0.5]},
        {"several": True, "thresholds": [0.5, 2]},
        {"threshold": "x"},
        {"attributes": "Horse"},
    ):
        with pytest.raises(UserError, match="was altered"):
            Decision.of({**meta, "decision": wrong})


def test_a_saved_answer_of_several_labels(trained, photos, tmp_path):
    job = infer_job(load_config(trained / "run"), str(photos))
    job.save = str(tmp_path / "answers.jsonl")
    job.photos = job.photos[:3]
    with open(tmp_path / "out.txt", "w") as out:
        assert infer.run(job, out) == 0
    rows = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert len(rows) == 3 and all(len(row["class_ids"]) == len(row["scores"]) for row in rows)
    job.save, job.photos = str(tmp_path / "answers.csv"), [str(photos / f"val{i}.png") for i in range(12)]
    with open(tmp_path / "out.txt", "w") as out:
        infer.run(job, out)
    with open(job.save, newline="") as file:
        table = list(csv.DictReader(file))
    assert {row["file_name"] for row in table} == set(job.photos)  # one with none of the labels has a row, too
