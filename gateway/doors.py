"""Accepts who waits outside: libuv takes in one connection a turn of the event loop, and under load a turn is long."""

import asyncio
import os
import socket
from collections.abc import Callable, Iterable

EACH = 0.001
"""Seconds of a turn for which one more connection is accepted: as many as come in where turns are short."""
PAUSE = 1.0
"""Seconds without a connection after which nobody can have waited for a turn to end."""
MOST = 100
"""Connections that are accepted at once, at most."""


class Doors:
    """Listening sockets that the event loop accepts from too. Workers that share them are given their part still.

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
            for _ in range(most):
                try:
                    client, _address = door.accept()
                except OSError:  # nobody, or no file is left: the event loop's own accepting knows what to do
                    break
                client.setblocking(False)
                entering = self._loop.create_task(self._enter(client))
                self._entering.add(entering)
                entering.add_done_callback(self._entering.discard)

    async def _enter(self, client: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._make, client)
        except OSError:
            client.close()  # it has left already
