"""Read the configuration again while the gateway runs: when the file changes, on SIGHUP, when an operator asks."""

import asyncio
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import orjson
from prometheus_client import CollectorRegistry, Counter, Gauge

from config import Config, ConfigError

LOGGER = logging.getLogger("sluice.config")
POLL_SECONDS = 1.0
Stamp: TypeAlias = tuple[int, int, int]
"""Time of change, size and inode."""


class Reloader:
    """Reads with ``read`` and hands to ``apply``, which swaps everything or raises ConfigError and changes nothing."""

    def __init__(
        self, read: Callable[[], Config] | None, apply: Callable[[Config], str], registry: CollectorRegistry
    ) -> None:
        self._read = read
        self._apply = apply
        self._lock = asyncio.Lock()
        self.others: Callable[[], None] | None = None
        """Has the other workers of the same listener read again too."""
        self.applied: Callable[[Config], None] | None = None
        """Told of what runs after a reload."""
        self._results = Counter(
            "sluice_config_reloads", "Reloads of the configuration by result.", ["result"], registry=registry
        )
        for result in ("ok", "invalid"):
            self._results.labels(result)
        self._good = Gauge(
            "sluice_config_last_reload_successful",
            "1 unless the last reload was refused by any worker.",
            registry=registry,
            multiprocess_mode="livemin",
        )
        self._good.set(1)
        self._refused = False

    @property
    def refused(self) -> bool:
        """Whether the last reload was refused: the file on disk is not what runs."""
        return self._refused

    async def reload(self) -> str:
        """Run what the file says now; the version that runs. Raises ConfigError, and then what ran goes on."""
        async with self._lock:
            try:
                if self._read is None:
                    raise ConfigError(["this gateway was not started from a file"])
                config = await asyncio.to_thread(self._read)
                version = self._apply(config)
            except Exception as exc:  # whatever it is: the file on disk is not what runs
                self._results.labels("invalid").inc()
                self._good.set(0)
                self._refused = True
                if isinstance(exc, ConfigError):
                    LOGGER.error("%s", orjson.dumps({"event": "config refused", "problems": exc.problems}).decode())  # noqa: TRY400 - a mistake of the operator has no trace
                raise
            self._results.labels("ok").inc()
            self._good.set(1)
            self._refused = False
            if self.applied is not None:
                self.applied(config)
            LOGGER.info("%s", orjson.dumps({"event": "config reloaded", "version": version}).decode())
            return version

    async def everywhere(self) -> str:
        """``reload``, and then the same in every other worker: whoever was asked, all run the same."""
        version = await self.reload()
        if self.others is not None:
            self.others()
        return version

    async def try_reload(self) -> None:
        """``reload``, where nobody waits for the answer: the log and the metric tell."""
        try:
            await self.reload()
        except ConfigError:
            return
        except Exception:
            LOGGER.exception("a reload failed")

    async def watch(self, path: Path, seen: Stamp | None) -> None:
        """Reload whenever the file is another one (also behind a symbolic link, as in Kubernetes); never ends.

        ``seen`` is its stamp from before the configuration that runs was made.
        """
        while True:
            await asyncio.sleep(POLL_SECONDS)
            stamp = await asyncio.to_thread(stamp_of, path)
            if stamp is not None and stamp != seen:
                seen = stamp
                await self.try_reload()


def stamp_of(path: Path) -> Stamp | None:
    """What changes with a file; None while there is none, as in the middle of a replacement."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
