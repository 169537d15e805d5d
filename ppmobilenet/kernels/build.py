"""Compile the engine on first use, keep it in the cache folder, load it.

Plain C++ behind a C interface, loaded with ctypes: nothing of Paddle's headers or ABI is involved, so one source
builds in seconds, serves every Paddle version, and runs unchanged under the sanitizers.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ppmobilenet import files, telling
from ppmobilenet.errors import UserError
from ppmobilenet.machine import cache_folder, writable_folder
from ppmobilenet.telling import log

SOURCES = Path(__file__).parent / "src"
COMMON = ("-std=c++17", "-fPIC", "-pthread", "-O3", "-ffp-contract=fast")

# engine, floats in a vector register, what the compiler may use; the order is that of ppm_instruction_set()
INSTRUCTION_SETS = (
    ("baseline", 4, ()),
    ("avx2", 8, ("-mavx2", "-mfma")),
    (
        "avx512",
        16,
        ("-mavx512f", "-mavx512dq", "-mavx512vl", "-mavx512bw", "-mavx2", "-mfma", "-mprefer-vector-width=512"),
    ),
)


class Unavailable(Exception):
    """The kernels cannot run here; the message says why in half a line."""


def find_compiler() -> list[str]:
    """``$CXX``, else the first of g++, c++, clang++ on the path, as the words of a command."""
    if os.environ.get("CXX"):
        return shlex.split(os.environ["CXX"])
    for name in ("g++", "c++", "clang++"):
        if shutil.which(name):
            return [name]
    raise Unavailable("no C++ compiler (g++, c++, clang++ or $CXX)")


def compile_library(target: Path, compiler: Sequence[str], extra: Sequence[str] = (), with_main: Path | None = None):
    """Compile the engine, one object per instruction set, and link it to ``target``.

    Args:
        target: the shared library, or the program if ``with_main`` is given.
        compiler: its command.
        extra: more flags for compiling and linking, for example ``-fsanitize=address``.
        with_main: a C++ file with ``main``.

    Raises:
        Unavailable: with the first line of the compiler's complaint.
    """
    sets = INSTRUCTION_SETS if platform.machine() in ("x86_64", "AMD64") else INSTRUCTION_SETS[:1]
    with tempfile.TemporaryDirectory() as folder:
        jobs = [
            (SOURCES / "engine.cc", f"{name}.o", [*flags, f"-DWIDTH={width}", f"-DENGINE=engine_{name}"])
            for name, width, flags in sets
        ]
        jobs += [(SOURCES / f"{name}.cc", f"{name}.o", []) for name in ("layout", "team", "api")]
        if with_main:
            jobs.append((with_main, "main.o", [f"-I{SOURCES}"]))

        def run(source: Path | None, out: str, flags: Sequence[str]) -> None:
            source_or_link = ["-c", str(source)] if source else []
            command = [*compiler, *COMMON, *extra, *source_or_link, *flags, "-o", out]
            try:
                done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600)
            except (OSError, subprocess.TimeoutExpired) as error:
                raise Unavailable(f"{compiler[0]} did not run: {error}") from error
            if done.returncode:
                complaint = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines()
                raise Unavailable(f"{compiler[0]} failed: {complaint[0].strip() if complaint else done.returncode}")

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for job in [pool.submit(run, *job) for job in jobs]:
                job.result()
        run(None, str(target), [*(out for _, out, _ in jobs), *([] if with_main else ["-shared"])])


@functools.lru_cache(maxsize=1)
def load_library() -> ctypes.CDLL:
    """Load the engine, compiled before or now (some fifteen seconds, with a line that says so).

    Raises:
        Unavailable: no compiler, a failed compilation, an unwritable cache, or another system than Linux.
    """
    if not sys.platform.startswith("linux"):
        raise Unavailable(f"the kernels are built on Linux only, this is {sys.platform}")
    compiler = find_compiler()
    try:
        version = subprocess.run([*compiler, "--version"], capture_output=True, text=True, timeout=60).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"{compiler[0]} did not run: {error}") from error
    digest = hashlib.sha256("\n".join([*compiler, version, *COMMON, str(INSTRUCTION_SETS)]).encode())
    for source in sorted(SOURCES.iterdir()):
        digest.update(source.read_bytes())
    name = f"{platform.machine()}-{digest.hexdigest()[:16]}.so"
    folder = cache_folder("kernels")
    target = folder / name
    try:
        if not target.exists():
            folder = writable_folder("kernels", mode=0o700)
            target = folder / name
            # of processes that start together one compiles
            with open(folder / "lock", "w") as lock, files.locked(lock):
                if not target.exists():
                    with telling.aloud():
                        log.info("cpu_kernels: compiling for this machine, once, into %s ...", folder)
                    fresh = files.beside(target)
                    try:
                        compile_library(fresh, compiler)
                        files.settle(fresh, target)
                    finally:
                        files.remove(fresh)
        return open_library(target)
    except (OSError, UserError) as error:
        raise Unavailable(f"cannot build into {folder}: {error}") from error


def open_library(path: Path) -> ctypes.CDLL:
    """Load what :func:`compile_library` made."""
    library = ctypes.CDLL(str(path))
    for name in ("ppm_sizes", "ppm_forward", "ppm_backward", "ppm_instruction_set"):
        getattr(library, name).restype = ctypes.c_int32
    return library
