"""Sure or unsure: the temperature and the threshold that an export measures, and everything that honours them."""

from __future__ import annotations

import csv
import json
import shutil

import numpy as np
import pytest
from packages import LABELS, lively, ops_for, photo

from ppmobilenet import cli
from ppmobilenet.errors import DamagedFileError, UserError
from ppmobilenet.field.answers import softmax
from ppmobilenet.field.decision import Decision
from ppmobilenet.field.package import dump_json
from ppmobilenet.field.predictor import Predictor
from ppmobilenet.field.verify import verify
from ppmobilenet.workshop.certainty import Certainty, decide, fit_temperature, lowest_threshold
from ppmobilenet.workshop.making import PackageSpec, make_package


@pytest.fixture(scope="module")
def overconfident():
    """Logits of 4,000 photos whose labels are drawn from softmax(logits / 2.5): the temperature is known."""
    rng = np.random.default_rng(3)
    logits = rng.normal(0, 4, (4000, 6)).astype(np.float32)
    labels = np.array([rng.choice(6, p=row / row.sum()) for row in softmax(logits.astype(np.float64) / 2.5)])
    return logits, labels


def test_the_temperature_is_found_and_the_calibration_error_falls(overconfident):
    logits, labels = overconfident
    found = decide(logits, labels, Certainty())
    assert found["temperature"] == pytest.approx(2.5, rel=0.1)
    assert found["ece_before"] > 0.15 and found["ece_after"] < 0.03 and found["photos"] == 4000
    assert "unsure_below" not in found
    near = [t * found["temperature"] for t in (0.98, 1, 1.02)]
    nll = [-np.log(softmax(logits / t)[np.arange(4000), labels]).mean() for t in near]
    assert nll[1] < min(nll[0], nll[2])


def test_no_temperature_where_every_photo_is_right():
    assert fit_temperature(np.eye(3) * 5, np.arange(3)) == 1
    with pytest.raises(UserError, match="--none-of-these"):
        decide(np.eye(3) * 5, np.arange(3), Certainty(0.05))


def test_the_threshold_accepts_no_more_wrong_answers_than_was_said(overconfident):
    logits, labels = overconfident
    found = decide(logits, labels, Certainty(0.1))
    scores = softmax(logits / found["temperature"])
    sure, right = scores.max(1) >= found["unsure_below"], scores.argmax(1) == labels
    wrong = int((~right).sum())
    assert found["judged_by"] == "wrong answers" and found["judged_photos"] == wrong
    assert found["judged_accepted"] == (sure & ~right).sum() <= 0.1 * wrong < (sure & ~right).sum() + 2
    assert found["right_kept"] == pytest.approx(sure[right].mean(), abs=1e-5)
    assert found["sure_wrong"] == pytest.approx((~right)[sure].mean(), abs=1e-5)


def test_photos_of_none_of_the_classes_judge_where_they_are_given(overconfident):
    logits, labels = overconfident
    strangers = np.random.default_rng(0).normal(0, 1, (50, 6))
    found = decide(logits, labels, Certainty(0.1, "photos/"), strangers)
    sure = softmax(strangers / found["temperature"]).max(1) >= found["unsure_below"]
    assert (found["judged_by"], found["judged_photos"], found["judged_accepted"]) == ("none of these", 50, sure.sum())
    assert sure.sum() <= 5


def test_too_few_photos_for_a_rate_accept_none_and_say_so(caplog):
    assert lowest_threshold([0.2, 0.7, 0.4], 0.05) == pytest.approx(0.70001)
    assert lowest_threshold([0.2, 0.7, 0.4], 0.34) == pytest.approx(0.40001)
    logits, labels = np.array([[3.0, 0], [0, 2], [1, 0]]), np.array([0, 1, 1])
    with caplog.at_level("INFO", "ppmobilenet"):
        assert decide(logits, labels, Certainty(0.05))["judged_accepted"] == 0
    assert "1 photos cannot show a rate of 5 %" in caplog.text and "20 would do" in caplog.text


