"""Whose counters an organization's are: those that Redis lost, or that another server kept, are of a generation that is over."""

import secrets
from collections.abc import Sequence

from .store import Store


class Generations:
    """What one worker knows of the generations of one organization's counters. ``learn``: ms to restore them in."""

    def __init__(self, store: Store, prefix: str, learn: int) -> None:
        self.now = ""
        """The one that the worker takes part in."""
        self._store = store
        self._meta, self._running = prefix + "meta", prefix + "running"
        self._learn = learn
        self._changes = 0
        """Of servers, when it last made sure whose counters these are."""
        self._ran: Sequence[str] | None = None

    @property
    def is_sure(self) -> bool:
        """Whether no other server answered since."""
        return bool(self.now) and self._changes == self._store.changes

    async def join(self, before: str, *, lost: bool = False, holds: bool = False) -> tuple[str, bool]:
        """Which one it is, and whether it is not open yet; ``holds``: with something to restore. Raises like the store."""
        arguments = (secrets.token_hex(6), before, self._learn)
        return await self._store.join(self._meta, self._running, arguments, lost=lost, holds=holds)

    async def note(self, generation: str, running: Sequence[str]) -> bool:
        """Name requests that ran when counters were lost; gives whether that was in time. Raises like the store."""
        return await self._store.restored(self._meta, self._running, generation, running)

    def take_part(self, generation: str, changes: int) -> None:
        """From now on; made sure of when servers had changed so often."""
        self._changes = changes
        if generation != self.now:
            self.now, self._ran = generation, None

    async def ran(self) -> Sequence[str]:
        """The requests that ran when counters were lost, of an open generation. Raises StoreDown."""
        if self._ran is not None:
            return self._ran
        generation = self.now
        found = [rid.decode() for rid in await self._store.command("SMEMBERS", self._running)]
        if generation == self.now:
            self._ran = found
        return found
