"""A whole Messages answer -> Answer, and the counts and words that streams share with it."""

from collections.abc import Mapping
from typing import Any

from .. import tools as shared
from ..classify import embedded_error, provider_error
from ..errors import ErrorKind, ProviderError
from ..interface import JSON, Answer, UpstreamRequest
from ..jsonio import dumps, exact, loads
from ..usage import Usage, count
from .emulation import JSONText
from .thinking import shown

SERVED_TIERS: Mapping[str, str] = {"standard": "default", "priority": "priority"}
"""``usage.service_tier`` in OpenAI's words."""
error = provider_error


def parse(body: bytes, sent: UpstreamRequest) -> Answer:
    """Translate a 2xx body; raises ProviderError when it is no answer."""
    answer = exact(body) if b'"tool_use"' in body else loads(body)
    if isinstance(answer, dict) and answer.get("type") == "error":
        raise embedded_error(answer)
    if not isinstance(answer, dict) or not isinstance(answer.get("content"), list):
        raise ProviderError(ErrorKind.PROTOCOL, "The upstream's answer is not a message.")
    stopped = str(answer.get("stop_reason") or "end_turn")
    message = _message(answer["content"], sent.notes)
    if stopped == "refusal":
        message["refusal"] = explanation(answer.get("stop_details"))
    known = mapping(answer.get("usage"))
    return Answer(
        {
            "id": answer.get("id"),
            "model": answer.get("model"),
            "choices": [{"index": 0, "message": message, "finish_reason": stopped}],
        },
        usage(known) if known else None,
        SERVED_TIERS.get(str(known.get("service_tier"))),
    )


def _message(content: list[Any], notes: Mapping[str, Any]) -> JSON:
    texts: list[str] = []
    reasoning: list[str] = []
    thoughts: list[JSON] = []
    calls: list[JSON] = []
    annotations: list[JSON] = []
    answered: str | None = None
    length = 0
    for block in content:
        kind = block.get("type") if isinstance(block, dict) else None
        if kind == "text":
            text = str(block.get("text") or "")
            annotations += annotated(block.get("citations"), length, length + len(text))
            texts.append(text)
            length += len(text)
        elif kind in ("thinking", "redacted_thinking"):
            reasoning.append(str(block.get("thinking") or ""))
            thoughts.append(shown(block, len(thoughts), length, len(calls)))
        elif kind == "tool_use":
            name, arguments = str(block.get("name")), dumps(block.get("input") or {}).decode()
            if name == notes.get("answer"):
                answered = answered or arguments
            else:
                calls.append(shared.back(str(block.get("id")), name, arguments, notes))
    message: JSON = {"content": _text("".join(texts), notes) if answered is None else answered}
    extras = {
        "reasoning_content": "".join(reasoning),
        "thinking_blocks": thoughts,
        "annotations": annotations,
        "tool_calls": calls,
    }
    return message | {key: value for key, value in extras.items() if value}


def _text(text: str, notes: Mapping[str, Any]) -> str:
    if (prefix := notes.get("json")) is None:
        return text
    reader = JSONText(prefix)
    return reader.feed(text) + reader.close()


def annotated(citations: Any, start: int, end: int) -> list[JSON]:
    """OpenAI's annotations of one text; only citations of the web have that form. Offsets are characters of the content."""
    return [
        {
            "type": "url_citation",
            "url_citation": {
                "start_index": start,
                "end_index": end,
                "title": citation.get("title") or "",
                "url": citation.get("url") or "",
            },
        }
        for citation in (citations if isinstance(citations, list) else ())
        if mapping(citation).get("type") == "web_search_result_location"
    ]


def explanation(details: Any) -> str | None:
    """Why the model refused, where the provider says it."""
    said = mapping(details).get("explanation")
    return said if isinstance(said, str) and said else None


def usage(raw: Mapping[str, Any]) -> Usage:
    """Anthropic's ``input_tokens`` leave the cache out; its ``output_tokens`` include thinking."""
    written = count(raw, "cache_creation_input_tokens")
    hour = min(count(mapping(raw.get("cache_creation")), "ephemeral_1h_input_tokens"), written)
    generated = count(raw, "output_tokens")
    thought = min(count(mapping(raw.get("output_tokens_details")), "thinking_tokens"), generated)
    server = mapping(raw.get("server_tool_use"))
    calls = {name.removesuffix("_requests"): number for name in server if (number := count(server, name))}
    return Usage(
        input=count(raw, "input_tokens"),
        cache_read=count(raw, "cache_read_input_tokens"),
        cache_write=written - hour,
        cache_write_1h=hour,
        output=generated - thought,
        reasoning=thought,
        calls=calls or None,
    )


def mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
