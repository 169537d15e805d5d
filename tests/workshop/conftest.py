"""Packages that several test files look at; none of them changes one."""

from __future__ import annotations

import pytest
from packages import LABELS, lively, ops_for, photo

from ppmobilenet.workshop.making import PackageSpec, make_package


@pytest.fixture(scope="session")
def model():
    return lively("MobileNetV2_x0_25")


@pytest.fixture(scope="session")
def exported(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export") / "inference"
    photos = [photo(seed=seed, suffix=".jpg") for seed in range(3)]
    return make_package(
        model, PackageSpec(name="MobileNetV2_x0_25", ops=ops_for(32), labels=LABELS, photos=photos), folder
    )


@pytest.fixture(scope="session")
def plain(model, tmp_path_factory):
    """One form: for what needs a package and not every engine."""
    spec = PackageSpec(name="MobileNetV2_x0_25", ops=ops_for(32), labels=LABELS, to=["inference"], photos=[photo()])
    return make_package(model, spec, tmp_path_factory.mktemp("export") / "plain")


@pytest.fixture(scope="session")
def with_onnx(model, tmp_path_factory):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("paddle2onnx")
    folder = tmp_path_factory.mktemp("export") / "inference"
    return make_package(
        model,
        PackageSpec(name="MobileNetV2_x0_25", ops=ops_for(32), labels=LABELS, to=["onnx"], photos=[photo()]),
        folder,
    )
