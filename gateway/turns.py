"""What is written in one turn of the event loop leaves together.

Who writes to a socket pays for waking its reader, and to wake a processor that sleeps is dear: where both ends are on one
machine, half of all that sending costs. So the first write of a turn leaves at once, and what follows it, while others
have their turn, leaves at the end in one go: whoever was woken by the first is still awake for the rest.
"""

import asyncio
from weakref import WeakKeyDictionary

MOST = 32
"""Writes that wait at once: for no longer than it takes to do some ten requests' work."""
LONG = 16_384
"""Bytes from which a write is dear enough to leave by itself."""
JOINED = 65_536
"""Bytes up to which a body is copied behind its head, so that both leave in one packet and one system call."""


class Turn:
    """The turns of one event loop."""

    __slots__ = ("_began", "_loop", "_waiting")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._began = False
        """Whether something was written in this one."""
        self._waiting: list[Outgoing] = []

    def keeps(self, one: "Outgoing") -> bool:
        """Whether to wait: ``one.flush`` is called at the end of the turn. False: it is the first to write."""
        if not self._began:
            self._began = True
            self._loop.call_soon(self._over)
            return False
        self._waiting.append(one)
        if len(self._waiting) == MOST:
            self._send()
        return True

    def _over(self) -> None:
        self._began = False
        self._send()

    def _send(self) -> None:
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            try:
                one.flush()
            except RuntimeError:
                one.abort()  # the loop has closed it: the others are not to miss their turn for that


class Outgoing:
    """What is written to one transport, in its order. Nothing else writes to it while something ``waits``."""

    __slots__ = ("_turn", "is_open", "transport", "waits")

    def __init__(self, transport: asyncio.Transport, turn: Turn) -> None:
        self.transport = transport
        self.is_open = True
        """Whether more may be written."""
        self.waits = b""
        """What leaves at the end of the turn."""
        self._turn = turn

    def write(self, data: bytes) -> None:
        """Send, by the end of the turn at the latest."""
        if self.waits:
            data, self.waits = self.waits + data, b""
            if len(data) < LONG:
                self.waits = data  # still in the turn's list
                return
        elif len(data) < LONG:
            self.waits = data
            if self._turn.keeps(self):
                return
            self.waits = b""
        self.transport.write(data)

    def message(self, head: bytes, body: bytes) -> None:
        """Send a head and its body, together unless the body is long."""
        if len(body) < JOINED:
            self.write(head + body)
        else:
            self.flush()
            # asyncio's own ``writelines`` of Python 3.12 and 3.13 never has anybody wait for a client that does not read.
            self.transport.write(head)
            self.transport.write(body)

    def flush(self) -> None:
        """Send what waits."""
        data, self.waits = self.waits, b""
        if data and not self.transport.is_closing():
            self.transport.write(data)

    def close(self) -> None:
        """Send what waits, and that is all."""
        self.flush()
        self.is_open = False
        self.transport.close()

    def abort(self) -> None:
        """Send nothing more, and nothing that waits."""
        self.waits = b""
        self.is_open = False
        self.transport.abort()


_TURNS: WeakKeyDictionary[asyncio.AbstractEventLoop, Turn] = WeakKeyDictionary()


def outgoing(transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> Outgoing:
    """For a transport that was just made."""
    turn = _TURNS.get(loop)
    if turn is None:
        turn = _TURNS[loop] = Turn(loop)
    return Outgoing(transport, turn)
