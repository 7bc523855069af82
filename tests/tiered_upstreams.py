"""Upstreams that have service tiers, each in its own words: what was asked for may be served, downgraded or refused.

What the wire asked is read, what served is decided here and kept by the last user message, so that a test can compare
what the gateway told, recorded and billed with what happened.
"""

import json
import struct
import zlib
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from aiohttp import web

JSON = dict[str, Any]
PROMPT, ANSWER = 10, 4
"""Tokens of every request."""


@dataclass(frozen=True)
class Dialect:
    """How one provider is asked and how it answers."""

    adapter: str
    words: Mapping[Any, str]
    """What the wire asks for -> OpenAI's word."""
    asked: Callable[[JSON, Mapping[str, str]], Any]
    whole: Callable[[str | None], JSON]
    """The answer by the provider's word for the tier that served."""
    stream: Callable[[str | None], bytes]
    refusal: tuple[int, JSON]
    """Of flex."""
    options: JSON
    late: bool = False
    """Whether the tier is told only at the end of a stream."""
    own: bool = False
    """Whether the gateway's own queue makes the tiers; the server is told a number."""


def sse(*events: JSON, done: bool = True) -> bytes:
    return b"".join(b"data: " + json.dumps(e).encode() + b"\n\n" for e in events) + (
        b"data: [DONE]\n\n" if done else b""
    )


USAGE = {"prompt_tokens": PROMPT, "completion_tokens": ANSWER, "total_tokens": PROMPT + ANSWER}


def openai_head(kind: str, tier: str | None) -> JSON:
    head = {"id": "chatcmpl-1", "object": kind, "created": 1, "model": "m", "system_fingerprint": None}
    return head if tier is None else {**head, "service_tier": tier}


def openai_whole(tier: str | None) -> JSON:
    message = {"role": "assistant", "content": "one two", "refusal": None, "annotations": []}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    return {**openai_head("chat.completion", tier), "choices": [choice], "usage": USAGE}


def openai_stream(tier: str | None) -> bytes:
    head = openai_head("chat.completion.chunk", tier)

    def chunk(delta: JSON, finish: str | None = None) -> JSON:
        return {**head, "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]}

    said = [chunk({"role": "assistant", "content": ""}), chunk({"content": "one"}), chunk({"content": " two"})]
    return sse(*said, chunk({}, "stop"), {**head, "choices": [], "usage": USAGE})


def anthropic_usage(tier: str | None) -> JSON:
    return {"input_tokens": PROMPT, "output_tokens": ANSWER, "service_tier": tier}


def anthropic_whole(tier: str | None) -> JSON:
    return {
        "id": "msg_1", "type": "message", "role": "assistant", "model": "m", "stop_reason": "end_turn",
        "stop_sequence": None, "content": [{"type": "text", "text": "one two"}], "usage": anthropic_usage(tier),
    }  # fmt: skip


def anthropic_stream(tier: str | None) -> bytes:
    start = {**anthropic_whole(tier), "content": [], "stop_reason": None}
    delta = {"type": "text_delta", "text": "one two"}
    events: list[JSON] = [
        {"type": "message_start", "message": start},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": delta},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": anthropic_usage(tier)},
        {"type": "message_stop"},
    ]
    return b"".join(f"event: {e['type']}\ndata: {json.dumps(e)}\n\n".encode() for e in events)


def gemini(word: str) -> Callable[[str | None], JSON]:
    def whole(tier: str | None) -> JSON:
        told = {"promptTokenCount": PROMPT, "candidatesTokenCount": ANSWER, "totalTokenCount": PROMPT + ANSWER}
        content = {"role": "model", "parts": [{"text": "one two"}]}
        candidate = {"content": content, "finishReason": "STOP", "index": 0}
        return {"candidates": [candidate], "usageMetadata": {**told, word: tier}, "modelVersion": "m"}

    return whole


def gemini_stream(word: str) -> Callable[[str | None], bytes]:
    return lambda tier: sse(gemini(word)(tier), done=False)


