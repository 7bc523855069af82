"""Workers beyond the number of CPUs: connections go to the others, until those hang or are gone."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import uvloop
import yaml

from config.schema import Server as ServerConfig
from gateway import doors, reply, web
from gateway.endpoints.exchange import Exchange
from gateway.endpoints.routes import Routes
from gateway.server import Serving, Site, State
from gateway.throttle import Failures

from .running import KEY
from .servers import RedisServer, free_port
from .test_drain import children

GET_IT = b"GET /it HTTP/1.1\r\nhost: x\r\n\r\n"
OTHER_KEY = KEY[:-1] + "Z"
PATIENCE = 0.05
LOOPS = pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doors, "PATIENCE", PATIENCE)


@asynccontextmanager
async def sites(*stand_by: bool) -> AsyncIterator[tuple[int, list[Site], list[int]]]:
    """Listeners that share one socket, as workers do: its port, and how many requests each has answered."""
    answered = [0] * len(stand_by)
    with socket.create_server(("127.0.0.1", 0), backlog=4096) as listening:
        made = [_site(number, answered) for number in range(len(stand_by))]
        for site, stands_by in zip(made, stand_by, strict=True):
            shared = listening.dup()
            shared.setblocking(False)
            await site.start("127.0.0.1", 0, shared, stands_by=stands_by)
    yield made[0].port, made, answered
    for site in made:
        await site.close()


def _site(number: int, answered: list[int]) -> Site:
    async def it(exchange: Exchange, _: str) -> web.StreamResponse:
        answered[number] += 1
        return reply.json_response({}, exchange.all_headers)

    routes = Routes()
    routes.add("GET", "/it", it)
    site = Site(ServerConfig(port=0), State(), Failures(600))
    site.serve(Serving(routes, "1"))
    return site


@asynccontextmanager
async def client(port: int) -> AsyncIterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port)) as made:
        made.setblocking(False)
        yield made


def on(loop: type[asyncio.AbstractEventLoop], test: Coroutine[None, None, None]) -> None:
    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(test)


async def ask(*clients: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    for each in clients:
        await loop.sock_sendall(each, GET_IT)
    async with asyncio.timeout(5):
        for answer in await asyncio.gather(*(loop.sock_recv(each, 1000) for each in clients)):
            assert answer.startswith(b"HTTP/1.1 200")


@LOOPS
@pytest.mark.usefixtures("impatient")
def test_who_stands_by_leaves_connections_to_those_that_accept_them(loop: type[asyncio.AbstractEventLoop]) -> None:
    async def run() -> None:
        async with sites(True, False, True) as (port, _, answered), contextlib.AsyncExitStack() as clients:
            for _ in range(10):
                await ask(*[await clients.enter_async_context(client(port)) for _ in range(5)])
                await asyncio.sleep(PATIENCE / 2)
            await asyncio.sleep(2 * PATIENCE)
            assert answered == [0, 50, 0]

    on(loop, run())


@LOOPS
@pytest.mark.usefixtures("impatient")
def test_who_stands_by_takes_in_a_crowd_that_nobody_else_accepts(loop: type[asyncio.AbstractEventLoop]) -> None:
    async def run() -> None:
        async with sites(False, True) as (port, (leaving, staying), answered), contextlib.AsyncExitStack() as clients:
            await leaving.close()
            began = time.monotonic()
            await ask(await clients.enter_async_context(client(port)))
            assert time.monotonic() - began >= PATIENCE
            await ask(*[await clients.enter_async_context(client(port)) for _ in range(300)])
            assert time.monotonic() - began < 3, "not one after the other, each after a pause: that would be 15 s"
            assert answered == [0, 301]
            await staying.stop_listening()
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port))

    on(loop, run())


@LOOPS
@pytest.mark.usefixtures("impatient")
def test_who_is_late_once_keeps_most_of_what_is_theirs(loop: type[asyncio.AbstractEventLoop]) -> None:
    """Another worker that turns slowly: one or two connections go, not all that waited."""

    async def run() -> None:
        async with sites(True) as (port, _, answered), contextlib.AsyncExitStack() as clients:
            waiting = [await clients.enter_async_context(client(port)) for _ in range(50)]
            for each in waiting:
                await asyncio.get_running_loop().sock_sendall(each, GET_IT)
            await asyncio.sleep(2.5 * PATIENCE)
            assert 1 <= answered[0] <= 3

    on(loop, run())


def test_who_sleeps_wakes_up_when_somebody_waits_all_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doors, "PATIENCE", 0.2)
    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        socket.create_connection(listening.getsockname()),
    ):
        began = time.monotonic()
        assert doors.wanted(listening, lambda: True, lambda: True)
        assert time.monotonic() - began >= 0.18


def test_who_sleeps_leaves_those_who_come_early_to_the_workers_that_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doors, "PATIENCE", 0.1)
    monkeypatch.setattr(doors, "BEAT_MS", 50)
    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        socket.create_connection(listening.getsockname()),
    ):
        over = time.monotonic() + 0.6
        assert not doors.wanted(listening, lambda: time.monotonic() < over, lambda: False)


def test_who_sleeps_sleeps_on_where_others_accept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doors, "PATIENCE", 0.4)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        over = time.monotonic() + 1

        def busy() -> None:
            while time.monotonic() < over:
                with socket.create_connection(listening.getsockname()):
                    time.sleep(0.03)
                    listening.accept()[0].close()
                time.sleep(0.1)

        others = threading.Thread(target=busy)
        others.start()
        assert not doors.wanted(listening, lambda: time.monotonic() < over, lambda: True)
        others.join()


@contextlib.contextmanager
def two_workers_on_one_cpu(folder: Path, redis: str) -> Iterator[tuple[subprocess.Popen[bytes], int, Path]]:
    port, said = free_port(), folder / "said"
    write(folder, port, redis, KEY)
    code = "import os, sys; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); os.execv(sys.executable, sys.argv[1:])"
    command = [sys.executable, "-m", "gateway", "serve", str(folder / "sluice.yaml")]
    with said.open("wb") as stderr:
        process = subprocess.Popen([sys.executable, "-c", code, *command], cwd=Path(__file__).parents[1], stderr=stderr)
    try:
        until(lambda: process.poll() is not None or serving(said) == 1)
        assert process.poll() is None
        yield process, port, said
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.wait()


def write(folder: Path, port: int, redis: str, key: str) -> None:
    document = {
        "server": {"port": port, "workers": 2, "drain_delay": 0},
        "admin": {"port": 0},
        "keys": [{"name": "test", "key": key}],
        "redis": {"url": redis},
        "database": {"url": f"sqlite:///{folder}/sluice.db"},
        "ledger": {"journal": f"{folder}/journal"},
    }
    (folder / "new").write_text(yaml.safe_dump(document))
    (folder / "new").replace(folder / "sluice.yaml")


def serving(said: Path) -> int:
    return said.read_text().count('"serving"')


def until(found: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < end
        time.sleep(0.05)


def status(port: int, key: str, seconds: float) -> int:
    """What somebody new is answered who asks for the models; 0: nothing."""
    with contextlib.suppress(TimeoutError), socket.create_connection(("127.0.0.1", port)) as made:
        made.settimeout(seconds)
        made.sendall(f"GET /v1/models HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n\r\n".encode())
        return int(made.recv(1000).split()[1])
    return 0


@pytest.mark.skipif(sys.platform != "linux", reason="needs to choose a CPU")
def test_of_two_workers_on_one_cpu_one_serves_and_the_other_wakes_up_when_it_hangs(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    with two_workers_on_one_cpu(tmp_path, redis_server.url) as (process, port, said):
        assert [status(port, KEY, 5) for _ in range(20)] == [200] * 20
        time.sleep(2)
        assert serving(said) == 1
        assert "1 of 2 workers stand by, for there are 1 CPUs" in said.read_text()

        # What it will serve is what the other one runs, not what the file says by then.
        write(tmp_path, port, redis_server.url, OTHER_KEY)
        until(lambda: status(port, OTHER_KEY, 5) == 200)
        (tmp_path / "sluice.yaml").write_text("providers: [")
        serves = min(children(process.pid))
        os.kill(serves, signal.SIGSTOP)
        assert status(port, OTHER_KEY, 30) == 200
        assert serving(said) == 2
        os.kill(serves, signal.SIGCONT)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="needs to choose a CPU")
def test_a_worker_that_sleeps_ends_with_the_others_and_is_replaced_when_it_dies(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    with two_workers_on_one_cpu(tmp_path, redis_server.url) as (process, port, said):
        until(lambda: len(children(process.pid)) == 2)
        sleeps = max(children(process.pid))
        os.kill(sleeps, signal.SIGKILL)
        until(lambda: sleeps not in children(process.pid) and len(children(process.pid)) == 2)
        assert status(port, KEY, 5) == 200
        assert serving(said) == 1
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        assert '"level":"error"' not in said.read_text().replace(" ", "").split("SIGKILL")[-1]
