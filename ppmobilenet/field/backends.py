"""The engines that run a package: one table, and the choice of the fastest on this machine.

A backend opens one form of a package and gives a function ``run(batch) -> output`` on numpy arrays. Nothing heavy is
imported before a backend is opened, so a board with only ONNX Runtime never needs Paddle.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from ppmobilenet.errors import EXTRAS, DamagedFileError, UserError, did_you_mean
from ppmobilenet.field import engines
from ppmobilenet.field.engines import lite_env
from ppmobilenet.field.engines.base import Engine, why_not_in_fork
from ppmobilenet.field.package import Package
from ppmobilenet.files import write_text
from ppmobilenet.machine import cache_folder, usable_cores
from ppmobilenet.telling import log

Run = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Backend:
    """One row of :data:`BACKENDS`.

    Attributes:
        needs: the Python package it needs, None if none.
        engine: which forms of a package it runs (their ``engine``).
        prefer: form names it takes first, best first; a form it cannot run is left out.
        module: of ``engines``, imported when the backend is opened: it imports what is heavy.
        kind: the :class:`.engines.base.Engine` in it.
        why_not_here: returns why it cannot run in this process; None: it always can.
    """

    needs: str | None
    engine: str
    prefer: tuple[str, ...]
    module: str
    kind: str
    why_not_here: Callable[[], str | None] = lambda: None

    def open(self, package: Package, form: Mapping, threads: int) -> Engine:
        """Import the library and open a form in it.

        Raises:
            UserError: the library is broken, does not start or refuses the model.
            DamagedFileError: a file of the form is missing or was changed.
        """
        try:
            module = importlib.import_module(f"{engines.__name__}.{self.module}")
        except Engine.refusals as error:  # whatever a broken installation raises
            raise UserError(
                f"the Python package {self.needs!r} cannot be imported: {error}",
                hint=f"install it anew (pip install --force-reinstall 'ppmobilenet[{EXTRAS[self.needs]}]'), or take "
                "another backend",
            ) from error
        return getattr(module, self.kind).open(package, form, threads)


BACKENDS = {
    # Paddle's OpenVINO engine reads the legacy program; with .json it was seen not to engage
    "openvino": Backend(
        "paddle",
        "paddle",
        ("pdmodel-b1", "pdmodel"),
        "paddle_inference",
        "OpenVino",
        lambda: _no_openvino() or why_not_in_fork("Paddle Inference"),
    ),
    "paddle": Backend(
        "paddle",
        "paddle",
        ("inference", "pdmodel", "pdmodel-int8"),
        "paddle_inference",
        "PaddleInference",
        lambda: why_not_in_fork("Paddle Inference"),
    ),
    "onnxruntime": Backend("onnxruntime", "onnxruntime", ("onnx", "onnx-int8"), "onnx_runtime", "OnnxRuntime"),
    "lite": Backend(None, "lite", ("lite-x86-fp32",), "lite_runtime", "PaddleLite", lambda: _no_lite()),
}


def _installed(module: str | None) -> bool:
    return module is None or importlib.util.find_spec(module) is not None


def _paddle_version() -> int:
    """Return the major version of the installed Paddle without importing it; 3 where that is not known."""
    for name in ("paddlepaddle", "paddlepaddle-gpu"):
        with contextlib.suppress(PackageNotFoundError):
            return int(version(name).split(".")[0])
    return 3


def _paddle_can(form: Mapping) -> bool:
    """Paddle 2 does not read the .json kind."""
    return _paddle_version() >= 3 or not any(file.endswith(".json") for file in form["files"])


def _no_openvino() -> str | None:
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return "Paddle's OpenVINO engine exists on x86 only"
    return "Paddle has an OpenVINO engine from version 3 on" if _paddle_version() < 3 else None


def _no_lite() -> str | None:
    """Return why an x86 ``.nb`` cannot run here, None if it can. Makes no environment."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return "the Python runtime of Paddle Lite is for x86-64; on ARM the C++ runner in field/board runs .nb files"
    if lite_env.existing() is None:
        return f"Paddle Lite's environment was not made yet (--to lite-x86 makes it, or set {lite_env.VARIABLE})"
    return None


def choose_form(package: Package, backend: str, precision: str = "fp32") -> Mapping | None:
    """Return the form that the backend would run, or None if the package has none for it.

    A form whose files were not copied along is taken only where there is no other.
    """
    row = BACKENDS[backend]
    forms = {form["name"]: form for form in package.forms(row.engine, precision)}
    usable_ones = [
        forms[name] for name in row.prefer if name in forms and (row.engine != "paddle" or _paddle_can(forms[name]))
    ]
    return next((form for form in usable_ones if not absent(package, form)), next(iter(usable_ones), None))


