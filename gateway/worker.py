"""One worker process: its event loop, its signals, its end."""

import asyncio
import gc
import linecache
import logging
import os
import re
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import orjson

from config.schema import Config

from . import lean, logs  # noqa: F401 - before anything that imports aiohttp
from .app import build
from .reload import Stamp, stamp_of
from .server import drain

LOGGER = logging.getLogger("sluice.server")
BEAT_SECONDS = 1.0


def run(read: Callable[[], Config], path: Path) -> None:
    """Serve until SIGTERM or SIGINT, drain, close; a second signal exits at once with 130.

    ``read`` gives the configuration of ``path``; on SIGHUP and when the file changes it is read again.
    """
    seen = stamp_of(path)
    config = read()
    logs.configure(config.logging)
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(serve(config, read, path, seen))


def loop_factory() -> "type[asyncio.AbstractEventLoop] | None":
    """uvloop's where there is one: about a fifth less CPU per request."""
    if sys.platform == "win32":
        return None
    import uvloop

    return uvloop.Loop


async def serve(
    config: Config,
    read: Callable[[], Config],
    path: Path,
    seen: Stamp | None,
    *,
    sockets: tuple[socket.socket, socket.socket] | None = None,
    signals: tuple[int, ...] = (signal.SIGTERM, signal.SIGINT),
    beat: Callable[[], bool] | None = None,
    others: Callable[[], None] | None = None,
    stands_by: bool = False,
    applied: Callable[[Config], None] | None = None,
) -> None:
    """Serve until one of ``signals``. ``seen`` is the stamp of ``path`` from before ``config`` was read from it: where it is
    another by now, it is read again at once. ``sockets``, of data and administration, listen already, as under a supervisor.

    ``beat``, of a supervisor, is called every second from when the worker serves; when it says False, the worker ends.
    Repeated signals are then left to the supervisor. ``others`` has all workers reload; ``applied`` is told of each reload.
    ``stands_by``: there are more workers than CPUs, and this one takes in whom the others do not.
    """
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(logs.log_lost)
    gateway = await build(config, read)
    gateway.reloader.others, gateway.reloader.applied = others, applied
    stop, reloads = asyncio.Event(), set[asyncio.Task[None]]()

    def on_signal() -> None:
        # Told to end with its whole group, a worker hears it of its supervisor again; for haste that one kills.
        if stop.is_set() and beat is None:
            os._exit(130)
        stop.set()

    def on_hangup() -> None:
        task = loop.create_task(gateway.reloader.try_reload())
        reloads.add(task)
        task.add_done_callback(reloads.discard)

    for number in signals:
        loop.add_signal_handler(number, on_signal)
    loop.add_signal_handler(signal.SIGHUP, on_hangup)
    try:
        await gateway.start(sockets, stands_by=stands_by)
    except BaseException:
        await gateway.close()
        raise
    heart = loop.create_task(_beating(beat, stop)) if beat is not None else None
    watcher = loop.create_task(gateway.reloader.watch(path, seen))
    freeze()
    LOGGER.info("%s", orjson.dumps({"event": "serving", "url": gateway.url, "admin": gateway.admin_url}).decode())
    await stop.wait()
    watcher.cancel()
    await drain(gateway.state, config.server, [gateway.data])
    await gateway.close()
    if heart is not None:
        heart.cancel()


def freeze() -> None:
    """What was built lives for ever: the collector need not look at it again. What only helped to build it goes.

    Else each full collection would look at all of it, and keep the event loop for 0.1 s.
    """
    linecache.clearcache()
    re.purge()
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


async def _beating(beat: Callable[[], bool], stop: asyncio.Event) -> None:
    while True:
        if not beat():
            stop.set()
        await asyncio.sleep(BEAT_SECONDS)
