"""Tables of what was measured: for the terminal, and as Markdown for docs/performance.md.

`python -m benchmarks.report build/bench.json` prints those of an earlier run again.
"""

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .goals import GOALS
from .measures import TESTS, Results, Row, cut, failed

Found = dict[str, Any]
"""What benchmarks write: `about`, `rows`, `resources`, `workers`, `soak`. See `save`."""
MARKDOWN: Mapping[str, Callable[[Found], None]]


def save(file: Path | None, **parts: Any) -> None:
    """Replace these parts of a file of results and leave the others."""
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        found = json.loads(file.read_text()) if file.exists() else {}
        file.write_text(json.dumps({**found, **parts}, indent=1) + "\n")


def number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:,.1f}" if abs(value) >= 10 else f"{value:.2f}"


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
                cells.append(number(results.total(test, name, cut)))
            cells.append(number(results.total(test, name, failed)))
            cells += [f"{results.median(test, name, lambda r, k=key: r[k]) or 0:.0%}" for key in ("driver", "noise")]
            rows.append(cells)
        table(rows)


def against_goals(found: Found) -> None:
    """One row for each goal: what was measured, and whether it is met."""
    print("\n### Everything on, beside the others\n")
    rows = [["", "memory", "goal", "Redis", "goal"]]
    for goal in GOALS:
        cells = [goal.what]
        for name, bound in (("sluice", goal.memory), ("redis", goal.redis)):
            value = goal.of(found, name)
            met = "" if value is None or bound is None else " ✓" if goal.met(value, bound) else " ✗"
            cells += [number(value) + met, goal.bound(bound)]
        rows.append(cells)
    table(rows)


def resources(found: Found) -> None:
    print("\n### start and memory\n")
    rows = [["", "first answer, new database: s, CPU s", "existing database: s, CPU s", "idle MB", "after requests", "MB then"]]
    for name, own in found["resources"].items():
        new, again = own["new"], own["existing"]
        rows.append(
            [
                name,
                f"{new['wall']:.2f}, {new['cpu']:.2f}",
                f"{again['wall']:.2f}, {again['cpu']:.2f}",
                number(own["idle_mb"]),
                f"{own['requests']:,}",
                number(own["after_mb"]),
            ]
        )
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
    print("\n" + ", ".join(f"{name} {text}" for name, text in found["about"].items() if name != "command"))
    print(f"`{found['about']['command']}`")


def everything(found: Found) -> None:
    if "about" in found:
        versions(found)
    if "rows" in found:
        side_by_side(Results(found["rows"]))
    for part, show in (("resources", resources), ("workers", workers), ("soak", soak)):
        if part in found:
            show(found)
    against_goals(found)


def rows_of(found: Found) -> list[Row]:
    rows: list[Row] = found.get("rows", [])
    return rows


if __name__ == "__main__":
    everything(json.loads(Path(sys.argv[1]).read_text()))
