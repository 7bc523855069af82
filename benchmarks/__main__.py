"""Side-by-side measurements of gateways on this machine.

One upstream and one load generator, both in C, and Redis share CPU 1; each contestant has CPU 0 to itself while it is
measured (two CPUs and `taskset` are needed for figures that mean anything; without them everything runs unpinned).
Rounds are interleaved and the order rotates, so that whatever else the machine does meets everybody; a measurement
during which other processes used more than 12 % of either CPU is taken again, `--retries` times at most, and the
quietest one counts. Figures are medians over rounds, in brackets the median of the rounds' ratios to the bare proxy.
`driver` is how busy load, upstream and Redis kept their CPU: near 100 % a figure says more of them than of the
contestant, and only `direct` may come there. `failed` and `incomplete` are sums over all rounds.

The upstream answers at once with about 1 KB, or streams. Contestants are the rows of benchmarks/contestants.py, tests
those of benchmarks/measures.py. `make bench-peers` installs the contestants that are not part of this repository.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from . import measures
from .bench import Bench
from .contestants import CONTESTANTS, OWN
from .machine import about
from .measures import TESTS, Results, Row, Test
from .report import publish

NOISE = 0.12
SLOW = ("litellm", "portkey")
"""Contestants that 1,000 streams would occupy for minutes: not in `crowd` and `flood` unless they are asked for."""


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--contestants",
        metavar="NAME,...",
        help=f"of {', '.join(CONTESTANTS)}; all: what is there; default: of {', '.join(OWN)} what is there",
    )
    parser.add_argument("--tests", default=",".join(TESTS), metavar="NAME,...", help=", ".join(TESTS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement, warming up not counted")
    parser.add_argument("--warm", type=float, help="seconds of warming up, where not what each test is best with")
    parser.add_argument("--retries", type=int, default=2, help="of a measurement that others disturbed")
    parser.add_argument(
        "--check",
        type=check_of,
        default=(),
        metavar="TEST=TIMES,...",
        help="fail when sluice's CPU per request (throughput) or per chunk (streams, paced) is more than so many times the bare proxy's",
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="keep every measurement; other parts of the file stay"
    )
    arguments = parser.parse_args()
    asked = arguments.contestants not in (None, "all")
    there = [name for name in (CONTESTANTS if arguments.contestants else OWN) if CONTESTANTS[name].there]
    names = arguments.contestants.split(",") if asked else there
    tests = arguments.tests.split(",")
    for name, table in [(n, CONTESTANTS) for n in names] + [(t, TESTS) for t in tests]:
        if name not in table:
            parser.error(f"no {name!r}; there are {', '.join(table)}")
    for name in names:
        if not CONTESTANTS[name].there:
            parser.error(f"{name} is not installed: make bench-peers")
    with tempfile.TemporaryDirectory(prefix="sluice-bench-") as folder, Bench(Path(folder)) as bench:
        for name in names:
            bench.start(name)
        takes_part = {test: [n for n in names if meets(n, test, asked)] for test in tests}
        rows = list(rounds(bench, takes_part, arguments))
        peers = {n: version for n in names if (version := CONTESTANTS[n].release())}
    publish("rows", rows, arguments.json, **about(), **peers)
    check(Results(rows), arguments.check)


def meets(name: str, test: str, asked: bool) -> bool:
    """Whether a contestant takes part in a test."""
    contestant = CONTESTANTS[name]
    if TESTS[test].translated:
        return bool(contestant.translated)
    return asked or test not in ("crowd", "flood") or name not in SLOW


def rounds(bench: Bench, takes_part: dict[str, list[str]], wanted: argparse.Namespace) -> Iterator[Row]:
    load = ("-d", str(wanted.seconds), *(() if wanted.warm is None else ("-w", str(wanted.warm), "-R", "0")))
    for number in range(wanted.rounds):
        for test, names in takes_part.items():
            turn = number % max(1, len(names))
            for name in names[turn:] + names[:turn]:
                row = quiet(bench, name, TESTS[test], load, wanted.retries)
                yield {**row, "test": test, "name": name, "round": number}
        print(f"round {number + 1} of {wanted.rounds} done", file=sys.stderr, flush=True)


def quiet(bench: Bench, name: str, test: Test, load: tuple[str, ...], retries: int) -> Row:
    """The least disturbed of a few measurements."""
    best: Row = {"noise": 1e9}
    for _ in range(retries + 1):
        row = measure(bench, name, test, load)
        best = min(best, row, key=lambda one: float(one["noise"]))
        if best["noise"] < NOISE:
            break
    return best


def measure(bench: Bench, name: str, test: Test, load: tuple[str, ...]) -> Row:
    """``load`` has the last word on how it is loaded."""
    bench.upstream(**{"latency_us": 0, "burst": 0, **test.upstream})
    model = CONTESTANTS[name].translated if test.translated else ""
    return bench.load(name, (*test.load, *load), test.stream, model)


COSTS = {
    "throughput": ("request", measures.request_cpu),
    "streams": ("chunk", measures.chunk_cpu),
    "paced": ("chunk", measures.chunk_cpu),
}


def check_of(text: str) -> tuple[tuple[str, float], ...]:
    pairs = [part.split("=") for part in text.split(",")]
    if any(test not in COSTS for test, *_ in pairs):
        raise argparse.ArgumentTypeError(f"there are {', '.join(COSTS)}")
    return tuple((test, float(times)) for test, times in pairs)


def check(results: Results, allowed: tuple[tuple[str, float], ...]) -> None:
    """Compare within one run only: how fast the machine is, and how busy, meets both."""
    too_dear = []
    for test, most in allowed:
        unit, of = COSTS[test]
        times = results.ratio(test, "sluice", "bare", of)
        if times is None:
            sys.exit(f"--check {test} needs bare and sluice in that test")
        print(f"\nsluice costs {times:.2f} times the CPU of the bare proxy per {unit}; at most {most} are allowed")
        too_dear += [test] if times > most else []
    if too_dear:
        sys.exit(1)


if __name__ == "__main__":
    main()