def bedrock_whole(tier: str | None) -> JSON:
    return {
        "output": {"message": {"role": "assistant", "content": [{"text": "one two"}]}},
        "stopReason": "end_turn",
        "usage": {"inputTokens": PROMPT, "outputTokens": ANSWER, "totalTokens": PROMPT + ANSWER},
        "serviceTier": {"type": tier},
    }


def bedrock_stream(tier: str | None) -> bytes:
    def event(kind: str, body: JSON) -> bytes:
        headers = {":event-type": kind, ":content-type": "application/json", ":message-type": "event"}
        told = b"".join(
            bytes([len(k)]) + k.encode() + b"\x07" + struct.pack(">H", len(v)) + v.encode() for k, v in headers.items()
        )
        payload = json.dumps(body).encode()
        start = struct.pack(">II", 16 + len(told) + len(payload), len(told))
        message = start + struct.pack(">I", zlib.crc32(start)) + told + payload
        return message + struct.pack(">I", zlib.crc32(message))

    end = bedrock_whole(tier)
    return (
        event("messageStart", {"role": "assistant"})
        + event("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": "one two"}})
        + event("contentBlockStop", {"contentBlockIndex": 0})
        + event("messageStop", {"stopReason": "end_turn"})
        + event("metadata", {"usage": end["usage"], "serviceTier": end["serviceTier"]})
    )


def mistral_whole(tier: str | None) -> JSON:
    return {**openai_whole(None), "usage": {**USAGE, "service_tier": tier}}


def mistral_stream(tier: str | None) -> bytes:
    """Usage, and with it the tier, rides on the chunk that finishes."""

    def chunk(delta: JSON, finish: str | None = None, **more: Any) -> JSON:
        head = openai_head("chat.completion.chunk", None)
        return {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}], **more}

    usage = {**USAGE, "service_tier": tier}
    return sse(
        chunk({"role": "assistant", "content": "one"}), chunk({"content": " two"}), chunk({}, "stop", usage=usage)
    )


def cerebras_whole(tier: str | None) -> JSON:
    """What was asked for and what served under names of their own."""
    return {**openai_whole("auto"), "service_tier_used": tier}


def field(name: str) -> Callable[[JSON, Mapping[str, str]], str | None]:
    return lambda body, _: body.get(name)


BUSY = {"error": {"message": "Resource Unavailable", "type": "resource_unavailable", "code": "resource_unavailable"}}
SAME = {"default": "default", "flex": "flex", "priority": "priority"}
GOOGLE_BUSY = {"error": {"code": 429, "message": "Resource has been exhausted.", "status": "RESOURCE_EXHAUSTED"}}

