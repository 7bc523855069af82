"""The listener under bad clients: JSON errors always, no secret in a log, no time wasted on the slow."""

import asyncio
import json
import logging
import re
import time
from typing import Any

import pytest

from gateway.app import Gateway
from gateway.endpoints.exchange import IDS_AT_ONCE, Ids

from .running import KEY, running

CANARY = "sk-canary-0123456789abcdefghij"


async def raw(gateway: Gateway, data: bytes, *, wait: float = 5) -> tuple[int, dict[str, str], bytes]:
    """Send bytes as they are; the status, the headers and the body of what comes back."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.data.port)
    try:
        writer.write(data)
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), wait)
        status, *lines = head.decode().strip().split("\r\n")
        headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines)}
        body = await asyncio.wait_for(reader.readexactly(int(headers.get("content-length", 0))), wait)
        return int(status.split()[1]), headers, body
    finally:
        writer.close()


def post(body: bytes, *headers: str, path: str = "/v1/chat/completions") -> bytes:
    lines = [f"POST {path} HTTP/1.1", "host: x", f"content-length: {len(body)}", *headers]
    if not any(h.lower().startswith("authorization") for h in headers):
        lines.append(f"authorization: Bearer {KEY}")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def error_of(body: bytes) -> dict[str, Any]:
    error: dict[str, Any] = json.loads(body)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


MALFORMED = [
    b"GARBAGE\r\n\r\n",
    f"GET /v1/models HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {CANARY}\x01\r\n\r\n".encode(),
    f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: abc{CANARY}\r\n\r\n".encode(),
    f"GET /{CANARY} HTTP/9.9\r\nhost: x\r\n\r\n".encode(),
    b"GET / HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
    f"GET / HTTP/1.1\r\nhost: x\r\nx: {CANARY}{'a' * 20_000}\r\n\r\n".encode(),
    b"GET / HTTP/1.1\r\nhost: x\r\n" + b"a: b\r\n" * 500 + b"\r\n",
]


@pytest.mark.parametrize("data", MALFORMED)
async def test_S_18_malformed_http_is_answered_in_json_and_leaks_nothing(
    data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with running({"m": "demo-ok"}) as (gateway, _):
        status, headers, body = await raw(gateway, data)
    assert status in (400, 431)
    assert headers["content-type"].startswith("application/json")
    assert "aiohttp" not in headers["server"].lower()
    error_of(body)
    assert CANARY[:12].encode() not in body
    assert CANARY not in caplog.text


BAD_BODIES: list[tuple[bytes, tuple[str, ...], int]] = [
    (b"", (), 400),
    (b"{", (), 400),
    (b"[]", (), 400),
    (b'"x"', (), 400),
    (b"null", (), 400),
    (b"\xff\xfe", (), 400),
    (b'{"model": NaN}', (), 400),
    (b"[" * 100_000, (), 400),
    (b"{}", ("content-type: text/plain",), 415),
    (b"{}", ("content-type: application/json; charset=utf-8",), 400),
    (b"{}", ("content-encoding: gzip",), 400),
    (b"{}", ("x-client-request-id: " + "a" * 513,), 400),
]


@pytest.mark.parametrize(("body", "headers", "status"), BAD_BODIES)
async def test_C_005_C_011_a_bad_body_is_4xx_in_json(body: bytes, headers: tuple[str, ...], status: int) -> None:
    async with running({"m": "demo-ok"}) as (gateway, _):
        answered, _headers, answer = await raw(gateway, post(body, *headers))
    assert answered == status
    assert error_of(answer)["type"] == "invalid_request_error"


async def test_C_008_a_body_over_the_limit_is_refused_at_once_and_unread() -> None:
    async with running({"m": "demo-ok"}, server={"max_body": 2048}) as (gateway, _):
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\ncontent-length: {2**62}\r\n\r\n"
        status, headers, body = await raw(gateway, head.encode())
        assert (status, headers.get("connection")) == (413, "close")
        assert error_of(body)["code"] == "request_too_large"
        chunk = b"400\r\n" + b"a" * 1024 + b"\r\n"
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\ntransfer-encoding: chunked\r\n\r\n"
        status, _, body = await raw(gateway, head.encode() + chunk * 3)
        assert status == 413


async def test_C_025_a_credential_is_checked_before_the_body_is_read() -> None:
    async with running({"m": "demo-ok"}) as (gateway, _):
        head = "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer nope\r\ncontent-length: 1000\r\n\r\n"
        status, _, body = await raw(gateway, head.encode())
    assert status == 401
    assert error_of(body)["code"] == "invalid_api_key"


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        (["authorization: "], "invalid_api_key"),
        (["authorization: Basic abc"], "invalid_api_key"),
        (["authorization: Bearer"], "invalid_api_key"),
        (["authorization: Bearer "], "invalid_api_key"),
        ([f"authorization: Bearer {KEY}", f"authorization: Bearer {KEY}"], "invalid_api_key"),
        ([f"authorization: Bearer {KEY}", f"x-api-key: {KEY}"], "invalid_api_key"),
        (["x-nothing: 1"], None),
    ],
)
async def test_C_020_C_022_what_is_not_one_credential_is_401(headers: list[str], code: str | None) -> None:
    async with running({"m": "demo-ok"}) as (gateway, _):
        lines = "\r\n".join(["GET /v1/models HTTP/1.1", "host: x", *headers])
        status, _, body = await raw(gateway, lines.encode() + b"\r\n\r\n")
    assert status == 401
    assert error_of(body)["code"] == code


@pytest.mark.parametrize("header", [f"authorization: bEaReR {KEY}", f"api-key: {KEY}", f"x-api-key: {KEY}"])
async def test_C_027_the_credential_has_three_places(header: str) -> None:
    async with running({"m": "demo-ok"}) as (gateway, _):
        status, _, _ = await raw(gateway, f"GET /v1/models HTTP/1.1\r\nhost: x\r\n{header}\r\n\r\n".encode())
    assert status == 200


async def test_C_003_C_004_unknown_paths_and_methods() -> None:
    async with running({"m": "demo-ok"}) as (gateway, _):
        status, headers, body = await raw(gateway, post(b"{}", path="/v1/x"))
        assert (status, error_of(body)["message"]) == (404, "Invalid URL (POST /v1/x)")
        assert headers["x-request-id"].startswith("req_")
        status, headers, body = await raw(gateway, b"DELETE /v1/chat/completions HTTP/1.1\r\nhost: x\r\n\r\n")
        assert (status, headers["allow"]) == (405, "GET, POST")
        error_of(body)


async def test_a_slow_head_is_timed_out() -> None:
    async with running({"m": "demo-ok"}, server={"header_timeout": 0.2}) as (gateway, _):
        began = time.monotonic()
        status, _, body = await raw(gateway, b"GET /v1/models HTTP/1.1\r\nhost: x\r\nx-slow")
    assert status == 408
    error_of(body)
    assert 0.15 < time.monotonic() - began < 2


async def test_a_slow_body_is_timed_out() -> None:
    async with running({"m": "demo-ok"}, server={"body_gap_timeout": 0.2}) as (gateway, _):
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\ncontent-length: 100\r\n\r\n"
        status, _, body = await raw(gateway, head.encode() + b"{")
    assert status == 400
    assert error_of(body)["code"] == "request_timeout"


async def test_an_idle_connection_is_closed() -> None:
    async with running({"m": "demo-ok"}, server={"keepalive": 0.2}) as (gateway, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.data.port)
        assert await asyncio.wait_for(reader.read(), 5) == b""
        writer.close()


async def test_C_014_browsers_are_answered_where_allowed() -> None:
    async with running({"m": "demo-ok"}, server={"cors_origins": ["https://ui.example"]}) as (gateway, _):
        preflight = (
            b"OPTIONS /v1/chat/completions HTTP/1.1\r\nhost: x\r\norigin: https://ui.example\r\n"
            b"access-control-request-method: POST\r\naccess-control-request-headers: authorization\r\n\r\n"
        )
        status, headers, _ = await raw(gateway, preflight)
        assert status == 204
        assert headers["access-control-allow-origin"] == "https://ui.example"
        assert headers["access-control-allow-headers"] == "authorization"
        _, headers, _ = await raw(
            gateway, b"GET /v1/models HTTP/1.1\r\nhost: x\r\norigin: https://evil.example\r\n\r\n"
        )
        assert "access-control-allow-origin" not in headers
        assert headers["access-control-expose-headers"] == "X-Request-ID"


async def test_C_420_every_answer_has_an_unguessable_request_id() -> None:
    async with running({"m": "demo-ok"}) as (gateway, _):
        seen = set()
        for data in (post(b"{}"), post(b"{}", path="/nowhere"), b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"):
            _, headers, _ = await raw(gateway, data)
            seen.add(headers["x-request-id"])
    assert len(seen) == 3
    assert all(len(i) == 36 for i in seen)


async def test_health_readiness_and_metrics_are_the_operators() -> None:
    async with running({"m": "demo-ok"}) as (gateway, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.admin.port)
        for path, word in (("/healthz", b'"ok"'), ("/readyz", b'"ready"'), ("/metrics", b"sluice_requests_total")):
            writer.write(f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            assert word in await reader.readexactly(length)
        writer.close()
        status, _, _ = await raw(gateway, b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n")
        assert status == 404


async def test_a_worker_with_too_much_to_do_is_alive() -> None:
    """Whoever asks that kills what does not answer, with all that runs there."""
    async with running({"m": "demo-ok"}, server={"max_requests_in_flight": 1}) as (gateway, _):
        _, slow = await asyncio.open_connection("127.0.0.1", gateway.data.port)
        slow.write(post(b"{", "content-length: 100").replace(b"content-length: 1\r\n", b""))
        while not gateway.state.in_flight:
            await asyncio.sleep(0.01)
        status, _, body = await raw(gateway, b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
        assert (status, json.loads(body)) == (200, {"status": "ok"})
        status, _, _ = await raw(gateway, b"GET /v1/models HTTP/1.1\r\nhost: x\r\n\r\n")
        assert status == 503
        slow.close()


async def test_keep_alive_serves_many_requests_on_one_connection() -> None:
    async with running({"m": "demo-ok"}) as (gateway, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.data.port)
        for _turn in range(3):
            writer.write(post(b'{"model":"m","messages":[{"role":"user","content":"hi"}]}'))
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200")
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            await reader.readexactly(length)
        writer.close()


def test_ids_begin_with_their_time_and_no_two_are_alike() -> None:
    ids = Ids()
    made = [ids.take() for _ in range(3 * IDS_AT_ONCE)]
    assert all(re.fullmatch(r"req_[0-9a-f]{32}", one) for one in made)
    assert len({one[12:] for one in made}) == len(made)
    assert all(abs(int(one[4:12], 16) - time.time()) < 60 for one in made)
