"""The engines that run a package: one table, and the choice of the fastest on this machine.

A backend opens one form of a package and gives a function ``run(batch) -> output`` on numpy arrays. Nothing heavy is
imported before a backend is opened, so a board with only ONNX Runtime never needs Paddle.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import importlib.util
import json
import os
import platform
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ppmobilenet.deploy.package import Package
from ppmobilenet.errors import EXTRAS, UserError, did_you_mean
from ppmobilenet.machine import cache_folder, usable_cores

Run = Callable[[np.ndarray], np.ndarray]


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Paddle's int8 passes print two dozen lines past Python and past its own log settings."""
    sys.stdout.flush()
    sys.stderr.flush()
    saved, null = [os.dup(1), os.dup(2)], os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 1)
        os.dup2(null, 2)
        yield
    finally:
        ctypes.CDLL(None).fflush(None)  # what C++ has not written yet belongs to the silence, too
        for number, descriptor in enumerate(saved, 1):
            os.dup2(descriptor, number)
            os.close(descriptor)
        os.close(null)


def _openvino_place(model: Path, parameters: Path) -> tuple[Path, Path, Path]:
    """Return a folder for compiled models, and links to a model's two files under one name.

    Paddle's OpenVINO engine looks for ``<model>.pdiparams`` whatever it is told, keeps compiled models by their path,
    and would put them into a folder ``__cache__`` of the working directory.
    """
    compiled = cache_folder("openvino")
    try:
        compiled.mkdir(parents=True, exist_ok=True)
    except OSError:
        compiled = Path(tempfile.mkdtemp(prefix="ppmobilenet-openvino-"))
    if model.stem == parameters.stem:
        return compiled, model, parameters
    # by content's age as well as by place, so that a package exported anew into its folder is compiled anew
    known = [(str(file.resolve()), file.stat().st_mtime_ns, file.stat().st_size) for file in (model, parameters)]
    links = compiled / hashlib.sha256(repr(known).encode()).hexdigest()[:16]
    links.mkdir(exist_ok=True)
    for file in (model, parameters):
        new = links / f"{os.getpid()}{file.suffix}"
        new.unlink(missing_ok=True)
        new.symlink_to(file.resolve())
        os.replace(new, links / f"model{file.suffix}")
    return compiled, links / "model.pdmodel", links / "model.pdiparams"


def _paddle_run(package: Package, form: Mapping, threads: int, openvino: bool) -> Run:
    # Paddle Inference alone is enough; importing it imports all of paddle, which takes a second or two
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="No ccache found")
        from paddle import inference

    model, parameters = package.files_of(form)[:2]
    if openvino:
        compiled, model, parameters = _openvino_place(model, parameters)
    config = inference.Config(str(model), str(parameters))
    config.disable_glog_info()
    config.set_cpu_math_library_num_threads(threads)
    if model.suffix == ".json":
        config.enable_new_ir(True)
        config.enable_new_executor(True)  # without it, enable_memory_optim raises for this kind
    config.enable_memory_optim()
    if openvino:
        config.set_optim_cache_dir(str(compiled))
        config.enable_openvino_engine(inference.PrecisionType.Float32)
    elif form["precision"] == "int8":
        config.enable_mkldnn()
        if hasattr(config, "enable_mkldnn_int8"):
            config.enable_mkldnn_int8()
    else:
        config.enable_mkldnn()
    with _silent() if form["precision"] == "int8" else contextlib.nullcontext():
        predictor = inference.create_predictor(config)
    given = predictor.get_input_handle(predictor.get_input_names()[0])
    answer = predictor.get_output_handle(predictor.get_output_names()[0])

    def run(batch: np.ndarray) -> np.ndarray:
        given.copy_from_cpu(batch)
        predictor.run()
        return answer.copy_to_cpu()

    if form.get("batch") == 1:
        return lambda batch: run(batch) if len(batch) == 1 else np.concatenate([run(row[None]) for row in batch])
    return run


