"""A small Python environment for Paddle Lite's tools, which no current Python can install.

``paddlelite==2.13rc0`` has wheels for CPython 3.8, 3.9 and 3.10 on x86-64 Linux only, and with numpy 2 silently
computes garbage. So it lives in its own environment in the cache folder, made once, and is always run as another
process: opt ends by abort or a segmentation fault when it does not like a model.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from ppmobilenet import files
from ppmobilenet.errors import EXIT_OK, UserError
from ppmobilenet.machine import cache_folder, writable_folder
from ppmobilenet.telling import tell

LITE_VERSION = "v2.13-rc"
REQUIREMENTS = ("paddlelite==2.13rc0", "numpy==1.26.4")
# numpy 1.26 ended support for 3.8; 1.24 is as good there
REQUIREMENTS_38 = ("paddlelite==2.13rc0", "numpy==1.24.4")
VARIABLE = "PPMOBILENET_LITE_PYTHON"
NAME = "lite-2.13rc0"  # in the cache
SUPPORTED = ((3, 10), (3, 9), (3, 8))


class NoLite(UserError):
    """Paddle Lite's tools cannot be had here; the other forms can."""


def _version_of(python: Path) -> tuple[int, int] | None:
    """Return (major, minor) of a CPython interpreter, None if it is none."""
    script = "import sys; print(sys.implementation.name, *sys.version_info[:2])"
    try:
        done = subprocess.run([python, "-c", script], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    words = done.stdout.split()
    if done.returncode or len(words) != 3 or words[0] != "cpython":
        return None
    return int(words[1]), int(words[2])


def _imports(python: Path) -> str | None:
    """Return why the interpreter cannot import paddlelite with a fitting numpy, None if it can."""
    script = "import numpy, paddlelite.lite; assert int(numpy.__version__.split('.')[0]) < 2, 'numpy<2 is needed'"
    try:
        done = subprocess.run([python, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return None if done.returncode == 0 else (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]


def _candidates() -> Iterator[Path]:
    """Interpreters that may be of a supported version, the likeliest first."""
    for major, minor in SUPPORTED:
        found = shutil.which(f"python{major}.{minor}")
        if found:
            yield Path(found)
    roots = [os.environ.get("PYENV_ROOT"), "~/.pyenv"]
    for root in dict.fromkeys(Path(os.path.expanduser(r)) for r in roots if r):
        for major, minor in SUPPORTED:
            folders = sorted(
                root.glob(f"versions/{major}.{minor}.*"), key=lambda p: [int(n) for n in re.findall(r"\d+", p.name)]
            )
            yield from (folder / "bin/python" for folder in reversed(folders))
    uv = shutil.which("uv")
    if uv:
        for major, minor in SUPPORTED:
            done = subprocess.run(
                [uv, "python", "find", f"{major}.{minor}"], capture_output=True, text=True, timeout=60, check=False
            )
            if done.returncode == 0 and done.stdout.strip():
                yield Path(done.stdout.strip())


def find_interpreter() -> Path | None:
    """Return a CPython 3.10, 3.9 or 3.8 of this machine (PATH, pyenv, uv), or None."""
    for python in _candidates():
        if _version_of(python) in SUPPORTED:
            return python
    return None


def existing(folder: Path | None = None) -> Path | None:
    """Return the environment's interpreter if it is ready: named by ``PPMOBILENET_LITE_PYTHON``, or made earlier."""
    named = os.environ.get(VARIABLE)
    if named:
        return Path(named).expanduser()
    folder = folder or cache_folder(NAME)
    python = folder / "bin/python"
    return python if (folder / "complete").is_file() and python.exists() else None


def lite_python() -> Path:
    """Return an interpreter that imports paddlelite, making its environment at the first call.

    Raises:
        NoLite: none can be had; says exactly what to install.
    """
    named = os.environ.get(VARIABLE)
    if named:
        reason = _imports(Path(named).expanduser())
        if reason:
            raise NoLite(
                f"{VARIABLE} names {named}, which cannot import paddlelite: {reason}",
                hint=f"{named} -m pip install {' '.join(REQUIREMENTS)}",
            )
        return Path(named).expanduser()
    if platform.system() != "Linux" or platform.machine() not in ("x86_64", "AMD64"):
        raise NoLite(
            f"Paddle Lite's conversion tool exists for x86-64 Linux only, this is {platform.system()} "
            f"{platform.machine()}",
            hint="convert on a PC and copy the package here",
        )
    ready = existing()
    if ready:
        return ready
    folder = writable_folder("") / NAME
    with open(folder.with_name(NAME + ".lock"), "w") as lock, files.locked(lock):
        ready = existing(folder)
        if ready:
            return ready
        _make(folder)
        return folder / "bin/python"


def _make(folder: Path) -> None:
    """Make the environment in a folder, or leave nothing there."""
    interpreter = find_interpreter()
    if interpreter is None:
        raise NoLite(
            "paddlelite==2.13rc0 needs CPython 3.8, 3.9 or 3.10, and none was found (PATH, pyenv, uv)",
            hint="`pyenv install 3.10` or `uv python install 3.10` (or your system's python3.10), then again; or "
            f"set {VARIABLE} to an interpreter with {' '.join(REQUIREMENTS)}",
        )
    tell(f"making the Paddle Lite environment in {folder} with {interpreter} (once, about 260 MB)")
    shutil.rmtree(folder, ignore_errors=True)
    requirements = REQUIREMENTS_38 if _version_of(interpreter) == (3, 8) else REQUIREMENTS
    python = folder / "bin/python"
    try:
        for command in (
            [interpreter, "-m", "venv", folder],
            [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", *requirements],
        ):
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=900)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired, OSError) as error:
        shutil.rmtree(folder, ignore_errors=True)
        words = getattr(error, "stderr", None) or str(error)
        tail = "\n    ".join(str(words).strip().splitlines()[-5:])
        raise NoLite(
            f"the Paddle Lite environment could not be made:\n    {tail}",
            hint=f"with network: {interpreter} -m venv ENV && ENV/bin/pip install {' '.join(requirements)}, "
            f"then set {VARIABLE}=ENV/bin/python",
        ) from error
    reason = _imports(python)
    if reason:
        shutil.rmtree(folder, ignore_errors=True)
        raise NoLite(f"the Paddle Lite environment does not import: {reason}")
    (folder / "complete").touch()


def main() -> int:
    """Make the environment and print its interpreter; exit code 2, with what to do, where it cannot be made."""
    try:
        print(lite_python())
    except NoLite as error:
        print(f"{error.label}: {error}", file=sys.stderr)
        return error.exit_code
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
