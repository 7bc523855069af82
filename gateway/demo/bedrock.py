"""Bedrock's words: Converse, and ConverseStream in binary event-stream frames."""

import struct
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from adapters.usage import Usage

from .answer import Answer, Frame, Prompt
from .refusals import Refusal

_STOP = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}
_STRING = b"\x07"
"""The header value type of a string."""
SIGNATURE = "ZGVtbyBzaWduYXR1cmU="


class BedrockDialect:
    """Reads Converse requests and words the answers. As the service does, it refuses turns that do not alternate."""

    name = "bedrock"
    stream_type = "application/vnd.amazon.eventstream"

    def read(self, body: Mapping[str, Any]) -> Prompt:
        messages, config = body["messages"], body.get("inferenceConfig") or {}
        roles = [message["role"] for message in messages]
        if not roles or any(role != ("user", "assistant")[at % 2] for at, role in enumerate(roles)):
            raise ValueError("turns must alternate")
        texts = [_text(body.get("system") or ()), *(_text(message["content"]) for message in messages)]
        users = [_text(message["content"]) for message in messages if message["role"] == "user"]
        last = messages[-1]["content"]
        results = [_text(block["toolResult"]["content"]) for block in last if "toolResult" in block]
        if any("text" in block for block in last):
            results = []  # the user said something after them
        tooling = body.get("toolConfig") or {}
        choice = tooling.get("toolChoice") or {}
        forced = (choice.get("tool") or {}).get("name")
        specs = [tool["toolSpec"] for tool in tooling.get("tools") or () if "toolSpec" in tool]
        tools = [(spec["name"], spec["inputSchema"]["json"]) for spec in specs if forced in (None, spec["name"])]
        return Prompt(
            model=body["model"],
            words=max(1, sum(len(text.split()) for text in texts)),
            last_user=users[-1],
            tool_results=tuple(results),
            tools=tuple(tools),
            must_call="any" in choice or forced is not None,
            max_tokens=config.get("maxTokens"),
            tier=(body.get("serviceTier") or {}).get("type") or "default",
            stream=bool(body["stream"]),
            include_usage=True,
        )

    def whole(self, answer: Answer) -> dict[str, Any]:
        content: list[dict[str, Any]] = []
        if answer.reasoning:
            thought = {"text": "".join(answer.reasoning), "signature": SIGNATURE}
            content.append({"reasoningContent": {"reasoningText": thought}})
        if answer.pieces:
            content.append({"text": "".join(answer.pieces)})
        content += [
            {"toolUse": {"toolUseId": call.id, "name": call.name, "input": orjson.loads("".join(call.arguments))}}
            for call in answer.calls
        ]
        told = {"output": {"message": {"role": "assistant", "content": content}}, "stopReason": _stop(answer)}
        return {**told, **_told(answer)}

    def frames(self, answer: Answer) -> Iterator[Frame]:
        yield _event("messageStart", role="assistant")
        index = 0
        if answer.reasoning:
            thoughts: list[Frame] = [
                _delta(index, {"reasoningContent": {"text": thought}})._replace(reasoning=1)
                for thought in answer.reasoning
            ]
            yield from thoughts
            yield _delta(index, {"reasoningContent": {"signature": SIGNATURE}})
            yield _event("contentBlockStop", contentBlockIndex=index)
            index += 1
        if answer.pieces:  # a block of text has no start
            yield from (_delta(index, {"text": piece})._replace(output=1) for piece in answer.pieces)
            yield _event("contentBlockStop", contentBlockIndex=index)
            index += 1
        for call in answer.calls:
            start = {"toolUse": {"toolUseId": call.id, "name": call.name}}
            yield _event("contentBlockStart", contentBlockIndex=index, start=start)
            for piece in call.arguments:
                yield _delta(index, {"toolUse": {"input": piece}})._replace(output=1)
            yield _event("contentBlockStop", contentBlockIndex=index)
            index += 1
        yield _event("messageStop", stopReason=_stop(answer))
        yield _event("metadata", **_told(answer))._replace(usage=answer.tell_usage, last=True)

    def refusal(self, refusal: Refusal) -> dict[str, Any]:
        return {"message": refusal.anthropic_message or refusal.message}

    def error_event(self) -> bytes:
        headers = {":exception-type": "serviceUnavailableException", ":message-type": "exception"}
        return frame(headers, b'{"message":"Bedrock is unable to process your request."}')

    def headers(self, number: int) -> dict[str, str]:
        return {"x-amzn-requestid": f"00000000-0000-4000-8000-{number:012x}"}


def frame(headers: Mapping[str, str], payload: bytes) -> bytes:
    """One message of the event-stream encoding: prelude, headers, payload and a checksum of both parts."""
    told = b"".join(
        bytes([len(name)]) + name.encode() + _STRING + struct.pack(">H", len(value)) + value.encode()
        for name, value in headers.items()
    )
    prelude = struct.pack(">II", 16 + len(told) + len(payload), len(told))
    message = prelude + struct.pack(">I", zlib.crc32(prelude)) + told + payload
    return message + struct.pack(">I", zlib.crc32(message))


def _event(kind: str, **data: Any) -> Frame:
    """The ``p`` pads events against listeners who count bytes, as the service does."""
    headers = {":event-type": kind, ":content-type": "application/json", ":message-type": "event"}
    return Frame(frame(headers, orjson.dumps({**data, "p": "abcdefghijkl"[: 1 + len(kind) % 12]})))


def _delta(index: int, delta: dict[str, Any]) -> Frame:
    return _event("contentBlockDelta", contentBlockIndex=index, delta=delta)


def _stop(answer: Answer) -> str:
    return "content_filtered" if answer.refusal else _STOP[answer.finish]


def _told(answer: Answer) -> dict[str, Any]:
    told: dict[str, Any] = {"metrics": {"latencyMs": 1}, "serviceTier": {"type": answer.tier}}
    return {**told, "usage": _usage(answer.usage)} if answer.tell_usage else told


def _usage(usage: Usage) -> dict[str, int]:
    """The input leaves both cache counts out; thoughts are output like any other."""
    output = usage.output + usage.reasoning
    return {
        "inputTokens": usage.input,
        "cacheReadInputTokens": usage.cache_read,
        "cacheWriteInputTokens": usage.cache_write,
        "outputTokens": output,
        "totalTokens": usage.input + usage.cache_read + usage.cache_write + output,
    }


def _text(blocks: Any) -> str:
    found = (block.get("text") or _text((block.get("toolResult") or {}).get("content") or ()) for block in blocks)
    return " ".join(text for text in found if text)
