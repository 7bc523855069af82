"""Workers that share a CPU take longer turns, the others none."""

import os
import subprocess
import sys

import pytest

from gateway import slices

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has them")
PROGRAM = """
import os, threading
from gateway.slices import take_long_turns
os.nice(3)
take_long_turns()
of_a_thread = []
thread = threading.Thread(target=lambda: of_a_thread.append(os.sched_getscheduler(threading.get_native_id())))
thread.start()
thread.join()
with open("/proc/self/sched") as file:
    slice_ns = [line.split(":")[1].strip() for line in file if line.startswith("se.slice")]
print(os.sched_getscheduler(0), *of_a_thread, os.nice(0), *slice_ns)
"""


def test_a_process_and_its_threads_take_long_turns_and_stay_as_nice_as_they_were() -> None:
    said = subprocess.run(
        [sys.executable, "-c", PROGRAM], check=True, timeout=60, capture_output=True, text=True
    ).stdout
    own, thread, nice, *slice_ns = map(int, said.split())
    assert own == thread == os.SCHED_BATCH
    assert nice == 3
    if tuple(map(int, os.uname().release.split(".")[:2])) >= (6, 12):
        assert slice_ns in ([], [int(slices.SLICE * 1e9)])


def test_workers_share_cpus_where_there_are_more_of_them() -> None:
    cpus = len(os.sched_getaffinity(0))
    assert not slices.are_shared(cpus)
    assert slices.are_shared(cpus + 1)
