"""Side-by-side measurements of gateways on this machine.

One upstream and one load generator, both in C, share CPU 1; each contestant has CPU 0 to itself while it is measured
(two CPUs and `taskset` are needed for figures that mean anything; without them everything runs unpinned). Rounds are
interleaved and the order rotates, so that whatever else the machine does meets everybody; a measurement during which
other processes used more than 12 % of CPU 0 is taken again, `--retries` times at most, and the quietest one counts.
Figures are medians over rounds. The seconds to the first answer and the resident memory come last.

Tests:
  throughput  64 connections, each sends its next request when the last is answered: requests/s, CPU per request
  latency     200 requests/s, whatever the answers do (open loop, timed from when each was due): added to direct
  streams     64 streams of 512 chunks, one each millisecond: more than one core relays one by one, so chunks that
              arrive together should leave together. Chunks/s, CPU per chunk
  paced       10 streams of 64 chunks at 100/s: how late a chunk is, from the upstream's write to the client's read

The upstream answers at once with about 1 KB, or streams. Contestants are the rows of benchmarks/contestants.py.
`--json FILE` appends every single measurement, one JSON object a line.
"""

import argparse
import contextlib
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from .contestants import CONTESTANTS, HERE, Contestant

Row: TypeAlias = dict[str, Any]
TICKS = os.sysconf("SC_CLK_TCK")
NOISE = 0.12
PATH = "/v1/chat/completions"


@dataclass(frozen=True, slots=True)
class Test:
    upstream: Mapping[str, int]
    """Settings of the upstream."""
    load: tuple[str, ...]
    """Arguments of the load generator."""
    stream: bool
    columns: Mapping[str, Callable[[Row], float]]
    """Heading -> what is shown of a measurement."""


