"""Cohere's words: v2 chat and v2 embed."""

from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from adapters.usage import Usage

from .answer import Answer, Frame, Prompt, vectors
from .refusals import Refusal

_STOP = {"stop": "COMPLETE", "length": "MAX_TOKENS", "tool_calls": "TOOL_CALL"}
_WORDS = {"context_length_exceeded": "too many tokens: size limit exceeded by 808 tokens."}


class CohereDialect:
    """Reads chat requests and words the answers."""

    name = "cohere"
    stream_type = "text/event-stream"

    def read(self, body: Mapping[str, Any]) -> Prompt:
        messages = body["messages"]
        texts = [_text(message.get("content")) for message in messages]
        users = [text for text, message in zip(texts, messages, strict=True) if message["role"] == "user"]
        results: list[str] = []
        for text, message in zip(reversed(texts), reversed(messages), strict=True):
            if message["role"] != "tool":
                break
            results.insert(0, text)
        functions = [tool["function"] for tool in body.get("tools") or ()]
        choice = body.get("tool_choice")
        return Prompt(
            model=body["model"],
            words=max(1, sum(len(text.split()) for text in texts)),
            last_user=users[-1] if users else "",
            tool_results=tuple(results),
            tools=() if choice == "NONE" else tuple((f["name"], f["parameters"]) for f in functions),
            must_call=choice == "REQUIRED",
            schema=(body.get("response_format") or {}).get("json_schema"),
            max_tokens=body.get("max_tokens"),
            stream=bool(body.get("stream")),
            include_usage=True,
        )

    def whole(self, answer: Answer) -> dict[str, Any]:
        content: list[dict[str, Any]] = []
        if answer.reasoning:
            content.append({"type": "thinking", "thinking": "".join(answer.reasoning)})
        if answer.pieces:
            content.append({"type": "text", "text": "".join(answer.pieces)})
        message: dict[str, Any] = {"role": "assistant", **({"content": content} if content else {})}
        if answer.calls:
            message["tool_plan"] = "I will use the tools."
            message["tool_calls"] = [
                {"id": c.id, "type": "function", "function": {"name": c.name, "arguments": "".join(c.arguments)}}
                for c in answer.calls
            ]
        told = {"usage": _usage(answer.usage)} if answer.tell_usage else {}
        return {"id": answer.id, "finish_reason": _STOP[answer.finish], "message": message, **told}

    def frames(self, answer: Answer) -> Iterator[Frame]:
        yield _event("message-start", {"role": "assistant"}, id=answer.id)
        index = 0
        if answer.reasoning:
            yield from _content(index, "thinking", answer.reasoning)
            index += 1
        if answer.pieces:
            yield from _content(index, "text", answer.pieces)
        if answer.calls:
            yield _event("tool-plan-delta", {"tool_plan": "I will use the tools."})
        for at, call in enumerate(answer.calls):
            opening = {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": ""}}
            yield _event("tool-call-start", {"tool_calls": opening}, index=at)
            for piece in call.arguments:
                delta = {"tool_calls": {"function": {"arguments": piece}}}
                yield _event("tool-call-delta", delta, index=at)._replace(output=1)
            yield _event("tool-call-end", None, index=at)
        usage = {"usage": _usage(answer.usage)} if answer.tell_usage else {}
        ending = {"type": "message-end", "delta": {"finish_reason": _STOP[answer.finish], **usage}}
        yield _frame(ending)._replace(usage=answer.tell_usage, last=True)

    def refusal(self, refusal: Refusal) -> dict[str, Any]:
        return {"id": "demo", "message": _WORDS.get(refusal.code or "", refusal.message)}

    def error_event(self) -> bytes:
        return _frame({"type": "message-end", "delta": {"finish_reason": "ERROR", "error": "overloaded"}}).data

    def headers(self, number: int) -> dict[str, str]:
        return {"x-debug-trace-id": f"{number:032x}"}


def embeddings(body: Mapping[str, Any]) -> tuple[dict[str, Any], int]:
    """The answer to an ``embed`` and its prompt tokens."""
    found, tokens = vectors(body["texts"], body.get("output_dimension"))
    meta = {"api_version": {"version": "2"}, "billed_units": {"input_tokens": tokens}}
    return {"id": "demo", "embeddings": {"float": found}, "texts": body["texts"], "meta": meta}, tokens


def _content(index: int, kind: str, pieces: tuple[str, ...]) -> Iterator[Frame]:
    yield _event("content-start", {"content": {"type": kind, kind: ""}}, index=index)
    thinking = kind == "thinking"
    for piece in pieces:
        frame = _event("content-delta", {"content": {kind: piece}}, index=index)
        yield frame._replace(output=int(not thinking), reasoning=int(thinking))
    yield _event("content-end", None, index=index)


def _usage(usage: Usage) -> dict[str, Any]:
    """Thoughts are output like any other."""
    prompt, output = usage.input + usage.cache_read + usage.cache_write, usage.output + usage.reasoning
    tokens = {"input_tokens": prompt, "output_tokens": output}
    return {"billed_units": tokens, "tokens": tokens, "cached_tokens": usage.cache_read}


def _event(kind: str, message: dict[str, Any] | None, **more: Any) -> Frame:
    return _frame({"type": kind, **more, **({"delta": {"message": message}} if message is not None else {})})


def _frame(event: dict[str, Any]) -> Frame:
    return Frame(b"event: %b\ndata: %b\n\n" % (str(event["type"]).encode(), orjson.dumps(event)))


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    return " ".join(str(part.get("text", "")) for part in content or ())
