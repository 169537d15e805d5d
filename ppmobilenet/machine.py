"""What this machine gives: a folder for what is kept, and the cores that are really there."""

from __future__ import annotations

import atexit
import functools
import math
import os
import shutil
import tempfile
from pathlib import Path

from ppmobilenet.errors import UserError
from ppmobilenet.telling import log


def cache_folder(part: str = "") -> Path:
    """Return a part of the cache: downloaded weights, compiled operators, what was measured on this machine.

    It is ``$PPMOBILENET_HOME``, else ``$XDG_CACHE_HOME/ppmobilenet``, else ``~/.cache/ppmobilenet``. It may be missing,
    and it may be that it cannot be written: read it if it is there, and write to :func:`writable_folder`.
    """
    own = os.environ.get("PPMOBILENET_HOME")
    base = Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "ppmobilenet"
    try:
        return base.expanduser() / part
    except RuntimeError:  # a user without a home: a place where nothing can be, so that nothing is found or kept
        return Path(os.devnull) / "ppmobilenet" / part


def writable_folder(part: str, mode: int = 0o777) -> Path:
    """Return a part of the cache, made and writable; where it cannot be, a folder that goes when this process ends.

    Args:
        part: of the cache.
        mode: who may read and write it, where it is made now.

    Raises:
        UserError: the temporary folder cannot be written either.
    """
    folder = cache_folder(part)
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=mode)
        if os.access(folder, os.W_OK | os.X_OK):
            return folder
        reason = "it cannot be written"
    except OSError as error:
        reason = error.strerror or str(error)
    return _temporary_folder(part, os.getpid(), str(folder), reason)


@functools.cache
def _temporary_folder(part: str, owner: int, instead_of: str, reason: str) -> Path:
    """Make a folder of this process, and remove those that killed processes left."""
    name = f"ppmobilenet-{part or 'cache'}-"
    try:
        for left in Path(tempfile.gettempdir()).glob(f"{name}*"):
            pid = left.name[len(name) :].partition("-")[0]
            if pid.isdigit() and not process_lives(int(pid)):
                shutil.rmtree(left, ignore_errors=True)
        folder = Path(tempfile.mkdtemp(prefix=f"{name}{owner}-"))
    except OSError as error:
        raise UserError(
            f"neither the cache {instead_of} ({reason}) nor a temporary folder can be written: {error.strerror}",
            hint="set PPMOBILENET_HOME or TMPDIR to a folder that can be written",
        ) from error
    atexit.register(_remove, folder, owner)
    log.info("%s: %s; what would be kept there goes with this process (PPMOBILENET_HOME)", instead_of, reason)
    return folder


def _remove(folder: Path, owner: int) -> None:
    if os.getpid() == owner:  # a forked child's end is not ours
        shutil.rmtree(folder, ignore_errors=True)


def process_lives(pid: int) -> bool:
    """Whether there is a process of that number."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def cgroup_cores(root: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")) -> float | None:
    """The CPU limit of this process's control groups (containers, batch systems) in cores, or None.

    Reads version 2 (``cpu.max`` of the group and of those above it) and version 1 (``cpu.cfs_quota_us``).
    """
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        lines = []
    limits = []
    for line in [*lines, "0::/"]:
        hierarchy, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if hierarchy != "0" and "cpu" not in controllers.split(","):
            continue
        base = root if hierarchy == "0" else root / "cpu"
        group = base / path.strip("/")
        for folder in (group, *group.parents):
            limits.append(_limit(folder))
            if folder == base:
                break
    return min((limit for limit in limits if limit), default=None)


def _limit(folder: Path) -> float | None:
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text().split()[:2]
        else:
            quota = (folder / "cpu.cfs_quota_us").read_text().strip()
            period = (folder / "cpu.cfs_period_us").read_text().strip()
        return int(quota) / int(period) if quota != "max" and int(quota) > 0 else None
    except (OSError, ValueError):
        return None


def usable_cores(processes: int | None = None) -> int:
    """Cores for one of ``processes`` on this machine, at least 1.

    The smallest of the machine's cores, the affinity mask and the control group's limit (rounded up), divided by the
    processes that share them: by default those of ``paddle.distributed.launch`` on this node.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = cgroup_cores()
    if limit:
        cores = min(cores, math.ceil(limit))
    if processes is None:
        processes = int(os.environ.get("PADDLE_LOCAL_SIZE") or 1)
    return max(1, cores // max(1, processes))
