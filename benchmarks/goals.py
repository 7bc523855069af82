"""What Sluice is to reach with everything on: as ratios to contestants of the same run, and in megabytes and seconds."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from . import measures as m
from .measures import Of, Results

Measured = Callable[[dict[str, Any], str], list[float]]
"""The results of a run and `sluice` or `redis` -> a figure for each round, or one; none: it was not measured."""


@dataclass(frozen=True, slots=True)
class Goal:
    what: str
    of: Measured
    memory: float | None
    """With counters in memory; None: reported only."""
    redis: float | None
    least: bool = True
    """Whether the figure must be so much at least, or at most."""
    unit: str = " x"
    steady: Measured = lambda *_: []
    """The same by CPU time, where that says it too: other processes of the machine do not move it."""

    def met(self, value: float, bound: float) -> bool:
        return value >= bound if self.least else value <= bound

    def bound(self, bound: float | None) -> str:
        return "" if bound is None else f"{'>=' if self.least else '<='} {bound:g}{self.unit}"


def ratio(test: str, other: str, of: Of, other_test: str = "") -> Measured:
    return lambda found, name: Results(found.get("rows", [])).ratios(test, name, other or name, of, other_test)


def added(test: str, of: Of) -> Measured:
    return lambda found, name: one(Results(found.get("rows", [])).added(test, name, "bare", of))


def incomplete(test: str) -> Measured:
    return lambda found, name: one(Results(found.get("rows", [])).total(test, name, m.cut))


def part(*path: str) -> Measured:
    """A figure of resources, workers or soak."""

    def look(found: Any, name: str) -> list[float]:
        for step in (path[0], name, *path[1:]):
            if step not in found:
                return []
            found = found[step]
        return one(float(found))

    return look


def scaling(setting: str) -> Measured:
    """Workers share their counters through Redis, so there is no figure for memory."""
    return lambda found, name: part("workers", "efficiency")(found, setting) if name == "redis" else []


def slope(found: dict[str, Any], name: str) -> list[float]:
    """Megabytes per hour beyond the error of the measurement: 0 when the slope cannot be told from none."""
    values, errors = part("soak", "slope")(found, name), part("soak", "error")(found, name)
    return [max(0.0, abs(value) - error) for value, error in zip(values, errors, strict=True)]


def beside_bare(found: dict[str, Any], name: str) -> list[float]:
    """The same of what is more than the bare proxy's, which keeps nothing: what heaps do under traffic takes long to settle."""
    slopes, errors = part("soak", "slope"), part("soak", "error")
    told = zip(slopes(found, name), slopes(found, "bare"), errors(found, name), errors(found, "bare"), strict=False)
    return [max(0.0, own - control - math.hypot(error, other)) for own, control, error, other in told]


def one(value: float | None) -> list[float]:
    return [] if value is None else [value]


def throughput(what: str, other: str, memory: float | None, redis: float | None) -> Goal:
    return Goal(what, ratio("throughput", other, m.rps), memory, redis, steady=ratio("throughput", other, m.by_cpu))


GOALS = (
    throughput("requests/s, 64 connections, to the bare proxy's", "bare", 1.2, 1.0),
    throughput("to LiteLLM's", "litellm", 90, 75),
    throughput("to Portkey's", "portkey", 13, 11),
    throughput("to nginx's", "nginx", 0.15, 0.12),
    throughput("to TensorZero's", "tensorzero", 1.5, 1.25),
    throughput("to Ferro's", "ferro", None, None),
    throughput("to vLLM router's", "vllm-router", None, None),
    Goal("latency added at 200 requests/s, p50, to the bare proxy's", added("latency", m.P50), 1.3, 1.6, least=False),
    Goal("the same, p99", added("latency", m.P99), None, 2, least=False),
    Goal("chunks/s at saturation, to the bare proxy's", ratio("streams", "bare", m.chunks), 1, 1),
    Goal(
        "CPU per chunk, 100 streams, 10 ms apart, to the bare proxy's",
        ratio("paced", "bare", m.chunk_cpu),
        1,
        1,
        least=False,
    ),
    Goal(
        "time to first chunk added at 100 streams, p50, to the bare proxy's",
        added("paced", m.FIRST),
        1.3,
        1.6,
        least=False,
    ),
    Goal("1,000 streams, 100 ms apart: incomplete", incomplete("crowd"), 0, 0, least=False, unit=""),
    Goal("the same, p99 of the relay delay, to nginx's", ratio("crowd", "nginx", m.LATE99), 3, 3, least=False),
    Goal("1,000 streams, 10 ms apart: incomplete", incomplete("flood"), 0, 0, least=False, unit=""),
    Goal("the same, p99 of the relay delay, to nginx's", ratio("flood", "nginx", m.LATE99), 2, 2, least=False),
    Goal("translated streams, chunks/s, to the byte path's", ratio("translated", "", m.chunks, "streams"), 0.5, 0.5),
    Goal(
        "memory of an idle worker, existing database",
        part("resources", "existing", "idle_mb"),
        90,
        90,
        least=False,
        unit=" MB",
    ),
    Goal("memory of an idle worker, new database", part("resources", "new", "idle_mb"), None, None),
    Goal("memory after 100,000 requests", part("resources", "after_mb"), 130, 130, least=False, unit=" MB"),
    Goal("growth over a soak, beyond its error", slope, 0, 0, least=False, unit=" MB/h"),
    Goal("the same, beyond the bare proxy's growth", beside_bare, 0, 0, least=False, unit=" MB/h"),
    Goal("four workers on one CPU, efficiency", scaling("4 on 1 CPU"), None, 0.9),
    Goal("four workers on all CPUs, efficiency", scaling("4 on all CPUs"), None, 0.9),
    Goal(
        "the same, with as many connections for each CPU as one worker has",
        scaling("4 with 64 a CPU on all CPUs"),
        None,
        None,
    ),
    Goal("as many workers as CPUs, efficiency", scaling("auto on all CPUs"), None, None),
    Goal(
        "start to first answer, existing database", part("resources", "existing", "wall"), 1, 1, least=False, unit=" s"
    ),
    Goal("start to first answer, new database", part("resources", "new", "wall"), None, None),
)
