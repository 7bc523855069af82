"""OpenAI's words: Chat Completions, as api.openai.com sends them."""

import base64
import struct
from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from .answer import Answer, Frame, Prompt, vectors
from .refusals import Refusal

CREATED = 1_700_000_000
_TIERS = {"auto": "default", "fast": "priority"}
DONE = b"data: [DONE]\n\n"
_PADDING = b"abcdefghijklmnop"


class OpenAIDialect:
    """Reads Chat Completions requests and words the answers."""

    name = "openai"
    stream_type = "text/event-stream; charset=utf-8"

    def read(self, body: Mapping[str, Any]) -> Prompt:
        messages = body["messages"]
        texts = [_text(message.get("content")) for message in messages]
        users = [text for text, message in zip(texts, messages, strict=True) if message.get("role") == "user"]
        results: list[str] = []
        for text, message in zip(reversed(texts), reversed(messages), strict=True):
            if message.get("role") != "tool":
                break
            results.insert(0, text)
        choice = body.get("tool_choice")
        forced = choice.get("function", {}).get("name") if isinstance(choice, dict) else None
        functions = [tool["function"] for tool in body.get("tools") or [] if tool.get("type") == "function"]
        tools = [(f["name"], f.get("parameters") or {}) for f in functions if forced in (None, f["name"])]
        goes_on = body.get("continue_final_message") or messages[-1].get("prefix")
        limit = body.get("max_completion_tokens") or body.get("max_tokens")
        tier = str(body.get("service_tier") or "auto")
        options = body.get("stream_options") or {}
        return Prompt(
            model=body["model"],
            words=max(1, sum(len(text.split()) for text in texts)),
            last_user=users[-1] if users else "",
            tool_results=tuple(results),
            tools=() if choice == "none" else tuple(tools),
            must_call=choice == "required" or forced is not None,
            schema=_schema(body.get("response_format")),
            max_tokens=limit,
            n=body.get("n") or 1,
            tier=_TIERS.get(tier, tier),
            stream=bool(body.get("stream")),
            include_usage=bool(options.get("include_usage")),
            forced=forced is not None,
            begun=texts[-1] if goes_on else "",
            obfuscation=options.get("include_obfuscation") is not False,
        )

    def whole(self, answer: Answer) -> dict[str, Any]:
        text = "".join(answer.pieces)
        message: dict[str, Any] = {
            "role": "assistant",
            "content": None if answer.calls or answer.refusal else text,
            "refusal": text if answer.refusal else None,
            "annotations": [],
        }
        if answer.reasoning:
            message["reasoning_content"] = "".join(answer.reasoning)
        if answer.calls:
            message["tool_calls"] = [
                {"id": c.id, "type": "function", "function": {"name": c.name, "arguments": "".join(c.arguments)}}
                for c in answer.calls
            ]
        choices = [
            {"index": i, "message": message, "logprobs": None, "finish_reason": _finish(answer)}
            for i in range(answer.n)
        ]
        body = {**_head(answer, "chat.completion"), "choices": choices}
        if answer.tell_usage:
            body["usage"] = answer.usage.to_openai()
        return body

    def frames(self, answer: Answer) -> Iterator[Frame]:
        head = _head(answer, "chat.completion.chunk")
        extra: dict[str, Any] = {"usage": None} if answer.stream_usage else {}

        def frame(index: int, delta: dict[str, Any], finish: str | None = None) -> Frame:
            choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}
            return Frame(_padded({**head, "choices": [choice], **extra}, answer.obfuscation))

        choices = range(answer.n)
        content = None if answer.calls or answer.refusal else ""
        for i in choices:
            yield frame(i, {"role": "assistant", "content": content, "refusal": "" if answer.refusal else None})
        for thought in answer.reasoning:
            yield from (frame(i, {"reasoning_content": thought})._replace(reasoning=1) for i in choices)
        word = "refusal" if answer.refusal else "content"
        for piece in answer.pieces:
            yield from (frame(i, {word: piece})._replace(output=1) for i in choices)
        for i in choices:
            for at, call in enumerate(answer.calls):
                function = {"name": call.name, "arguments": ""}
                opening = {"index": at, "id": call.id, "type": "function", "function": function}
                yield frame(i, {"tool_calls": [opening]})
                for piece in call.arguments:
                    delta = {"tool_calls": [{"index": at, "function": {"arguments": piece}}]}
                    yield frame(i, delta)._replace(output=1)
        for i in choices:
            yield frame(i, {}, _finish(answer))
        if answer.stream_usage and answer.tell_usage:
            told = {**head, "choices": [], "usage": answer.usage.to_openai()}
            yield Frame(_padded(told, answer.obfuscation), usage=True)
        yield Frame(DONE, last=True)

    def refusal(self, refusal: Refusal) -> dict[str, Any]:
        return {
            "error": {
                "message": refusal.message,
                "type": refusal.type,
                "param": refusal.param,
                "code": refusal.code,
            }
        }

    def error_event(self) -> bytes:
        error = {"message": "The server had an error.", "type": "server_error", "param": None, "code": None}
        return event({"error": error})

    def headers(self, number: int) -> dict[str, str]:
        return {
            "x-request-id": f"req_{number:032x}",
            "openai-organization": "demo-organization",
            "openai-processing-ms": "1",
            "x-ratelimit-limit-requests": "10000",
            "x-ratelimit-remaining-requests": "9999",
            "x-ratelimit-reset-requests": "6ms",
        }


def embeddings(body: Mapping[str, Any]) -> tuple[dict[str, Any], int]:
    """A CreateEmbeddingResponse and its prompt tokens."""
    given = body["input"]
    inputs = given if isinstance(given, list) and given and not isinstance(given[0], int) else [given]
    found, tokens = vectors(inputs, body.get("dimensions") or body.get("output_dimension"))
    data: list[dict[str, Any]] = []
    for index, vector in enumerate(found):
        packed = base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
        value = packed if body.get("encoding_format") == "base64" else vector
        data.append({"object": "embedding", "index": index, "embedding": value})
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "data": data, "model": body["model"], "usage": usage}, tokens


def _head(answer: Answer, kind: str) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{answer.id}",
        "object": kind,
        "created": CREATED,
        "model": answer.model,
        "service_tier": None if answer.tier == "null" else answer.tier,
        "system_fingerprint": "fp_demo",
    }


def _finish(answer: Answer) -> str:
    return "stop" if answer.forced and answer.calls else answer.finish


def _padded(data: dict[str, Any], obfuscation: bool) -> bytes:
    if not obfuscation:
        return event(data)
    padded = event({**data, "obfuscation": ""})
    return padded[:-4] + _PADDING[: (9 - len(padded.decode())) % 16] + padded[-4:]


def event(data: dict[str, Any]) -> bytes:
    return b"data: %b\n\n" % orjson.dumps(data)


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    return " ".join(str(part.get("text", "")) for part in content or [] if isinstance(part, dict))


def _schema(response_format: Any) -> Mapping[str, Any] | None:
    kind = (response_format or {}).get("type")
    if kind == "json_schema":
        schema: Mapping[str, Any] = response_format["json_schema"].get("schema") or {}
        return schema
    return {"properties": {"ok": {"const": True}}} if kind == "json_object" else None
