"""What one worker learns of a deployment the others know too, through Redis: breakers, cool-downs, who may probe.

Nothing here is on a request's path. Changes are sent in the background at once, those of others are fetched a few times
a second, and the right to probe is asked for in advance. While Redis is away each worker goes on with what it knows.
"""

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeAlias

import orjson

from config.schema import Redis

from .fleet import Fleet
from .health import Known
from .limits.engine import Broken, Slow, StoreDown

if TYPE_CHECKING:
    from .limits.store import Store

LOGGER = logging.getLogger("sluice.health")
BEAT_SECONDS = 0.25
"""Between two looks at what the others know."""
PAUSE_SECONDS = 0.02
"""At least, between two calls of Redis: changes that come at once go together."""
LOST_SECONDS = 2.0
"""Without an answer of Redis, after which this worker decides alone."""
GRANT_SECONDS = 0.5
"""How long the right to probe may be used."""
INTERVAL_SECONDS = 1.0
"""At least, between two probes of the same by all workers together."""
QUIET_SECONDS = 3.0
"""Without a probe by anybody, after which a request that comes may be one without a right: where requests are few, a
right asked for by one would have run out before the next."""
FORGET_SECONDS = 600.0
Row: TypeAlias = Sequence[Any]


class Sharing:
    """Keeps a Fleet and those of the other workers alike."""

    def __init__(self, fleet: Fleet, config: Redis, clock: Callable[[], float] = time.monotonic) -> None:
        self.active = False
        """Whether Redis answers: else breakers and probes are this worker's own affair."""
        self._fleet = fleet
        self._config = config
        self._clock = clock
        self._worker = secrets.token_hex(6)
        self._key = "h:{fleet}"
        self._store: Store | None = None
        self._task: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._closing = False
        self._changed: dict[str, bool] = {}
        """Deployments of which there is news, and whether it is of their breakers."""
        self._wishes: set[str] = set()
        self._granted: dict[str, float] = {}
        """Probe -> until when it may be made."""
        self._probed: dict[str, float] = {}
        """Probes that were made and not told yet, and when."""
        self._last: dict[str, float] = {}
        """Probe -> when somebody made it last."""
        self._seen: dict[str, tuple[int, str]] = {}
        """Deployment -> the latest word on its breaker, and whose it was."""

    async def start(self) -> None:
        """Learn what the others know, and go on learning. A Redis that is away is none the worse for requests."""
        from .limits.store import Store  # a fifth of the start-up time of a gateway that has no Redis

        self._store = Store(self._config)
        with contextlib.suppress(StoreDown, Slow, Broken):
            await self._beat(self._store)
            self.active = True
        self._fleet.share(self)
        self._task = asyncio.get_running_loop().create_task(self._keep_beating(self._store))

    async def close(self) -> None:
        """Raises nothing."""
        self._fleet.share(None)
        self._closing = True  # redis-py can swallow a cancellation that meets a reply
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._store is not None:
            await self._store.close()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def changed(self, deployment: str, *, breaker: bool) -> None:
        """There is news of a deployment; of a breaker it cannot wait."""
        self._changed[deployment] = breaker or self._changed.get(deployment, False)
        if breaker:
            self._wake.set()

    def may_probe(self, name: str, since: float) -> bool:
        """Whether this worker may make a probe that could be made ``since`` then; a yes is good for one."""
        if not self.active:
            return True
        now = self._clock()
        if self._granted.pop(name, 0.0) <= now and now - max(self._last.get(name, since), since) < QUIET_SECONDS:
            if name not in self._wishes:
                self._wishes.add(name)  # asked for again by every beat until it is granted
                self._wake.set()
            return False
        self._probed[name] = self._last[name] = now
        self._wishes.discard(name)
        self._wake.set()
        return True

    async def _keep_beating(self, store: "Store") -> None:
        heard = self._clock()
        while not self._closing:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(BEAT_SECONDS):
                    await self._wake.wait()
            self._wake.clear()
            try:
                await self._beat(store)
                heard = self._clock()
                self._found()
            except (StoreDown, Slow, Broken):
                if self._clock() - heard > LOST_SECONDS:
                    self._lost()
                await asyncio.sleep(BEAT_SECONDS)
            except Exception:
                LOGGER.exception("what other workers know could not be read")
                self._lost()
            await asyncio.sleep(PAUSE_SECONDS)

    def _found(self) -> None:
        if self.active:
            return
        self.active = True
        LOGGER.info("%s", orjson.dumps({"event": "health is shared again"}).decode())
        for name, health in self._fleet.healths().items():
            if not health.closed or health.cooling:
                self.changed(name, breaker=not health.closed)

    def _lost(self) -> None:
        if self.active:
            self.active = False
            self._granted.clear()
            LOGGER.warning("%s", orjson.dumps({"event": "health is not shared: Redis does not answer"}).decode())

    async def _beat(self, store: "Store") -> None:
        """Tell and hear. What could not be told is told by the next one."""
        now = self._clock()
        changed, wishes, probed = self._changed, list(self._wishes), self._probed
        self._changed, self._probed = {}, {}
        known = self._fleet.healths()
        states = [[name, int(news), *_told(known[name].known)] for name, news in changed.items() if name in known]
        made = [[name, _ms(now - at)] for name, at in probed.items()]
        times = [_ms(s) for s in (GRANT_SECONDS, INTERVAL_SECONDS, FORGET_SECONDS)]
        try:
            heard, granted, probes = await store.health(self._key, [self._worker, states, wishes, made, *times])
        except BaseException:
            self._changed = changed | self._changed
            self._probed = probed | self._probed
            raise
        for name in _texts(granted):
            self._wishes.discard(name)
            self._granted[name] = now + GRANT_SECONDS  # from before it was asked for: never longer than Redis thinks
        now = self._clock()
        for name, ago in probes:
            self._last[_text(name)] = max(self._last.get(_text(name), 0.0), now - ago / 1000)
        self._forget(now)
        self._hear(heard)

    def _forget(self, now: float) -> None:
        """What says no more than nothing does: rights that have run out, and probes that keep nobody waiting any longer."""
        self._granted = {name: until for name, until in self._granted.items() if until > now}
        self._last = {name: at for name, at in self._last.items() if now - at < QUIET_SECONDS}

    def _hear(self, rows: Sequence[Row]) -> None:
        learnt = {}
        for name, seq, worker, *numbers in rows:
            deployment, word = _text(name), (int(seq), _text(worker))
            known = Known(*(number / 1000 for number in numbers))
            news = word != self._seen.get(deployment) and word[1] not in ("", self._worker)
            # What this worker has found out since is the latest word, and is on its way.
            learnt[deployment] = (known, news and not self._changed.get(deployment, False))
            self._seen[deployment] = word
        self._fleet.learn(learnt)
        for gone in self._seen.keys() - learnt.keys():
            del self._seen[gone]


def _told(known: Known) -> list[int]:
    return [_ms(seconds) for seconds in known]


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _texts(values: Sequence[bytes | str]) -> list[str]:
    return [_text(value) for value in values]
