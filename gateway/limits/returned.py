"""Limits that come back: their counters lack what was used while they were away, and the ledger does not.

Nobody counts for a limit that is not there, and a counter may still be kept when it comes back. So whenever an owner was
changed, its windows are compared with the ledger before they decide again; and those of the configuration file at every
start, because the file may have been another one until then, here or at a replica that has just ended.
"""

import secrets
import time
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any, TypeAlias

from config.schema import Config

from .amounts import NOTHING
from .engine import Engine, Spent, ask
from .rules import Limit, LimitSet, quote
from .together import Together
from .windows import end, start

Window: TypeAlias = tuple[str, str, str]
"""Shard, scope and field."""
_REMEMBERED = 100_000


class Changes:
    """Owners that were changed since this worker began."""

    def __init__(self) -> None:
        self.number = 0
        """Of the last change."""
        self._of: dict[str, int] = {}
        """The beginning of an owner's scopes -> its last change."""
        self._done: dict[Window, int] = {}
        """Window -> the change that it has caught up with."""
        self._together = Together()

    def note(self, owners: Iterable[tuple[str, str]]) -> None:
        """Take note of kinds and names of owners."""
        self.number += 1
        for kind, name in owners:
            self._of[f"{kind[0]}:{quote(name)}"] = self.number
        if len(self._of) > _REMEMBERED:
            for owner in list(self._of)[: _REMEMBERED // 2]:
                del self._of[owner]
            self._done.clear()

    async def catch_up(self, engine: Engine, limits: LimitSet, spent: Spent | None) -> None:
        """Have the windows of changed owners say no less than the ledger knows. Raises StoreDown where it does not answer."""
        number = self.number
        for position in limits.windows if spent is not None else ():
            limit = limits.limits[position]
            change = self._of.get(limit.scope.partition("|")[0], 0)
            window = (limits.shard, limit.scope, limit.field)
            if change > limits.checked and change > self._done.get(window, 0):
                assert spent is not None, "else there are none"
                await self._together.do(
                    (window, change), partial(self._caught_up, window, change, engine, limit, spent)
                )
        limits.checked = number

    async def close(self) -> None:
        """End what still compares."""
        await self._together.close()

    async def _caught_up(self, window: Window, change: int, engine: Engine, limit: Limit, spent: Spent) -> None:
        await _catch_up(engine, window[0], limit, spent)
        self._done[window] = change


async def catch_up(engine: Engine, limits: LimitSet, spent: Spent) -> None:
    """Have all windows say no less than the ledger knows. Raises StoreDown where it does not answer."""
    for position in limits.windows:
        await _catch_up(engine, limits.shard, limits.limits[position], spent)


async def _catch_up(engine: Engine, shard: str, limit: Limit, spent: Spent) -> None:
    alone = LimitSet(shard, (limit,))
    (state,) = await engine.states(alone)  # which window it is, whatever our own clock says
    begin, over = start(limit.period, state.window), end(limit.period, state.window)
    until = int(time.time() * 1000) + 1000 if over is None else over
    known = await ask(spent, shard, limit.scope, begin, until)
    least = [*NOTHING]
    least[limit.unit] = known.vector()[limit.unit]
    engine.correct(f"returned-{secrets.token_hex(12)}", alone, tuple(least), begin, least=True)  # type: ignore[arg-type] # of six


def changed_owners(before: Config, after: Config) -> Iterator[tuple[str, str]]:
    """Kinds and names of the owners in the file whose limits another configuration changes."""
    for kind, old, new in (
        ("key", {key.name: key for key in before.keys}, {key.name: key for key in after.keys}),
        ("user", before.users, after.users),
        ("team", before.teams, after.teams),
        ("organization", before.organizations, after.organizations),
    ):
        for name in {**old, **new}:
            if _limits(old, name) != _limits(new, name):
                yield kind, name


def _limits(owners: Mapping[str, Any], name: str) -> Any:
    return owners[name].limits if name in owners else None
