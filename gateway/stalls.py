"""Clients that read nothing of what is written to them."""

import asyncio
import contextlib
import sys
from fcntl import ioctl
from termios import TIOCOUTQ

from .turns import Outgoing

LOOKS = 4
"""How often a client is looked at within the time that it may read nothing."""


class Stall:
    """While it is there, a client has to read: its connection is aborted once it has read nothing for ``seconds``."""

    __slots__ = ("_looks", "_loop", "_out", "_pause", "_timer", "_unread")

    def __init__(self, out: Outgoing, loop: asyncio.AbstractEventLoop, seconds: float) -> None:
        self._out = out
        self._loop = loop
        self._pause = seconds / LOOKS
        self._looks = 0
        """How many in a row have found nothing read."""
        self._unread = unread(out.transport)
        self._timer: asyncio.TimerHandle | None = loop.call_later(self._pause, self._look)

    def stop(self) -> None:
        """The client has read, or is gone."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        left = unread(self._out.transport)
        self._looks = 0 if left < self._unread else self._looks + 1
        self._unread = left
        if self._looks == LOOKS:
            self._timer = None
            self._out.abort()
        else:
            self._timer = self._loop.call_later(self._pause, self._look)


def unread(transport: asyncio.Transport) -> int:
    """Bytes that were written and have not arrived, those in the kernel too.

    The kernel takes more only when it has got rid of a good part of what it holds, which may be megabytes: by what
    is left here alone, a client that reads slowly would seem to read nothing.
    """
    size = transport.get_write_buffer_size()
    with contextlib.suppress(OSError, ValueError):  # a socket that is closed
        size += int.from_bytes(ioctl(transport.get_extra_info("socket"), TIOCOUTQ, bytes(4)), sys.byteorder)
    return size
