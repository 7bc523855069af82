"""Several workers: gunicorn's arbiter in front of processes that each run ``worker.serve``.

gunicorn binds the sockets, forks, restarts what dies or hangs, and stops them in order. aiohttp's own gunicorn worker
cannot be used, because it serves a ``web.Application`` and our listener is a hardened low-level server.
"""

import asyncio
import hashlib
import logging
import mmap
import os
import pickle
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.glogging import Logger
from gunicorn.workers.base import Worker
from prometheus_client.multiprocess import mark_process_dead

from config import Config, ConfigError, cpus

from . import doors, logs
from .reload import Stamp, stamp_of
from .worker import loop_factory, serve

log = logging.getLogger(__name__)

HANGS_AFTER = 30
"""Seconds without a heartbeat after which a worker is killed and replaced."""
CLOSE_SECONDS = 15
"""Beyond the drain, for the last settlements."""
RETRY_SECONDS = 5
"""Between the end of a worker that could not start and the start of the next, once others have served."""
TEXT_BYTES = 65_536
CONFIG_BYTES = 16 * 1024 * 1024
"""Room for a configuration; of memory only what it needs is used, and none before a reload."""
DIGEST_BYTES = 32


class Running(NamedTuple):
    """A configuration that workers run."""

    config: Config
    stamp: Stamp | None
    """Of its file, from before it was read."""
    since: float
    """On the monotonic clock, which all processes share."""


def run(read: Callable[[], Config], path: Path) -> None:
    """Serve with ``server.workers`` processes. SIGTERM and SIGINT drain all of them, a second one ends them at once;
    SIGHUP makes all of them read the configuration again. Raises ConfigError where none can start."""
    stamp = stamp_of(path)
    config = read()
    logs.configure(config.logging)
    wanted, there = config.server.workers, cpus.available()
    if wanted > there:
        log.warning("%d of %d workers stand by, for there are %d CPUs", wanted - there, wanted, there)
    supervisor = Supervisor(Application(Running(config, stamp, 0.0), read, path))
    try:
        supervisor.run()
    except SystemExit:
        if supervisor.problems:
            raise ConfigError(list(supervisor.problems)) from None
        raise


class Application(BaseApplication):  # type: ignore[misc]  # gunicorn has no types
    """The settings of gunicorn that ours come to."""

    def __init__(self, running: Running, read: Callable[[], Config], path: Path) -> None:
        self.running = running
        """What a worker begins with."""
        self.read, self.path = read, path
        super().__init__()

    def load_config(self) -> None:
        server, admin = self.running.config.server, self.running.config.admin
        settings: dict[str, Any] = {
            "bind": [_address(server.host, server.port), _address(admin.host, admin.port)],
            "workers": server.workers,
            "worker_class": Process,
            "timeout": HANGS_AFTER,
            "graceful_timeout": int(server.drain_delay + server.drain) + CLOSE_SECONDS,
            "backlog": 4096,
            "loglevel": "warning",
            "logger_class": Log,
            "pre_fork": _assign,
            "child_exit": _forget,
        }
        if "control_socket_disable" in self.cfg.settings:  # since gunicorn 25; signals are enough
            settings["control_socket_disable"] = True
        for name, value in settings.items():
            self.cfg.set(name, value)

    def load(self) -> None:
        """Nothing: a worker builds its gateway in its own event loop."""


class Log(Logger):  # type: ignore[misc]  # gunicorn has no types
    """gunicorn's lines, in the format of all others."""

    def setup(self, cfg: Any) -> None:
        super().setup(cfg)
        self.error_log.handlers.clear()
        self.error_log.propagate = True


def _assign(supervisor: "Supervisor", worker: "Process") -> None:
    """As many workers serve as there are CPUs, the others stand by: taking turns on a CPU costs more than it brings. They
    sleep, and cost next to nothing, until as many were wanted."""
    others = supervisor.WORKERS.values()
    worker.stands_by = sum(not other.stands_by for other in others) >= cpus.available()
    awake = sum(other.stands_by and not other.sleeps for other in others)
    worker.sleeps = worker.stands_by and awake >= supervisor.wanted
    worker.others = [other.start for other in others if not other.sleeps]


def _forget(supervisor: "Supervisor", worker: "Process") -> None:
    """A worker is gone, and with it what it had in flight."""
    mark_process_dead(worker.pid)  # type: ignore[no-untyped-call]  # prometheus_client has no types here
    supervisor.gone(worker)


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class Supervisor(Arbiter):  # type: ignore[misc]  # gunicorn has no types
    """The parent process."""

    ending = False
    served = False
    """Whether any worker ever did."""
    not_before = 0.0
    """When the next worker may start, on the monotonic clock."""
    problems: Sequence[str] = ()
    """Why no worker could start."""
    wanted = 0
    """Workers that stand by and had to wake up."""

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

    def gone(self, worker: "Process") -> None:
        """What keeps the first workers from starting ends all, as it ends a single one. Once there are some that serve,
        they go on, and another is tried after a pause: what is missing may come back."""
        self._learn(worker)
        if worker.start.wanted:
            self.wanted += 1  # the next one serves, with what the others run by now
            return
        self.served = self.served or any(w.start.serves for w in (worker, *self.WORKERS.values()))
        if worker.start.serves or self.ending or self.problems:
            return
        problems = worker.start.problems
        if problems and not self.served:
            self.problems = problems
            self.log.error_log.setLevel(logging.CRITICAL)  # 23 calls the end of the others an error
            raise StopIteration  # gunicorn's word for an end in order
        self.not_before = time.monotonic() + RETRY_SECONDS
        if problems:
            log.error("a worker cannot start and is tried again in %d s: %s", RETRY_SECONDS, "; ".join(problems))

    def spawn_worker(self) -> Any:
        """One that takes the place of another begins with what the others run: the file may say by now what they refused."""
        self._learn(*self.WORKERS.values())
        return super().spawn_worker()

    def _learn(self, *workers: "Process") -> None:
        for worker in workers:
            found = worker.start.running
            if found is not None and found.since > self.app.running.since:
                self.app.running = found

    def spawn_workers(self) -> None:
        if time.monotonic() >= self.not_before:
            super().spawn_workers()


