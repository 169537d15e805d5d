"""Fixtures that several test folders share."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import types
from pathlib import Path

import pytest
from allowed_skips import ALLOWED_SKIPS

REPO = Path(__file__).resolve().parents[1]


def _fail_unexpected_skip(report) -> None:
    """Turn a skip for a reason that is not on the list into a failure, where CI=true."""
    if os.environ.get("CI", "").lower() != "true" or not report.skipped or hasattr(report, "wasxfail"):
        return
    path, line, reason = report.longrepr
    reason = reason.removeprefix("Skipped: ")
    if not reason.startswith(tuple(ALLOWED_SKIPS)):
        report.outcome = "failed"
        report.longrepr = f"{path}:{line}: skipped ({reason}); CI=true allows only what tests/allowed_skips.py lists"


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    _fail_unexpected_skip((yield).get_result())


@pytest.hookimpl(hookwrapper=True)
def pytest_make_collect_report(collector):
    _fail_unexpected_skip((yield).get_result())


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
def lite_python() -> Path:
    """The interpreter of Paddle Lite's own environment."""
    from ppmobilenet.field.engines import lite_env

    python = lite_env.existing()
    if python is None and lite_env.find_interpreter() is None:
        pytest.skip("no CPython 3.8-3.10 on this machine: Paddle Lite's tools have no wheel for a newer one")
    if python is None:
        pytest.skip("Paddle Lite's environment was not made (`python -m ppmobilenet.field.engines.lite_env` makes it)")
    return python


@pytest.fixture(scope="session")
def peer_v4(peer):
    """PaddleClas's module of MobileNetV4, which no release has: from a checkout of its ``develop`` branch."""
    checkout = Path(os.environ.get("PADDLECLAS_DIR") or REPO.parent / "PaddleClas")
    path = checkout / "ppcls/arch/backbone/legendary_models/mobilenet_v4.py"
    if not path.is_file():
        pytest.skip("no checkout of PaddleClas beside this one (or in PADDLECLAS_DIR): no release has its MobileNetV4")
    spec = importlib.util.spec_from_file_location("ppcls.arch.backbone.legendary_models.mobilenet_v4", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def peer():
    """PaddleClas's own modules: ``peer.v1.MobileNetV1_x0_25``, ``peer.v2.MobileNetV2``, ``peer.preprocess``, ..."""
    spec = importlib.util.find_spec("paddleclas")
    if spec is None:
        pytest.skip("paddleclas is not installed (pip install --no-deps paddleclas==2.6.0)")
    top = Path(next(iter(spec.submodule_search_locations)))
    # the package's own __init__ files import its engine and pinned dependencies: enter empty ones in their place
    models = ("arch", "arch.backbone", "arch.backbone.legendary_models", "arch.backbone.model_zoo", "utils")
    for name, folder in {
        "ppcls": top / "ppcls",
        **{f"ppcls.{name}": top / "ppcls" / name.replace(".", "/") for name in models},
        "paddleclas": top,
        "paddleclas.deploy": top / "deploy",
        "paddleclas.deploy.python": top / "deploy/python",
    }.items():
        module = types.ModuleType(name)
        module.__path__ = [str(folder)]
        sys.modules[name] = module
    sys.modules["paddleclas"].__spec__ = spec
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
        v3=importlib.import_module("ppcls.arch.backbone.legendary_models.mobilenet_v3"),
        preprocess=importlib.import_module("paddleclas.deploy.python.preprocess"),
        postprocess=importlib.import_module("paddleclas.deploy.python.postprocess"),
    )
