"""Converse answers into completions."""

from collections.abc import Mapping, Sequence
from typing import Any

from .. import tools
from ..errors import ErrorKind, ProviderError
from ..interface import JSON, Answer
from ..jsonio import dumps, exact, loads
from ..shapes import documented, text
from ..usage import Usage, count
from . import reasoning

FINISH: Mapping[str, str] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "tool_use": "tool_calls",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "guardrail_intervened": "content_filter",
    "content_filtered": "content_filter",
}
MALFORMED = frozenset({"malformed_model_output", "malformed_tool_use"})
"""Ends that are failures: what was generated is no answer."""
SERVED: Mapping[str, str] = {"default": "default", "flex": "flex", "priority": "priority", "reserved": "scale"}


def parse(body: bytes, notes: Mapping[str, Any]) -> Answer:
    """The completion of a whole answer; raises ProviderError when it is none."""
    data = exact(body) if b'"toolUse"' in body else loads(body)
    with documented():
        read = _Reader(notes)
        for block in _content(data):
            read.block(block)
        return Answer(
            {"choices": [{"index": 0, "message": read.message(), "finish_reason": finish(data.get("stopReason"))}]},
            usage(data.get("usage")),
            served_tier(data),
        )


def _content(data: Any) -> Sequence[Mapping[str, Any]]:
    output = data.get("output") if isinstance(data, dict) else None
    message = output.get("message") if isinstance(output, dict) else None
    content = message.get("content") if isinstance(message, dict) else None
    if not isinstance(content, list) or not all(isinstance(block, dict) for block in content):
        raise ProviderError(ErrorKind.PROTOCOL, "The upstream sent an answer without a message.")
    return content


def finish(reason: Any) -> str:
    """OpenAI's word; a reason that is new ends like any other (edge case 72)."""
    if isinstance(reason, str) and reason in MALFORMED:
        raise ProviderError(ErrorKind.SERVER, "The model generated output that its provider could not read.")
    return FINISH.get(reason, "stop") if isinstance(reason, str) else "stop"


def usage(told: Any) -> Usage | None:
    """``inputTokens`` leaves cached tokens out, unless the total tells otherwise."""
    if not isinstance(told, dict):
        return None
    plain, read = count(told, "inputTokens"), count(told, "cacheReadInputTokens")
    written, output = count(told, "cacheWriteInputTokens"), count(told, "outputTokens")
    if read + written and count(told, "totalTokens") == plain + output:
        plain = max(plain - read - written, 0)
    details = told.get("cacheDetails")
    details = details if isinstance(details, list) else []
    hour = sum(count(d, "inputTokens") for d in details if isinstance(d, dict) and d.get("ttl") == "1h")
    hour = min(hour, written)
    server = told.get("serverToolUsage")
    calls = {name: count(server, name) for name in server if count(server, name)} if isinstance(server, dict) else None
    return Usage(
        input=plain,
        cache_read=read,
        cache_write=written - hour,
        cache_write_1h=hour,
        output=output,
        calls=calls or None,
    )


def served_tier(data: Mapping[str, Any]) -> str | None:
    tier = data.get("serviceTier")
    return SERVED.get(str(tier.get("type"))) if isinstance(tier, dict) else None


def annotation(citation: Any, start: int, end: int) -> JSON | None:
    """A web citation in OpenAI's form; documents have none there."""
    location = citation.get("location") if isinstance(citation, dict) else None
    web = location.get("web") if isinstance(location, dict) else None
    if not isinstance(web, dict) or not isinstance(url := web.get("url"), str):
        return None
    title = text(citation.get("title")) or text(web.get("domain")) or url
    return {
        "type": "url_citation",
        "url_citation": {"start_index": start, "end_index": end, "title": title, "url": url},
    }


def is_client_call(use: Mapping[str, Any]) -> bool:
    """Whether the client is to run it: server-side tools were run already (edge case 61)."""
    return use.get("type") != "server_tool_use"


class _Reader:
    """Collects the blocks of one message; a block of a kind that is not known is skipped."""

    def __init__(self, notes: Mapping[str, Any]) -> None:
        self._notes = notes
        self._text: list[str] = []
        self._length = 0
        self._thoughts: list[str] = []
        self._signed: list[JSON] = []
        self._calls: list[JSON] = []
        self._annotations: list[JSON] = []
        self._json: str | None = None

    def block(self, block: Mapping[str, Any]) -> None:
        readers = {
            "text": self._add_text,
            "reasoningContent": self._thought,
            "toolUse": self._call,
            "citationsContent": self._cited,
        }
        for key, value in block.items():
            if reader := readers.get(key):
                reader(value)

    def message(self) -> JSON:
        said = "".join(self._text)
        message: JSON = {"role": "assistant", "content": said if self._json is None else self._json}
        if self._thoughts:
            message["reasoning_content"] = "".join(self._thoughts)
        if self._signed:
            message["thinking_blocks"] = self._signed
        if self._calls:
            message["tool_calls"] = self._calls
        if self._annotations and self._json is None:
            message["annotations"] = self._annotations
        return message

    def _add_text(self, value: Any) -> None:
        words = text(value)
        self._text.append(words)
        self._length += len(words)

    def _thought(self, content: Any) -> None:
        told = content.get("reasoningText")
        if isinstance(told, dict):
            words, signature = text(told.get("text")), text(told.get("signature"))
            self._thoughts.append(words)
            if signature:
                self._signed.append(reasoning.thought(words, signature))
        if isinstance(hidden := content.get("redactedContent"), str):
            self._signed.append(reasoning.redacted(hidden))

    def _call(self, use: Any) -> None:
        if not is_client_call(use):
            return
        arguments = dumps(use.get("input") or {}).decode()
        if use.get("name") == self._notes.get("json_tool"):
            self._json = self._json or arguments
        else:
            self._calls.append(tools.back(text(use.get("toolUseId")), text(use.get("name")), arguments, self._notes))

    def _cited(self, cited: Any) -> None:
        start = self._length
        for piece in cited.get("content") or ():
            self._add_text(piece.get("text"))
        found = (annotation(citation, start, self._length) for citation in cited.get("citations") or ())
        self._annotations += [a for a in found if a]