def absent(package: Package, form: Mapping) -> list[str]:
    """Return the files of a form that are not there: a package may be copied without the forms that nobody runs."""
    return [file for file in form["files"] if not (package.folder / file).is_file()]


def why_not(package: Package, backend: str, precision: str = "fp32") -> str | None:
    """Return why the backend cannot run the package here, or None if it can be tried."""
    row = BACKENDS[backend]
    form = choose_form(package, backend, precision)
    if form is None:
        have = ", ".join(form["name"] for form in package.meta["forms"])
        more = "; export --to pdmodel makes one" if backend == "openvino" and precision == "fp32" else ""
        return f"the package has no {precision} form for it (it has: {have}{more})"
    if not _installed(row.needs):
        return f"the Python package {row.needs!r} is not installed (pip install 'ppmobilenet[{EXTRAS[row.needs]}]')"
    return row.why_not_here()


def usable(package: Package, precision: str = "fp32") -> list[str]:
    """Return the backends that can be tried here, in the table's order, and whose files are there."""
    return [
        name
        for name in BACKENDS
        if why_not(package, name, precision) is None and not absent(package, choose_form(package, name, precision))
    ]


def open_backend(
    package: Package, backend: str = "auto", threads: int | None = None, precision: str = "fp32"
) -> tuple[str, Mapping, Engine]:
    """Open a backend.

    Args:
        package: an opened package.
        backend: a name of :data:`BACKENDS`, or ``"auto"``: the fastest measured here (:func:`fastest`), and the next
            one where that does not start.
        threads: threads for one inference; default all processors of this process.
        precision: ``"fp32"`` or ``"int8"``.

    Returns:
        The backend's name, the form it runs, and the engine: ``engine(batch) -> output``, one call at a time.

    Raises:
        UserError: unknown name, nothing installed, no form for it, or the engine does not start.
        DamagedFileError: a file of the form is missing or was changed.
    """
    threads = threads or usable_cores()
    if backend == "auto":
        return _open_auto(package, threads, precision)
    if backend not in BACKENDS:
        raise UserError(f"unknown backend {backend!r}", hint=did_you_mean(backend, ["auto", *BACKENDS]))
    reason = why_not(package, backend, precision)
    if reason:
        raise UserError(f"the backend {backend!r} cannot run here: {reason}", where=package.folder)
    form = choose_form(package, backend, precision)
    return backend, form, BACKENDS[backend].open(package, form, threads)


def _open_auto(package: Package, threads: int, precision: str) -> tuple[str, Mapping, Engine]:
    first, reasons = fastest(package, threads, precision), []
    for name in sorted(usable(package, precision), key=lambda name: (name != first, name == "lite")):
        try:
            opened = open_backend(package, name, threads, precision)
        except DamagedFileError:
            raise  # another form would hide that the package is not what was exported
        except UserError as error:
            reasons.append(f"{name}: {error}")
            continue
        for reason in reasons:
            log.warning("%s answers, because a faster engine does not start: %s", name, reason)
        return opened
    raise UserError("no backend starts:\n    " + "\n    ".join(reasons), where=package.folder)


# ---------------------------------------------------------------------------------------------------------------------
# the fastest


def sample_input(package: Package, batch: int = 1) -> np.ndarray:
    """Return a batch to run: the golden tensor where there is one, else noise of the declared shape."""
    given = package.meta["input"]
    if "golden" in package.meta and (package.folder / package.meta["golden"]["tensor"]).is_file():
        return np.ascontiguousarray(np.repeat(package.golden("tensor"), batch, axis=0))
    shape = (batch, *given["shape"][1:])
    return np.random.default_rng(0).standard_normal(shape).astype(given["dtype"])


# An engine's threads go on spinning for up to a fifth of a second after a run and would take the processors from the
# engine whose turn it is: taking turns call by call once showed OpenVINO at 32 ms that needs 1.7 by itself.
PAUSE = 0.25
BURST = 5


def time_in_turn(
    runs: Mapping[str, Run], batch: np.ndarray, rounds: int = 15, warm_up: int = 3
) -> dict[str, list[float]]:
    """Time several engines in turn, so that a busy moment meets all of them alike.

    A turn is a pause that lets the other engines' threads fall asleep, ``warm_up`` calls, and up to five timed ones.

    Args:
        runs: the engines.
        batch: the input.
        rounds: timed calls of each.
        warm_up: calls that are not timed, in each turn.

    Returns:
        Seconds of each call, a list for each name.
    """
    times: dict[str, list[float]] = {name: [] for name in runs}
    for first in range(0, rounds, BURST):
        for name, run in runs.items():
            if len(runs) > 1:
                time.sleep(PAUSE)
            for _ in range(warm_up):
                run(batch)
            for _ in range(min(BURST, rounds - first)):
                start = time.perf_counter()
                run(batch)
                times[name].append(time.perf_counter() - start)
    return times