DIALECTS: Mapping[str, Dialect] = {
    "openai": Dialect("openai", SAME, field("service_tier"), openai_whole, openai_stream, (429, BUSY), {}),
    "azure": Dialect(
        "azure", SAME, field("service_tier"), openai_whole, openai_stream, (429, BUSY), {"auth": "api_key"}
    ),
    "groq": Dialect(
        "groq",
        {"on_demand": "default", "flex": "flex", "performance": "priority"},
        field("service_tier"),
        openai_whole,
        openai_stream,
        (498, {"error": {"message": "no flex", "code": "capacity_exceeded"}}),
        {},
    ),
    "fireworks": Dialect(
        "fireworks",
        {"default": "default", "priority": "priority"},
        field("service_tier"),
        lambda _: openai_whole(None),
        lambda _: openai_stream(None),
        (503, BUSY),
        {},
    ),
    "xai": Dialect(
        "xai",
        {"default": "default", "priority": "priority"},
        field("service_tier"),
        openai_whole,
        openai_stream,
        (429, BUSY),
        {},
    ),
    "openrouter": Dialect("openrouter", SAME, field("service_tier"), openai_whole, openai_stream, (429, BUSY), {}),
    "cerebras": Dialect("cerebras", SAME, field("service_tier"), cerebras_whole, openai_stream, (429, BUSY), {}),
    "vllm": Dialect(
        "vllm",
        {-10: "priority", 0: "default", 10: "flex"},
        field("priority"),
        lambda _: openai_whole(None),
        lambda _: openai_stream(None),
        (429, BUSY),
        {"send_priority": True},
        own=True,
    ),
    "sglang": Dialect(
        "sglang",
        {10: "priority", 0: "default", -10: "flex"},
        field("priority"),
        lambda _: openai_whole(None),
        lambda _: openai_stream(None),
        (429, BUSY),
        {"send_priority": True},
        own=True,
    ),
    "mistral": Dialect(
        "mistral",
        {"standard_only": "default", "auto": "priority"},
        field("service_tier"),
        mistral_whole,
        mistral_stream,
        (429, BUSY),
        {},
        late=True,
    ),
    "anthropic": Dialect(
        "anthropic",
        {"standard_only": "default", "auto": "priority"},
        field("service_tier"),
        anthropic_whole,
        anthropic_stream,
        (529, BUSY),
        {},
    ),
    "gemini": Dialect(
        "gemini",
        {"standard": "default", "flex": "flex", "priority": "priority"},
        field("serviceTier"),
        gemini("serviceTier"),
        gemini_stream("serviceTier"),
        (429, GOOGLE_BUSY),
        {},
    ),
    "vertex": Dialect(
        "vertex",
        {"flex": "flex", "priority": "priority"},
        lambda _, headers: headers.get("x-vertex-ai-llm-shared-request-type"),
        gemini("trafficType"),
        gemini_stream("trafficType"),
        (429, GOOGLE_BUSY),
        {"express": True},
    ),
    "bedrock": Dialect(
        "bedrock",
        SAME,
        lambda body, _: (body.get("serviceTier") or {}).get("type"),
        bedrock_whole,
        bedrock_stream,
        (503, {"message": "no flex capacity"}),
        {"auth": "api_key"},
        late=True,
    ),
}
SERVED_WORDS: Mapping[str, Mapping[str, str]] = {
    "groq": {"default": "on_demand", "flex": "flex", "priority": "performance"},
    "anthropic": {"default": "standard", "priority": "priority"},
    "mistral": {"default": "standard", "priority": "priority"},
    "gemini": {"default": "standard", "flex": "flex", "priority": "priority"},
    "vertex": {"default": "ON_DEMAND", "flex": "ON_DEMAND_FLEX", "priority": "ON_DEMAND_PRIORITY"},
}


class TieredUpstreams:
    """Every dialect under ``/NAME/``. ``decide(name, asked)`` gives the tier that serves, or None to refuse."""

    def __init__(self, decide: Callable[[str, str], str | None]) -> None:
        self.url = ""
        self.served: dict[str, str] = {}
        """Last user message -> the tier that served it."""
        self._decide = decide

    async def answer(self, request: web.Request) -> web.StreamResponse:
        name = request.path.split("/")[1]
        dialect = DIALECTS[name]
        text = await request.text()
        body = json.loads(text)
        mark = text[text.index("mark-") :][:9]
        wire = dialect.asked(body, {k.lower(): v for k, v in request.headers.items()})
        assert wire is None or wire in dialect.words, (name, wire)
        served = self._decide(name, dialect.words[wire] if wire is not None else "default")
        if served is None:
            status, refusal = dialect.refusal
            return web.json_response(refusal, status=status)
        self.served[mark] = served
        word = SERVED_WORDS.get(name, SAME)[served]
        stream = body.get("stream") or "stream" in request.path.lower()
        if not stream:
            return web.json_response(dialect.whole(word))
        kind = "application/vnd.amazon.eventstream" if name == "bedrock" else "text/event-stream"
        return web.Response(body=dialect.stream(word), content_type=kind)


@asynccontextmanager
async def tiered(decide: Callable[[str, str], str | None]) -> AsyncIterator[TieredUpstreams]:
    upstreams = TieredUpstreams(decide)
    app = web.Application()
    app.router.add_post("/{tail:.*}", upstreams.answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    upstreams.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield upstreams
    finally:
        await runner.cleanup()
