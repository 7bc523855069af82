"""The Redis side of limits: connections, scripts, time-outs. The only place where exceptions of redis-py are seen."""

import hashlib
import logging
from collections.abc import Callable, Sequence
from importlib.resources import files
from typing import Any

import msgpack

from config import schema

from ..redis_client import (
    Client,
    ClusterDownError,
    MasterDownError,
    NoScriptError,
    ReadOnlyError,
    RedisClusterException,
    RedisConnectionError,
    RedisError,
    RedisTimeout,
    TryAgainError,
    connect,
    is_cluster,
    watch_servers,
)
from .engine import Broken, Slow, StoreDown

log = logging.getLogger(__name__)

_TRANSIENT = (ClusterDownError, MasterDownError, ReadOnlyError, TryAgainError)
"""Said while a slot or the role of primary moves; over in moments."""
SERVER = "l:server"
"""Since when counters are found that another server kept."""


class Script:
    """A Lua script, known to Redis by its digest."""

    def __init__(self, name: str) -> None:
        self.source = (files("gateway.limits") / name).read_text("utf-8")
        self.digest = hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest()


RESERVE = Script("reserve.lua")
JOIN = Script("join.lua")
RESTORED = Script("restored.lua")
SHARE = Script("share.lua")
HEALTH = Script("health.lua")
RAMP = Script("ramp.lua")


class Store:
    """One client for all organizations' counters. Only primaries are read: a replica that lags would over-admit."""

    def __init__(self, config: schema.Redis) -> None:
        self._config = config
        self.is_cluster = is_cluster(config)
        self.changes = 0
        """How often another server process answered than before: Redis was restarted, or another server took over."""
        self.clock: Callable[[], int] | None = None
        """For tests: the time in ms that the script shall believe, instead of Redis' own."""
        self._servers: dict[str, str] = {}
        """Address (in a cluster) -> the process that answered there."""
        self._started = False
        self._client: Client = connect(config)
        watch_servers(self._client, self._met)

    async def start(self) -> None:
        """Load the scripts and refuse a Redis that may evict counters. Raises StoreDown."""
        try:
            for script in (RESERVE, JOIN):
                await self._client.script_load(script.source)
            policies = await self._policies()
        except (RedisError, OSError) as e:
            raise StoreDown(f"Redis cannot be used for limits: {type(e).__name__}: {e}") from e
        await self.look()
        self._started = True
        bad = sorted({policy for policy in policies if policy != "noeviction"})
        if bad and self._config.require_noeviction:
            raise StoreDown(
                f"Redis may evict counters: its maxmemory-policy is {', '.join(bad)}. "
                "Set it to noeviction, or set redis.require_noeviction to false."
            )

    async def _policies(self) -> list[str]:
        info = await self._client.info("memory")
        nodes = info.values() if self.is_cluster and all(isinstance(v, dict) for v in info.values()) else [info]
        return [str(node.get("maxmemory_policy", "")) for node in nodes]

    async def close(self) -> None:
        await self._client.aclose()

    async def reserve(self, keys: Sequence[str], content: Sequence[Any]) -> Any:
        """Run ``reserve.lua``; gives its reply. Raises Slow or Broken when the outcome is unknown, else StoreDown."""
        blob = msgpack.packb(content, use_bin_type=False)  # cmsgpack does not read the type of bytes
        arguments = (*keys, blob) if self.clock is None else (*keys, blob, self.clock())
        reply = await self._run(RESERVE, len(keys), arguments)
        return msgpack.unpackb(reply, strict_map_key=False)

    async def join(
        self, meta: str, running: str, arguments: Sequence[str | int], *, lost: bool, holds: bool
    ) -> tuple[str, bool]:
        """Run ``join.lua``; gives the generation, and whether it is not open yet. Raises like ``reserve``."""
        keys = (meta, running) if self.is_cluster else (meta, running, SERVER)
        generation, closed = await self._run(JOIN, len(keys), (*keys, *arguments, int(lost), int(holds)))
        return generation.decode(), bool(closed)

    async def restored(self, meta: str, running: str, generation: str, ids: Sequence[str]) -> bool:
        """Run ``restored.lua``; gives whether it was in time. Raises like ``reserve``."""
        return bool(await self._run(RESTORED, 2, (meta, running, generation, msgpack.packb(ids))))

    async def share(self, pool: str, arguments: Sequence[Any]) -> Sequence[int]:
        """Run ``share.lua``; gives its reply. Raises like ``reserve``."""
        reply: Sequence[int] = await self._run(SHARE, 1, (f"q:{{{pool}}}", *arguments))
        return reply

    async def health(self, key: str, content: Sequence[Any]) -> Any:
        """Run ``health.lua``; gives its reply. Raises like ``reserve``."""
        reply = await self._run(HEALTH, 1, (key, msgpack.packb(content, use_bin_type=False)))
        return msgpack.unpackb(reply, strict_map_key=False)

    async def ramp(self, keys: Sequence[str], arguments: Sequence[int]) -> Sequence[int]:
        """Run ``ramp.lua``; gives its reply. Raises like ``reserve``."""
        reply: Sequence[int] = await self._run(RAMP, len(keys), (*keys, *arguments))
        return reply

    async def leave(self, pool: str, worker: str) -> None:
        """Give back a worker's share. Raises StoreDown."""
        await self.command("HDEL", f"q:{{{pool}}}", worker)

    async def _run(self, script: Script, keys: int, arguments: Sequence[Any]) -> Any:
        try:
            try:
                return await self._client.evalsha(script.digest, keys, *arguments)
            except NoScriptError:  # nothing was executed
                await self._client.script_load(script.source)
            try:
                return await self._client.evalsha(script.digest, keys, *arguments)
            except NoScriptError:  # flushed again, or a node that was not there a moment ago
                return await self._client.eval(script.source, keys, *arguments)
        except (TimeoutError, RedisTimeout) as e:
            raise Slow from e
        except (RedisConnectionError, OSError, *_TRANSIENT) as e:
            raise Broken from e
        except (RedisError, RedisClusterException) as e:
            raise StoreDown(f"Redis refused: {type(e).__name__}") from e

    async def command(self, *arguments: Any) -> Any:
        """Any other command. Raises StoreDown."""
        try:
            return await self._client.execute_command(*arguments)
        except (RedisError, RedisClusterException, OSError) as e:
            raise StoreDown(f"Redis failed: {type(e).__name__}") from e

    async def look(self) -> None:
        """See whether another server answers than before, behind a connection that did not break. Raises StoreDown."""
        if not self.is_cluster:
            info = await self.command("INFO", "server")
            self._met("", str(info.get("run_id", "")))

    def _met(self, address: str, server: str) -> bool:
        """Whether commands may go there: none that was meant for another server, which its sender must check first."""
        address = address if self.is_cluster else ""
        if self._servers.get(address) == server:
            return True
        self._servers[address] = server
        self.changes += 1
        if self._started:
            log.warning("another Redis server answers: what it lacks is restored")
        return not self._started
