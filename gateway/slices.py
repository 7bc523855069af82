"""How long a worker keeps its CPU where several workers must share one."""

import contextlib
import ctypes
import os
import platform
import struct
import sys

SLICE = 0.05
"""Seconds that a worker may run before another one that waits has its turn. Linux knows 0.1 to 100 ms since 6.12."""
_SCHED_SETATTR = {"x86_64": 314, "aarch64": 274}
"""The number of a system call that C libraries have no function for."""


_ATTRIBUTES = struct.Struct("=IIQiIQQQ")
"""Linux' ``struct sched_attr`` in its first form: size, policy, flags, nice, priority, runtime, deadline, period."""


def take_long_turns() -> None:
    """Have this process and its threads run for longer at a time, and never break in on another: SCHED_BATCH.

    Every turn begins with caches that hold another worker's data, which costs about 0.2 ms; Linux' own turns are of 1 to
    3 ms. For workers that outnumber their CPUs only: whoever has a CPU waits for nobody. Does nothing where the system
    has or allows no such thing.
    """
    call = _SCHED_SETATTR.get(platform.machine()) if sys.platform == "linux" else None
    if call is None:
        return
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
        wanted = _ATTRIBUTES.pack(_ATTRIBUTES.size, os.SCHED_BATCH, 0, os.nice(0), 0, int(SLICE * 1e9), 0, 0)
        ctypes.CDLL(None).syscall(call, 0, wanted, 0)


def are_shared(workers: int) -> bool:
    """Whether so many workers are more than the CPUs that this process may use."""
    return sys.platform == "linux" and workers > len(os.sched_getaffinity(0))
