"""Several workers: gunicorn's arbiter in front of processes that each run ``worker.serve``.

gunicorn binds the sockets, forks, restarts what dies or hangs, and stops them in order. aiohttp's own gunicorn worker
cannot be used, because it serves a ``web.Application`` and our listener is a hardened low-level server.
"""

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.workers.base import Worker
from prometheus_client.multiprocess import mark_process_dead

from config import Config, ConfigError, cpus

from . import logs, slices
from .worker import loop_factory, serve

log = logging.getLogger(__name__)

HANGS_AFTER = 30
"""Seconds without a heartbeat after which a worker is killed and replaced."""
CLOSE_SECONDS = 15
"""Beyond the drain, for the last settlements."""


def run(read: Callable[[], Config], path: Path) -> None:
    """Serve with ``server.workers`` processes. SIGTERM and SIGINT drain all of them, a second one ends them at once;
    SIGHUP makes all of them read the configuration again."""
    config = read()
    logs.configure(config.logging)
    wanted, there = config.server.workers, cpus.available()
    if wanted > there:
        log.warning("%d workers take turns on %d CPUs: `server.workers: auto` would start %d", wanted, there, there)
    Supervisor(Application(config, read, path)).run()


class Application(BaseApplication):  # type: ignore[misc]  # gunicorn has no types
    """The settings of gunicorn that ours come to."""

    def __init__(self, config: Config, read: Callable[[], Config], path: Path) -> None:
        self.config, self.read, self.path = config, read, path
        super().__init__()

    def load_config(self) -> None:
        server, admin = self.config.server, self.config.admin
        settings: dict[str, Any] = {
            "bind": [_address(server.host, server.port), _address(admin.host, admin.port)],
            "workers": server.workers,
            "worker_class": Process,
            "timeout": HANGS_AFTER,
            "graceful_timeout": int(server.drain_delay + server.drain) + CLOSE_SECONDS,
            "backlog": 4096,
            "loglevel": "warning",
            "child_exit": _forget,
        }
        if "control_socket_disable" in self.cfg.settings:  # since gunicorn 25; signals are enough
            settings["control_socket_disable"] = True
        for name, value in settings.items():
            self.cfg.set(name, value)

    def load(self) -> None:
        """Nothing: a worker builds its gateway in its own event loop."""


def _forget(_: Arbiter, worker: Worker) -> None:
    """A worker is gone, and with it what it had in flight."""
    mark_process_dead(worker.pid)  # type: ignore[no-untyped-call]  # prometheus_client has no types here


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class Supervisor(Arbiter):  # type: ignore[misc]  # gunicorn has no types
    """The parent process."""

    ending = False

    def signal(self, sig: int, frame: FrameType | None) -> None:
        if os.getpid() != self.pid:  # a worker, forked just now, that has not set its own yet
            if sig == signal.SIGTERM:
                os._exit(0)
            return
        if sig in (signal.SIGTERM, signal.SIGINT):
            if self.ending:
                for pid in list(self.WORKERS):
                    os.kill(pid, signal.SIGKILL)
                os._exit(130)
            self.ending = True
        super().signal(sig, frame)

    def handle_int(self) -> None:
        """As SIGTERM: what runs may finish."""
        raise StopIteration

    def handle_hup(self) -> None:
        """The workers swap their configuration themselves; nobody is replaced."""
        self.kill_workers(signal.SIGHUP)


class Process(Worker):  # type: ignore[misc]  # gunicorn has no types
    """One worker process."""

    def init_signals(self) -> None:
        """``worker.serve`` sets them; a terminal's SIGINT reaches the parent too, which then says SIGTERM."""
        for number in self.SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until the worker runs: it has just read the file

    def run(self) -> None:
        data, admin = (_duplicate(listener.sock) for listener in self.sockets)
        for listener in self.sockets:
            listener.sock.close()  # else it would go on listening while this worker drains, and nobody would answer
        application: Application = self.app
        if slices.are_shared(application.config.server.workers):
            slices.take_long_turns()
        try:
            config = application.read()  # this worker may take the place of one that has reloaded since
        except ConfigError:
            config = application.config
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            runner.run(
                serve(
                    config, application.read, application.path,
                    sockets=(data, admin), signals=(signal.SIGTERM,), beat=self._beat, others=self._reload_all,
                )
            )  # fmt: skip

    def _reload_all(self) -> None:
        """The parent has every worker read the configuration again; this one finds nothing new."""
        os.kill(self.ppid, signal.SIGHUP)

    def _beat(self) -> bool:
        """Tell the parent that the loop turns; False when there is no parent any more."""
        self.notify()
        return bool(os.getppid() == self.ppid)


def _duplicate(listener: socket.socket) -> socket.socket:
    """The worker closes its own when it drains."""
    copy = listener.dup()
    copy.setblocking(False)
    return copy
