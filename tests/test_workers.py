"""Several workers that cannot start: the first take the process with them, a later one is tried again."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from config import cpus

from .running import KEY
from .servers import RedisServer, free_port
from .test_drain import children

pytestmark = pytest.mark.skipif(cpus.available() < 2, reason="two workers serve where there are two CPUs")
ROOT = Path(__file__).parents[1]
RETRY_SECONDS = 1


def written(folder: Path, redis: str, database: str = "") -> Path:
    """The file of two workers; SQLite where no database is given."""
    document = {
        "server": {"port": free_port(), "workers": 2, "drain_delay": 0},
        "admin": {"port": free_port()},
        "keys": [{"name": "test", "key": KEY}],
        "redis": {"url": redis},
        "database": {"url": database or f"sqlite:///{folder}/sluice.db"},
        "ledger": {"journal": f"{folder}/journal"},
    }
    path = folder / "sluice.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


@contextlib.contextmanager
def serving(path: Path, said: Path, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """Workers that are tried again sooner than others."""
    hasty = f"from gateway import workers; workers.RETRY_SECONDS = {RETRY_SECONDS}"
    command = [sys.executable, "-c", f"{hasty}; from gateway.__main__ import main; main()", "serve", str(path)]
    with said.open("wb") as stderr:
        process = subprocess.Popen(command, cwd=ROOT, stderr=stderr, env={**os.environ, **environment})
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.wait()


@pytest.mark.parametrize("missing", ["redis", "database"])
def test_without_a_store_they_end_as_one_worker_does(tmp_path: Path, redis_server: RedisServer, missing: str) -> None:
    nobody = f"127.0.0.1:{free_port()}"
    if missing == "redis":
        path, problem = written(tmp_path, f"redis://{nobody}/0"), "redis: Redis cannot be used for limits: Connection"
    else:
        path = written(tmp_path, redis_server.url, f"postgresql://u:p@{nobody}/sluice")
        problem = "database.url: The records database does not answer."
    with serving(path, tmp_path / "said") as process:
        assert process.wait(30) == 1
    (line,) = (tmp_path / "said").read_text().splitlines()
    assert line.startswith(f"{path}: {problem}")


def test_an_adapter_that_fails_at_start_is_told_by_kind_and_place(tmp_path: Path, redis_server: RedisServer) -> None:
    """Not by the text of its error, which may hold anything."""
    (tmp_path / "broken.py").write_text("def adapter(): raise RuntimeError('secret')\n")
    told = tmp_path / "broken-1.0.dist-info"
    told.mkdir()
    (told / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (told / "entry_points.txt").write_text("[sluice.adapters]\nbroken = broken:adapter\n")
    path = written(tmp_path, redis_server.url)
    path.write_text(path.read_text() + "providers: {p: {adapter: broken}}\n")
    with serving(path, tmp_path / "said", PYTHONPATH=str(tmp_path)) as process:
        assert process.wait(30) == 1
    *crashes, line = (tmp_path / "said").read_text().splitlines()
    assert line == f"{path}: the start failed: RuntimeError"
    assert {(c["event"], c["kind"]) for c in map(json.loads, crashes)} == {("crash", "RuntimeError")}
    assert all(c["where"].startswith("broken.py:1:adapter") for c in map(json.loads, crashes))


@pytest.fixture
def own_redis() -> Iterator[RedisServer]:
    server = RedisServer()
    yield server
    server.stop()


def test_one_that_cannot_take_the_place_of_another_is_tried_again(tmp_path: Path, own_redis: RedisServer) -> None:
    said = tmp_path / "said"
    with serving(written(tmp_path, own_redis.url), said) as process:
        until(lambda: events(said)["serving"] == 2)
        own_redis.kill()
        killed = min(children(process.pid))
        os.kill(killed, signal.SIGKILL)
        until(lambda: retries(said) == 2)
        assert len(children(process.pid)) == 1, "it waits, and keeps no worker that only waits"
        assert process.poll() is None, "the other one serves"
        own_redis.start()
        until(lambda: events(said)["serving"] == 3)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    assert events(said)[f"Worker (pid:{killed}) was sent SIGKILL! Perhaps out of memory?"] == 1
    first, second, *_ = (datetime.fromisoformat(line["at"]) for line in lines(said) if "tried again" in line["event"])
    assert (second - first).total_seconds() >= RETRY_SECONDS


def test_one_that_takes_the_place_of_another_runs_what_the_others_run_whatever_the_file_says(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    """They have reloaded since the start, and refused what the file says now: it can be read, and not be built."""
    said = tmp_path / "said"
    path = written(tmp_path, redis_server.url)
    models = "models: {new: {deployments: [{provider: p, model: x}]}}\n"
    good = path.read_text() + "providers: {p: {adapter: openai, api_key: k}}\n" + models
    with serving(path, said) as process:
        until(lambda: events(said)["serving"] == 2)
        replace(path, good)
        until(lambda: events(said)["config reloaded"] == 2)
        replace(path, good.replace("adapter: openai", "adapter: nobody"))
        until(lambda: events(said)["config refused"] == 2)
        os.kill(min(children(process.pid)), signal.SIGKILL)
        until(lambda: events(said)["serving"] == 3)
        until(lambda: events(said)["config refused"] == 3)
        assert {tuple(listed(path)) for _ in range(20)} == {("new",)}
        for worker in children(process.pid):
            os.kill(worker, signal.SIGKILL)  # nobody is left who could be asked
        until(lambda: events(said)["serving"] == 5)
        assert {tuple(listed(path)) for _ in range(20)} == {("new",)}
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    assert not [event for event in events(said) if "tried again" in event]


def listed(path: Path) -> list[str]:
    """The models of whichever worker answers."""
    port = yaml.safe_load(path.read_text())["server"]["port"]
    asked = urllib.request.Request(f"http://127.0.0.1:{port}/v1/models", headers={"authorization": f"Bearer {KEY}"})
    with urllib.request.urlopen(asked, timeout=10) as answer:
        return [model["id"] for model in json.load(answer)["data"]]


def replace(path: Path, text: str) -> None:
    new = path.with_suffix(".new")
    new.write_text(text)
    new.replace(path)


def lines(said: Path) -> list[dict[str, Any]]:
    """Every one of them is JSON, gunicorn's too."""
    return [json.loads(line) for line in said.read_text().splitlines(keepends=True) if line.endswith("\n")]


def events(said: Path) -> Counter[str]:
    return Counter(line["event"] for line in lines(said))


def retries(said: Path) -> int:
    start = f"a worker cannot start and is tried again in {RETRY_SECONDS} s: redis: Redis cannot be used for limits"
    return sum(number for event, number in events(said).items() if event.startswith(start))


def until(condition: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)
