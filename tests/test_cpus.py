"""How many workers `auto` is: as many as CPUs that the process may use; and what is made of it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

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


REDIS = "redis: {url: 'redis://127.0.0.1:1/0'}\n"


def configured(workers: object) -> int:
    return parse(f"server: {{workers: {workers}}}\n{REDIS}").server.workers


def test_auto_is_as_many_workers_as_cpus() -> None:
    assert configured("auto") == cpus.available()
    assert configured("'auto'") == cpus.available()
    assert configured(7) == 7


@pytest.mark.skipif(cpus.available() < 2, reason="one CPU, one worker")
def test_auto_needs_redis_as_any_number_does_and_the_message_says_what_it_is() -> None:
    told = rf"server\.workers: more than one worker \(auto is {cpus.available()} here\) needs `redis`: "
    with pytest.raises(ConfigError, match=told):
        parse("server: {workers: auto}")


@pytest.mark.skipif(cpus.available() < 2, reason="no queue is below one worker")
def test_a_queue_that_is_too_small_for_auto_is_told_what_it_is() -> None:
    text = (
        "providers: {p: {adapter: openai}}\nmodels: {m: {queue: {capacity: 1}, deployments: [{provider: p, model: m}]}}"
    )
    told = rf"models\.m\.queue\.capacity: below server\.workers \(auto is {cpus.available()} here\), so some worker "
    with pytest.raises(ConfigError, match=told):
        parse(f"server: {{workers: auto}}\n{REDIS}{text}")


@pytest.mark.skipif(cpus.available() < 2, reason="needs two numbers of CPUs")
def test_the_same_file_has_the_same_version_whatever_auto_is() -> None:
    few, many = on_cpus(1, "auto"), on_cpus(2, "auto")
    assert (few["workers"], many["workers"]) == (1, 2)
    assert few["version"] == many["version"]
    assert many["version"] != on_cpus(2, "2")["version"], "which says another thing elsewhere"
    assert (few["shown"], many["shown"]) == (1, 2), "as `sluice check` prints it"


def on_cpus(number: int, workers: str) -> dict[str, Any]:
    """What a process that may use so many CPUs makes of the same file."""
    code = (
        "import json, os\n"
        f"os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:{number}])\n"
        "from config import parse\n"
        "from gateway.effective import effective\n"
        "from gateway.generation import version\n"
        f"config = parse({f'server: {{workers: {workers}}}{chr(10)}{REDIS}'!r})\n"
        "shown = effective(config)['server']['workers']\n"
        "print(json.dumps({'workers': config.server.workers, 'version': version(config), 'shown': shown}))\n"
    )
    made: dict[str, Any] = json.loads(subprocess.check_output([sys.executable, "-c", code], text=True, timeout=30))
    return made


@pytest.mark.parametrize("workers", ["many", "0", "257", "1.5", "[]", "null"])
def test_anything_else_is_refused(workers: str) -> None:
    with pytest.raises(ConfigError, match=r"server\.workers"):
        configured(workers)
