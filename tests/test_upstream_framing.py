"""Chunks read without the parser come to what the parser makes of them, or are left to it."""

import random

import httptools
import pytest

from adapters.errors import ErrorKind
from gateway.upstream import Upstream
from gateway.upstream.framing import SIZES, unframed

from .test_upstream import CHUNKED, client, failing, fetch, post, saying, serving

__all__ = ["client"]

PIECES = (b"data: {}\n\n", b"\r\n", b"5\r\nab", b"x", b"data: " + b"y" * 300 + b"\n\n")
WRITTEN = ("%x", "%x", "%x", "%X", "0%x", "%x;a=b", "%x ", "+%x", "0x%x", "1_%x", "-%x", "")
"""Sizes of chunks as servers write them, as they may and as they must not."""


def chunk(body: bytes, size: str = "%x") -> bytes:
    return (size % len(body) if size else "").encode() + b"\r\n" + body + b"\r\n"


class Parsed:
    """What llhttp makes of the same bytes: the body, and whether the size of a chunk is due after them."""

    def __init__(self, data: bytes) -> None:
        self.body = b""
        self.over = False
        parser = httptools.HttpResponseParser(self)
        parser.feed_data(CHUNKED)
        parser.feed_data(data)
        before = self.body
        parser.feed_data(b"0\r\n\r\n")  # would belong to the body of a chunk that was not over
        self.between = self.over and self.body == before

    def on_body(self, data: bytes) -> None:
        self.body += data

    def on_message_complete(self) -> None:
        self.over = True


def test_whole_chunks_are_read_at_once() -> None:
    for count in range(1, 6):
        bodies = [PIECES[i % len(PIECES)] for i in range(count)]
        assert unframed(b"".join(map(chunk, bodies))) == b"".join(bodies)
    assert unframed(chunk(b"z" * max(SIZES.values()))) == b"z" * max(SIZES.values())


@pytest.mark.parametrize(
    "data", [b"", b"\r\n", b"0\r\n\r\n", chunk(b"z" * (max(SIZES.values()) + 1)), b"5", b"5\r\nabcde"]
)
def test_ends_long_chunks_and_parts_are_left_to_the_parser(data: bytes) -> None:
    assert unframed(data) is None


def test_what_is_read_at_once_is_what_the_parser_reads() -> None:
    rng = random.Random(3)
    read = 0
    for _ in range(20_000):
        data = b"".join(chunk(rng.choice(PIECES), rng.choice(WRITTEN)) for _ in range(rng.randint(1, 4)))
        if rng.random() < 0.3:
            data = data[: rng.randrange(len(data) + 1)]
        if rng.random() < 0.3 and data:
            at = rng.randrange(len(data))
            data = (
                data[:at] + rng.choice((b"\r", b"\n", b"\r\n", b"0", b"f", b";", b"")) + data[at + rng.randint(0, 2) :]
            )
        body = unframed(data)
        if body is not None:
            parsed = Parsed(data)
            assert (parsed.body, parsed.between) == (body, True), data
            read += 1
    assert read > 1_000


async def test_a_stream_comes_to_the_same_wherever_it_is_cut(client: Upstream) -> None:
    bodies = [b"one\r\n", b"5\r\ntwo", b"\r\n", b"three", b"four"]
    forms = ("%x", "%x", "%x;a=b", "%x", "0%x")
    sent = b"".join(chunk(body, form) for body, form in zip(bodies, forms, strict=True)) + b"0\r\n\r\n"
    first = CHUNKED + chunk(b"zero")
    for at in range(len(sent) + 1):
        async with serving(saying(first, sent[:at], sent[at:], pause=0.005)) as url:
            assert await fetch(client, post(url, stream=True)) == (200, b"zero" + b"".join(bodies)), at


async def test_a_chunk_that_is_none_breaks_a_stream_under_way_as_it_breaks_any(client: Upstream) -> None:

    for wrong in ("0x%x", "+%x", "%x x", "-%x", "1_%x"):
        async with serving(saying(CHUNKED + chunk(b"zero"), chunk(b"one"), chunk(b"two", wrong), pause=0.01)) as url:
            assert await failing(client, post(url, stream=True)) is ErrorKind.PROTOCOL, wrong
