"""The figures of an evaluation against scikit-learn's and against what one can count by hand."""

from __future__ import annotations

import numpy as np
import pytest

from ppmobilenet.errors import DamagedFileError, DataError, UserError
from ppmobilenet.report import figures
from ppmobilenet.report.predictions import Collector, Predictions


def table_of(scores, labels, names=None) -> Predictions:
    scores, labels = np.asarray(scores, np.float32), np.asarray(labels)
    collector = Collector(names or [f"class {i}" for i in range(scores.shape[1])])
    collector.add(scores, labels, np.arange(len(labels)))
    return collector.finish([f"photo_{i}.jpg" for i in range(len(labels))], weights="best_model")


@pytest.fixture(scope="module")
def random():
    """400 photos of 7 classes, one of them without photos and one never answered."""
    rng = np.random.default_rng(5)
    labels = rng.integers(0, 6, 400)
    logits = rng.normal(0, 1, (400, 7))
    logits[np.arange(400), labels] += 1.2
    logits[:, 2] = -9
    scores = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return table_of(scores, labels), scores, labels


def test_per_class_and_confusion_are_scikit_learn_s(random):
    sk = pytest.importorskip("sklearn.metrics")
    table, scores, labels = random
    answers = scores.argmax(1)
    mine = figures.per_class(table)
    precision, recall, f1, support = sk.precision_recall_fscore_support(
        labels, answers, labels=range(7), zero_division=0
    )
    for key, theirs in (("precision", precision), ("recall", recall), ("f1", f1), ("support", support)):
        np.testing.assert_allclose([row[key] for row in mine], theirs)
    matrix = np.zeros((7, 7), int)
    for true, answer, photos in figures.confusion(table):
        matrix[true, answer] = photos
    np.testing.assert_array_equal(matrix, sk.confusion_matrix(labels, answers, labels=range(7)))
    summary = figures.summary(table)
    assert summary["top1"] == pytest.approx(sk.accuracy_score(labels, answers))
    assert summary["top5"] == pytest.approx(sk.top_k_accuracy_score(labels, scores, k=5, labels=range(7)))
    assert summary["nll"] == pytest.approx(sk.log_loss(labels, scores, labels=range(7)), rel=1e-5)
    assert summary["macro_f1"] == pytest.approx(sk.f1_score(labels, answers, average="macro", zero_division=0))


def test_confusion_comes_largest_first(random):
    photos = [n for _, _, n in figures.confusion(random[0])]
    assert photos == sorted(photos, reverse=True) and sum(photos) == 400


def test_calibration_by_hand():
    # confidence 0.95: three of four right; confidence 0.65: one of two right
    scores = [[0.95, 0.05]] * 4 + [[0.35, 0.65]] * 2
    table = table_of(scores, [0, 0, 0, 1, 1, 0])
    result = figures.calibration(table, bins=10)
    assert result["ece"] == pytest.approx(4 / 6 * 0.20 + 2 / 6 * 0.15, abs=1e-6)
    filled = {round(row["low"], 1): row for row in result["bins"] if row["photos"]}
    assert filled[0.9]["accuracy"] == 0.75 and filled[0.6]["photos"] == 2
    assert figures.calibration(table_of([[1.0, 0.0]], [0]))["ece"] == 0


@pytest.mark.parametrize(
    ("right", "photos", "low", "high"),
    # by Wilson's formula; the first two as statsmodels.stats.proportion.proportion_confint has them
    [(147, 153, 91.7, 98.2), (294, 341, 82.2, 89.5), (0, 10, 0.0, 27.8), (10, 10, 72.2, 100.0), (0, 0, 0.0, 100.0)],
)
def test_the_interval_of_an_accuracy(right, photos, low, high):
    assert [round(100 * bound, 1) for bound in figures.interval(right, photos)] == [low, high]


def test_most_wrong_and_least_certain():
    scores = [[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.51, 0.49]]
    table = table_of(scores, [0, 1, 0, 0])
    assert figures.most_wrong(table, 5) == [2, 1]
    assert figures.least_certain(table, 2) == [3, 1]
    assert figures.least_certain(table_of([[1.0]], [0]), 3) == []


def test_a_table_survives_its_file(random, tmp_path):
    table = random[0]
    again = Predictions.load(table.save(tmp_path / "new" / "predictions.npz"))
    assert again.names == table.names and again.paths == table.paths and again.about == {"weights": "best_model"}
    for field in ("labels", "classes", "scores", "true_scores"):
        np.testing.assert_array_equal(getattr(again, field), getattr(table, field))


def test_batches_may_come_in_any_order_and_short():
    rng = np.random.default_rng(0)
    scores, labels = rng.dirichlet(np.ones(3), 10).astype(np.float32), rng.integers(0, 3, 10)
    collector = Collector("abc")
    for part in ([7, 3, 9], [0, 1, 2, 8], [6], [5, 4]):
        collector.add(scores[part], labels[part], np.array(part))
    table = collector.finish([f"{i}.png" for i in range(10)])
    assert table.paths == tuple(f"{i}.png" for i in range(10))
    np.testing.assert_array_equal(table.labels, labels)
    np.testing.assert_array_equal(table.classes[:, 0], scores.argmax(1))
    assert table.scores.shape == (10, 3)


def test_bad_tables(tmp_path):
    with pytest.raises(DataError, match="2 class names"):
        Collector("ab").add(np.ones((1, 3)), [0], [0])
    with pytest.raises(DataError, match="0 to 1"):
        Collector("ab").add(np.ones((1, 2)), [2], [0])
    with pytest.raises(DataError, match="no photo"):
        Collector("ab").finish([])
    with pytest.raises(UserError, match="evaluate first"):
        Predictions.load(tmp_path / "none.npz")
    whole = table_of([[0.5, 0.5]], [0]).save(tmp_path / "p.npz").read_bytes()
    for name, content in {"cut": whole[: len(whole) // 2], "html": b"<html>", "empty": b""}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DamagedFileError, match="not a table of predictions"):
            Predictions.load(tmp_path / name)
