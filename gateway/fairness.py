"""A queue in which no key can crowd out another: start-time fair queueing (Goyal, Vin and Cheng, 1996).

First come, first served within a key; among keys the one that has been served least, measured in tokens, is next.
"""

import heapq
from collections import deque
from typing import Generic, Protocol, TypeVar


class Waiting(Protocol):
    @property
    def key(self) -> str: ...
    @property
    def cost(self) -> int: ...


Item = TypeVar("Item", bound=Waiting)


class FairQueue(Generic[Item]):
    """``cost`` is what serving an item uses up, above 0."""

    def __init__(self) -> None:
        self._items: dict[str, deque[Item]] = {}
        self._turns: list[tuple[float, int, str]] = []
        """A heap of (start, number, key): one entry for each key that waits, and perhaps for one that did."""
        self._in_heap: set[str] = set()
        self._finish: dict[str, float] = {}
        """Key -> virtual time at which what it was served is paid for."""
        self._virtual = 0.0
        self._number = 0
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def waiting(self, key: str) -> int:
        return len(self._items.get(key, ()))

    @property
    def keys(self) -> int:
        """How many keys wait."""
        return len(self._items)

    def push(self, item: Item) -> None:
        self._items.setdefault(item.key, deque()).append(item)
        self._size += 1
        if item.key not in self._in_heap:
            self._enlist(item.key)

    def pop(self) -> Item:
        """The next item; the queue must not be empty."""
        while True:
            start, _, key = heapq.heappop(self._turns)
            self._in_heap.discard(key)
            if key in self._items:
                break
        self._virtual = max(self._virtual, start)
        item = self._items[key].popleft()
        self._finish[key] = start + item.cost
        self._gone(key)
        if key in self._items:
            self._enlist(key)
        elif len(self._finish) > 4 * len(self._items) + 64:
            self._finish = {k: v for k, v in self._finish.items() if v > self._virtual}
        return item

    def remove(self, item: Item) -> None:
        """Take out an item that waits."""
        self._items[item.key].remove(item)
        self._gone(item.key)

    def fattest(self) -> Item:
        """The newest item of the key that has most waiting: what is given up first."""
        return max(self._items.values(), key=len)[-1]

    def _enlist(self, key: str) -> None:
        self._number += 1
        self._in_heap.add(key)
        heapq.heappush(self._turns, (max(self._virtual, self._finish.get(key, 0.0)), self._number, key))

    def _gone(self, key: str) -> None:
        self._size -= 1
        if not self._items[key]:
            del self._items[key]
