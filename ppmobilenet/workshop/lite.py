"""Paddle's legacy program -> Paddle Lite ``.nb`` files. ``field/engines/lite_runtime.py`` runs the x86 ones.

What is known of version 2.13-rc: an ``.nb`` for ARM that the x86 runtime loads raises nothing and answers zeros, and
int8 on x86 answers garbage, so only ``x86_fp32.nb`` is run and compared here. Whether the int8 model is right is proven
with Paddle Inference; the ARM files on the board, by ``classify --self-test``.
"""

from __future__ import annotations

import signal
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from ppmobilenet.errors import DamagedFileError, UserError
from ppmobilenet.field.engines import lite_env
from ppmobilenet.field.engines.lite_file import HEADER_META, VERSION_BYTES, read_version
from ppmobilenet.telling import log

TARGETS = {"armv8": "arm", "armv7": "arm", "x86": "x86"}  # our name -> opt's; the arm file's kernels fit both
PRECISIONS = ("fp32", "fp16", "int8")
TIME_LIMIT = 300.0  # seconds; MobileNetV2 takes about two

WARNINGS = {
    "fp16": "fp16 needs an ARMv8.2 processor with half-precision arithmetic (Cortex-A55, A75 or newer): on a "
    "Cortex-A53 or A72 it ends with SIGILL; probabilities differ from fp32 by up to 5e-2",
    ("armv7", "int8"): "int8 on 32-bit ARM was measured slower than fp32 for MobileNetV1 and V2 (published Snapdragon "
    "855 latencies): take it for the size, or use armv8",
}


def convert(
    model: Path,
    parameters: Path,
    folder: Path,
    target: str,
    precision: str = "fp32",
) -> Mapping:
    """Write ``<target>_<precision>.nb`` into the folder; return its form for package.json.

    Args:
        model: a legacy ``.pdmodel`` saved with ``clip_extra=False``; for int8 the quantized program.
        parameters: its ``.pdiparams``.
        folder: the package being written.
        target: ``"armv8"``, ``"armv7"`` or ``"x86"``.
        precision: ``"fp32"``, ``"fp16"`` or ``"int8"`` (the program must be quantized).

    Raises:
        NoLite: the tool cannot be had here.
        UserError: opt refused the model or crashed; with the end of its log.
    """
    python = lite_env.lite_python()
    for key in (precision, (target, precision)):
        if key in WARNINGS:
            log.info("warning: %s", WARNINGS[key])
    out = folder / f"{target}_{precision}"
    run_opt(python, model, parameters, out, TARGETS[target], precision == "fp16")
    path = out.with_suffix(".nb")
    # int8 keeps one byte a weight of convolutions; nothing that converted right is smaller than that
    least = parameters.stat().st_size * (0.2 if precision == "int8" else 0.4 if precision == "fp16" else 0.8)
    version = check_converted(path, int(least))
    return {
        "name": f"lite-{target}-{precision}",
        "engine": "lite",
        "precision": precision,
        "target": target,
        "files": [path.name],
        "opt_version": version,
        "compared": False,
    }


def run_opt(python: Path, model: Path, parameters: Path, out: Path, target: str, fp16: bool) -> None:
    """Run Paddle Lite's opt as a process with a time limit; it writes ``<out>.nb``.

    Raises:
        UserError: it crashed, hung or wrote nothing.
    """
    worker = Path(lite_env.__file__).with_name("lite_worker.py")
    command = [str(python), str(worker), "convert", str(model), str(parameters), str(out), target, str(int(fp16))]
    written = Path(f"{out}.nb")
    written.unlink(missing_ok=True)
    with tempfile.TemporaryFile("w+", errors="replace") as printed:
        try:
            code = subprocess.run(command, stdout=printed, stderr=printed, timeout=TIME_LIMIT, check=False).returncode
            how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        except subprocess.TimeoutExpired:
            code, how = 1, f"no end after {TIME_LIMIT:.0f} s"
        printed.seek(0)
        lines = [line.strip() for line in printed if line.strip()]
    if code == 0 and written.is_file():
        return
    written.unlink(missing_ok=True)
    # opt names the trouble long before it dies: an unsupported operator, a missing attribute
    telling = [line for line in lines if "Error" in line or "not supported" in line or "unsupported" in line.lower()]
    tail = "\n    ".join(dict.fromkeys([*telling[-4:], *lines[-8:]]))
    raise UserError(
        f"Paddle Lite's opt could not convert the model ({how}):\n    {tail or '(it printed nothing)'}",
        where=f"opt {lite_env.LITE_VERSION}, target {target}",
        hint="an operator that Lite does not have must leave the model; MobileNetV1 to V3 and V4's conv ones convert",
    )


def check_converted(path: Path, at_least: int) -> str:
    """Check an ``.nb`` that opt just wrote and return opt's version.

    opt leaves old memory behind the version's text; it is cleared, so that equal models are equal files.

    Raises:
        DamagedFileError: it is no ``.nb``, or smaller than ``at_least`` bytes.
    """
    version, size = read_version(path), path.stat().st_size
    if size < at_least:
        raise DamagedFileError(
            f"the file has {size} bytes, less than the {at_least} that its weights need: the conversion lost some",
            where=path,
        )
    with open(path, "r+b") as file:
        file.seek(len(HEADER_META))
        file.write(version.encode().ljust(VERSION_BYTES, b"\0"))
    return version
