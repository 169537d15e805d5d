"""Strict loading: what is loaded, what is reported, what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from ppmobilenet.errors import NumericsError, UserError
from ppmobilenet.weights.loading import load_weights
from ppmobilenet.weights.writing import write_weights

paddle = pytest.importorskip("paddle")


def layer():
    return paddle.nn.Sequential(paddle.nn.Conv2D(3, 4, 3), paddle.nn.BatchNorm2D(4))


def state_of(model) -> dict[str, np.ndarray]:
    return {key: value.numpy() for key, value in model.state_dict().items()}


def test_any_layer_loads_its_own_keys_behind_wrappers(tmp_path):
    source, target = layer(), layer()
    path = write_weights({f"module.{k}": v for k, v in state_of(source).items()}, tmp_path / "w.npz")
    report = load_weights(target, path)
    assert (report.loaded, report.total, report.scheme) == (6, 6, "same-names")
    for key, value in state_of(source).items():
        np.testing.assert_array_equal(state_of(target)[key], value)


def test_half_precision_is_widened(tmp_path):
    source, target = layer(), layer()
    path = write_weights({k: v.astype("float16") for k, v in state_of(source).items()}, tmp_path / "w.npz")
    load_weights(target, path)
    assert target[0].weight.dtype == paddle.float32
    np.testing.assert_allclose(target[0].weight.numpy(), source[0].weight.numpy(), atol=1e-3)


def test_no_matching_key_fails_and_changes_nothing(tmp_path):
    model = layer()
    before = state_of(model)
    path = write_weights({"other": np.zeros(3, "float32")}, tmp_path / "w.pdparams")
    with pytest.raises(UserError, match="none of its 1 keys is one of the model's 6"):
        load_weights(model, path)
    for key, value in before.items():
        np.testing.assert_array_equal(state_of(model)[key], value)


def test_every_difference_is_named_and_nothing_is_changed(tmp_path):
    model = layer()
    before = state_of(model)
    other = {**before, "more": np.zeros(1), "0.weight": np.zeros((5, 3, 3, 3), "float32")}
    del other["1._mean"]
    path = write_weights(other, tmp_path / "w.pdparams")
    with pytest.raises(UserError) as caught:
        load_weights(model, path)
    text = str(caught.value)
    assert "4 of 6 tensors fit" in text
    assert "missing in the file (1): 1._mean" in text
    assert "0.weight [5, 3, 3, 3] -> [4, 3, 3, 3]" in text
    assert "not in the model (1): more" in text
    for key, value in before.items():
        np.testing.assert_array_equal(state_of(model)[key], value)


def test_allow_missing_is_needed_reported_and_checked(tmp_path):
    model = layer()
    other = state_of(model)
    del other["1._mean"]
    path = write_weights(other, tmp_path / "w.pdparams")
    with pytest.raises(UserError, match=r"--allow-missing 1\._mean"):
        load_weights(model, path)
    report = load_weights(model, path, allow_missing=["1._mean"])
    assert report.missing == {"1._mean": "1._mean"} and "5 of 6" in str(report)
    with pytest.raises(UserError, match=r"did you mean '1\._mean'"):
        load_weights(model, path, allow_missing=["1._maen"])


def test_nan_is_refused(tmp_path):
    model = layer()
    other = state_of(model)
    other["0.bias"] = np.array([0, np.nan, 1, np.inf], "float32")
    path = write_weights(other, tmp_path / "w.pdparams")
    with pytest.raises(NumericsError, match=r"NaN or infinity in 1 of its tensors: 0\.bias"):
        load_weights(model, path)


def test_quantised_tensors_are_refused(tmp_path):
    model = layer()
    other = {key: value.astype("int8") if value.ndim == 4 else value for key, value in state_of(model).items()}
    path = write_weights(other, tmp_path / "w.pdparams")
    with pytest.raises(UserError, match=r"whole numbers, so it is quantised.*0\.weight \(int8\)"):
        load_weights(model, path)
