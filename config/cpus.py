"""How many CPUs this process may use."""

import math
import os
from collections.abc import Iterator
from pathlib import Path

SYSTEM = Path("/")


def available(root: Path = SYSTEM) -> int:
    """CPUs that this process may run on and that its control group has time for; a part of a CPU counts as one.

    ``root`` is where ``proc`` and ``sys`` are. At least 1. A container's limit is a quota of time (Linux' ``cpu.max``, of
    its group or one above it; ``cpu.cfs_quota_us`` before cgroup v2), of which the CPUs that it may run on tell nothing.
    """
    own = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([own, *map(math.ceil, _quotas(root))]))


def _quotas(root: Path) -> Iterator[float]:
    """CPUs, of each group that has a limit."""
    groups = root / "sys/fs/cgroup"
    for line in _text(root / "proc/self/cgroup").splitlines():
        controllers, _, path = line.partition(":")[2].partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        own = Path(path.lstrip("/"))
        # Up to the root: seen from within a container that is its group, whatever the path says.
        for group in (own, *own.parents):
            if controllers:
                of = groups / "cpu" / group
                quota, period = _text(of / "cpu.cfs_quota_us"), _text(of / "cpu.cfs_period_us")
            else:
                quota, _, period = _text(groups / group / "cpu.max").partition(" ")
            if quota.strip().isdigit() and period.strip().isdigit() and int(period):  # else `max`, -1, or no such file
                yield int(quota) / int(period)


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""
