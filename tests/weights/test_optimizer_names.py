"""A .pdopt goes to PaddleClas and comes back: the next step is the same on both sides."""

from __future__ import annotations

import re

import numpy as np
import paddle
import pytest

from ppmobilenet.errors import UserError
from ppmobilenet.weights.optimizer_names import automatic_names, from_automatic, to_automatic
from ppmobilenet.zoo import create_model

OPTIMIZERS = {
    "momentum": lambda ps: paddle.optimizer.Momentum(paddle.optimizer.lr.CosineAnnealingDecay(0.1, 9), parameters=ps),
    "adamw": lambda ps: paddle.optimizer.AdamW(0.01, parameters=ps),
    "rmsprop": lambda ps: paddle.optimizer.RMSProp(0.01, momentum=0.9, parameters=ps),
}


@pytest.fixture(params=["MobileNetV1_x0_25", "MobileNetV3_small_x0_35"])
def sides(peer, request):
    """Our network and PaddleClas's, with equal weights; theirs numbered from 0 as in a process of its own."""
    options = {"class_num": 3} if "V1" in request.param else {"class_num": 3, "dropout_prob": None}
    ours = create_model(request.param, **options)
    with paddle.utils.unique_name.guard():
        theirs = getattr(peer.v1 if "V1" in request.param else peer.v3, request.param)(**options)
    copy_weights(ours, theirs)
    return ours, theirs


def copy_weights(source, target) -> None:
    target.set_state_dict({k: v.numpy() for k, v in source.state_dict().items()})


def step(model, optimizer, seed: int) -> None:
    x = paddle.to_tensor(np.random.default_rng(seed).normal(0, 1, (2, 3, 32, 32)).astype("float32"))
    model.train()
    model(x).square().mean().backward()
    with paddle.utils.unique_name.guard():  # else the second optimizer of a process has `_velocity_1` in its keys
        optimizer.step()
    optimizer.clear_grad()


def plain(state) -> dict:
    """What a file holds: arrays instead of tensors."""
    return {k: v.numpy() if isinstance(v, paddle.Tensor) else v for k, v in state.items()}


def names(model) -> list[str]:
    return [p.name for p in model.parameters()]


def same_weights(first, second) -> bool:
    second = second.state_dict()
    return all(np.array_equal(v.numpy(), second[k].numpy()) for k, v in first.state_dict().items())


def test_the_table_names_what_paddle_would(sides):
    ours, theirs = sides
    assert automatic_names(ours) == dict(zip(names(ours), names(theirs)))


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_their_state_continues_here(sides, kind):
    ours, theirs = sides
    their_optimizer = OPTIMIZERS[kind](theirs.parameters())
    step(theirs, their_optimizer, seed=0)
    state = from_automatic(plain(their_optimizer.state_dict()), ours)
    copy_weights(theirs, ours)
    optimizer = OPTIMIZERS[kind](ours.parameters())
    optimizer.set_state_dict(state)
    step(ours, optimizer, seed=1), step(theirs, their_optimizer, seed=1)
    assert same_weights(ours, theirs)
    assert set(optimizer.state_dict()) == set(state)


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_our_state_continues_there(sides, kind):
    ours, theirs = sides
    optimizer = OPTIMIZERS[kind](ours.parameters())
    step(ours, optimizer, seed=0)
    copy_weights(ours, theirs)
    their_optimizer = OPTIMIZERS[kind](theirs.parameters())
    their_optimizer.set_state_dict(to_automatic(plain(optimizer.state_dict()), ours))
    step(ours, optimizer, seed=1), step(theirs, their_optimizer, seed=1)
    assert same_weights(ours, theirs)


def test_numbers_may_start_anywhere_and_master_weights_follow():
    ours = create_model("MobileNetV1_x0_25")
    state = {f"{key}_velocity_0": i for i, key in enumerate(names(ours))}
    state["master_weights"] = {key: i for i, key in enumerate(names(ours))}
    state["LR_Scheduler"] = {"last_epoch": 3}
    there = to_automatic(state, ours)
    assert "batch_norm_26.b_0_velocity_0" in there and "conv2d_3.w_0" in there["master_weights"]
    assert from_automatic(there, ours) == state

    def shifted(mapping):
        return {re.sub(r"_(\d+)\.", lambda m: f"_{int(m[1]) + 40}.", key): v for key, v in mapping.items()}

    later = shifted(there) | {"master_weights": shifted(there["master_weights"])}
    assert "conv2d_66.w_0_velocity_0" in later
    assert from_automatic(later, ours) == state


@pytest.mark.parametrize("name", ["MobileNetV4_conv_small", "MobileNetV4_hybrid_medium"])
def test_v4_s_state_goes_and_comes_back(name):
    """With the factors of the hybrids, which Paddle numbers by themselves."""
    ours = create_model(name, class_num=3)
    state = {f"{key}_{kind}_0": i for i, key in enumerate(names(ours)) for kind in ("moment1", "beta2_pow_acc")}
    there = to_automatic(state, ours)
    assert len(there) == len(state) and all(re.match(r"\w+_\d+\.[wb]_[012]_(moment1|beta2_pow)", key) for key in there)
    assert ("create_parameter_27.w_0_moment1_0" in there) == ("hybrid" in name)
    assert from_automatic(there, ours) == state


def test_our_own_names_pass_through():
    ours = create_model("MobileNetV1_x0_25")
    state = {f"{names(ours)[0]}_velocity_0": 1, "LR_Scheduler": {}}
    assert from_automatic(state, ours) == state


def test_another_network_s_state_is_refused():
    ours = create_model("MobileNetV1_x0_25")
    state = {f"conv2d_{i}.w_0_velocity_0": 0 for i in range(52)}
    with pytest.raises(UserError, match="52 layers named conv2d_N, the network has 27"):
        from_automatic(state, ours)
