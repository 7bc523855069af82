"""The head that is written past aiohttp: nothing in it begins another header, and ``Connection: close`` is kept."""

import asyncio

import orjson
import pytest

from gateway.reply import whole_head

from .running import KEY, running


@pytest.mark.parametrize("value", ["a\r\nx: y", "a\ny", "a\rb", "a\n"])
def test_a_value_with_a_line_break_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match="line break"):
        whole_head({"x-sluice-deployment": value})


def test_every_header_has_a_line() -> None:
    assert whole_head({"a": "1", "b": "\u00e9"}) == "HTTP/1.1 200 OK\r\na: 1\r\nb: \u00e9\r\n\r\n".encode()


@pytest.mark.parametrize("close", [True, False])
async def test_a_connection_ends_when_the_client_says_so(close: bool) -> None:
    body = orjson.dumps({"model": "fast", "messages": [{"role": "user", "content": "hi"}]})
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\ncontent-length: {len(body)}\r\n"
    request = head.encode() + (b"connection: close\r\n" if close else b"") + b"\r\n" + body
    async with running({"fast": "demo-echo"}) as (gateway, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.data.port)
        for turn in range(1 if close else 2):  # kept open, the second answer follows the first
            writer.write(request)
            lines = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)).decode().lower().split("\r\n")
            assert lines[0] == "http/1.1 200 ok", turn
            assert ("connection: close" in lines) is close
            length = next(int(line[16:]) for line in lines if line.startswith("content-length: "))
            answer = await asyncio.wait_for(reader.readexactly(length), 5)
            assert orjson.loads(answer)["object"] == "chat.completion"
        if close:
            assert await asyncio.wait_for(reader.read(), 5) == b""
        writer.close()
