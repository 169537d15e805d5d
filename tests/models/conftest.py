"""Small networks that the tests of this folder share."""

from __future__ import annotations

from functools import cache

import pytest
from network_helpers import randomise

from ppmobilenet.zoo import create_model


@pytest.fixture(scope="session")
def golden(repo):
    """``golden("v1")``: the pairs (state-dict key, parameter name) of a family, in order."""

    def read(family: str) -> list[tuple[str, str]]:
        lines = (repo / "tests" / "golden" / f"state_dict_{family}.txt").read_text().splitlines()
        return [tuple(line.split()) for line in lines]

    return read


@pytest.fixture(scope="session")
def small():
    """``small(name)``: a network of ten classes with random weights, in eval mode. Shared: do not change it."""

    @cache
    def build(name: str):
        model = create_model(name, class_num=10)
        randomise(model)
        model.eval()
        return model

    return build
