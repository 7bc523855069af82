"""How four workers scale: requests/s for each CPU that they use, beside one worker's.

Workers share their counters through Redis, so one worker with Redis is what they are compared with. Two ways, since
load and upstream need CPU too, and a machine with two CPUs has none to spare for them:

  4 on 1 CPU    the workers have the CPU that one worker has in `1 on 1 CPU`, load, upstream and Redis the other.
  4 on all CPUs workers, load, upstream and Redis run where they like, as they do in `1 on all CPUs`.

As many workers as CPUs serve, and those beyond stand by. `auto on all CPUs` has only as many, as `server.workers: auto`
starts them.

Requests/s for each CPU used are requests over the CPU seconds of the workers and their parent; efficiency is the
ratio of that to one worker's in the same place. Each worker gets 64 connections: four get 256. `1 with 256` gets as
many as those four, alone: what it loses is the crowd's. Of `4 with 64 a CPU`, each CPU gets what one worker's has:
what they lose is the workers'. The bare proxy does the same with nothing shared, as a control: what it loses is the
machine's. Rounds are interleaved; medians, and for efficiencies medians of the rounds' ratios.
"""

import argparse
import os
import statistics
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .bench import DRIVER, GATEWAY, Bench
from .contestants import CONTESTANTS, Contestant, sluice
from .machine import about
from .measures import Row, by_cpu
from .report import publish

ALL = frozenset(os.sched_getaffinity(0))
COUNT = 4
EACH = 64
"""Connections for each worker."""


@dataclass(frozen=True, slots=True)
class Setting:
    contestant: Contestant
    spread: bool
    """Over all CPUs, the load too."""
    beside: str
    """The setting that it is compared with."""
    connections: int

    @property
    def cpus(self) -> str:
        """Where the contestant runs, from its start: workers are made for the CPUs that are there then."""
        return ",".join(map(str, sorted(ALL))) if self.spread else GATEWAY


def ours(workers: int) -> Contestant:
    return sluice("sluice.yaml", "redis.yaml", workers=workers)


def bare(workers: int) -> Contestant:
    command = CONTESTANTS["bare"].command
    return Contestant((*command, str(workers)))


def settings(count: int) -> Mapping[str, Setting]:
    found = {}
    for prefix, contestant in (("", ours), ("bare, ", bare)):
        one, many = contestant(1), contestant(count)
        for place, spread, cpus in (("on 1 CPU", False, 1), ("on all CPUs", True, len(ALL))):
            beside = f"{prefix}1 {place}"
            found[beside] = Setting(one, spread, beside, EACH)
            found[f"{prefix}1 with {count * EACH} {place}"] = Setting(one, spread, beside, count * EACH)
            found[f"{prefix}{count} {place}"] = Setting(many, spread, beside, count * EACH)
            found[f"{prefix}{count} with {EACH} a CPU {place}"] = Setting(many, spread, beside, cpus * EACH)
        each_its_own = Setting(contestant(len(ALL)), True, f"{prefix}1 on all CPUs", len(ALL) * EACH)
        found[f"{prefix}auto on all CPUs"] = each_its_own
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.workers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the figures; other parts of the file stay")
    arguments = parser.parse_args()
    measured: dict[str, list[Row]] = {}
    table = settings(COUNT)
    with tempfile.TemporaryDirectory(prefix="sluice-bench-") as folder, Bench(Path(folder)) as bench:
        bench.upstream(latency_us=0, gap_us=0, burst=0)
        for number, (name, setting) in enumerate(table.items()):
            bench.start(name, folder=str(number), cpus=setting.cpus, contestant=setting.contestant)
        for _ in range(arguments.rounds):
            for name, setting in table.items():
                measured.setdefault(name, []).append(measure(bench, name, setting, arguments.seconds))
    found = {name: summary(rows, measured[table[name].beside]) for name, rows in measured.items()}
    publish("workers", found, arguments.json, **about())


def measure(bench: Bench, name: str, setting: Setting, seconds: float) -> Row:
    bench.spread(name, set(ALL) if setting.spread else {int(GATEWAY)})
    if not setting.spread:
        bench.spread("", {int(DRIVER)})
    cpus = setting.cpus if setting.spread else DRIVER
    return bench.load(name, ("-c", str(setting.connections), "-w", "1", "-d", str(seconds)), stream=False, cpus=cpus)


def summary(rows: list[Row], beside: list[Row]) -> dict[str, Any]:
    return {
        "rps": statistics.median(row["rps"] for row in rows),
        "cpu_us": statistics.median(1e6 / by_cpu(row) for row in rows),
        "cpus": statistics.median(row["cpu_s"] / row["wall_s"] for row in rows),
        "rps_per_cpu": statistics.median(map(by_cpu, rows)),
        "efficiency": statistics.median(by_cpu(row) / by_cpu(other) for row, other in zip(rows, beside, strict=True)),
    }


if __name__ == "__main__":
    main()
