"""What is measured of every contestant: one row per test."""

import contextlib
import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

Row: TypeAlias = dict[str, Any]
Of: TypeAlias = Callable[[Row], float]
"""What is looked at of one measurement. KeyError: nothing succeeded, so there is no time."""


@dataclass(frozen=True, slots=True)
class Test:
    what: str
    upstream: Mapping[str, int]
    """Settings of the upstream; see tools/upstream.c."""
    load: tuple[str, ...]
    """Arguments of the load generator; see tools/load.c."""
    columns: Mapping[str, Of]
    stream: bool = True
    translated: bool = False
    """Only for contestants that translate the upstream's Anthropic dialect."""


def failed(row: Row) -> int:
    """Requests without a whole, good answer."""
    return sum(int(row[key]) for key in row if key.startswith("err_") or key == "unfinished")


def cut(row: Row) -> int:
    """Streams that lacked something or did not end."""
    return int(row["err_incomplete"] + row["unfinished"] + row["err_timeout"])


def rps(row: Row) -> float:
    return float(row["rps"])


def chunks(row: Row) -> float:
    return float(row["chunks_per_s"])


def request_cpu(row: Row) -> float:
    return float(row["cpu_s"] * 1e6 / max(1, row["upstream"]["requests"]))


def by_cpu(row: Row) -> float:
    """Requests for each CPU second: requests/s if nobody else had used the CPU of a contestant that is never idle."""
    return float(row["upstream"]["requests"] / row["cpu_s"]) if row["cpu_s"] else 0.0


def chunk_cpu(row: Row) -> float:
    return float(row["cpu_s"] * 1e6 / max(1, row["upstream"]["chunks"]))


def driver(row: Row) -> float:
    """The share of its CPU that load, upstream and Redis used."""
    return float(row["driver"])


def noise(row: Row) -> float:
    """The share of a CPU that other processes used, on the CPU where it was more."""
    return float(row["noise"])


def percentile(of: str, at: str) -> Of:
    return lambda row: float(row[of][at])


P50, P99 = percentile("lat_us", "p50"), percentile("lat_us", "p99")
FIRST = percentile("ttft_us", "p50")
LATE50, LATE99 = percentile("delay_us", "p50"), percentile("delay_us", "p99")

_REQUESTS: Mapping[str, Of] = {"requests/s": rps, "CPU us/request": request_cpu, "p50 us": P50, "p99 us": P99}
_CHUNKS: Mapping[str, Of] = {
    "chunks/s": chunks,
    "CPU us/chunk": chunk_cpu,
    "first p50 us": FIRST,
    "late p50 us": LATE50,
    "late p99 us": LATE99,
}

TESTS: Mapping[str, Test] = {
    "throughput": Test(
        "64 connections, each sends its next request when the last is answered",
        {"gap_us": 0},
        ("-c", "64", "-w", "1"),
        _REQUESTS,
        stream=False,
    ),
    "latency": Test(
        "200 requests/s, whatever the answers do: open loop, timed from when each was due",
        {"gap_us": 0},
        ("-c", "64", "-r", "200", "-w", "0.5"),
        _REQUESTS,
        stream=False,
    ),
    "streams": Test(
        "64 streams that offer 100,000 chunks/s: more than one core relays one by one, so what comes together must leave together",
        {"gap_us": 640, "chunks": 768},
        ("-c", "64", "-w", "1", "-R", "500"),
        _CHUNKS,
    ),
    "translated": Test(
        "the same from the upstream's Anthropic dialect: every chunk is read and written anew",
        {"gap_us": 640, "chunks": 768},
        ("-c", "64", "-w", "1", "-R", "500"),
        _CHUNKS,
        translated=True,
    ),
    "paced": Test(
        "100 streams of 128 chunks, 10 ms apart",
        {"gap_us": 10_000, "chunks": 128},
        ("-c", "100", "-w", "1.3", "-R", "1280"),
        _CHUNKS,
    ),
    "crowd": Test(
        "1,000 streams of 40 chunks, 100 ms apart: the bare proxy is below saturation",
        {"gap_us": 100_000, "chunks": 40},
        ("-c", "1000", "-w", "4", "-R", "4000"),
        _CHUNKS,
    ),
    "flood": Test(
        "1,000 streams of 128 chunks, 10 ms apart: 100,000 chunks/s, beyond what one core relays one by one",
        {"gap_us": 10_000, "chunks": 128},
        ("-c", "1000", "-w", "1.5", "-R", "1280"),
        _CHUNKS,
    ),
}


class Results:
    """Every measurement of a run, and what follows from them."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self.rows = list(rows)

    def of(self, test: str, name: str) -> list[Row]:
        return [row for row in self.rows if (row["test"], row["name"]) == (test, name)]

    def names(self, test: str) -> list[str]:
        """In the order in which they were asked for."""
        return list(dict.fromkeys(row["name"] for row in self.rows if row["test"] == test and row["round"] == 0))

    def median(self, test: str, name: str, of: Of) -> float | None:
        return middle(value for value in self._by_round(test, name, of).values())

    def total(self, test: str, name: str, of: Of) -> float | None:
        rows = self.of(test, name)
        return sum(of(row) for row in rows) if rows else None

    def ratio(self, test: str, name: str, other: str, of: Of) -> float | None:
        """The median of the rounds' ratios."""
        return middle(self.ratios(test, name, other, of))

    def ratios(self, test: str, name: str, other: str, of: Of, other_test: str = "") -> list[float]:
        """One for each round: both were measured within seconds, so what disturbs one disturbs both."""
        own, theirs = self._by_round(test, name, of), self._by_round(other_test or test, other, of)
        return [own[number] / theirs[number] for number in own if theirs.get(number)]

    def added(self, test: str, name: str, other: str, of: Of) -> float | None:
        """How much a contestant adds to the direct way, in times of what the other adds."""
        own, theirs = self._added(test, name, of), self._added(test, other, of)
        return None if own is None or not theirs else own / theirs

    def _added(self, test: str, name: str, of: Of) -> float | None:
        own, direct = self._by_round(test, name, of), self._by_round(test, "direct", of)
        return middle(own[number] - direct[number] for number in own if number in direct)

    def _by_round(self, test: str, name: str, of: Of) -> dict[int, float]:
        found = {}
        for row in self.of(test, name):
            with contextlib.suppress(KeyError):
                found[row["round"]] = of(row)
        return found


def middle(values: Iterable[float]) -> float | None:
    found = list(values)
    return statistics.median(found) if found else None
