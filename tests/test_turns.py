"""Writes of one turn of the event loop: the first leaves at once, the others together at its end, each in its order."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import uvloop

from adapters.interface import UpstreamRequest
from config.schema import Timeouts
from gateway.turns import JOINED, LONG, MOST, Outgoing, outgoing
from gateway.upstream import Upstream

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
Pair = tuple[Outgoing, asyncio.StreamReader]
Run = Callable[[Callable[[], Awaitable[None]]], None]


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a coroutine function on a loop of each kind."""
    factory = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop

    def runs(main: Callable[[], Awaitable[None]]) -> None:
        async def bounded() -> None:
            await asyncio.wait_for(main(), 20)

        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(bounded())

    return runs


@contextlib.asynccontextmanager
async def connected(number: int) -> AsyncIterator[list[Pair]]:
    """So many connections over sockets, each with the reader of its other end."""
    arrived: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()

    async def come(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        arrived.put_nowait((reader, writer))

    server = await asyncio.start_server(come, "127.0.0.1", 0)
    loop, port = asyncio.get_running_loop(), server.sockets[0].getsockname()[1]
    pairs, ends = [], []
    for _ in range(number):
        transport, _ = await loop.create_connection(asyncio.Protocol, "127.0.0.1", port)
        reader, writer = await arrived.get()
        pairs.append((outgoing(transport, loop), reader))
        ends.append(writer)
    try:
        yield pairs
    finally:
        for out, _ in pairs:
            out.abort()
        for writer in ends:
            writer.close()
        server.close()


def test_the_first_write_of_a_turn_leaves_at_once_and_the_others_at_its_end(run: Run) -> None:
    async def main() -> None:
        async with connected(3) as ((first, a), (second, b), (third, c)):
            for out in (first, second, third):
                out.write(b"1")
            assert [out.waits for out in (first, second, third)] == [b"", b"1", b"1"]
            third.write(b"2")
            first.write(b"2")
            assert [await reader.readexactly(size) for reader, size in ((a, 2), (b, 1), (c, 2))] == [b"12", b"1", b"12"]
            assert [out.waits for out in (first, second, third)] == [b""] * 3
            second.write(b"2")  # another turn
            assert not second.waits
            assert await b.readexactly(1) == b"2"

    run(main)


def test_no_more_wait_than_can_be_sent_soon(run: Run) -> None:
    async def main() -> None:
        async with connected(MOST + 2) as pairs:
            for out, _ in pairs[: MOST + 1]:
                out.write(b"x")
            assert not any(out.waits for out, _ in pairs)
            pairs[-1][0].write(b"x")
            assert pairs[-1][0].waits
            assert [await reader.readexactly(1) for _, reader in pairs] == [b"x"] * len(pairs)

    run(main)


@pytest.mark.parametrize("sizes", [(1, LONG), (LONG, 1), (1, LONG - 1, 5), (LONG - 1, 1, LONG - 1, 1), (1, 1, 1)])
def test_what_is_long_does_not_wait_and_nothing_overtakes(run: Run, sizes: tuple[int, ...]) -> None:
    async def main() -> None:
        async with connected(2) as ((other, _), (out, reader)):
            other.write(b"x")  # the turn has begun
            pieces = [bytes([65 + i]) * size for i, size in enumerate(sizes)]
            for piece in pieces:
                out.write(piece)
                assert len(out.waits) < LONG
            assert await reader.readexactly(sum(sizes)) == b"".join(pieces)

    run(main)


@pytest.mark.parametrize("size", [0, 10, LONG, JOINED - 1, JOINED, 3 * JOINED])
def test_a_message_follows_what_waits_whatever_its_length(run: Run, size: int) -> None:
    async def main() -> None:
        async with connected(2) as ((other, _), (out, reader)):
            other.write(b"x")
            out.write(b"before ")
            out.message(b"head ", b"b" * size)
            out.write(b" after")
            assert await reader.readexactly(18 + size) == b"before head " + b"b" * size + b" after"

    run(main)


def test_a_close_sends_what_waits_and_an_abort_does_not(run: Run) -> None:
    async def main() -> None:
        async with connected(3) as ((other, _), (closed, a), (aborted, b)):
            other.write(b"x")
            closed.write(b"last")
            aborted.write(b"never")
            closed.close()
            aborted.abort()
            closed.flush()  # as the turn's end does
            assert await a.read() == b"last"
            with contextlib.suppress(ConnectionResetError):
                assert await b.read() == b""

    run(main)


def test_what_waits_for_a_transport_that_closes_is_dropped(run: Run) -> None:
    async def main() -> None:
        async with connected(2) as ((other, _), (out, reader)):
            other.write(b"x")
            out.write(b"late")
            out.transport.close()
            assert await reader.read() == b""
            assert not out.waits

    run(main)


def test_an_upstream_that_answers_before_the_request_has_left_is_not_used_again(run: Run) -> None:
    """Else the request would follow on a connection that is somebody else's by then."""
    requests: list[bytes] = []

    async def main() -> None:
        over = asyncio.Event()

        async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                while True:
                    requests.append(await reader.readuntil(b"}"))
                    writer.write(OK)
            writer.close()
            over.set()

        server = await asyncio.start_server(play, "127.0.0.1", 0)
        upstream = Upstream()
        sent = UpstreamRequest(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/", {}, b"{}")
        async with await upstream.open(sent, Timeouts()) as response:
            assert await response.read() == b"ok"
        (connection,) = upstream._open
        async with connected(1) as ((other, _),):
            other.write(b"x")
            held = upstream.start(sent, Timeouts())
            assert held is not None
            assert connection._out.waits
            connection.data_received(OK)  # it has arrived in this very turn
            assert await held.read() == b"ok"
            assert connection.closed
            assert connection.transport.is_closing()
        await over.wait()
        await upstream.close()
        server.close()

    run(main)
    assert len(requests) == 1
