"""Schedules equal Paddle's as PaddleClas combines them; optimizers treat single parameters as asked."""

from __future__ import annotations

import logging

import numpy as np
import paddle
import pytest
from paddle.optimizer import lr

from ppmobilenet.config.parts import Optimizer, Schedule
from ppmobilenet.errors import UserError
from ppmobilenet.training.optim import build_optimizer, build_schedule
from ppmobilenet.zoo import create_model

EPOCHS, STEPS = 6, 5

# our section -> Paddle's scheduler without warm-up, for `positions` after a warm-up of w epochs
PEERS = {
    "Cosine": ({"eta_min": 0.001}, lambda w: lr.CosineAnnealingDecay(0.1, (EPOCHS - w) * STEPS, eta_min=0.001)),
    "Linear": ({"end_lr": 0.01, "power": 2.0}, lambda w: lr.PolynomialDecay(0.1, (EPOCHS - w) * STEPS, 0.01, 2.0)),
    "Step": ({"step_size": 2, "gamma": 0.5}, lambda w: lr.StepDecay(0.1, 2 * STEPS, 0.5)),
    "Piecewise": (
        {"decay_epochs": [2, 3], "values": [0.1, 0.05, 0.01]},
        lambda w: lr.PiecewiseDecay([2 * STEPS, 3 * STEPS], [0.1, 0.05, 0.01]),
    ),
}


def section(name: str, warmup: float = 0, **more) -> Schedule:
    learning_rate = {} if name == "Piecewise" else {"learning_rate": 0.1}
    return Schedule.of({"name": name, "warmup_epoch": warmup, **learning_rate, **more})


@pytest.mark.parametrize("name", PEERS)
@pytest.mark.parametrize("warmup", [0, 2])
def test_equals_paddles_schedulers(name, warmup):
    own, peer = PEERS[name]
    expected = peer(warmup)
    if warmup:
        expected = lr.LinearWarmup(expected, warmup * STEPS, 0.0, 0.1)
    schedule = build_schedule(section(name, warmup, **own), EPOCHS, STEPS, 8)
    for update in range(EPOCHS * STEPS):
        assert schedule.at(update) == pytest.approx(expected(), rel=1e-9, abs=1e-12), update
        expected.step()


def test_by_epoch_changes_once_an_epoch():
    schedule = build_schedule(section("Cosine", 1, by_epoch=True), EPOCHS, STEPS, 8)
    rates = [schedule.at(update) for update in range(EPOCHS * STEPS)]
    assert all(len(set(rates[i : i + STEPS])) == 1 for i in range(0, len(rates), STEPS))
    assert rates[0] == 0.0 and rates[STEPS] == 0.1 and len(set(rates)) == EPOCHS


def test_piecewise_follows_the_file_and_says_so(caplog):
    """MobileNetV1.yaml gives both; PaddleClas would ignore the values."""
    caplog.set_level(logging.INFO, "ppmobilenet")
    logging.getLogger("ppmobilenet").propagate = True
    both = section("Piecewise", learning_rate=0.1, decay_epochs=[1, 2], values=[0.1, 0.03, 0.02])
    schedule = build_schedule(both, EPOCHS, STEPS, 8)
    assert [schedule.at(e * STEPS) for e in range(4)] == [0.1, 0.03, 0.02, 0.02]
    assert "PaddleClas would ignore" in caplog.text
    rule = build_schedule(section("Piecewise", learning_rate=0.1), 70, 1, 8)
    assert [rule.at(e) for e in (0, 29, 30, 60, 69)] == pytest.approx([0.1, 0.1, 0.01, 0.001, 0.001])


def test_global_batch_scales_the_rate_and_the_log_shows_both(caplog):
    caplog.set_level(logging.INFO, "ppmobilenet")
    logging.getLogger("ppmobilenet").propagate = True
    schedule = build_schedule(section("ConstLR", base_batch_size=256), EPOCHS, STEPS, 64)
    assert schedule.at(3) == pytest.approx(0.025)
    assert "256" in caplog.text and "64" in caplog.text and "0.025" in caplog.text


