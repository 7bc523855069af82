"""Workers beyond the number of CPUs: connections go to the others, until those hang or are gone."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Coroutine, Iterator
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
HEALTH = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"
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


@contextlib.contextmanager
def two_workers_on_one_cpu(folder: Path, redis: str) -> Iterator[tuple[subprocess.Popen[bytes], int, Path]]:
    port = free_port()
    path, said = folder / "sluice.yaml", folder / "said"
    document = {
        "server": {"port": port, "workers": 2, "drain_delay": 0},
        "admin": {"port": free_port()},
        "keys": [{"name": "test", "key": KEY}],
        "redis": {"url": redis},
        "database": {"url": f"sqlite:///{folder}/sluice.db"},
        "ledger": {"journal": f"{folder}/journal"},
    }
    path.write_text(yaml.safe_dump(document))
    code = "import os, sys; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); os.execv(sys.executable, sys.argv[1:])"
    command = [sys.executable, "-m", "gateway", "serve", str(path)]
    with said.open("wb") as stderr:
        process = subprocess.Popen([sys.executable, "-c", code, *command], cwd=Path(__file__).parents[1], stderr=stderr)
    try:
        end = time.monotonic() + 20
        while said.read_text().count('"serving"') < 2:
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.05)
        yield process, port, said
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.wait()


def answers(connections: list[socket.socket], seconds: float) -> int:
    """How many of these clients are answered within so many seconds."""
    for each in connections:
        each.sendall(HEALTH)
    got, end = 0, time.monotonic() + seconds
    for each in connections:
        each.settimeout(max(0.001, end - time.monotonic()))
        with contextlib.suppress(TimeoutError):
            got += each.recv(1000).startswith(b"HTTP/1.1 200")
    return got


@pytest.mark.skipif(sys.platform != "linux", reason="needs to choose a CPU")
def test_of_two_workers_on_one_cpu_one_serves_and_the_other_is_there_when_it_hangs(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    with (
        two_workers_on_one_cpu(tmp_path, redis_server.url) as (process, port, said),
        contextlib.ExitStack() as stack,
    ):
        clients = [stack.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(20)]
        assert answers(clients, 5) == 20
        assert "1 of 2 workers stand by, for there are 1 CPUs" in said.read_text()
        served = {}
        for worker in children(process.pid):
            os.kill(worker, signal.SIGSTOP)
            served[worker] = 20 - answers(clients, 0.5)
            if served[worker]:
                late = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
                assert answers([late], 5) == 1, "the one that stood by"
            os.kill(worker, signal.SIGCONT)
        assert sorted(served.values()) == [0, 20]
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
