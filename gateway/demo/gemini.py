"""Google's words: ``generateContent``, as AI Studio and Vertex AI send it."""

from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from adapters.usage import Usage

from .answer import Answer, Frame, Prompt, vectors
from .refusals import Refusal

_STOP = {"stop": "STOP", "length": "MAX_TOKENS", "tool_calls": "STOP"}
_TIERS = {"standard": "default", "flex": "flex", "priority": "priority"}
_STATUS = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
}
_WORDS = {
    "context_length_exceeded": "The input token count (9000) exceeds the maximum number of tokens allowed (8192).",
    "rate_limit_exceeded": "Resource exhausted. Please try again later.",
}
SIGNATURE = "ZGVtbyB0aG91Z2h0IHNpZ25hdHVyZQ=="


class GeminiDialect:
    """Reads ``GenerateContentRequest`` bodies and words the answers."""

    name = "gemini"
    stream_type = "text/event-stream"

    def read(self, body: Mapping[str, Any]) -> Prompt:
        contents, config = body["contents"], body.get("generationConfig") or {}
        texts = [_text(content["parts"]) for content in (*contents, body.get("systemInstruction") or {"parts": []})]
        users = [_text(content["parts"]) for content in contents if content["role"] == "user"]
        results = [part["functionResponse"] for part in contents[-1]["parts"] if "functionResponse" in part]
        calling = (body.get("toolConfig") or {}).get("functionCallingConfig") or {}
        allowed = calling.get("allowedFunctionNames")
        declared = [d for tool in body.get("tools") or () for d in tool.get("functionDeclarations") or ()]
        tools = [
            (d["name"], d.get("parametersJsonSchema") or d.get("parameters") or {})
            for d in declared
            if allowed is None or d["name"] in allowed
        ]
        return Prompt(
            model=body["model"],
            words=max(1, sum(len(text.split()) for text in texts)),
            last_user=users[-1] if users else "",
            tool_results=tuple(_response(result["response"]) for result in results),
            tools=() if calling.get("mode") == "NONE" else tuple(tools),
            must_call=calling.get("mode") == "ANY",
            schema=config.get("responseJsonSchema") or config.get("responseSchema"),
            max_tokens=config.get("maxOutputTokens"),
            n=config.get("candidateCount") or 1,
            tier=_TIERS[body.get("serviceTier") or "standard"],
            stream=bool(body["stream"]),
            include_usage=True,
        )

    def whole(self, answer: Answer) -> dict[str, Any]:
        parts: list[dict[str, Any]] = []
        if answer.reasoning:
            parts.append({"text": "".join(answer.reasoning), "thought": True})
        if answer.pieces and not answer.refusal:
            parts.append({"text": "".join(answer.pieces)})
        return _response_of(answer, [*parts, *_calls(answer)], last=True)

    def frames(self, answer: Answer) -> Iterator[Frame]:
        for thought in answer.reasoning:
            yield _event(_response_of(answer, [{"text": thought, "thought": True}]))._replace(reasoning=answer.n)
        for piece in () if answer.refusal else answer.pieces:
            yield _event(_response_of(answer, [{"text": piece}]))._replace(output=answer.n)
        for call, part in zip(answer.calls, _calls(answer), strict=True):
            yield _event(_response_of(answer, [part]))._replace(output=answer.n * len(call.arguments))
        ending = _event(_response_of(answer, [{"text": ""}], last=True))
        yield ending._replace(usage=answer.tell_usage, last=True)

    def refusal(self, refusal: Refusal) -> dict[str, Any]:
        message = _WORDS.get(refusal.code or "", refusal.message)
        status = _STATUS.get(refusal.status, "UNAVAILABLE")
        return {"error": {"code": refusal.status, "message": message, "status": status}}

    def error_event(self) -> bytes:
        """Bare JSON inside the stream, as Google sends it."""
        error = {"code": 503, "message": "The model is overloaded.", "status": "UNAVAILABLE"}
        return orjson.dumps({"error": error}, option=orjson.OPT_INDENT_2)

    def headers(self, number: int) -> dict[str, str]:
        return {"server-timing": f"gfet4t7; dur={number}"}


def embeddings(body: Mapping[str, Any]) -> tuple[dict[str, Any], int]:
    """The answer to a ``batchEmbedContents`` and its prompt tokens."""
    texts = [_text(each["content"]["parts"]) for each in body["requests"]]
    found, tokens = vectors(texts, body["requests"][0].get("outputDimensionality"))
    return {"embeddings": [{"values": v} for v in found], "usageMetadata": {"promptTokenCount": tokens}}, tokens


def predictions(body: Mapping[str, Any]) -> tuple[dict[str, Any], int]:
    """The answer to a ``predict`` of Vertex AI's text embedding models."""
    texts = [instance["content"] for instance in body["instances"]]
    found, tokens = vectors(texts, (body.get("parameters") or {}).get("outputDimensionality"))
    each = [vectors([text], None)[1] for text in texts]
    embedded = [{"values": v, "statistics": {"token_count": n}} for v, n in zip(found, each, strict=True)]
    return {"predictions": [{"embeddings": e} for e in embedded]}, tokens


def _response_of(answer: Answer, parts: list[dict[str, Any]], *, last: bool = False) -> dict[str, Any]:
    ends: dict[str, Any] = {}
    if last and answer.refusal:
        ends = {"finishReason": "SAFETY", "finishMessage": "".join(answer.pieces)}
    elif last:
        ends = {"finishReason": _STOP[answer.finish]}
    content = {"parts": parts, "role": "model"}
    response: dict[str, Any] = {
        "candidates": [{"content": content, "index": i, **ends} for i in range(answer.n)],
        "modelVersion": answer.model,
        "responseId": answer.id,
    }
    if last and answer.tell_usage:
        response["usageMetadata"] = _usage(answer.usage, answer.tier)
    return response


def _calls(answer: Answer) -> list[dict[str, Any]]:
    """Of parallel calls only the first carries the signature."""
    parts: list[dict[str, Any]] = []
    for at, call in enumerate(answer.calls):
        called = {"id": call.id, "name": call.name, "args": orjson.loads("".join(call.arguments))}
        parts.append({"functionCall": called, **({} if at else {"thoughtSignature": SIGNATURE})})
    return parts


def _usage(usage: Usage, tier: str) -> dict[str, Any]:
    """The prompt includes what was cached; the candidates leave the thoughts out."""
    prompt = usage.input + usage.cache_read + usage.cache_write
    return {
        "promptTokenCount": prompt,
        "cachedContentTokenCount": usage.cache_read,
        "candidatesTokenCount": usage.output,
        "thoughtsTokenCount": usage.reasoning,
        "totalTokenCount": prompt + usage.output + usage.reasoning,
        "serviceTier": next((theirs for theirs, ours in _TIERS.items() if ours == tier), tier),
    }


def _event(response: dict[str, Any]) -> Frame:
    return Frame(b"data: %b\r\n\r\n" % orjson.dumps(response))


def _text(parts: Any) -> str:
    return " ".join(str(part["text"]) for part in parts if "text" in part)


def _response(response: Mapping[str, Any]) -> str:
    return " ".join(str(value) for value in response.values())
