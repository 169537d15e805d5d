"""Cores that are really there."""

import os

import pytest

from ppmobilenet.machine import cgroup_cores, usable_cores


def tree(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("files", "membership", "cores"),
    [
        ({"cpu.max": "150000 100000\n"}, "0::/\n", 1.5),
        ({"cpu.max": "max 100000\n"}, "0::/\n", None),
        ({"a/b/cpu.max": "max 100000", "a/cpu.max": "50000 100000"}, "0::/a/b\n", 0.5),
        ({"a/b/cpu.max": "300000 100000", "a/cpu.max": "max 100000"}, "0::/a/b\n", 3),
        ({"cpu/job/cpu.cfs_quota_us": "200000", "cpu/job/cpu.cfs_period_us": "100000"}, "4:cpu,cpuacct:/job\n", 2),
        ({"cpu/job/cpu.cfs_quota_us": "-1", "cpu/job/cpu.cfs_period_us": "100000"}, "4:cpu,cpuacct:/job\n", None),
        # a container that sees its own group as the root: the path in its membership is the host's
        ({"cpu.max": "100000 100000"}, "0::/docker/0123\n", 1),
        ({"cpu.max": "nonsense"}, "0::/\n", None),
        ({}, "", None),
    ],
)
def test_control_groups(tmp_path, files, membership, cores):
    (tmp_path / "membership").write_text(membership)
    assert cgroup_cores(tree(tmp_path / "cgroup", files), tmp_path / "membership") == cores


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity masks here")
def test_affinity_mask():
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert usable_cores() == 1
    finally:
        os.sched_setaffinity(0, before)


def test_processes_share_the_cores(monkeypatch):
    monkeypatch.setattr("ppmobilenet.machine.cgroup_cores", lambda: 1000)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert [usable_cores(n) for n in (1, 2, 3, 8, 9)] == [8, 4, 2, 1, 1]
    monkeypatch.setenv("PADDLE_LOCAL_SIZE", "4")
    assert usable_cores() == 2
    monkeypatch.setattr("ppmobilenet.machine.cgroup_cores", lambda: 2.5)
    assert usable_cores(1) == 3