def _open_paddle(package: Package, form: Mapping, threads: int) -> Run:
    return _paddle_run(package, form, threads, openvino=False)


def _open_openvino(package: Package, form: Mapping, threads: int) -> Run:
    return _paddle_run(package, form, threads, openvino=True)


def _open_onnxruntime(package: Package, form: Mapping, threads: int) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(package.files_of(form)[0]), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda batch: session.run(None, {name: batch})[0]


def _open_lite(package: Package, form: Mapping, threads: int) -> Run:
    from ppmobilenet.deploy import lite

    return lite.open_runtime(package, form, threads)


@dataclass(frozen=True)
class Backend:
    """One row of :data:`BACKENDS`.

    Attributes:
        module: the Python package it needs, None if none.
        engine: which forms of a package it runs (their ``engine``).
        prefer: form names it takes first, best first; a form it cannot run is left out.
        open: ``open(package, form, threads) -> run``.
    """

    module: str | None
    engine: str
    prefer: tuple[str, ...]
    open: Callable[[Package, Mapping, int], Run]


BACKENDS = {
    # Paddle's OpenVINO engine reads the legacy program; with .json it was seen not to engage
    "openvino": Backend("paddle", "paddle", ("pdmodel-b1", "pdmodel"), _open_openvino),
    "paddle": Backend("paddle", "paddle", ("inference", "pdmodel", "pdmodel-int8"), _open_paddle),
    "onnxruntime": Backend("onnxruntime", "onnxruntime", ("onnx", "onnx-int8"), _open_onnxruntime),
    "lite": Backend(None, "lite", ("lite-x86-fp32",), _open_lite),
}


def _installed(module: str | None) -> bool:
    return module is None or importlib.util.find_spec(module) is not None


def _paddle_version() -> int:
    """Return the major version of the installed Paddle without importing it; 3 where that is not known."""
    from importlib.metadata import PackageNotFoundError, version

    for name in ("paddlepaddle", "paddlepaddle-gpu"):
        with contextlib.suppress(PackageNotFoundError):
            return int(version(name).split(".")[0])
    return 3


def _paddle_can(form: Mapping) -> bool:
    """Paddle 2 does not read the .json kind."""
    return _paddle_version() >= 3 or not any(file.endswith(".json") for file in form["files"])


def choose_form(package: Package, backend: str, precision: str = "fp32") -> Mapping | None:
    """Return the form that the backend would run, or None if the package has none for it."""
    row = BACKENDS[backend]
    forms = {form["name"]: form for form in package.forms(row.engine, precision)}
    for name in row.prefer:
        if name in forms and (row.engine != "paddle" or _paddle_can(forms[name])):
            return forms[name]
    return None


def why_not(package: Package, backend: str, precision: str = "fp32") -> str | None:
    """Return why the backend cannot run the package here, or None if it can be tried."""
    row = BACKENDS[backend]
    if choose_form(package, backend, precision) is None:
        have = ", ".join(form["name"] for form in package.meta["forms"])
        more = "; export --to pdmodel makes one" if backend == "openvino" and precision == "fp32" else ""
        return f"the package has no {precision} form for it (it has: {have}{more})"
    if not _installed(row.module):
        return f"the Python package {row.module!r} is not installed (pip install 'ppmobilenet[{EXTRAS[row.module]}]')"
    if backend == "openvino":
        if platform.machine().lower() not in ("x86_64", "amd64"):
            return "Paddle's OpenVINO engine exists on x86 only"
        if _paddle_version() < 3:
            return "Paddle has an OpenVINO engine from version 3 on"
    if backend == "lite":
        from ppmobilenet.deploy import lite

        return lite.why_no_runtime()
    return None


def usable(package: Package, precision: str = "fp32") -> list[str]:
    """Return the backends that can be tried here, in the table's order."""
    return [name for name in BACKENDS if why_not(package, name, precision) is None]


