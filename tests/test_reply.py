"""What is written past aiohttp: no header begins another one, ``Connection: close`` is kept, HTTP/1.0 gets no chunks."""

import asyncio
from typing import Any

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


async def said_by_1_0(port: int, headers: str = "", **more: Any) -> tuple[list[str], bytes]:
    """The lines of the head and all that comes behind it, to a client as nginx is one by default."""
    body = orjson.dumps({"model": "m", "messages": [{"role": "user", "content": "one two"}], **more})
    head = f"POST /v1/chat/completions HTTP/1.0\r\nauthorization: Bearer {KEY}\r\n{headers}content-length: {len(body)}\r\n\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(head.encode() + body)
    told, _, rest = (await asyncio.wait_for(reader.read(), 10)).partition(b"\r\n\r\n")
    writer.close()
    return told.decode().lower().split("\r\n"), rest


@pytest.mark.parametrize("headers", ["", "connection: keep-alive\r\n", "expect: 100-continue\r\n"])
async def test_a_client_of_http_1_0_is_answered_and_the_end_is_that_of_the_connection(headers: str) -> None:
    async with running({"m": "demo-echo"}) as (gateway, _):
        told, body = await said_by_1_0(gateway.data.port, headers)
        assert "connection: close" in told
        assert orjson.loads(body)["choices"][0]["message"]["content"] == "one two"
        told, body = await said_by_1_0(gateway.data.port, headers, stream=True)
        assert {"connection: close", "content-type: text/event-stream; charset=utf-8"} < {*told}
        assert not any(line.startswith(("transfer-encoding", "content-length")) for line in told)
        *frames, rest = body.split(b"\n\n")
        assert all(frame.startswith(b"data: ") for frame in frames), "something else is between the events"
        assert (frames[-1], rest) == (b"data: [DONE]", b"")
        if "keep-alive" in headers:
            return  # what aiohttp writes, a refusal say, leaves such a connection open
        told, body = await said_by_1_0(gateway.data.port, headers, temperature=99)
        assert told[0].split()[1] == "400"
        assert orjson.loads(body)["error"]["param"] == "temperature"


async def test_a_client_of_http_1_0_is_told_of_a_stream_that_breaks_off_and_pinged() -> None:
    models: dict[str, Any] = {"m": "demo-long+chunks=3+gap=0.3+cut=2"}
    async with running(models, server={"ping": 0.1}) as (gateway, _):
        _, body = await said_by_1_0(gateway.data.port, stream=True)
        *frames, rest = body.split(b"\n\n")
        assert b": ping" in frames
        assert all(frame.startswith((b"data: ", b": ping")) for frame in frames)
        assert rest == b""
        assert orjson.loads(frames[-1].removeprefix(b"data: "))["error"]["code"] == "upstream_error"
