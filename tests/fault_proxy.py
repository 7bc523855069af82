"""A TCP proxy on loopback that loses replies, hangs, and can be pointed at another server."""

import asyncio
import contextlib
import random


class FaultProxy:
    """``lose`` is the share of replies that never arrive: the connection breaks, or (``hang``) just stays silent."""

    def __init__(self, port: int) -> None:
        self.target = port
        self.lose = 0.0
        self.hang = False
        self.lost = 0
        self._open: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Future[None]] = set()

    async def start(self) -> "FaultProxy":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def close(self) -> None:
        self._server.close()
        self.cut()
        while self._tasks:
            await asyncio.wait(self._tasks)

    def cut(self) -> None:
        """Break every connection."""
        for writer in list(self._open):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        current = asyncio.current_task()
        assert current is not None
        self._tasks.add(current)
        current.add_done_callback(self._tasks.discard)
        try:
            upstream, sink = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.transport.abort()
            return
        self._open |= {writer, sink}
        try:
            pumps = (self._requests(reader, sink), self._replies(upstream, writer))
            done, rest = await asyncio.wait([asyncio.ensure_future(p) for p in pumps], return_when="FIRST_COMPLETED")
            for task in rest:
                task.cancel()
            await asyncio.gather(*done, *rest, return_exceptions=True)
        finally:
            self._open -= {writer, sink}
            writer.transport.abort()
            sink.transport.abort()

    async def _requests(self, reader: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                sink.write(data)
                await sink.drain()

    async def _replies(self, upstream: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await upstream.read(65536):
                if random.random() < self.lose:
                    self.lost += 1
                    if not self.hang:
                        return
                    continue
                writer.write(data)
                await writer.drain()
