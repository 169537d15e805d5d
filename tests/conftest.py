"""Fixtures that several test folders share."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def repo() -> Path:
    """The checkout's top folder."""
    return REPO


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real photos and weights beside the checkout; the test is skipped where it is absent."""
    folder = REPO.parent / "shared"
    if not (folder / "weights").is_dir():
        pytest.skip("no ../shared beside this checkout: it holds the real photos and weights")
    return folder


@pytest.fixture(scope="session")
def peer():
    """PaddleClas's own model modules: ``peer.v1.MobileNetV1_x0_25``, ``peer.v2.MobileNetV2``."""
    spec = importlib.util.find_spec("paddleclas")
    if spec is None:
        pytest.skip("paddleclas is not installed (pip install --no-deps paddleclas==2.6.0)")
    root = Path(next(iter(spec.submodule_search_locations))) / "ppcls"
    # the package's own __init__ files import its engine and pinned dependencies: enter empty ones in their place
    for name in ("", "arch", "arch.backbone", "arch.backbone.legendary_models", "arch.backbone.model_zoo", "utils"):
        module = types.ModuleType(f"ppcls.{name}".rstrip("."))
        module.__path__ = [str(root.joinpath(*filter(None, name.split("."))))]
        sys.modules[module.__name__] = module
    for name, attributes in {
        "utils.save_load": {"load_dygraph_pretrain": None},
        "utils.logger": {"info": print, "warning": print, "error": print},
    }.items():
        module = types.ModuleType(f"ppcls.{name}")
        module.__dict__.update(attributes)
        sys.modules[module.__name__] = module
    sys.modules["ppcls.utils"].logger = sys.modules["ppcls.utils.logger"]
    return types.SimpleNamespace(
        v1=importlib.import_module("ppcls.arch.backbone.legendary_models.mobilenet_v1"),
        v2=importlib.import_module("ppcls.arch.backbone.model_zoo.mobilenet_v2"),
    )
