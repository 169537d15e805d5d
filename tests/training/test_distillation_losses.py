"""Losses that ask a teacher: the values that PaddleClas's classes give for the same numbers."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from ppmobilenet.training import distillation as d
from ppmobilenet.training.losses import MultiLabelLoss

RNG = np.random.RandomState(0)
S = (RNG.randn(4, 10) * 2).astype("float32")
T = (RNG.randn(4, 10) * 3).astype("float32")
LABELS = np.array([3, 1, 4, 1])
SEVERAL = (RNG.rand(4, 10) > 0.5).astype("float32")

GOLDEN = [
    (d.DistillationCELoss(), 2.995869),
    (d.DistillationDMLLoss(), 2.065512),
    (d.DistillationDMLLoss(sum_across_class_dim=True), 20.655119),
    (d.DistillationDMLLoss(act="sigmoid"), 4.678236),
    (d.DistillationKLDivLoss(), 3.892909),
    (d.DistillationKLDivLoss(temperature=1), 1.908297),
    (d.DistillationDKDLoss(), 3.210113),
    (d.DistillationDKDLoss(temperature=4, alpha=1, beta=8), 34.624107),
    (d.DistillationDKDLoss(use_target_as_gt=True), 3.452139),
    (d.DistillationDISTLoss(), 1.364425),
    (d.DistillationWSLLoss(), 5.231814),
    (d.DistillationSKDLoss(), 2.969024),
    (d.DistillationDistanceLoss("l1"), 2.933982),
    (d.DistillationDistanceLoss("l2"), 12.09494),
    (d.DistillationDistanceLoss("smooth_l1"), 2.460575),
    (d.DistillationRKDLoss(), 0.021947 + 0.062224),
]


@pytest.mark.parametrize(("loss", "value"), GOLDEN, ids=lambda x: type(x).__name__)
def test_values_of_losses_that_ask_a_teacher(loss, value):
    s = paddle.to_tensor(S, stop_gradient=False)
    found = loss(s, paddle.to_tensor(T), paddle.to_tensor(LABELS) if loss.asks_labels else None)
    assert float(found) == pytest.approx(value, rel=2e-5)  # of six digits, RKD loses one of them
    found.backward()
    assert np.isfinite(s.grad.numpy()).all() and s.grad.abs().max() > 0


@pytest.mark.parametrize(("epsilon", "value"), [(None, 1.212243), (0.1, 1.466889)])
def test_label_loss_of_the_student(epsilon, value):
    loss = d.DistillationGTCELoss(["Student"], epsilon)
    assert float(loss(paddle.to_tensor(S), paddle.to_tensor(LABELS))) == pytest.approx(value, rel=1e-6)
    with pytest.raises(ValueError, match="Teacher"):
        d.DistillationGTCELoss(["Student", "Teacher"])


@pytest.mark.parametrize(
    ("size_sum", "weight_ratio", "value"),
    [(False, False, 1.116751), (True, False, 11.167511), (False, True, 1.809322), (True, True, 18.093216)],
)
@pytest.mark.parametrize("kind", [MultiLabelLoss, d.DistillationMultiLabelLoss])
def test_several_labels(kind, size_sum, weight_ratio, value):
    loss = kind(size_sum=size_sum, weight_ratio=weight_ratio)
    loss.ratio = SEVERAL.mean(axis=0)
    assert float(loss(paddle.to_tensor(S), paddle.to_tensor(SEVERAL))) == pytest.approx(value, rel=2e-6)


@pytest.mark.parametrize("weight_ratio", [False, True])
def test_a_label_that_nobody_knows_counts_nothing(weight_ratio):
    loss = MultiLabelLoss(size_sum=True, weight_ratio=weight_ratio)
    loss.ratio = SEVERAL.mean(axis=0)
    without, at = SEVERAL.copy(), [1, 7]
    without[:, at] = -1
    rest = [i for i in range(10) if i not in at]
    part = MultiLabelLoss(size_sum=True, weight_ratio=weight_ratio)
    part.ratio = loss.ratio[rest]
    wanted = float(part(paddle.to_tensor(S[:, rest]), paddle.to_tensor(SEVERAL[:, rest])))
    s = paddle.to_tensor(S, stop_gradient=False)
    found = loss(s, paddle.to_tensor(without))
    assert float(found) == pytest.approx(wanted, rel=1e-6)
    found.backward()
    assert not s.grad.numpy()[:, at].any()


def test_what_cannot_be_meant_is_refused():
    for make, words in [
        (lambda: d.DistillationCELoss(epsilon=0.1), "epsilon"),
        (lambda: d.DistillationCELoss([["Teacher", "Student"]]), "Student, Teacher"),
        (lambda: d.DistillationKLDivLoss(temperature=0), "temperature"),
        (lambda: d.DistillationDMLLoss(act="relu"), "softmax"),
        (lambda: d.DistillationDistanceLoss("l3"), "smooth_l1"),
    ]:
        with pytest.raises(ValueError, match=words):
            make()
