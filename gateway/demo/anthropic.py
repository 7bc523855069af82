"""Anthropic's words: Messages, as api.anthropic.com sends them."""

from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from adapters.usage import Usage

from .answer import Answer, Frame, Prompt
from .refusals import Refusal

_STOP = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}
SIGNATURE = "ZGVtbyBzaWduYXR1cmU="


class AnthropicDialect:
    """Reads Messages requests and words the answers."""

    name = "anthropic"
    stream_type = "text/event-stream; charset=utf-8"

    def read(self, body: Mapping[str, Any]) -> Prompt:
        messages = body["messages"]
        texts = [_text(body.get("system")), *(_text(message["content"]) for message in messages)]
        users = [_text(message["content"]) for message in messages if message["role"] == "user"]
        last = messages[-1]["content"] if messages else ""
        blocks = last if isinstance(last, list) else []
        results = [_text(block.get("content")) for block in blocks if block.get("type") == "tool_result"]
        if len(results) < len(blocks):
            results = []  # the user said something after them
        choice = body.get("tool_choice") or {}
        forced = choice.get("name") if choice.get("type") == "tool" else None
        tools = [
            (tool["name"], tool["input_schema"])
            for tool in body.get("tools") or []
            if "input_schema" in tool and forced in (None, tool["name"])
        ]
        output = (body.get("output_config") or {}).get("format") or {}
        return Prompt(
            model=body["model"],
            words=max(1, sum(len(text.split()) for text in texts)),
            last_user=users[-1] if users else "",
            tool_results=tuple(results),
            tools=() if choice.get("type") == "none" else tuple(tools),
            must_call=choice.get("type") in ("any", "tool"),
            schema=output.get("schema"),
            max_tokens=body["max_tokens"],
            tier="standard",
            stream=bool(body.get("stream")),
            include_usage=True,
            begun=_text(messages[-1]["content"]) if messages[-1]["role"] == "assistant" else "",
        )

    def whole(self, answer: Answer) -> dict[str, Any]:
        content: list[dict[str, Any]] = []
        if answer.reasoning:
            content.append({"type": "thinking", "thinking": "".join(answer.reasoning), "signature": SIGNATURE})
        if answer.pieces and not answer.refusal:
            content.append({"type": "text", "text": "".join(answer.pieces)})
        content += [
            {"type": "tool_use", "id": call.id, "name": call.name, "input": orjson.loads("".join(call.arguments))}
            for call in answer.calls
        ]
        usage = _usage(answer.usage, answer.tier) if answer.tell_usage else {}
        return {**_message(answer), **_stop(answer), "content": content, "usage": usage}

    def frames(self, answer: Answer) -> Iterator[Frame]:
        usage = {**_usage(answer.usage, answer.tier), "output_tokens": 1} if answer.tell_usage else {}
        yield _event("message_start", message={**_message(answer), "usage": usage})
        index = 0
        if answer.reasoning:
            thinking = [{"type": "thinking_delta", "thinking": thought} for thought in answer.reasoning]
            yield from _block(index, {"type": "thinking", "thinking": "", "signature": ""}, thinking)
            index += 1
        if answer.pieces and not answer.refusal:
            texts = [{"type": "text_delta", "text": piece} for piece in answer.pieces]
            yield from _block(index, {"type": "text", "text": ""}, texts)
            index += 1
        for call in answer.calls:
            opening = {"type": "tool_use", "id": call.id, "name": call.name, "input": {}}
            pieces = [{"type": "input_json_delta", "partial_json": piece} for piece in call.arguments]
            yield from _block(index, opening, pieces)
            index += 1
        told = {"usage": _usage(answer.usage, answer.tier)} if answer.tell_usage else {}
        yield _event("message_delta", delta=_stop(answer), **told)._replace(usage=answer.tell_usage)
        yield _event("message_stop")._replace(last=True)

    def refusal(self, refusal: Refusal) -> dict[str, Any]:
        message = refusal.anthropic_message or refusal.message
        return {"type": "error", "error": {"type": refusal.anthropic, "message": message}, "request_id": "req_demo"}

    def error_event(self) -> bytes:
        return _event("error", error={"type": "overloaded_error", "message": "Overloaded"}).data

    def headers(self, number: int) -> dict[str, str]:
        return {"request-id": f"req_{number:024x}", "anthropic-organization-id": "demo-organization"}


def _message(answer: Answer) -> dict[str, Any]:
    return {
        "id": f"msg_{answer.id}",
        "type": "message",
        "role": "assistant",
        "model": answer.model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
    }


def _stop(answer: Answer) -> dict[str, Any]:
    if answer.refusal:
        details = {"type": "refusal", "category": None, "explanation": "".join(answer.pieces)}
        return {"stop_reason": "refusal", "stop_sequence": None, "stop_details": details}
    return {"stop_reason": _STOP[answer.finish], "stop_sequence": None}


def _usage(usage: Usage, tier: str) -> dict[str, Any]:
    """Anthropic's input excludes both cache counts, its output includes the thinking."""
    return {
        "input_tokens": usage.input,
        "cache_creation_input_tokens": usage.cache_write,
        "cache_read_input_tokens": usage.cache_read,
        "output_tokens": usage.output + usage.reasoning,
        "output_tokens_details": {"thinking_tokens": usage.reasoning},
        "service_tier": tier,
    }


def _block(index: int, opening: dict[str, Any], deltas: list[dict[str, Any]]) -> Iterator[Frame]:
    yield _event("content_block_start", index=index, content_block=opening)
    yield _event("ping")
    thinking = opening["type"] == "thinking"
    for delta in deltas:
        frame = _event("content_block_delta", index=index, delta=delta)
        yield frame._replace(output=int(not thinking), reasoning=int(thinking))
    if thinking:
        yield _event("content_block_delta", index=index, delta={"type": "signature_delta", "signature": SIGNATURE})
    yield _event("content_block_stop", index=index)


def _event(kind: str, **data: Any) -> Frame:
    return Frame(b"event: %b\ndata: %b\n\n" % (kind.encode(), orjson.dumps({"type": kind, **data})))


def _text(content: Any) -> str:
    """All text of a message's content, tool results included."""
    if isinstance(content, str):
        return content
    return " ".join(_text(block.get("text") or block.get("content")) for block in content or [])
