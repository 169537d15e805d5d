"""Weights that nothing was learned with, and photos to fit them to."""

from __future__ import annotations

import pytest
from fit_helpers import draw


@pytest.fixture
def photos(tmp_path):
    """Three classes of twelve photos."""
    draw(tmp_path / "photos", 12)
    return tmp_path / "photos"


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    """Random numbers in place of published weights, of the smallest network."""
    paddle = pytest.importorskip("paddle")
    pytest.importorskip("sklearn")
    from ppmobilenet import create_model
    from ppmobilenet.weights.writing import write_weights

    paddle.seed(1)
    state = create_model("MobileNetV1_x0_25").state_dict()
    path = tmp_path_factory.mktemp("weights") / "MobileNetV1_x0_25.pdparams"
    return write_weights({key: value.numpy() for key, value in state.items()}, path)
