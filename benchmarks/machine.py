"""What this machine and its processes are and use, read from /proc."""

import contextlib
import os
import platform
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
PINNED = shutil.which("taskset") is not None and (os.cpu_count() or 1) > 1
"""Whether processes can be kept apart: two CPUs and taskset."""


def pin(command: list[str], cpus: str) -> list[str]:
    """The command, kept to these CPUs: "0", "1" or "0,1"."""
    return ["taskset", "-c", cpus, *command] if PINNED else command


def family(pid: int | None) -> Iterator[int]:
    """A process and its descendants."""
    todo = [] if pid is None else [pid]
    while todo:
        one = todo.pop()
        with contextlib.suppress(OSError):
            yield one
            for task in Path(f"/proc/{one}/task").iterdir():
                todo += map(int, (task / "children").read_text().split())


def move(pid: int, cpus: set[int]) -> None:
    """Let a running process, its threads and its descendants use these CPUs only."""
    for one in family(pid):
        for task in Path(f"/proc/{one}/task").iterdir():
            with contextlib.suppress(OSError):
                os.sched_setaffinity(int(task.name), cpus)


def cpu_seconds(pid: int | None) -> float:
    """User and system time of a process and its descendants."""
    total = 0
    for one in family(pid):
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{one}/stat").read_text().rsplit(")", 1)[1].split()
            total += int(fields[11]) + int(fields[12])
    return total / TICKS


def megabytes(pid: int) -> float:
    """Resident memory of a process and its descendants; what they share counts for each."""
    pages = 0
    for one in family(pid):
        with contextlib.suppress(OSError):
            pages += int(Path(f"/proc/{one}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def busy_seconds() -> list[float]:
    """How long each CPU has been busy."""
    found = []
    for line in Path("/proc/stat").read_text().splitlines():
        if line.startswith("cpu") and line[3] != " ":
            user, nice, system, _idle, _iowait, irq, soft = map(int, line.split()[1:8])
            found.append((user + nice + system + irq + soft) / TICKS)
    return found


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def wait(condition: Callable[[], object], seconds: float, pause: float = 0.01) -> None:
    """Until the condition raises no OSError. TimeoutError when that takes too long."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            condition()
            return
        time.sleep(pause)
    raise TimeoutError


def output(*command: str) -> str:
    """What a command prints, on either stream; empty when it cannot be run."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        return (done.stdout + done.stderr).strip()
    return ""


def about() -> dict[str, str]:
    """Where figures come from."""
    models = [
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    return {
        "cpu": f"{len(models)} x {models[0]}" if models else f"{os.cpu_count()} CPUs",
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        "revision": output("git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"),
        "date": time.strftime("%Y-%m-%d"),
        **{name: metadata.version(name) for name in ("aiohttp", "uvloop")},
    }
