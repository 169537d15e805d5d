"""What this machine gives: a folder for what is kept, and the cores that are really there."""

from __future__ import annotations

import math
import os
from pathlib import Path


def cache_folder(part: str = "") -> Path:
    """Return a part of the cache: downloaded weights, compiled operators, what was measured on this machine.

    It is ``$PPMOBILENET_HOME``, else ``$XDG_CACHE_HOME/ppmobilenet``, else ``~/.cache/ppmobilenet``.
    """
    own = os.environ.get("PPMOBILENET_HOME")
    base = Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "ppmobilenet"
    return base.expanduser() / part


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