@pytest.mark.parametrize("rate, folder, message", [(0.0, None, "above 0"), (5, None, "below 1"), (None, "x", "rate")])
def test_a_wrong_wish_is_said(rate, folder, message):
    with pytest.raises(UserError, match=message):
        Certainty(rate, folder)


@pytest.mark.parametrize("inside", [True, False])
def test_a_package_is_unsure_in_every_output(tmp_path, inside, capsys):
    model = lively("MobileNetV1_x0_25")
    photos = [photo(seed=seed, suffix=".jpg") for seed in range(6)]
    for number, data in enumerate(photos):
        (tmp_path / f"{number}.jpg").write_bytes(data)
    spec = PackageSpec("MobileNetV1_x0_25", ops_for(32), LABELS, ["inference"], photos[:1], softmax_inside=inside)
    plain = Predictor(make_package(model, spec, tmp_path / "plain"), backend="paddle", topk=len(LABELS))
    logits = np.log([[score for _, score in sorted(zip(a.class_ids, a.scores))] for a in plain(photos)])
    best = softmax(logits / 3.0).max(axis=1)
    threshold = float(np.median(best))
    spec.decision = {"temperature": 3.0, "unsure_below": threshold}
    folder = make_package(model, spec, tmp_path / "package")
    predictor = Predictor(folder, backend="paddle")
    for source in (photos, iter(photos)):
        answers = predictor(source)
        assert [answer.unsure for answer in answers] == [bool(score < threshold) for score in best]
        assert [answer.scores[0] for answer in answers] == pytest.approx(best, abs=1e-4)
    assert plain(photos[0]).unsure is None and "unsure" not in plain(photos[0]).to_dict()
    assert verify(folder).passed and "answer" in [row.stage for row in verify(folder).rows]

    names = [str(tmp_path / f"{number}.jpg") for number in range(6)]
    (tmp_path / "list.txt").write_text("".join(f"{number}.jpg\n" for number in range(6)))
    words = ["infer", "-m", str(folder), "-i", str(tmp_path), "--infer-list", str(tmp_path / "list.txt")]
    assert cli.main([*words, "--backend", "paddle", "--save", str(tmp_path / "a.csv")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [": unsure: " in line for line in lines] == [answer.unsure for answer in answers]
    with open(tmp_path / "a.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["rank"] == "1"]
    assert [row["file_name"] for row in rows] == names
    assert [row["unsure"] for row in rows] == [str(answer.unsure).lower() for answer in answers]
    assert cli.main([*words, "--backend", "paddle", "--json"]) == 0
    assert [row["unsure"] for row in json.loads(capsys.readouterr().out)] == [answer.unsure for answer in answers]


def test_verify_names_an_answer_that_departs(tmp_path):
    spec = PackageSpec("MobileNetV1_x0_25", ops_for(32), LABELS, ["inference"], [photo()])
    spec.decision = {"temperature": 2.0, "unsure_below": 0.9}
    folder = make_package(lively("MobileNetV1_x0_25"), spec, tmp_path / "package")
    meta = json.loads((folder / "package.json").read_text(encoding="utf-8"))
    assert meta["golden"]["answer"]["unsure"] is True
    for decision in ({"temperature": 2.1, "unsure_below": 0.9}, {"temperature": 2.0, "unsure_below": 0.0}):
        copy = shutil.copytree(folder, tmp_path / str(decision))
        dump_json({**meta, "decision": decision}, copy / "package.json")
        assert verify(copy).first_departure.stage == "answer"


@pytest.mark.parametrize("given", [3, {"temperature": 0}, {"temperature": "warm"}, {"unsure_below": "little"}])
def test_a_decision_that_no_export_writes_is_damage(given):
    with pytest.raises(DamagedFileError, match="decision"):
        Decision.of({"output": {"kind": "logits"}, "decision": given})


def test_packages_of_before_answer_as_before():
    decision = Decision.of({"output": {"kind": "probabilities"}})
    row = np.array([0.2, 0.8], np.float32)
    assert decision.probabilities(row) is row and decision.answer(row, ("a", "b"), "x", 1).unsure is None
