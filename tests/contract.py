"""One gateway for all tests of a module, and what a client sees of it: for the tests of the client's contract."""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from gateway.app import Gateway
from gateway.demo import DemoUpstream, Verbatim

from .running import KEY, deployment, running

USER = {"role": "user", "content": "Say one two three"}
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
DIALECTS = ("openai", "anthropic")
SCRIPTS = (
    *("ok", "echo", "long", "tools", "parallel", "reasoning", "refusal", "cached", "slow", "endless", "no-content"),
    *("cut", "closed", "unfinished", "error-late", "400", "401", "403", "413", "429", "500", "502", "503", "529"),
    *("404", "invalid", "content-filter", "context", "quota", "downgraded", "flex-refused", "refused", "recovers"),
    "no-usage",
)
"""Scripts that every contract gateway serves in both dialects, as ``openai-NAME`` and ``anthropic-NAME``."""


@dataclass(frozen=True)
class Reply:
    """An HTTP answer, read to its end."""

    status: int
    headers: Mapping[str, str]
    raw: bytes
    broken: bool = False
    """Whether the connection broke before the end of the body."""

    @property
    def body(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.raw)
        return found

    @property
    def error(self) -> dict[str, Any]:
        """The error; fails when its shape is not OpenAI's."""
        assert set(self.body) == {"error"}
        error: dict[str, Any] = self.body["error"]
        assert list(error) == ["message", "type", "param", "code"]
        assert all(isinstance(error[key], str) for key in ("message", "type"))
        assert all(error[key] is None or isinstance(error[key], str) for key in ("param", "code"))
        assert self.headers["content-type"] == "application/json; charset=utf-8"
        return error

    @property
    def blocks(self) -> list[str]:
        """What stands between blank lines."""
        assert self.raw.endswith(b"\n\n")
        return self.raw.decode().split("\n\n")[:-1]

    @property
    def chunks(self) -> list[dict[str, Any]]:
        return [json.loads(b.removeprefix("data: ")) for b in self.blocks if b != "data: [DONE]" and b[0] != ":"]

    def deltas(self, choice: int = 0) -> list[dict[str, Any]]:
        return [c["delta"] for chunk in self.chunks for c in chunk["choices"] if c["index"] == choice]

    @property
    def text(self) -> str:
        return "".join(delta.get("content") or "" for delta in self.deltas())

    @property
    def finishes(self) -> list[str]:
        return [c["finish_reason"] for k in self.chunks for c in k["choices"] if c["finish_reason"] is not None]


@dataclass
class Contract:
    gateway: Gateway
    upstream: DemoUpstream
    http: aiohttp.ClientSession
    key: str = KEY
    bearer: dict[str, str] = field(default_factory=lambda: {"authorization": f"Bearer {KEY}"})

    async def ask(
        self, model: str, *messages: Any, headers: Mapping[str, str] | None = None, **parameters: Any
    ) -> Reply:
        """Create a chat completion; ``stream=True`` streams it."""
        body = {"model": model, "messages": [*messages] or [USER], **parameters}
        return await self.send("POST", "/v1/chat/completions", json=body, headers=headers)

    async def send(
        self, method: str, path: str, *, headers: Mapping[str, str] | None = None, admin: bool = False, **more: Any
    ) -> Reply:
        url = (self.gateway.admin_url if admin else self.gateway.url) + path
        given = {**self.bearer, **(headers or {})}
        async with self.http.request(method, url, headers=given, allow_redirects=False, **more) as response:
            received, broken = b"", False
            try:
                async for data in response.content.iter_any():
                    received += data
            except aiohttp.ClientPayloadError:
                broken = True
            return Reply(response.status, {k.lower(): v for k, v in response.headers.items()}, received, broken=broken)

    def says(self, model: str, body: Any, **more: Any) -> str:
        """Let the upstream answer requests for ``model`` with ``body``, word for word; gives its public name."""
        told = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.upstream.verbatim[model] = Verbatim(told, **more)
        return model


def sse(*chunks: Any, done: bool = True) -> bytes:
    """An upstream's stream."""
    events = [b"data: " + json.dumps(c).encode() + b"\n\n" for c in chunks]
    return b"".join(events) + (b"data: [DONE]\n\n" if done else b"")


def completion(message: dict[str, Any], finish: str = "stop", **more: Any) -> dict[str, Any]:
    """A whole answer of an upstream."""
    choice = {"index": 0, "message": {"role": "assistant", "content": None, **message}, "finish_reason": finish}
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    head = {"id": "chatcmpl-up", "object": "chat.completion", "created": 1_700_000_000, "model": "up-2026-01-01"}
    return {**head, "choices": [choice], "usage": usage, **more}


def chunk(delta: dict[str, Any], finish: str | None = None, index: int = 0, **more: Any) -> dict[str, Any]:
    """A chunk of an upstream."""
    choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}
    head = {"id": "chatcmpl-up", "object": "chat.completion.chunk", "created": 1_700_000_000, "model": "up-2026-01-01"}
    return {**head, "choices": [choice], **more}


@asynccontextmanager
async def contract(models: Mapping[str, Any] | None = None, **sections: Any) -> AsyncIterator[Contract]:
    """A gateway with a model for every script, one attempt each, and ``verbatim-0`` to ``verbatim-9``."""
    table: dict[str, Any] = {f"{d}-{s}": [deployment(f"demo-{s}", d)] for d in DIALECTS for s in SCRIPTS}
    table |= {f"verbatim-{i}": [deployment(f"verbatim-{i}")] for i in range(10)}
    table |= {f"mended-{i}": [deployment(f"verbatim-{i}", "compatible")] for i in range(10)}
    table |= models or {}
    sections = {"health": {"consecutive_failures": 10_000, "success_percent": 0}, **sections}
    sections["retries"] = {"attempts": 1, **sections.get("retries", {})}
    async with running(table, **sections) as (gateway, upstream):
        async with aiohttp.ClientSession() as http:
            yield Contract(gateway, upstream, http)