def _machine() -> str:
    """What the choice depends on besides the package: processor and engine versions."""
    cpu = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith(("model name", "Model")):
                cpu = line.partition(":")[2].strip()
                break
    libraries = []
    for name in ("paddlepaddle", "paddlepaddle-gpu", "onnxruntime"):
        with contextlib.suppress(PackageNotFoundError):
            libraries.append(f"{name} {version(name)}")
    return f"{cpu} x{os.cpu_count()}; " + ", ".join(libraries)


def _model_key(package: Package, names: Sequence[str], threads: int, precision: str) -> str:
    shape = "x".join(map(str, package.meta["input"]["shape"][1:]))
    parts = [package.meta["name"], shape, f"classes {package.meta['class_num']}", precision, f"threads {threads}"]
    return "; ".join([*parts, "of " + "+".join(names)])


def _read_choices(path: Path) -> dict:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def fastest(package: Package, threads: int, precision: str = "fp32", remember: bool = True) -> str:
    """Return the name of the fastest backend for this kind of package on this machine.

    It is measured once (every usable backend in turn, batch 1) and remembered in ``backends.json`` in the cache
    folder; another processor, engine version, architecture, input shape or thread count is measured anew. The cold
    start that measuring costs is a few seconds; a single usable backend is not measured.

    Raises:
        UserError: no backend can run the package here; names each with the reason.
    """
    tried = usable(package, precision)
    names = [name for name in tried if name != "lite"] or tried  # a process of its own: never the fastest
    if not names:
        raise _nothing_usable(package, precision)
    if len(names) == 1:
        return names[0]
    path = cache_folder("backends.json")
    machine, key = _machine(), _model_key(package, names, threads, precision)
    if remember:
        known = _read_choices(path).get(machine, {}).get(key)
        if isinstance(known, dict) and known.get("backend") in names:
            return known["backend"]
    runs = {}
    for name in names:
        try:
            engine = open_backend(package, name, threads, precision)[2]
            engine(sample_input(package))
        except DamagedFileError:
            raise
        except UserError:  # an engine may refuse one operator, or not start: it is then no candidate
            continue
        runs[name] = engine
    if not runs:
        return names[0]  # to open it says why it does not start
    seconds = {name: undisturbed(times) for name, times in time_in_turn(runs, sample_input(package)).items()}
    if remember:
        remember_choice(package, threads, precision, seconds)
    return min(seconds, key=seconds.__getitem__)


def _nothing_usable(package: Package, precision: str) -> UserError:
    reasons, missing = [], []
    for name in BACKENDS:
        reason = why_not(package, name, precision)
        if reason is None:
            lost = absent(package, choose_form(package, name, precision))
            missing += lost
            reason = f"{', '.join(lost)} missing from the package"
        reasons.append(f"{name}: {reason}")
    kind, hint = (DamagedFileError, "copy the package again, whole, or export again") if missing else (UserError, None)
    said = "\n    ".join(reasons)
    return kind(f"no backend can run this {precision} package here:\n    {said}", where=package.folder, hint=hint)


def undisturbed(times: Sequence[float]) -> float:
    """Return the lower quartile: other work on the machine only ever adds to a time, and the choice is remembered."""
    return float(np.quantile(times, 0.25))


def remember_choice(package: Package, threads: int, precision: str, seconds: Mapping[str, float]) -> None:
    """Keep what was measured, for :func:`fastest`; a cache that cannot be written costs time only.

    Args:
        package: what was measured.
        threads: with how many threads.
        precision: ``"fp32"`` or ``"int8"``.
        seconds: of a call of each backend, see :func:`undisturbed`.
    """
    path = cache_folder("backends.json")
    names = [name for name in usable(package, precision) if name != "lite"]
    entry = {
        "backend": min(seconds, key=seconds.__getitem__),
        "milliseconds": {name: round(value * 1e3, 3) for name, value in seconds.items()},
    }
    choices = _read_choices(path)
    choices.setdefault(_machine(), {})[_model_key(package, names, threads, precision)] = entry
    with contextlib.suppress(UserError, OSError):
        write_text(path, json.dumps(choices, indent=1))