REQUESTS: Mapping[str, Callable[[Row], float]] = {
    "requests/s": lambda r: r["rps"],
    "CPU us/request": lambda r: r["cpu_s"] * 1e6 / max(1, r["upstream"]["requests"]),
    "p50 us": lambda r: r["lat_us"]["p50"],
    "p99 us": lambda r: r["lat_us"]["p99"],
}
CHUNKS: Mapping[str, Callable[[Row], float]] = {
    "chunks/s": lambda r: r["chunks_per_s"],
    "CPU us/chunk": lambda r: r["cpu_s"] * 1e6 / max(1, r["upstream"]["chunks"]),
    "late p50 us": lambda r: r["delay_us"]["p50"],
    "late p99 us": lambda r: r["delay_us"]["p99"],
    "first p50 us": lambda r: r["ttft_us"]["p50"],
}
TESTS: Mapping[str, Test] = {
    "throughput": Test({"gap_ms": 0}, ("-c", "64", "-w", "1"), False, REQUESTS),
    "latency": Test({"gap_ms": 0}, ("-c", "64", "-r", "200", "-w", "0.5"), False, REQUESTS),
    "streams": Test({"gap_ms": 1, "chunks": 512}, ("-c", "64", "-w", "1", "-R", "300"), True, CHUNKS),
    "paced": Test({"gap_ms": 10, "chunks": 64}, ("-c", "10", "-w", "1", "-R", "600"), True, CHUNKS),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--contestants", default=",".join(CONTESTANTS), metavar="NAME,...")
    parser.add_argument("--tests", default="throughput,latency,streams", metavar="NAME,...", help=", ".join(TESTS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement, warming up not counted")
    parser.add_argument("--retries", type=int, default=2, help="of a measurement that others disturbed")
    parser.add_argument(
        "--check",
        type=float,
        metavar="TIMES",
        help="fail when a request costs sluice more CPU than so many times the bare proxy's",
    )
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    names, tests = arguments.contestants.split(","), arguments.tests.split(",")
    for name, table in [(n, CONTESTANTS) for n in names] + [(t, TESTS) for t in tests]:
        if name not in table:
            parser.error(f"no {name!r}; there are {', '.join(table)}")
    if shutil.which("gcc") is None:
        sys.exit("The upstream and the load generator are written in C: install gcc to run the benchmarks.")
    with tempfile.TemporaryDirectory(prefix="sluice-bench-") as folder, Bench(Path(folder)) as bench:
        for name in names:
            bench.start(name)
        rows = list(bench.rounds(names, tests, arguments.rounds, arguments.seconds, arguments.retries))
        if arguments.json:
            with arguments.json.open("a") as out:
                out.writelines(json.dumps(row) + "\n" for row in rows)
    for test in tests:
        report(test, names, [row for row in rows if row["test"] == test])
    resources(bench)
    if arguments.check is not None:
        check(rows, arguments.check)


class Bench:
    """The processes of a run. Whatever it starts, it stops."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._pinned = shutil.which("taskset") is not None and (os.cpu_count() or 1) > 1
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._ports: dict[str, int] = {}
        self.started: dict[str, float] = {}
        """Contestant -> seconds from its start to its first answer."""
        self.memory: dict[str, list[float]] = {}
        """Contestant -> megabytes after the first answer, and after everything."""
        if not self._pinned:
            print("no taskset or one CPU: nothing is pinned, the figures disturb each other", file=sys.stderr)

    def __enter__(self) -> "Bench":
        for tool in ("upstream", "load"):
            subprocess.run(["gcc", "-O2", "-w", "-o", self._folder / tool, HERE / f"{tool}.c"], check=True)
        self._ports["direct"] = free_port()
        self._spawn("direct", [str(self._folder / "upstream"), str(self._ports["direct"])], cpu=1)
        wait(lambda: self._get("/__stats"), 5)
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
        for process in self._processes.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(8)
            with contextlib.suppress(ProcessLookupError):  # stragglers of our own session
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def start(self, name: str) -> None:
        """Start a contestant and wait for its first good answer."""
        contestant = CONTESTANTS[name]
        if not contestant.command:
            return
        port = self._ports[name] = free_port()
        own = self._folder / name
        own.mkdir()
        values = {"port": port, "upstream": f"http://127.0.0.1:{self._ports['direct']}", "folder": own}
        environment = {key: text.format(**values) for key, text in contestant.environment.items()}
        command = [part.format(**values) for part in contestant.command]
        began = time.monotonic()
        self._spawn(name, command, cpu=0, environment=environment)
        try:
            wait(lambda: ask(port, contestant), 30)
            self.started[name] = time.monotonic() - began
            self.memory[name] = [megabytes(self._processes[name])]
        except TimeoutError:
            log = (self._folder / f"{name}.log").read_text()[-2000:]
            sys.exit(f"{name} gives no answer:\n{log}")

    def rounds(self, names: list[str], tests: list[str], rounds: int, seconds: float, retries: int) -> Iterator[Row]:
        for number in range(rounds):
            for test in tests:
                for name in names[number % len(names) :] + names[: number % len(names)]:
                    row = self._quiet(name, TESTS[test], seconds, retries)
                    yield {**row, "test": test, "name": name, "round": number}
            print(f"round {number + 1} of {rounds} done", file=sys.stderr, flush=True)
        for name, memory in self.memory.items():
            memory.append(megabytes(self._processes[name]))

    def _quiet(self, name: str, test: Test, seconds: float, retries: int) -> Row:
        rows = []
        for _ in range(retries + 1):
            rows.append(self._measure(name, test, seconds))
            if rows[-1]["noise"] < NOISE:
                break
        return min(rows, key=lambda row: float(row["noise"]))

    def _measure(self, name: str, test: Test, seconds: float) -> Row:
        self._get("/__set?latency_ms=0&burst=0&" + "&".join(f"{k}={v}" for k, v in test.upstream.items()))
        body = HERE / ("body_stream.json" if test.stream else "body_whole.json")
        command = [str(self._folder / "load"), str(self._ports[name]), PATH, str(body), "-d", str(seconds), *test.load]
        for header in CONTESTANTS[name].headers:
            command += ["-H", header]
        process = None if name == "direct" else self._processes[name]
        before, cpu, busy, began = self._get("/__stats"), cpu_seconds(process), cpu0_seconds(), time.monotonic()
        done = subprocess.run(self._pin(command, 1), capture_output=True, timeout=seconds + 120, check=True)
        wall = time.monotonic() - began
        used = cpu_seconds(process) - cpu
        noise = (cpu0_seconds() - busy - used) / wall
        time.sleep(0.3)  # what the load left behind ends
        after = self._get("/__stats")
        row: Row = json.loads(done.stdout)
        row["upstream"] = {key: after[key] - before[key] for key in after}
        return {**row, "cpu_s": used, "noise": noise if self._pinned else 0.0}

    def _get(self, path: str) -> Row:
        with urllib.request.urlopen(f"http://127.0.0.1:{self._ports['direct']}{path}", timeout=5) as answer:
            found: Row = json.load(answer)
            return found

    def _spawn(self, name: str, command: list[str], cpu: int, environment: Mapping[str, str] | None = None) -> None:
        with (self._folder / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                self._pin(command, cpu),
                cwd=HERE.parent,
                env={**os.environ, **(environment or {})},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _pin(self, command: list[str], cpu: int) -> list[str]:
        return ["taskset", "-c", str(cpu), *command] if self._pinned else command


def report(test: str, names: list[str], rows: list[Row]) -> None:
    """Medians, and each beside the bare proxy's."""
    columns = TESTS[test].columns
    print(f"\n{test}\n{'':12}" + "".join(f"{heading:>22}" for heading in columns) + f"{'failed':>10}{'noise':>8}")
    medians = {n: {h: median([r for r in rows if r["name"] == n], of) for h, of in columns.items()} for n in names}
    for name in names:
        own = [row for row in rows if row["name"] == name]
        line = f"{name:12}"
        for heading in columns:
            value, bare = medians[name][heading], medians.get("bare", {}).get(heading, 0)
            ratio = f" ({value / bare:.2f})" if bare and name != "bare" else ""
            line += f"{f'{value:,.0f}{ratio}' if value >= 100 else f'{value:,.1f}{ratio}':>22}"
        failed = sum(row[key] for row in own for key in row if key.startswith("err_"))
        print(f"{line}{failed:>10}{statistics.median(row['noise'] for row in own):>8.0%}")
    print("(in brackets: times the bare proxy's)" if "bare" in names else "")


def resources(bench: Bench) -> None:
    """What every contestant needs to be there at all."""
    print(f"\nresources\n{'':12}{'first answer s':>22}{'idle MB':>22}{'after load MB':>22}")
    for name, (idle, after) in bench.memory.items():
        print(f"{name:12}{bench.started[name]:>22.2f}{idle:>22.1f}{after:>22.1f}")


def check(rows: list[Row], most: float) -> None:
    """Compare within one run only: how fast the machine is, and how busy, meets both."""
    costs = {
        name: median(
            [row for row in rows if (row["test"], row["name"]) == ("throughput", name)], REQUESTS["CPU us/request"]
        )
        for name in ("bare", "sluice")
    }
    if not all(costs.values()):
        sys.exit("--check needs the throughput of bare and sluice")
    times = costs["sluice"] / costs["bare"]
    print(f"\nsluice costs {times:.2f} times the CPU of the bare proxy per request; at most {most} are allowed")
    if times > most:
        sys.exit(1)


def median(rows: list[Row], of: Callable[[Row], float]) -> float:
    values = []
    for row in rows:
        with contextlib.suppress(KeyError):  # nothing succeeded: there are no times
            values.append(of(row))
    return statistics.median(values) if values else 0.0


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def wait(condition: Callable[[], object], seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            condition()
            return
        time.sleep(0.05)
    raise TimeoutError


def ask(port: int, contestant: Contestant) -> None:
    headers = dict(header.split(": ", 1) for header in contestant.headers)
    body = (HERE / "body_whole.json").read_bytes()
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{PATH}", body, {**headers, "Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=5) as answer:
        answer.read()


def family(process: subprocess.Popen[bytes] | None) -> Iterator[Path]:
    """The folders in /proc of a process and its descendants."""
    todo = [process.pid] if process else []
    while todo:
        folder = Path(f"/proc/{todo.pop()}")
        with contextlib.suppress(OSError):
            yield folder
            for task in (folder / "task").iterdir():
                todo += map(int, (task / "children").read_text().split())


def cpu_seconds(process: subprocess.Popen[bytes] | None) -> float:
    """User and system time of a process and its descendants."""
    total = 0
    for folder in family(process):
        with contextlib.suppress(OSError):
            fields = (folder / "stat").read_text().rsplit(")", 1)[1].split()
            total += int(fields[11]) + int(fields[12])
    return total / TICKS


def megabytes(process: subprocess.Popen[bytes]) -> float:
    """Resident memory of a process and its descendants."""
    pages = 0
    for folder in family(process):
        with contextlib.suppress(OSError):
            pages += int((folder / "statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def cpu0_seconds() -> float:
    """Busy time of CPU 0."""
    for line in Path("/proc/stat").read_text().splitlines():
        if line.startswith("cpu0 "):
            user, nice, system, _idle, _iowait, irq, soft = map(int, line.split()[1:8])
            return (user + nice + system + irq + soft) / TICKS
    return 0.0


if __name__ == "__main__":
    main()
