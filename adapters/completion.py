"""A whole answer, made lawful: checklist C-260 to C-286."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from .errors import ErrorKind, ProviderError
from .interface import JSON, Answer
from .jsonio import dumps
from .toolcalls import CALL_KEYS, LONGEST_ID, is_custom, new_id

OPENAI_FINISH_REASONS = ("stop", "length", "tool_calls", "function_call", "content_filter")
FINISH_REASONS: Mapping[str, str] = {
    **{reason: reason for reason in OPENAI_FINISH_REASONS},
    # foreign words, in lower case
    "max_tokens": "length",
    "max_output_tokens": "length",
    "max_completion_tokens": "length",
    "model_length": "length",
    "model_context_window_exceeded": "length",
    "context_length": "length",
    "tool_call": "tool_calls",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
    "safety": "content_filter",
    "sensitive": "content_filter",
    "recitation": "content_filter",
    "blocklist": "content_filter",
    "prohibited_content": "content_filter",
    "spii": "content_filter",
    "image_safety": "content_filter",
    "language": "content_filter",
    "guardrail_intervened": "content_filter",
    "content_filtered": "content_filter",
    "model_armor": "content_filter",
}
"""A provider's word for the end -> OpenAI's. A word that is not here is a natural end, ``stop`` (C-265)."""
FAILED = frozenset({"abort", "error", "network_error", "insufficient_system_resource", "malformed_function_call"})
"""Ends that are failures: never told as an answer. vLLM and SGLang say ``abort`` where they are stopped in the middle."""


def finish_reason(word: str, *, calls: bool, forced_tool: bool = False, functions: bool = False) -> str:
    """OpenAI's word. ``calls``: whether tools were called; a forced named tool ends with ``stop`` (C-266)."""
    reason = FINISH_REASONS.get(word.lower(), "stop")
    if reason in ("length", "content_filter"):
        return reason
    if not calls:
        return "stop"
    if functions:
        return "function_call"
    return "stop" if forced_tool else "tool_calls"


def lawful_logprobs(logprobs: Any) -> JSON | None:
    """Both keys always, and every entry with ``bytes`` and ``top_logprobs`` (C-273, C-123)."""
    if not isinstance(logprobs, dict):
        return None
    return {key: _tokens(logprobs.get(key)) for key in ("content", "refusal")}


def completion(
    answer: Answer,
    *,
    id: str,  # noqa: A002 - OpenAI's word
    created: int,
    model: str,
    service_tier: str | None = None,
    forced_tool: bool = False,
    functions: bool = False,
    n: int = 1,
) -> JSON:
    """The lawful ``chat.completion`` of an answer.

    ``model`` is used when the provider named none. ``forced_tool``: the request named the tool to call.
    ``functions``: the request used the deprecated ``functions``, so a tool call is told as ``function_call``.
    Raises ProviderError when the answer is none: no or too few choices, or an end that is a failure.
    """
    loose = answer.completion
    choices = loose.get("choices")
    if not isinstance(choices, list) or len(choices) < n or not all(isinstance(c, dict) for c in choices):
        raise ProviderError(ErrorKind.PROTOCOL, "The upstream answered with too few choices.")
    choices.sort(key=lambda choice: choice.get("index") or 0)
    named = loose.get("model")
    whole: JSON = {
        "id": id,
        "object": "chat.completion",
        "created": created,
        "model": named if isinstance(named, str) and named else model,
        "choices": [
            _choice(choice, index, forced_tool=forced_tool, functions=functions) for index, choice in enumerate(choices)
        ],
    }
    if answer.usage is not None:
        whole["usage"] = answer.usage.to_openai()
    if (tier := answer.served_tier or service_tier) is not None:
        whole["service_tier"] = tier
    fingerprint = loose.get("system_fingerprint")
    whole["system_fingerprint"] = fingerprint if isinstance(fingerprint, str) else None
    if isinstance(moderation := loose.get("moderation"), dict):
        whole["moderation"] = moderation
    return whole


