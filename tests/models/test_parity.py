"""The ten variants against PaddleClas's own classes: keys, order, names, outputs, gradients, statistics, init."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from network_helpers import parameter_names, photos, randomise, trainable

from ppmobilenet.models.zoo import create_model, list_models

VARIANTS = list_models()


def theirs(peer, name, **kwargs):
    family = peer.v1 if "V1" in name else peer.v2
    with paddle.utils.unique_name.guard():
        return getattr(family, name)(**kwargs)


def pair(peer, name, **kwargs):
    """Our network and theirs with the same random weights, theirs given ours by key."""
    ours, reference = create_model(name, **kwargs), theirs(peer, name, **kwargs)
    randomise(ours)
    missing, unexpected = reference.set_state_dict({k: v.numpy() for k, v in ours.state_dict().items()})
    assert not missing and not unexpected
    return ours, reference


@pytest.mark.parametrize("name", VARIANTS)
def test_keys_order_and_eval_output_are_equal(peer, name):
    ours, reference = pair(peer, name)
    assert [(k, v.shape) for k, v in ours.state_dict().items()] == [
        (k, v.shape) for k, v in reference.state_dict().items()
    ]
    if "V2" in name:
        assert parameter_names(ours) == parameter_names(reference)
    ours.eval(), reference.eval()
    x = photos(2, 32, 45)
    with paddle.no_grad():
        mine, other = ours(x).numpy(), reference(x).numpy()
    assert mine.std() > 1e-3, "the comparison would be one of zeros"
    assert np.abs(mine - other).max() == 0.0


@pytest.mark.parametrize("name", VARIANTS)
def test_train_mode_gradients_and_running_statistics_are_equal(peer, name):
    models = pair(peer, name, class_num=5)
    labels = paddle.to_tensor([0, 3, 2])
    for model in models:
        model.train()
        paddle.nn.functional.cross_entropy(model(photos(3, 40)), labels).backward()
    ours, reference = (
        {k: (v.numpy(), None if v.grad is None else v.grad.numpy()) for k, v in m.state_dict().items()} for m in models
    )
    for key, (value, gradient) in ours.items():
        assert np.array_equal(value, reference[key][0]), f"{key}: running statistics differ"
        if gradient is not None:
            assert np.array_equal(gradient, reference[key][1]), f"{key}: gradients differ"
    assert sum(g is not None for _, g in ours.values()) == len(trainable(models[0]))


@pytest.mark.parametrize("name", ["MobileNetV1_x0_25", "MobileNetV2_x0_25"])
def test_one_seed_gives_the_initial_weights_of_paddleclas(peer, name):
    paddle.seed(7)
    ours = create_model(name)
    paddle.seed(7)
    reference = theirs(peer, name).state_dict()
    for key, value in ours.state_dict().items():
        assert np.array_equal(value.numpy(), reference[key].numpy()), key


def test_v2_nhwc_and_prefix_are_paddleclas_s_too(peer):
    ours, reference = pair(peer, "MobileNetV2_x0_25", data_format="NHWC", prefix_name="left_", class_num=7)
    assert parameter_names(ours) == parameter_names(reference)
    assert all(n.startswith("left_") for n in parameter_names(ours))
    ours.eval(), reference.eval()
    assert np.abs(ours(photos()).numpy() - reference(photos()).numpy()).max() == 0.0
