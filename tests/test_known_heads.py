"""A head that comes again on a connection is not parsed again, and nobody can tell."""

import asyncio
import json
from typing import Any

import pytest
from aiohttp.web_protocol import RequestHandler

from gateway.app import Gateway
from gateway.connection import Connection

from .running import KEY, running
from .test_connection import ASK, Socket, to
from .test_server import post

HEADS = ("content-type: application/json", "user-agent: them")


def ask(text: str, *headers: str) -> bytes:
    return post(ASK.replace(b"hi", text.encode()), *HEADS, *headers)


def declaring(length: str, body: bytes = ASK) -> bytes:
    return post(body, *HEADS).replace(f"content-length: {len(body)}\r".encode(), f"content-length: {length}\r".encode())


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What aiohttp's parser got."""
    read: list[bytes] = []
    usual = RequestHandler.data_received

    def data_received(self: RequestHandler, data: bytes) -> None:
        if isinstance(self, Connection):  # not the demo upstream's
            read.append(data)
        usual(self, data)

    monkeypatch.setattr(RequestHandler, "data_received", data_received)
    return read


async def told(socket: Socket) -> list[Any]:
    status, headers, body = await socket.answer()
    answer = json.loads(body)
    return [status, headers.get("connection"), sorted(headers), answer.get("error"), answer.get("choices")]


async def test_the_same_head_with_other_bodies_is_parsed_once(parsed: list[bytes]) -> None:
    async with running({"m": "demo-echo"}) as (gateway, _), to(gateway) as socket:
        ids = set()
        for text in ("a", "a longer text", "x" * 1000, "b"):
            socket.send(ask(text))
            status, headers, body = await socket.answer()
            assert (status, json.loads(body)["choices"][0]["message"]["content"]) == (200, text)
            ids.add(headers["x-request-id"])
        assert len(ids) == 4
    assert [data for data in parsed if data] == [ask("a")]


SECOND = {
    "same": ask("two"),
    "another key": ask("two", "authorization: Bearer sk-none-of-ours-0123456789abcdef0123"),
    "a header more": ask("two", "x-client-request-id: mine"),
    "two keys": ask("two", f"authorization: Bearer {KEY}", f"x-api-key: {KEY}"),
    "another path": ask("two").replace(b"/v1/chat", b"/v2/chat"),
    "the last": ask("two", "connection: close"),
    "chunked too": ask("two", "transfer-encoding: chunked"),
    "an expectation": ask("two", "expect: 100-continue"),
    "no length": declaring(""),
    "a sign": declaring("+57"),
    "a space": declaring("57 "),
    "leading zeros": declaring("0057"),
    "other digits": declaring("\u0665\u0667"),
    "two lengths": post(ASK, *HEADS, "content-length: 57"),
    "a list": declaring("57, 57"),
    "too many digits": declaring("00000000000057"),
    "nothing": declaring("0", b""),
    "too large": ask("x" * 3000),
    "no json": post(b"{", *HEADS),
    "garbage": b"GARBAGE\r\n\r\n",
    "line breaks before": b"\r\n" + ask("two"),
    "bare line feeds": ask("two").replace(b"\r\n", b"\n"),
}


async def answer_to(gateway: Gateway, request: bytes, warm: bool) -> list[Any]:
    async with to(gateway) as socket:
        if warm:
            socket.send(declaring("57"))
            assert (await socket.answer())[0] == 200
        socket.send(request)
        return await told(socket)


@pytest.mark.parametrize("case", SECOND)
async def test_what_follows_a_known_head_is_answered_as_on_a_new_connection(case: str) -> None:
    assert len(ASK) == 57, "what the cases declare"
    async with running({"m": "demo-echo"}, server={"max_body": 2048}) as (gateway, _):
        assert await answer_to(gateway, SECOND[case], True) == await answer_to(gateway, SECOND[case], False)


@pytest.mark.parametrize("cut", [1, 20, len(ask("two")) - len(ASK) - 20, len(ask("two")) - 3])
async def test_what_comes_in_two_pieces_is_read_by_the_parser_from_then_on(cut: int, parsed: list[bytes]) -> None:
    async with running({"m": "demo-echo"}) as (gateway, _), to(gateway) as socket:
        for split in (False, True, False, False):
            socket.send(ask("two")[:cut] if split else ask("two"))
            if split:
                await asyncio.sleep(0.05)
                socket.send(ask("two")[cut:])
            status, _, body = await socket.answer()
            assert (status, json.loads(body)["choices"][0]["message"]["content"]) == (200, "two")
    assert b"".join(parsed) == ask("two") * 4  # all: where a head ends is not known any more


async def test_requests_that_come_at_once_after_a_known_head_are_all_answered() -> None:
    async with running({"m": "demo-echo"}) as (gateway, _), to(gateway) as socket:
        socket.send(ask("0"))
        assert (await socket.answer())[0] == 200
        socket.send(ask("1"), ask("2"), ask("3")[:90])
        await asyncio.sleep(0.05)
        socket.send(ask("3")[90:], ask("4"))
        for number in "1234":
            status, _, body = await socket.answer()
            assert (status, json.loads(body)["choices"][0]["message"]["content"]) == (200, number)


async def test_a_request_that_comes_while_a_known_one_is_answered_waits_for_it() -> None:
    async with running({"m": "demo-echo+delay=0.2"}) as (gateway, _), to(gateway) as socket:
        socket.send(ask("0"))
        assert (await socket.answer())[0] == 200
        for number in "123":
            socket.send(ask(number))
            await asyncio.sleep(0.02)
        for number in "123":
            status, _, body = await socket.answer()
            assert (status, json.loads(body)["choices"][0]["message"]["content"]) == (200, number)
