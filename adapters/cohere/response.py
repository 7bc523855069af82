"""Cohere's answers and failures into ours."""

from collections.abc import Mapping, Sequence
from typing import Any

from .. import tools
from ..classify import provider_error, read_body
from ..errors import ErrorKind, ProviderError
from ..interface import JSON, Answer
from ..jsonio import loads
from ..shapes import documented, text
from ..usage import Usage, count

FINISH: Mapping[str, str] = {
    "COMPLETE": "stop",
    "STOP_SEQUENCE": "stop",
    "MAX_TOKENS": "length",
    "TOOL_CALL": "tool_calls",
    "ERROR_LIMIT": "length",
    "ERROR_TOXIC": "content_filter",
}
FAILED: Mapping[str, ErrorKind] = {"ERROR": ErrorKind.SERVER, "TIMEOUT": ErrorKind.TIMEOUT}
"""Ends that are failures: what came before is no answer."""
NO_ARGUMENTS = frozenset({"", "null"})
"""What Cohere sends as the arguments of a tool that has none."""


def parse(body: bytes, notes: Mapping[str, Any]) -> Answer:
    """The completion of a whole answer; raises ProviderError when it is none."""
    data = loads(body)
    told = data.get("message") if isinstance(data, dict) else None
    if not isinstance(told, dict):
        raise ProviderError(ErrorKind.PROTOCOL, "The upstream sent an answer without a message.")
    with documented():
        choice: JSON = {
            "index": 0,
            "message": _message(told, notes),
            "finish_reason": finish(data.get("finish_reason")),
        }
        if isinstance(data.get("logprobs"), list):
            choice["logprobs"] = logprobs(data["logprobs"])
        return Answer({"choices": [choice]}, usage(data.get("usage")))


def _message(told: Mapping[str, Any], notes: Mapping[str, Any]) -> JSON:
    texts: list[str] = []
    thoughts: list[str] = []
    starts: dict[int, int] = {}
    content = told.get("content")
    items = content if isinstance(content, list) else [{"text": content}] if isinstance(content, str) else []
    for index, item in enumerate(i for i in items if isinstance(i, dict)):
        thoughts.append(text(item.get("thinking")))
        starts[index] = sum(map(len, texts))
        texts.append(text(item.get("text")))
    reasoning = "".join(thoughts)
    if plan := text(told.get("tool_plan")):
        reasoning = f"{reasoning}\n{plan}" if reasoning else plan
    answer, calls = None, []
    for call in told.get("tool_calls") or ():
        function = call.get("function") or {}
        arguments = text(function.get("arguments"))
        arguments = "{}" if arguments.strip() in NO_ARGUMENTS else arguments
        name = own_name(text(function.get("name")), notes)
        if name == notes.get("json_tool"):
            answer = answer or arguments
        else:
            calls.append(tools.back(text(call.get("id")), name, arguments, notes))
    message: JSON = {"role": "assistant", "content": "".join(texts) if answer is None else answer}
    if reasoning:
        message["reasoning_content"] = reasoning
    if calls:
        message["tool_calls"] = calls
    cited = [c for c in told.get("citations") or () if isinstance(c, dict)]
    if cited and answer is None:
        message["citations"] = cited
        message["annotations"] = [a for c in cited for a in annotations(c, starts.get(c.get("content_index") or 0, 0))]
    return message


def own_name(name: str, notes: Mapping[str, Any]) -> str:
    """The client's name of a tool."""
    found: str = notes.get("names", {}).get(name, name)
    return found


def annotations(citation: Mapping[str, Any], start: int) -> list[JSON]:
    """A citation of documents in OpenAI's form: their address, or the id that the client gave them.

    Citations of tool results have no such form; they are in ``citations`` as Cohere tells them.
    """
    if citation.get("type", "TEXT_CONTENT") != "TEXT_CONTENT":
        return []
    found: list[JSON] = []
    for source in citation.get("sources") or ():
        document = source.get("document") if isinstance(source, dict) else None
        if not isinstance(document, dict):
            continue
        name = str(document.get("id") or source.get("id") or "")
        place = {"start_index": start + count(citation, "start"), "end_index": start + count(citation, "end")}
        told = {"title": str(document.get("title") or name), "url": str(document.get("url") or name)}
        found.append({"type": "url_citation", "url_citation": place | told})
    return found


def finish(reason: Any) -> str:
    """OpenAI's word; a reason that is new ends like any other (edge case 72)."""
    if (failed := FAILED.get(reason if isinstance(reason, str) else "")) is not None:
        raise ProviderError(failed, "The upstream failed while it generated the answer.")
    return FINISH.get(reason, "stop") if isinstance(reason, str) else "stop"


def logprobs(items: Sequence[Any]) -> JSON:
    """One entry per piece of text; where that is several tokens, the logarithm is that of the whole piece."""
    entries = [
        {"token": item["text"], "logprob": sum(item.get("logprobs") or ()), "bytes": list(item["text"].encode())}
        for item in items
        if isinstance(item, dict) and isinstance(item.get("text"), str)
    ]
    return {"content": [entry | {"top_logprobs": []} for entry in entries], "refusal": None}


def usage(told: Any) -> Usage | None:
    """``tokens`` are what was used; ``billed_units`` leave out the provider's own preamble and may be absent or 0."""
    if not isinstance(told, dict):
        return None
    tokens, billed = told.get("tokens"), told.get("billed_units")
    counted = tokens if isinstance(tokens, dict) else billed
    if not isinstance(counted, dict):
        return None
    prompt, output = count(counted, "input_tokens"), count(counted, "output_tokens")
    read = min(count(told, "cached_tokens"), prompt)
    reasoning = min(count(counted, "reasoning_tokens"), output)
    searches = count(billed, "search_units") if isinstance(billed, dict) else 0
    return Usage(
        input=prompt - read,
        cache_read=read,
        output=output - reasoning,
        reasoning=reasoning,
        calls={"search": searches} if searches else None,
    )


def error(status: int, headers: Mapping[str, str], body: bytes) -> ProviderError:
    """Cohere's own statuses and words over the common ones."""
    general = provider_error(status, headers, body)
    words = read_body(body).message.lower()
    if status == 400 and (b"TOO_MANY_TOKENS" in body or "too many tokens" in words):
        return _as(general, ErrorKind.CONTEXT_LENGTH, "context_length_exceeded")
    if status == 498:
        return _as(general, ErrorKind.AUTHENTICATION, None, "The upstream provider refused the gateway's credential.")
    if status == 429 and "/ month" in words:
        return _as(general, ErrorKind.QUOTA, None, "The upstream provider's quota for this gateway is used up.")
    return general


def _as(general: ProviderError, kind: ErrorKind, code: str | None, message: str | None = None) -> ProviderError:
    return ProviderError(
        kind, message or general.message, status=general.status, retry_after=general.retry_after, code=code
    )
