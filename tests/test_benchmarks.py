"""The benchmarks run, and say what they were answered: no more, no less."""

import asyncio
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import config
from benchmarks.__main__ import check
from benchmarks.bench import TOOLS
from benchmarks.contestants import CONTESTANTS, HERE
from benchmarks.machine import family, wait
from benchmarks.measures import LATE99, Results, rps
from benchmarks.peers.__main__ import INSTALL
from benchmarks.soak import line, spans

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="the benchmarks' tools are built with gcc")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        check=False,
        cwd=HERE.parent,
        env={**os.environ, "PYTHONPATH": str(HERE.parent)},
        capture_output=True,
        text=True,
        timeout=110,
    )


def test_measures_and_reports(tmp_path: Path) -> None:
    file = tmp_path / "build" / "bench.json"
    done = run(
        *("benchmarks", "--contestants", "direct,bare,sluice", "--tests", "latency,paced,translated"),
        *("--rounds", "1", "--seconds", "0.3", "--warm", "0.1", "--retries", "0", "--json", str(file)),
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(file.read_text())
    three = ("direct", "bare", "sluice")
    assert [(row["test"], row["name"]) for row in found["rows"]] == [
        *(("latency", name) for name in three),
        *(("paced", name) for name in three),
        ("translated", "sluice"),
    ]
    for row in found["rows"]:
        assert row["ok"] == row["started"] > 0
        assert [row[key] for key in row if key.startswith("err_")] == [0, 0, 0, 0]
        assert (row["chunks"] > 0) == (row["test"] != "latency")
    assert "python -m benchmarks --contestants" in found["commands"]["rows"]
    assert "CPU us/request" in done.stdout
    again = run("benchmarks.report", str(file))
    assert again.stdout == done.stdout


def test_a_stopped_run_leaves_no_process_behind() -> None:
    command = [
        sys.executable,
        "-m",
        "benchmarks",
        "--contestants",
        "direct,bare",
        "--tests",
        "latency",
        "--seconds",
        "60",
    ]
    started = subprocess.Popen(command, cwd=HERE.parent, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait(lambda: runs(started.pid, "bareproxy.py"), 30)
    wait(lambda: runs(started.pid, "/load "), 30)
    pids = [pid for pid in family(started.pid) if pid != started.pid]
    assert len(pids) >= 3
    started.terminate()
    assert started.wait(20) == 143
    assert [pid for pid in pids if Path(f"/proc/{pid}").exists()] == []


def runs(pid: int, text: str) -> None:
    """OSError while no descendant's command line holds the text."""
    lines = [Path(f"/proc/{one}/cmdline").read_bytes().replace(b"\0", b" ").decode() for one in family(pid)]
    if not any(text in line for line in lines):
        raise FileNotFoundError(text)


def test_resources_and_a_soak_join_the_same_file(tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    first = run(
        *("benchmarks.resources", "--contestants", "bare", "--starts", "1", "--requests", "256", "--settled", "0.1"),
        *("--json", str(file)),
    )
    assert first.returncode == 0, first.stderr
    second = run("benchmarks.soak", "--contestants", "bare", "--minutes", "0.05", "--json", str(file))
    assert second.returncode == 0, second.stderr
    found = json.loads(file.read_text())
    assert found["resources"]["bare"]["requests"] == 256
    assert found["resources"]["bare"]["after_mb"] >= found["resources"]["bare"]["new"]["idle_mb"] > 1
    assert found["soak"]["bare"]["failed"] == 0
    assert found["soak"]["bare"]["requests"] > 100
    assert set(found["commands"]) == {"resources", "soak"}


@pytest.mark.parametrize("files", [("sluice.yaml",), ("sluice.yaml", "redis.yaml"), ("off.yaml",)])
def test_the_measured_configuration_loads(
    files: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    values = {
        "{port}": "1234",
        "{upstream}": "http://127.0.0.1:9",
        "{folder}": "/tmp/bench",
        "{redis}": "redis://127.0.0.1/1",
    }
    for name, text in CONTESTANTS["redis"].environment.items():
        monkeypatch.setenv(name, values.get(text, text))
    whole = tmp_path / "sluice.yaml"
    whole.write_text("".join((HERE / file).read_text() for file in files))
    loaded = config.load(whole)
    assert loaded.server.port == 1234
    assert (loaded.redis is not None) == ("redis.yaml" in files)


def test_every_contestant_has_its_files_and_every_peer_a_row() -> None:
    for contestant in CONTESTANTS.values():
        for sources in contestant.files.values():
            assert [source for source in sources if not (HERE / source).exists()] == []
    assert set(INSTALL) == {name for name, contestant in CONTESTANTS.items() if contestant.needs}


def test_an_unknown_contestant_is_named() -> None:
    done = run("benchmarks", "--contestants", "nobody")
    assert done.returncode == 2
    assert "no 'nobody'; there are direct, nginx, bare, off, sluice" in done.stderr


def rows(**seconds: list[float]) -> Results:
    return Results(
        {
            "test": "throughput",
            "name": name,
            "round": number,
            "cpu_s": cpu,
            "rps": 1 / cpu,
            "upstream": {"requests": 1000},
        }
        for name, all_ in seconds.items()
        for number, cpu in enumerate(all_)
    )


@pytest.mark.parametrize(("cpu", "fits"), [(2.0, True), (4.0, False)])
def test_the_check_compares_with_the_bare_proxy_of_the_same_run(cpu: float, fits: bool) -> None:
    results = rows(bare=[1.0], sluice=[cpu])
    if fits:
        check(results, (("throughput", 2.6),))
    else:
        with pytest.raises(SystemExit):
            check(results, (("throughput", 2.6),))


def test_a_ratio_is_the_median_of_the_rounds_so_that_a_slow_round_cannot_move_it() -> None:
    results = rows(bare=[1.0, 10.0, 1.0], sluice=[2.0, 20.0, 8.0])
    assert results.ratio("throughput", "sluice", "bare", rps) == pytest.approx(0.5)
    assert results.ratio("throughput", "sluice", "nginx", rps) is None
    assert results.median("throughput", "sluice", LATE99) is None


def test_the_slope_of_memory_comes_with_its_error() -> None:
    still = [(float(second), 100 + second % 2) for second in range(900)]
    growing = [(second, mb + second * 0.01) for second, mb in still]
    slope, error = line(spans(still, 30))
    assert abs(slope) <= error + 1e-9
    slope, error = line(spans(growing, 30))
    assert slope == pytest.approx(0.01, rel=0.05)
    assert slope > error


# --- the load generator, against a server that answers as it is told


@pytest.fixture(scope="session")
def load(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, Any]]:
    folder = tmp_path_factory.mktemp("tools")
    sources = [str(HERE / "tools" / source) for source in TOOLS["load"]]
    subprocess.run(["gcc", "-O1", "-Wall", "-Werror", "-o", str(folder / "load"), *sources], check=True)
    body = folder / "body.json"
    body.write_text("{}")

    def start(port: int, *arguments: str) -> dict[str, Any]:
        command = [str(folder / "load"), str(port), "/", str(body), *arguments]
        found: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True, timeout=60).stdout)
        return found

    return start


EVENTS = "".join(f'data: {{"content":"@1#{number} "}}\n\n' for number in range(5))
DONE = "data: [DONE]\n\n"
EVENT_STREAM = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"


def chunked(text: str, size: int = 17) -> str:
    """In HTTP chunks that do not heed where events end."""
    parts = [text[at : at + size] for at in range(0, len(text), size)]
    return (
        "Transfer-Encoding: chunked\r\n\r\n" + "".join(f"{len(part):x}\r\n{part}\r\n" for part in parts) + "0\r\n\r\n"
    )


ANSWERS = {
    "whole": ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", "ok"),
    "whole, until closed": ("HTTP/1.1 200 OK\r\n\r\nhello", "ok"),
    "stream": (EVENT_STREAM + chunked(EVENTS + DONE), "ok"),
    "stream, with trailers": (EVENT_STREAM + chunked(EVENTS + DONE)[:-2] + "X-Took: 1\r\n\r\n", "ok"),
    "stream, until closed": (EVENT_STREAM + "\r\n" + EVENTS + DONE, "ok"),
    "refused": ("HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\n\r\n", "err_status"),
    "nothing": ("", "err_connection"),
    "no HTTP": ("SSH-2.0-OpenSSH_9.2p1\r\n\r\n", "err_connection"),
    "cut in the body": ("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello", "err_incomplete"),
    "cut in a chunk": (EVENT_STREAM + chunked(EVENTS + DONE)[:-30], "err_incomplete"),
    "no end": (EVENT_STREAM + chunked(EVENTS), "err_incomplete"),
    "a chunk lost": (EVENT_STREAM + chunked(EVENTS.replace("@1#2", "") + DONE), "err_incomplete"),
    "a chunk twice": (EVENT_STREAM + chunked(EVENTS.replace("@1#2", "@1#1") + DONE), "err_incomplete"),
    "an empty stream": (EVENT_STREAM + chunked(DONE), "err_incomplete"),
}


@pytest.mark.parametrize("piece", [1, 7, 100_000])
@pytest.mark.parametrize("what", ANSWERS)
async def test_the_load_generator_counts_what_it_was_answered(
    what: str, piece: int, load: Callable[..., dict[str, Any]]
) -> None:
    """In pieces of one byte, of seven, and at once."""
    text, counted = ANSWERS[what]

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        stays_open = counted == "ok" and "until closed" not in what
        with contextlib.suppress(asyncio.IncompleteReadError):  # the load generator has done its work
            for _ in range(3 if stays_open else 1):
                await reader.readuntil(b"\r\n\r\n{}")
                for at in range(0, len(text), piece):
                    writer.write(text[at : at + piece].encode())
                    await writer.drain()
                    await asyncio.sleep(0)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        found = await asyncio.to_thread(load, port, "-c", "2", "-n", "3", "-d", "20")
    expected = dict.fromkeys(("ok", "err_status", "err_connection", "err_incomplete", "err_timeout", "unfinished"), 0)
    assert {key: found[key] for key in expected} == {**expected, counted: 6}
    if counted == "ok" and re.match("stream", what):
        assert found["chunks"] == 30


async def test_an_answer_that_never_ends_is_told_as_unfinished_or_timed_out(
    load: Callable[..., dict[str, Any]],
) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n{}")
        writer.write((EVENT_STREAM + "\r\n" + EVENTS).encode())
        await reader.read()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        found = await asyncio.to_thread(load, port, "-c", "2", "-d", "0.2", "-g", "0.2")
        assert (found["unfinished"], found["ok"], found["chunks"]) == (2, 0, 10)
        found = await asyncio.to_thread(load, port, "-c", "2", "-n", "1", "-d", "20", "-t", "0.2")
        assert (found["err_timeout"], found["unfinished"]) == (2, 0)
        late = await asyncio.to_thread(load, port, "-c", "1", "-r", "50", "-d", "0.4", "-g", "0")
        assert (late["started"], late["unsent"]) == (1, 19)