@pytest.mark.parametrize(
    "wrong, words",
    [
        ({"name": "Piecewise", "decay_epochs": [1], "values": [1.0]}, "one value more"),
        ({"name": "Step", "learning_rate": 0.1, "step_size": 0.01}, "less than one step"),
        ({"name": "Cosine"}, "learning_rate is missing"),
    ],
)
def test_contradictions_are_named(wrong, words):
    with pytest.raises(UserError, match=words):
        build_schedule(Schedule.of(wrong), EPOCHS, STEPS, 8)


def network():
    paddle.seed(1)
    return create_model("MobileNetV2_x0_25", class_num=4)


def optimizer(model, **keys):
    schedule = build_schedule(Schedule.of({"learning_rate": 0.1}), 1, 1, 8)
    schedule.at(0)
    return build_optimizer(Optimizer.of({"name": "SGD", **keys}), model, schedule)


def one_step(model, opt) -> dict[str, np.ndarray]:
    """Give every parameter a gradient of ones, take one step, return the changes."""
    before = {key: p.numpy() for key, p in model.named_parameters() if not p.stop_gradient}
    total = sum((p.sum() for p in model.parameters() if not p.stop_gradient), paddle.zeros([]))
    total.backward()
    opt.step()
    opt.clear_grad()
    return {key: p.numpy() - before[key] for key, p in model.named_parameters() if key in before}


def test_layers_have_their_own_rate():
    model = network()
    moved = one_step(model, optimizer(model, lr_mult={"head": 10.0, "conv1": 0.0}))
    np.testing.assert_allclose(moved["out.weight"], -1.0, rtol=1e-3)
    np.testing.assert_array_equal(moved["conv1._conv.weight"], 0.0)
    np.testing.assert_allclose(moved["conv9._conv.weight"], -0.1, rtol=1e-3)


@pytest.mark.parametrize("name", ["SGD", "Momentum", "RMSProp", "AdamW"])
def test_no_decay_of_norms_and_biases(name):
    moved = {}
    for spare in (True, False):
        model = network()
        for parameter in model.parameters():  # biases start at zero, so their decay would not show
            if parameter.ndim == 1 and not parameter.stop_gradient:
                parameter.set_value(paddle.ones_like(parameter))
        decay = {"weight_decay": 0.5} if name == "AdamW" else {"regularizer": {"name": "L2", "coeff": 0.5}}
        opt = optimizer(model, name=name, one_dim_param_no_weight_decay=spare, **decay)
        moved[spare] = one_step(model, opt)
    for key, change in moved[True].items():
        same = np.array_equal(change, moved[False][key])
        if name != "RMSProp" or not same:  # RMSProp's first step hardly depends on the gradient's size
            assert same == (change.ndim > 1), key


@pytest.mark.parametrize("name", ["Momentum", "RMSProp"])
def test_an_optimizer_without_multi_precision_says_so(name, caplog):
    made = optimizer(network(), name=name, multi_precision=True)
    assert getattr(made, "_multi_precision", False) == (name == "Momentum")
    assert ("multi_precision changes nothing: RMSProp" in caplog.text) == (name == "RMSProp")


def test_nesterov_and_clipping():
    model = network()
    np.testing.assert_allclose(
        one_step(model, optimizer(model, name="Momentum", use_nesterov=True))["out.weight"], -0.19, rtol=1e-3
    )
    model = network()
    change = one_step(model, optimizer(model, clip_norm=1.0))["out.weight"]
    assert np.linalg.norm(change) == pytest.approx(0.1, rel=1e-3)
    model = network()
    change = one_step(model, optimizer(model, clip_global_norm=1.0))
    assert np.sqrt(sum((c**2).sum() for c in change.values())) == pytest.approx(0.1, rel=1e-3)


def test_patterns_that_fit_nothing_are_named():
    with pytest.raises(UserError, match="no layer fits 'ou'.*") as wrong:
        optimizer(network(), lr_mult={"ou": 2})
    assert "conv1" in str(wrong.value)
    with pytest.raises(UserError, match="no parameter has 'bnn'"):
        optimizer(network(), no_weight_decay_name="bnn")


def test_equal_parameter_names_are_refused():
    both = paddle.nn.LayerList([network(), network()])
    with pytest.raises(UserError, match="two parameters are named"):
        optimizer(both)
