"""Small networks that the tests of this folder share."""

from __future__ import annotations

import pytest
from network_helpers import randomise

from ppmobilenet.models.zoo import create_model


@pytest.fixture(scope="session")
def golden(repo):
    """``golden("v1")``: the pairs (state-dict key, parameter name) of a family, in order."""

    def read(family: str) -> list[tuple[str, str]]:
        lines = (repo / "tests" / "golden" / f"state_dict_{family}.txt").read_text().splitlines()
        return [tuple(line.split()) for line in lines]

    return read


@pytest.fixture(scope="session")
def small_v1():
    """MobileNetV1_x0_25 with random weights, in eval mode. Shared: do not change it."""
    model = create_model("MobileNetV1_x0_25", class_num=10)
    randomise(model)
    model.eval()
    return model


@pytest.fixture(scope="session")
def small_v2():
    """MobileNetV2_x0_25 with random weights, in eval mode. Shared: do not change it."""
    model = create_model("MobileNetV2_x0_25", class_num=10)
    randomise(model)
    model.eval()
    return model
