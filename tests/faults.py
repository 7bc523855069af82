"""A TCP proxy that makes the network bad, controlled while it runs.

::

    async with FaultProxy(upstream_port) as net:
        ...connect to net.port...
        net.latency = 0.2        # seconds, each way
        net.bandwidth = 10_000   # bytes per second, each way
        net.slice = 1            # bytes per write towards the client
        net.black_hole = True    # accepts, forwards nothing, says nothing
        net.lose_replies = True  # requests arrive, answers do not
        net.cut_after = 100      # bytes of each connection's answers, then a close (or a reset)
        net.cut_with_reset = True
        net.reset()              # every connection, now
        await net.down()         # refuse connections; ``await net.up()`` again
"""

import asyncio
import socket
import struct
from types import TracebackType
from typing import Self

_RESET = struct.pack("ii", 1, 0)


class FaultProxy:
    """Forwards ``port`` to ``127.0.0.1:target``."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.port = 0
        self.latency = 0.0
        self.bandwidth = 0
        self.slice = 0
        self.black_hole = False
        self.lose_replies = False
        self.cut_after: int | None = None
        self.cut_with_reset = False
        self.connections = 0
        """Accepted so far."""
        self.sent = 0
        """Bytes forwarded to the target."""
        self._server: asyncio.Server | None = None
        self._links: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    async def __aenter__(self) -> Self:
        await self.up()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.down()

    @property
    def open(self) -> int:
        """Connections now."""
        return len(self._links)

    async def up(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def down(self) -> None:
        """Stop listening and reset what is open."""
        if self._server:
            self._server.close()
            self._server = None
        links = list(self._links)
        self.reset()
        for link in links:
            link.cancel()
        await asyncio.gather(*links, return_exceptions=True)

    def reset(self) -> None:
        for writer in self._links.values():
            _reset(writer)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._links[task] = writer
        try:
            await self._link(reader, writer)
        except (OSError, asyncio.CancelledError):
            return
        finally:
            del self._links[task]
            writer.close()

    async def _link(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream, sink = await asyncio.open_connection("127.0.0.1", self.target)
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._requests(reader, sink))
                both.create_task(self._replies(upstream, writer))
        except* OSError:
            pass  # one side is gone: so is the link
        finally:
            sink.close()

    async def _requests(self, reader: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            await self._delay(len(data))
            if self.black_hole:
                continue
            self.sent += len(data)
            sink.write(data)
            await sink.drain()
        raise ConnectionResetError  # the client left: tell the target

    async def _replies(self, upstream: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        passed = 0
        while data := await upstream.read(65_536):
            await self._delay(len(data))
            if self.black_hole or self.lose_replies:
                continue
            if self.cut_after is not None and passed + len(data) >= self.cut_after:
                await _send(writer, data[: self.cut_after - passed], self.slice)
                if self.cut_with_reset:
                    _reset(writer)
                raise ConnectionResetError
            passed += len(data)
            await _send(writer, data, self.slice)
        raise ConnectionResetError

    async def _delay(self, size: int) -> None:
        seconds = self.latency + (size / self.bandwidth if self.bandwidth else 0)
        if seconds:
            await asyncio.sleep(seconds)


async def _send(writer: asyncio.StreamWriter, data: bytes, size: int) -> None:
    for start in range(0, len(data), size or len(data) or 1):
        writer.write(data[start : start + (size or len(data))])
        await writer.drain()
        if size:
            await asyncio.sleep(0)


def _reset(writer: asyncio.StreamWriter) -> None:
    if not writer.transport.is_closing():
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()