def _choice(choice: Mapping[str, Any], index: int, *, forced_tool: bool, functions: bool) -> JSON:
    given = choice.get("message")
    message = _message(given if isinstance(given, dict) else {}, functions=functions)
    word = choice.get("finish_reason")
    word = word if isinstance(word, str) else "stop"
    if word.lower() in FAILED:
        raise ProviderError(ErrorKind.SERVER, "The upstream failed while it generated the answer.")
    reason = finish_reason(
        word,
        calls="tool_calls" in message or "function_call" in message,
        forced_tool=forced_tool,
        functions="function_call" in message,
    )
    return {
        "index": index,
        "message": message,
        "logprobs": lawful_logprobs(choice.get("logprobs")),
        "finish_reason": reason,
    }


_HANDLED = frozenset({"role", "content", "refusal", "annotations", "tool_calls", "function_call", "audio"})


def _message(given: Mapping[str, Any], *, functions: bool) -> JSON:
    content, refusal, audio = given.get("content"), given.get("refusal") or None, given.get("audio")
    message: JSON = {"role": "assistant", "content": content, "refusal": refusal}
    message["annotations"] = _citations(given.get("annotations"))
    calls = lawful_calls(given.get("tool_calls") or ())
    called = given.get("function_call")
    if functions and calls and not called:
        called = calls[0].get("function")
        calls = []
    if calls:
        message["tool_calls"] = calls
    if isinstance(called, dict) and called.get("name"):
        message["function_call"] = {"name": called["name"], "arguments": _arguments(called.get("arguments"))}
    if isinstance(audio, dict) and audio:
        message["audio"] = {"id": "", "expires_at": 0, "data": "", "transcript": "", **audio}
    extras = {key: value for key, value in given.items() if key not in _HANDLED and value is not None}
    message.update(extras)
    if not content:
        empty = refusal or calls or "function_call" in message or "audio" in message
        message["content"] = None if empty else ""
    return message


def lawful_calls(calls: Iterable[Any]) -> list[JSON]:
    """Whole tool calls with ids that are present, unique and short enough, and arguments that are a string (C-281, C-282)."""
    lawful: list[JSON] = []
    seen: set[str] = set()
    for call in calls:
        if not isinstance(call, dict):
            continue
        kind, key = ("custom", "input") if is_custom(call) else ("function", "arguments")
        body = call.get(kind)
        if not isinstance(body, dict) or not isinstance(body.get("name"), str) or not body["name"]:
            raise ProviderError(ErrorKind.PROTOCOL, "The upstream sent a tool call without a name.")
        identity = call.get("id")
        if not isinstance(identity, str) or identity in ("", "null") or identity in seen or len(identity) > LONGEST_ID:
            identity = new_id()
        seen.add(identity)
        text = str(body.get(key) or "") if kind == "custom" else _arguments(body.get(key))
        extras = {k: v for k, v in call.items() if k not in CALL_KEYS and v is not None}
        lawful.append({"id": identity, "type": kind, kind: {"name": body["name"], key: text}} | extras)
    return lawful


def _arguments(value: Any) -> str:
    if isinstance(value, str):
        return value or "{}"
    return "{}" if value is None else dumps(value).decode()


def _tokens(entries: Any) -> list[JSON] | None:
    if not isinstance(entries, list):
        return None
    return [
        _token(entry) | {"top_logprobs": [_token(t) for t in _dicts(entry.get("top_logprobs"))]}
        for entry in _dicts(entries)
    ]


def _token(entry: Mapping[str, Any]) -> JSON:
    token, value, data = entry.get("token"), entry.get("logprob"), entry.get("bytes")
    known = isinstance(value, int | float) and math.isfinite(value) and value > -9999.0
    return {
        "token": token if isinstance(token, str) else "",
        "logprob": value if known else -9999.0,
        "bytes": data if isinstance(data, list) and all(isinstance(byte, int) for byte in data) else None,
    }


def _dicts(value: Any) -> list[JSON]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _citations(value: Any) -> list[JSON]:
    """Annotations with all the keys that clients read (C-270)."""
    told: list[JSON] = []
    for annotation in _dicts(value):
        if isinstance(cited := annotation.get("url_citation"), dict) and isinstance(cited.get("url"), str):
            whole = {"start_index": 0, "end_index": 0, "title": "", **cited}
            told.append({**annotation, "type": "url_citation", "url_citation": whole})
    return told