class Start:
    """What becomes of a worker's start and of its reloads, in memory that it shares with its parent; made before the fork."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 1 + TEXT_BYTES)
        self._config = mmap.mmap(-1, DIGEST_BYTES + CONFIG_BYTES)

    @property
    def serves(self) -> bool:
        return self._memory[0] == 1

    @property
    def wanted(self) -> bool:
        """Whether it ended because one that serves was wanted in its place."""
        return self._memory[0] == 2

    @property
    def problems(self) -> list[str]:
        """Why it cannot; empty where it can, or was not able to say."""
        return self._memory[1:].rstrip(b"\0").decode(errors="replace").splitlines()

    def succeeded(self) -> None:
        self._memory[0] = 1

    def woke(self) -> None:
        self._memory[0] = 2

    def failed(self, problems: Sequence[str]) -> None:
        text = "\n".join(problems).encode()[:TEXT_BYTES]
        self._memory[1 : 1 + len(text)] = text

    @property
    def running(self) -> Running | None:
        """What a reload brought; None where there was none, or where the worker died in the middle of telling."""
        size = int.from_bytes(self._config[DIGEST_BYTES : DIGEST_BYTES + 8])
        told = self._config[DIGEST_BYTES : DIGEST_BYTES + 8 + size]
        if not size or hashlib.sha256(told).digest() != self._config[:DIGEST_BYTES]:
            return None
        running: Running = pickle.loads(told[8:])  # noqa: S301 - a worker of ours wrote it, into memory that nobody else has
        return running

    def reloaded(self, config: Config, stamp: Stamp | None) -> None:
        text = pickle.dumps(Running(config, stamp, time.monotonic()))
        if len(text) + 8 > CONFIG_BYTES:
            return  # who begins with the one before reads the file as soon as it serves
        told = len(text).to_bytes(8) + text
        self._config[DIGEST_BYTES : DIGEST_BYTES + len(told)] = told
        self._config[:DIGEST_BYTES] = hashlib.sha256(told).digest()


class Process(Worker):  # type: ignore[misc]  # gunicorn has no types
    """One worker process."""

    stands_by = sleeps = False
    others: Sequence[Start] = ()
    """Of those that did not sleep when this one was made."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.start = Start()

    def init_signals(self) -> None:
        """``worker.serve`` sets them; a terminal's SIGINT reaches the parent too, which then says SIGTERM."""
        for number in self.SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until the worker runs: it looks at the file then

    def run(self) -> None:
        if self.sleeps:
            self._sleep()
            return
        data, admin = (_duplicate(listener.sock) for listener in self.sockets)
        for listener in self.sockets:
            listener.sock.close()  # else it would go on listening while this worker drains, and nobody would answer
        application: Application = self.app
        config, stamp, _ = application.running

        def read() -> Config:
            nonlocal stamp
            stamp = stamp_of(application.path)
            return application.read()

        serving = serve(
            config, read, application.path, stamp,
            sockets=(data, admin), signals=(signal.SIGTERM,), beat=self._beat, others=self._reload_all,
            stands_by=self.stands_by,
            applied=lambda config: self.start.reloaded(config, stamp),
        )  # fmt: skip
        try:
            with asyncio.Runner(loop_factory=loop_factory()) as runner:
                runner.run(serving)
        except ConfigError as exc:
            self.start.failed(exc.problems)  # the parent says it, once for all workers
        except Exception as exc:  # gunicorn would print its text
            logs.log_crash(exc)
            if self.start.serves:
                sys.exit(1)
            self.start.failed([f"the start failed: {type(exc).__name__}"])

    def _sleep(self) -> None:
        """Until the workers that serve leave somebody waiting; then end, and the parent starts one that takes them in."""
        signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
        if doors.wanted(self.sockets[0].sock, self._rest, lambda: any(other.serves for other in self.others)):
            self.start.woke()

    def _rest(self) -> bool:
        self.notify()
        return bool(os.getppid() == self.ppid)

    def _reload_all(self) -> None:
        """The parent has every worker read the configuration again; this one finds nothing new."""
        os.kill(self.ppid, signal.SIGHUP)

    def _beat(self) -> bool:
        """Tell the parent that this worker serves and its loop turns; False when there is no parent any more."""
        self.start.succeeded()
        return self._rest()


def _duplicate(listener: socket.socket) -> socket.socket:
    """The worker closes its own when it drains."""
    copy = listener.dup()
    copy.setblocking(False)
    return copy
