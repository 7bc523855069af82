"""Who waits to be accepted: behind long turns of the event loop, or because all other workers are busy or gone."""

import asyncio
import os
import select
import socket
import time
from collections.abc import Callable, Iterable

EACH = 0.001
"""Seconds of a turn for which one more connection is accepted: as many as come in where turns are short."""
PAUSE = 1.0
"""Seconds without a connection after which nobody can have waited for a turn to end."""
MOST = 100
"""Connections that are accepted at once, at most."""
PATIENCE = 1.0
"""Seconds that a worker that stands by leaves to the others for accepting somebody: more than a crowd takes to come in."""
LOOKS = 20
"""How often a worker that sleeps looks, within its patience, whether there is nobody who waits."""
BEAT_MS = 1000
"""Between two signs of life of one that sleeps, at most."""


class Doors:
    """Listening sockets that the event loop accepts from too: libuv takes in one connection a turn, and under load a turn
    is long. Workers that share them are given their part still.

    ``knock`` whenever a connection was made: those behind it come in with it.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, make: Callable[[], asyncio.Protocol]) -> None:
        self._loop = loop
        self._make = make
        self._sockets: list[socket.socket] = []
        self._last = loop.time()
        self._entering: set[asyncio.Task[None]] = set()

    def open(self, listening: Iterable[socket.socket]) -> None:
        for one in listening:
            door = socket.socket(fileno=os.dup(one.fileno()))
            door.setblocking(False)
            self._sockets.append(door)

    def close(self) -> None:
        """Accept nobody more: while a copy of a socket is open, the kernel goes on listening."""
        for door in self._sockets:
            door.close()
        self._sockets.clear()

    def knock(self) -> None:
        """Accept who else waits, as many as the last turn of the loop was long."""
        now = self._loop.time()
        since, self._last = now - self._last, now
        most = min(int(since / EACH), MOST) if since < PAUSE else 0
        for door in self._sockets:
            self._accept(door, most)

    def _accept(self, door: socket.socket, most: int) -> int:
        """How many came in."""
        for count in range(most):
            try:
                client, _address = door.accept()
            except OSError:  # nobody, or no file is left: the event loop's own accepting knows what to do
                return count
            client.setblocking(False)
            entering = self._loop.create_task(self._enter(client))
            self._entering.add(entering)
            entering.add_done_callback(self._entering.discard)
        return most

    async def _enter(self, client: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._make, client)
        except OSError:
            client.close()  # it has left already


class BackDoors(Doors):
    """The same of a worker that stands by: nobody else accepts from them here, and who has just come is left to the other
    workers first. Where somebody waits after ``PATIENCE``, one is taken in, and twice as many after each further one while
    more wait: workers that are only slow keep most of what is theirs, and a crowd at workers that hang comes in all the same.
    """

    def open(self, listening: Iterable[socket.socket]) -> None:
        super().open(listening)
        for door in self._sockets:
            self._watch(door)

    def close(self) -> None:
        for door in self._sockets:
            self._loop.remove_reader(door.fileno())
        super().close()

    def knock(self) -> None:
        """Nothing: who waits behind is the others' first."""

    def _watch(self, door: socket.socket) -> None:
        self._loop.add_reader(door.fileno(), self._came, door)

    def _came(self, door: socket.socket) -> None:
        self._loop.remove_reader(door.fileno())  # else it would call again and again until somebody accepts
        self._loop.call_later(PATIENCE, self._look, door, 1)

    def _look(self, door: socket.socket, most: int) -> None:
        if door.fileno() < 0:  # closed
            return
        if self._accept(door, most) < most:
            self._watch(door)
        else:
            self._loop.call_later(PATIENCE, self._look, door, min(2 * most, MOST))


def wanted(listening: socket.socket, beat: Callable[[], bool], begun: Callable[[], bool]) -> bool:
    """Sleep until there was somebody to accept for all of ``PATIENCE``; False once ``beat``, which is called every second
    or so, says False. Workers that accept leave nobody there between two looks, however many come. Until they have
    ``begun``, whoever comes waits for that."""
    door = select.poll()
    door.register(listening, select.POLLIN)
    looks = 0
    while not begun():
        if not beat():
            return False
        time.sleep(BEAT_MS / 1000)
    while beat():
        if looks == LOOKS:
            return True
        if looks:
            time.sleep(PATIENCE / LOOKS)
        looks = looks + 1 if door.poll(0 if looks else BEAT_MS) else 0
    return False
