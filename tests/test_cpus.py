"""How many workers `auto` is: as many as CPUs that the process may use."""

import os
from pathlib import Path

import pytest

from config import ConfigError, cpus, parse

OWN = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def system(root: Path, groups: str, **files: str) -> Path:
    """A root with these files in it: `proc/self/cgroup` and those of control groups."""
    for path, text in {"proc/self/cgroup": groups, **files}.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return root


@pytest.mark.parametrize(
    ("groups", "files", "quota"),
    [
        ("0::/\n", {"sys/fs/cgroup/cpu.max": "100000 100000\n"}, 1),
        ("0::/\n", {"sys/fs/cgroup/cpu.max": "20000 100000\n"}, 1),
        ("0::/\n", {"sys/fs/cgroup/cpu.max": "100001 100000\n"}, 2),
        ("0::/a/b\n", {"sys/fs/cgroup/a/b/cpu.max": "50000 100000\n"}, 1),
        ("0::/a/b\n", {"sys/fs/cgroup/a/b/cpu.max": "max 100000\n", "sys/fs/cgroup/a/cpu.max": "10000 100000\n"}, 1),
        ("0::/host/path\n", {"sys/fs/cgroup/cpu.max": "90000 100000\n"}, 1),
        (
            "12:memory:/x\n4:cpu,cpuacct:/x\n",
            {"sys/fs/cgroup/cpu/x/cpu.cfs_quota_us": "50000\n", "sys/fs/cgroup/cpu/x/cpu.cfs_period_us": "100000\n"},
            1,
        ),
    ],
    ids=["one", "a part", "a little more", "own group", "a group above", "a container's", "version 1"],
)
def test_a_quota_of_time_counts_as_cpus(tmp_path: Path, groups: str, files: dict[str, str], quota: int) -> None:
    assert cpus.available(system(tmp_path, groups, **files)) == min(OWN, quota)


@pytest.mark.parametrize(
    ("groups", "files"),
    [
        ("0::/\n", {}),
        ("0::/\n", {"sys/fs/cgroup/cpu.max": "max 100000\n"}),
        ("0::/\n", {"sys/fs/cgroup/cpu.max": "1000000000 100000\n"}),
        ("0::/a\n", {"sys/fs/cgroup/b/cpu.max": "10000 100000\n"}),
        ("4:cpu:/\n", {"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "1\n"}),
        ("4:cpu:/\n", {"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "10000\n"}),
        ("0::/\n", {"sys/fs/cgroup/cpu.max": "10000\n"}),
        ("0::/\n", {"sys/fs/cgroup/cpu.max": "10000 0\n"}),
        ("nonsense\n", {}),
        ("", {}),
    ],
    ids=["none", "max", "plenty", "another's", "version 1", "no period", "half", "zero", "nonsense", "empty"],
)
def test_without_a_quota_it_is_the_cpus_that_the_process_may_run_on(
    tmp_path: Path, groups: str, files: dict[str, str]
) -> None:
    assert cpus.available(system(tmp_path, groups, **files)) == OWN


def test_a_system_without_such_files_has_the_cpus_that_the_process_may_run_on(tmp_path: Path) -> None:
    assert cpus.available(tmp_path) == OWN


def configured(workers: object, redis: bool = True) -> int:
    text = f"server: {{workers: {workers}}}\n" + ("redis: {url: 'redis://127.0.0.1:1/0'}\n" if redis else "")
    return parse(text).server.workers


def test_auto_is_as_many_workers_as_cpus() -> None:
    assert configured("auto") == cpus.available()
    assert configured("'auto'") == cpus.available()
    assert configured(7) == 7


@pytest.mark.skipif(OWN < 2, reason="one CPU, one worker")
def test_auto_needs_redis_as_any_number_does() -> None:
    with pytest.raises(ConfigError, match=r"server\.workers: more than one worker needs `redis`"):
        configured("auto", redis=False)


@pytest.mark.parametrize("workers", ["many", "0", "257", "1.5", "[]", "null"])
def test_anything_else_is_refused(workers: str) -> None:
    with pytest.raises(ConfigError, match=r"server\.workers"):
        configured(workers)