def open_backend(
    package: Package, backend: str = "auto", threads: int | None = None, precision: str = "fp32"
) -> tuple[str, Mapping, Run]:
    """Open a backend.

    Args:
        package: an opened package.
        backend: a name of :data:`BACKENDS`, or ``"auto"``: the fastest measured here (:func:`fastest`).
        threads: threads for one inference; default all processors of this process.
        precision: ``"fp32"`` or ``"int8"``.

    Returns:
        The backend's name, the form it runs, and ``run(batch) -> output``.

    Raises:
        UserError: unknown name, nothing installed, or no form for it.
    """
    threads = threads or usable_cores()
    if backend == "auto":
        backend = fastest(package, threads, precision)
    if backend not in BACKENDS:
        raise UserError(f"unknown backend {backend!r}", hint=did_you_mean(backend, ["auto", *BACKENDS]))
    reason = why_not(package, backend, precision)
    if reason:
        raise UserError(f"the backend {backend!r} cannot run here: {reason}", where=package.folder)
    form = choose_form(package, backend, precision)
    return backend, form, BACKENDS[backend].open(package, form, threads)


# ---------------------------------------------------------------------------------------------------------------------
# the fastest


def sample_input(package: Package, batch: int = 1) -> np.ndarray:
    """Return a batch to run: the golden tensor where there is one, else noise of the declared shape."""
    given = package.meta["input"]
    if "golden" in package.meta:
        return np.ascontiguousarray(np.repeat(package.golden("tensor"), batch, axis=0))
    shape = (batch, *given["shape"][1:])
    return np.random.default_rng(0).standard_normal(shape).astype(given["dtype"])


# An engine's threads go on spinning for up to a fifth of a second after a run and would take the processors from the
# engine whose turn it is: taking turns call by call once showed OpenVINO at 32 ms that needs 1.7 by itself.
PAUSE = 0.25
BURST = 5


def measure(runs: Mapping[str, Run], batch: np.ndarray, rounds: int = 15, warm_up: int = 3) -> dict[str, list[float]]:
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
    from importlib.metadata import PackageNotFoundError, version

    cpu = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("model name", "Model")):
                cpu = line.partition(":")[2].strip()
                break
    engines = []
    for name in ("paddlepaddle", "paddlepaddle-gpu", "onnxruntime"):
        with contextlib.suppress(PackageNotFoundError):
            engines.append(f"{name} {version(name)}")
    return f"{cpu} x{os.cpu_count()}; " + ", ".join(engines)


def _model_key(package: Package, names: Sequence[str], threads: int, precision: str) -> str:
    shape = "x".join(map(str, package.meta["input"]["shape"][1:]))
    parts = [package.meta["name"], shape, f"classes {package.meta['class_num']}", precision, f"threads {threads}"]
    return "; ".join([*parts, "of " + "+".join(names)])


def _read_choices(path: Path) -> dict:
    try:
        content = json.loads(path.read_text())
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
    names = [name for name in usable(package, precision) if name != "lite"]  # a process of its own: never the fastest
    if not names and "lite" in usable(package, precision):
        return "lite"
    if not names:
        reasons = "\n    ".join(f"{name}: {why_not(package, name, precision)}" for name in BACKENDS)
        raise UserError(f"no backend can run this {precision} package here:\n    {reasons}", where=package.folder)
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
        form = choose_form(package, name, precision)
        try:
            runs[name] = BACKENDS[name].open(package, form, threads)
            runs[name](sample_input(package))
        except (RuntimeError, NotImplementedError):  # an engine may refuse one operator: it is then no candidate
            runs.pop(name, None)
    if not runs:
        raise UserError(f"none of {', '.join(names)} could open the package", where=package.folder)
    seconds = {name: undisturbed(times) for name, times in measure(runs, sample_input(package)).items()}
    if remember:
        remember_choice(package, threads, precision, seconds)
    return min(seconds, key=seconds.__getitem__)


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
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.{os.getpid()}")
        partial.write_text(json.dumps(choices, indent=1))
        os.replace(partial, path)
