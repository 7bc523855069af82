"""Does memory grow? Mixed traffic for many minutes, and the slope of each contestant's resident memory.

All contestants run at once, each under its own load: requests at a steady rate, streams, translated streams, requests
that are refused, and clients that leave in the middle of a stream. Memory is read every second; the first fifth is
warming up and not counted. The slope is a least-squares line through the means of thirty equal spans, since readings
a second apart say nearly the same; its error is the 95 % interval of that fit, so a slope within its error is none. The
bare proxy keeps nothing: its slope is the control.
"""

import argparse
import math
import statistics
import tempfile
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from .bench import Bench
from .contestants import CONTESTANTS
from .machine import about, megabytes
from .measures import Row, failed
from .report import publish

SPANS = 30
STUDENT = 2.048
"""The 97.5 % point of Student's t with SPANS - 2 degrees of freedom."""
WARMING = 0.2
TRAFFIC = {
    "requests": (("-c", "32", "-r", "100"), False),
    "streams": (("-c", "10"), True),
    "translated": (("-c", "5"), True),
    "refused": (("-c", "2", "-r", "2"), False),
    "leaving": (("-c", "5", "-t", "0.5"), True),
}
"""What -> arguments of the load generator, and whether it asks for streams. Who is `leaving` waits half a second for a
stream of 0.64 s."""


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--contestants", default="bare,sluice,redis", metavar="NAME,...")
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the figures; other parts of the file stay")
    arguments = parser.parse_args()
    names = arguments.contestants.split(",")
    with tempfile.TemporaryDirectory(prefix="sluice-bench-") as folder, Bench(Path(folder)) as bench:
        bench.upstream(latency_us=5000, gap_us=10_000, chunks=64, burst=0)
        for name in names:
            bench.start(name)
        found = soak(bench, names, arguments.minutes * 60)
    publish("soak", found, arguments.json, **about())


def soak(bench: Bench, names: Sequence[str], seconds: float) -> dict[str, Any]:
    memory: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    over = threading.Event()

    def watch() -> None:
        began = time.monotonic()
        while not over.wait(1.0):
            for name in names:
                pid = bench.running[name].pid
                memory[name].append((time.monotonic() - began, megabytes(pid or 0)))

    jobs = [(name, what) for name in names for what in TRAFFIC if what != "translated" or CONTESTANTS[name].translated]
    with ThreadPoolExecutor(len(jobs) + 1) as pool:
        watching = pool.submit(watch)
        rows = dict(zip(jobs, pool.map(lambda job: drive(bench, job[0], job[1], seconds), jobs), strict=True))
        over.set()
        watching.result()
    return {
        name: summary(memory[name], {what: rows[n, what] for n, what in jobs if n == name}, seconds) for name in names
    }


def drive(bench: Bench, name: str, what: str, seconds: float) -> Row:
    load, stream = TRAFFIC[what]
    model = {"translated": CONTESTANTS[name].translated, "refused": "no-such-model"}.get(what, "")
    return bench.load(name, ("-d", f"{seconds:.1f}", *load), stream, model, timeout=seconds + 120)


def summary(readings: list[tuple[float, float]], rows: dict[str, Row], seconds: float) -> dict[str, Any]:
    counted = [(at, mb) for at, mb in readings if WARMING * seconds <= at <= seconds]
    slope, error = line(spans(counted, SPANS))
    wanted = [rows[what] for what in rows if what not in ("refused", "leaving")]
    return {
        "minutes": seconds / 60,
        "requests": sum(row["started"] for row in rows.values()),
        "streams": sum(row["started"] for what, row in rows.items() if TRAFFIC[what][1]),
        "failed": sum(map(failed, wanted)),
        "first_mb": counted[0][1],
        "last_mb": counted[-1][1],
        "slope": slope * 3600,
        "error": error * 3600,
        "readings": readings,
    }


def spans(readings: Sequence[tuple[float, float]], count: int) -> list[tuple[float, float]]:
    """The mean time and value of equal parts."""
    size = max(1, len(readings) // count)
    parts = [readings[start : start + size] for start in range(0, size * count, size)]
    return [(mean(at for at, _ in part), mean(value for _, value in part)) for part in parts if part]


def line(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """The least-squares slope and the half width of its 95 % interval, per unit of time."""
    centre, middle = mean(x for x, _ in points), mean(y for _, y in points)
    spread = sum((x - centre) ** 2 for x, _ in points)
    slope = sum((x - centre) * (y - middle) for x, y in points) / spread
    rest = sum((y - middle - slope * (x - centre)) ** 2 for x, y in points)
    return slope, STUDENT * math.sqrt(rest / max(1, len(points) - 2) / spread)


def mean(values: Iterable[float]) -> float:
    return statistics.fmean(values)


if __name__ == "__main__":
    main()
