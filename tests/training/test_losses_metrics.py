"""Losses against their formulas, counts that are exact."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from ppmobilenet.config.fields import Term
from ppmobilenet.errors import UserError
from ppmobilenet.training.losses import CELoss, build_loss
from ppmobilenet.training.metrics import TopkAcc, Totals, build_metrics

LOGITS = np.random.default_rng(0).normal(size=(6, 4)).astype("float32") * 3
LABELS = np.array([0, 3, 1, 1, 2, 0])


def cross_entropy(target: np.ndarray) -> np.ndarray:
    """Each photo's, in float64."""
    shifted = LOGITS.astype("float64") - LOGITS.max(axis=1, keepdims=True)
    return -(target * (shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))).sum(axis=1)


@pytest.mark.parametrize("epsilon", [None, 0.1, 0.0, 1.0])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_smoothed_cross_entropy(epsilon, reduction):
    share = 0.1 if epsilon == 0.1 else 0.0
    expected = getattr(np, reduction)(cross_entropy(np.eye(4)[LABELS] * (1 - share) + share / 4))
    ours = CELoss(epsilon, reduction)(paddle.to_tensor(LOGITS), paddle.to_tensor(LABELS))
    assert float(ours) == pytest.approx(expected, rel=1e-6)


def test_probabilities_as_labels():
    mixed = np.eye(4, dtype="float32")[LABELS] * 0.7 + np.eye(4, dtype="float32")[LABELS[::-1]] * 0.3
    ours = CELoss()(paddle.to_tensor(LOGITS), paddle.to_tensor(mixed))
    assert float(ours) == pytest.approx(cross_entropy(mixed).mean(), rel=1e-6)


def test_losses_are_weighted_and_added():
    args = paddle.to_tensor(LOGITS), paddle.to_tensor(LABELS)
    single = float(build_loss([Term("CELoss")])(*args))
    both = build_loss([Term("CELoss", weight=0.5), Term("CELoss", {"epsilon": None}, 2.0)])
    assert float(both(*args)) == pytest.approx(2.5 * single, rel=1e-6)


def test_top_k_counts():
    scores = np.array([[0.1, 0.5, 0.4], [0.3, 0.3, 0.2], [0.0, 0.1, 0.9], [np.nan, 1.0, 0.0]])
    labels = np.array([2, 1, 0, 0])
    assert TopkAcc([1, 2]).count(scores, labels) == {"top1": 0, "top2": 2}
    assert TopkAcc(5).limited(3).topk == (3,)
    assert TopkAcc([1]).count(scores, np.eye(3)[labels[:3]]) == {}


def test_totals_do_not_depend_on_the_batches():
    whole, parts = Totals(), Totals()
    whole.add(10, 1.5, {"top1": 4})
    parts.add(7, 1.0, {"top1": 3})
    parts.add(3, 8 / 3, {"top1": 1})
    assert whole.means() == pytest.approx(parts.means())


def test_what_can_not_be_a_metric_is_said():
    for topk in (0, [], [1, -5]):
        with pytest.raises(UserError, match="Metric: TopkAcc: topk .*numbers from 1 up"):
            build_metrics([Term("TopkAcc", {"topk": topk})], 10)
    with pytest.raises(UserError, match="Arch.class_num is 0: such a network gives features"):
        build_metrics([Term("TopkAcc")], 0)
