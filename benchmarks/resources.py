"""What a gateway needs to be there at all: seconds and CPU to its first answer, memory idle and after many requests.

Each contestant is started alone, on a new folder and then again on the same one (Sluice's database exists then), as
often as `--starts` says; medians. Memory is resident, `--settled` seconds after the first answer of either and, on the existing
database, after the last of `--requests`: over 64 connections, half of them streams of 16 chunks. MB are 10^6 bytes.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from .bench import Bench, Running
from .contestants import CONTESTANTS
from .machine import about, megabytes
from .measures import failed
from .report import publish

CONNECTIONS = 64


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.resources", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--contestants", default="bare,off,sluice,redis", metavar="NAME,...")
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--starts", type=int, default=5)
    parser.add_argument("--settled", type=float, default=2.0, help="seconds after which memory is read")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the figures; other parts of the file stay")
    arguments = parser.parse_args()
    found = {}
    for name in arguments.contestants.split(","):
        if name not in CONTESTANTS or not CONTESTANTS[name].command:
            parser.error(f"no contestant {name!r} to start")
        with tempfile.TemporaryDirectory(prefix="sluice-bench-") as folder, Bench(Path(folder)) as bench:
            found[name] = needs(bench, name, arguments.starts, arguments.requests, arguments.settled)
        print(f"{name} done", file=sys.stderr, flush=True)
    publish("resources", found, arguments.json, **about())


def needs(bench: Bench, name: str, starts: int, requests: int, settled: float) -> dict[str, Any]:
    found: dict[str, list[tuple[Running, float]]] = {"new": [], "existing": []}
    for number in range(starts):
        for times in found.values():
            running = bench.start(name, folder=f"{name}-{number}")
            time.sleep(settled)
            times.append((running, megabytes(running.pid or 0)))
            if (number, times) != (starts - 1, found["existing"]):
                bench.stop(name)
    bench.upstream(latency_us=0, gap_us=1000, chunks=16, burst=0)
    each = str(-(-requests // 2 // CONNECTIONS))
    rows = [bench.load(name, ("-c", str(CONNECTIONS), "-n", each, "-d", "3000"), stream) for stream in (False, True)]
    time.sleep(settled)
    return {
        **{key: medians(times) for key, times in found.items()},
        "requests": sum(row["ok"] for row in rows),
        "failed": sum(map(failed, rows)),
        "after_mb": megabytes(bench.running[name].pid or 0),
    }


def medians(times: list[tuple[Running, float]]) -> dict[str, float]:
    return {
        "wall": statistics.median(running.wall for running, _ in times),
        "cpu": statistics.median(running.cpu for running, _ in times),
        "idle_mb": statistics.median(mb for _, mb in times),
    }


if __name__ == "__main__":
    main()
