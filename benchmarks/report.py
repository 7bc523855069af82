"""Tables of what was measured: for the terminal, and as Markdown for docs/performance.md.

`python -m benchmarks.report build/bench.json` prints those of an earlier run again.
"""

import json
import statistics
import sys
from pathlib import Path
from typing import Any

from .goals import GOALS, Goal
from .measures import TESTS, Results, Row, cut, driver, failed, noise

Found = dict[str, Any]
"""What benchmarks write: `about`, `commands`, and `rows`, `resources`, `workers`, `soak` or what of them there is."""
BUSY = 0.85
"""Of their CPU, from which on load and upstream may be what limits a figure."""


def publish(part: str, figures: Any, file: Path | None, **about: str) -> None:
    """Print what was found, and put it into a file of results, whose other parts stay."""
    module = "benchmarks" if part == "rows" else f"benchmarks.{part}"
    command = " ".join(["python -m", module, *sys.argv[1:]])
    found = {"about": about, "commands": {part: command}, part: figures}
    everything(found)
    if file is not None:
        before = json.loads(file.read_text()) if file.exists() else {"about": {}, "commands": {}}
        found["about"] = {**before["about"], **about}
        found["commands"] = {**before["commands"], **found["commands"]}
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({**before, **found}, indent=1) + "\n")


def number(value: float | None) -> str:
    if value is None:
        return "-"
    digits = 0 if abs(value) >= 100 or value == 0 else 1 if abs(value) >= 10 else 2
    return f"{value:,.{digits}f}"


def table(rows: list[list[str]]) -> None:
    """The first row is the head."""
    print("| " + " | ".join(rows[0]) + " |\n|" + "---|" * len(rows[0]))
    for row in rows[1:]:
        print("| " + " | ".join(row) + " |")


def side_by_side(results: Results) -> None:
    """A table for each test: medians, and in brackets the median of the rounds' ratios to the bare proxy."""
    for test, settings in TESTS.items():
        names = results.names(test)
        if not names:
            continue
        print(f"\n### {test}: {settings.what}\n")
        rows = [["", *settings.columns, *(["incomplete"] if settings.stream else []), "failed", "driver", "noise"]]
        for name in names:
            cells = [name]
            for of in settings.columns.values():
                ratio = results.ratio(test, name, "bare", of) if name != "bare" else None
                cells.append(number(results.median(test, name, of)) + (f" ({ratio:.2f} x)" if ratio else ""))
            if settings.stream:
                cells.append(f"{results.total(test, name, cut) or 0:,.0f}")
            cells.append(f"{results.total(test, name, failed) or 0:,.0f}")
            cells += [f"{results.median(test, name, of) or 0:.0%}" for of in (driver, noise)]
            rows.append(cells)
        table(rows)
        for name in names:
            if why := failures(results.of(test, name)):
                print(f"\n{name} failed: {why}")
        limited = [n for n in names if n != "direct" and (results.median(test, n, driver) or 0) > BUSY]
        if limited:
            print(f"\nload and upstream were busy above {BUSY:.0%}: the figures of {', '.join(limited)} may be theirs")


def failures(rows: list[Row]) -> str:
    """How many requests failed, and how."""
    kinds = ("err_status", "err_connection", "err_incomplete", "err_timeout", "unfinished")
    counts = {kind.removeprefix("err_"): sum(row[kind] for row in rows) for kind in kinds}
    told = ", ".join(f"{count:,} {kind}" for kind, count in counts.items() if count)
    statuses = sorted({row["bad_status"] for row in rows if row["bad_status"]})
    return f"{told} ({', '.join(map(str, statuses))})" if statuses else told


def against_goals(found: Found) -> None:
    """One row for each goal."""
    print("\n### Everything on, beside the others\n")
    rows = [["", "memory", "goal", "Redis", "goal"]]
    missing = 0
    for goal in GOALS:
        cells = []
        for name, bound in (("sluice", goal.memory), ("redis", goal.redis)):
            cells += [judged(goal, goal.of(found, name), goal.steady(found, name), bound), goal.bound(bound)]
        if {cells[0], cells[2]} != {"-"}:
            rows.append([goal.what, *cells])
        else:
            missing += 1
    table(rows)
    if missing:
        print(f"\n{missing} more were not measured")


def judged(goal: Goal, values: list[float], steady: list[float], bound: float | None) -> str:
    """The median, the lowest and the highest round, whether the goal is met, and the median by CPU time."""
    if not values:
        return "-"
    middle = statistics.median(values)
    shown = number(middle) + (f" ({number(min(values))} to {number(max(values))})" if len(values) > 1 else "")
    shown += "" if bound is None else " ✓" if goal.met(middle, bound) else " ✗"
    return shown + (f"; by CPU time {number(statistics.median(steady))}" if steady else "")


def resources(found: Found) -> None:
    print("\n### start and memory\n")
    rows = [["", "new database: first answer s, CPU s, idle MB", "existing database", "requests", "failed", "MB then"]]
    for name, own in found["resources"].items():
        cells = ["{wall:.2f}, {cpu:.2f}, {idle_mb:.0f}".format(**own[key]) for key in ("new", "existing")]
        rows.append([name, *cells, f"{own['requests']:,}", str(own["failed"]), number(own["after_mb"])])
    table(rows)


def workers(found: Found) -> None:
    print("\n### workers\n")
    rows = [["", "requests/s", "CPU us/request", "CPUs used", "requests/s per CPU used", "efficiency"]]
    for name, own in found["workers"].items():
        cells = [number(own[key]) for key in ("rps", "cpu_us", "cpus", "rps_per_cpu")]
        rows.append([name, *cells, f"{own['efficiency']:.2f}"])
    table(rows)


def soak(found: Found) -> None:
    print("\n### soak\n")
    rows = [["", "minutes", "requests", "streams", "failed", "MB first", "MB last", "slope MB/h", "± (95 %)"]]
    for name, own in found["soak"].items():
        counts = [f"{own[key]:,}" for key in ("requests", "streams", "failed")]
        memory = [number(own[key]) for key in ("first_mb", "last_mb", "slope", "error")]
        rows.append([name, f"{own['minutes']:g}", *counts, *memory])
    table(rows)


def versions(found: Found) -> None:
    print("\n" + ", ".join(f"{name} {text}" for name, text in found["about"].items()) + "\n")
    for command in found["commands"].values():
        print(f"    {command}")


def everything(found: Found) -> None:
    versions(found)
    if "rows" in found:
        side_by_side(Results(found["rows"]))
    for part, show in (("resources", resources), ("workers", workers), ("soak", soak)):
        if part in found:
            show(found)
    against_goals(found)


if __name__ == "__main__":
    if len(sys.argv) != 2 or not Path(sys.argv[1]).exists():
        sys.exit("which file of results? make bench writes build/bench.json")
    everything(json.loads(Path(sys.argv[1]).read_text()))
