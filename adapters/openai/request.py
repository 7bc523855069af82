"""A Chat Completions request in the words of one OpenAI-shaped provider."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import UnsupportedParameter
from ..history import IdRule
from ..interface import JSON, ChatRequest, Target, UpstreamRequest
from ..jsonio import dumps
from ..params import Fate, harmless, unsupported
from .dialect import Dialect
from .legacy import modern
from .options import FamilyOptions

_MESSAGE_KEYS = frozenset(
    {"role", "content", "name", "refusal", "audio", "tool_calls", "function_call", "tool_call_id"}
)
_KEPT = (Fate.PASS, Fate.TRANSLATE)
_HANDLED = frozenset({"stream_options", "max_tokens", "max_completion_tokens", "service_tier"})
_TOOLING = frozenset({"tools", "tool_choice", "parallel_tool_calls"})
_NOTHING: tuple[Any, ...] = (None, [], "")
"""Values that say no more than leaving the parameter out."""
LONG_IDS = IdRule(r"(?s).*", longest=40)
"""Ids of tool calls as OpenAI takes them back (checklist C-210)."""
_REASONERS = re.compile(r"o\d|gpt-(?:5(?!-chat|\.[1-4])|5\.[1-4]-(?:chat|codex|pro)|[6-9])")
"""OpenAI's models that always reason or do by default, and refuse samplers while they do."""
_ON_REQUEST = re.compile(r"gpt-5\.[1-4]")
"""Those that reason, and refuse them, where an effort is asked for."""
_SAMPLERS = (
    *("temperature", "top_p", "presence_penalty", "frequency_penalty"),
    *("logit_bias", "logprobs", "top_logprobs"),
)
_CACHE = "prompt_cache_breakpoint"
_MARK = "cache_control"
"""The same in Anthropic's words, which other providers take too."""
_CALL: Mapping[str, tuple[str, ...]] = {"function": ("name", "arguments"), "custom": ("name", "input")}


@dataclass(frozen=True, slots=True)
class _Fixed:
    """What all requests to a target have in common."""

    dialect: Dialect
    url: str
    headers: Mapping[str, str] = field(repr=False)
    harmless: frozenset[str]
    kept: frozenset[str]
    """Parameters that are sent under their own name."""
    notes: Mapping[str, Any]
    """Of a request for one choice without audio."""


def _fixed(target: Target, row: Dialect) -> _Fixed:
    options: FamilyOptions | None = target.options
    dialect = options.applied(row) if options is not None else row
    kept = {name for name, fate in dialect.params.items() if fate in _KEPT} | target.allow
    made = target.memo[row.name] = _Fixed(
        dialect=dialect,
        url=f"{target.base_url}/chat/completions",
        headers=headers(target, options),
        harmless=harmless(dialect.params, target.allow),
        kept=frozenset(kept - _HANDLED),
        notes=_notes({}, dialect),
    )
    return made


def prepare(request: ChatRequest, target: Target, dialect: Dialect) -> UpstreamRequest:
    """Translate; raises UnsupportedParameter."""
    fixed: _Fixed = target.memo.get(dialect.name) or _fixed(target, dialect)
    dialect, kept = fixed.dialect, fixed.kept
    dropped: tuple[str, ...] = ()
    if not fixed.harmless.issuperset(request):
        dropped = unsupported(request, dialect.params, target.unsupported, target.allow)
    if not dialect.custom_tools:
        request = modern(request)
    body: JSON = {name: value for name, value in request.items() if name in kept and (value or value not in _NOTHING)}
    if dialect.extra:
        body = {**dialect.extra, **body}
    body["model"] = target.model
    body["messages"] = _messages(request["messages"], dialect)
    if target.unsupported == "drop" and dialect.custom_tools and _reasons(target.model, body.get("reasoning_effort")):
        refused = [name for name in _SAMPLERS if body.pop(name, None) is not None]
        dropped = (*dropped, *refused)
    limit = request.get("max_completion_tokens") or request.get("max_tokens")
    if limit is not None:
        # OpenAI refuses its newer name beside a prediction (checklist C-166).
        body["max_tokens" if "prediction" in body else dialect.max_tokens] = limit
    if (tier := request.get("service_tier")) is not None:
        dropped = (*dropped, *_tier(body, tier, dialect))
    stream = request.get("stream") is True
    if stream:
        _ask_usage(body, request, dialect)
    if not _TOOLING.isdisjoint(body):
        _tools(body, dialect)
    if "response_format" in body and not dialect.json_schema:
        _response_format(body, target)
    if dialect.thinking is not None:
        dropped = _thinking(body, request, dialect, dropped)
    plain = "n" not in request and "modalities" not in request
    return UpstreamRequest(
        url=fixed.url,
        headers=fixed.headers,
        body=dumps(body),
        stream=stream,
        dropped=tuple(dict.fromkeys(dropped)) if dropped else (),
        notes=fixed.notes if plain else _notes(request, dialect),
    )


def _reasons(model: str, effort: str | None) -> bool:
    if effort == "none":
        return False
    return bool(_REASONERS.match(model) or (effort is not None and _ON_REQUEST.match(model)))


def _notes(request: ChatRequest, dialect: Dialect) -> Mapping[str, Any]:
    return {"dialect": dialect, "n": request.get("n") or 1, "audio": "audio" in (request.get("modalities") or ())}


def headers(target: Target, options: FamilyOptions | None) -> dict[str, str]:
    """Of a request with a bearer credential; the config's own headers win."""
    given = {"content-type": "application/json"}
    if target.api_key:
        given["authorization"] = f"Bearer {target.api_key}"
    if options is not None and options.organization:
        given["openai-organization"] = options.organization
    if options is not None and options.project:
        given["openai-project"] = options.project
    given.update(target.headers)
    return given


def _ask_usage(body: JSON, request: ChatRequest, dialect: Dialect) -> None:
    """Usage is always asked for, whatever the client wants: it is what we bill by."""
    body["stream"] = True
    if not dialect.stream_options:
        return
    body["stream_options"] = {"include_usage": True}
    given = request.get("stream_options") or {}
    if dialect.relay and given.get("include_obfuscation") is False:
        body["stream_options"]["include_obfuscation"] = False


def _tier(body: JSON, tier: str, dialect: Dialect) -> tuple[str, ...]:
    """Ask for a tier that the provider has; the name of the parameter where it has no such tier."""
    if tier in dialect.tiers:
        body["service_tier"] = dialect.tiers[tier]
        return ()
    if dialect.send_priority and tier in dialect.priorities:
        body["priority"] = dialect.priorities[tier]
        return ()
    return () if tier in ("auto", "default") else ("service_tier",)


def _messages(messages: Sequence[JSON], dialect: Dialect) -> list[JSON]:
    """The conversation; what is plain text in it goes on as it is, uncopied."""
    if dialect.merge_roles:
        return [*_merged(messages, dialect)]
    renamed = "" if dialect.developer_role else "developer"
    return [
        m if len(m) == 2 and type(m.get("content")) is str and m["role"] != renamed
        else _message(m, index, dialect)
        for index, m in enumerate(messages)
    ]  # fmt: skip


def _merged(messages: Iterable[JSON], dialect: Dialect) -> Iterator[JSON]:
    last: JSON | None = None
    for index, message in enumerate(messages):
        told = _message(message, index, dialect)
        if last is not None and _mergeable(last, told):
            last["content"] = f"{last['content']}\n\n{told['content']}"
            continue
        if last is not None:
            yield last
        last = dict(told)
    if last is not None:
        yield last


def _mergeable(last: JSON, message: JSON) -> bool:
    return (
        last["role"] == message["role"]
        and message["role"] in ("user", "assistant")
        and "tool_calls" not in last
        and "tool_calls" not in message
        and isinstance(last.get("content"), str)
        and isinstance(message.get("content"), str)
    )


def _message(message: JSON, index: int, dialect: Dialect) -> JSON:
    """A message without what clients echo back of our answers: nulls, empty lists, keys that the provider refuses."""
    told = {
        key: value
        for key, value in message.items()
        if (value is not None and value != []) or key == "content"
        if key in _MESSAGE_KEYS or key in dialect.message_keys
    }
    if dialect.longest_id is not None:
        _shorten(told, dialect.longest_id)
    if dialect.strict and "tool_calls" in told:
        told["tool_calls"] = [_call(call) for call in told["tool_calls"]]
    if dialect.reasoning_key is not None and dialect.message_keys.isdisjoint(told):
        thought = message.get("reasoning_content")
        told |= {dialect.reasoning_key: thought} if isinstance(thought, str) and thought else {}
    if message["role"] == "developer" and not dialect.developer_role:
        told["role"] = "system"
    if not dialect.custom_tools and (refusal := told.pop("refusal", None)):
        told["content"] = told.get("content") or refusal  # only OpenAI has such a field: the model said it
    if isinstance(content := told.get("content"), list):
        told["content"] = _content(content, index, dialect)
    elif content is None:
        told.pop("content", None)
        if message["role"] == "assistant":
            told["content"] = None if "tool_calls" in told or dialect.custom_tools else ""
    return told


def _call(call: JSON) -> JSON:
    """A tool call without what another provider put into it: an index, say, or a signature of its own."""
    kind: str = call["type"]
    return {"id": call["id"], "type": kind, kind: {key: call[kind][key] for key in _CALL[kind] if key in call[kind]}}


def _shorten(told: JSON, longest: int) -> None:
    if len(told.get("tool_call_id") or "") > longest:
        told["tool_call_id"] = LONG_IDS.apply(told["tool_call_id"])
    if any(len(call["id"]) > longest for call in told.get("tool_calls") or ()):
        told["tool_calls"] = [{**call, "id": LONG_IDS.apply(call["id"])} for call in told["tool_calls"]]


def _content(parts: list[JSON], index: int, dialect: Dialect) -> str | list[JSON]:
    if not dialect.custom_tools and any(part["type"] == "refusal" for part in parts):
        parts = [{"type": "text", "text": part["refusal"]} if part["type"] == "refusal" else part for part in parts]
    if dialect.parts is not None:
        for at, part in enumerate(parts):
            if part["type"] not in dialect.parts:
                raise UnsupportedParameter(
                    f"messages[{index}].content[{at}].type",
                    f"Invalid value: '{part['type']}'. The model takes: {', '.join(sorted(dialect.parts))}.",
                )
    if dialect.flat and all(part["type"] == "text" for part in parts):
        return "\n".join(part["text"] for part in parts)
    unwanted = [key for key, kept in ((_CACHE, dialect.custom_tools), (_MARK, not dialect.strict)) if not kept]
    if not any(key in part for part in parts for key in unwanted):
        return parts
    return [{key: value for key, value in part.items() if key not in unwanted} for part in parts]


def _unmarked(tool: JSON) -> JSON:
    """A tool without a mark for the cache, beside its function or in it."""
    return {
        key: _unmarked(value) if key in _CALL and isinstance(value, dict) else value
        for key, value in tool.items()
        if key != _MARK
    }


def _tools(body: JSON, dialect: Dialect) -> None:
    if "tools" not in body:
        if "functions" not in body:
            for name in ("tool_choice", "parallel_tool_calls"):
                body.pop(name, None)
        return
    if dialect.strict and any(_MARK in tool or _MARK in (tool.get("function") or ()) for tool in body["tools"]):
        body["tools"] = [_unmarked(tool) for tool in body["tools"]]
    if dialect.custom_tools:
        return
    for at, tool in enumerate(body["tools"]):
        if tool.get("type") == "custom":
            raise UnsupportedParameter(
                f"tools[{at}].type", "Invalid value: 'custom'. Supported values are: 'function'."
            )
    choice = body.get("tool_choice")
    if isinstance(choice, dict) and choice.get("type") == "allowed_tools":
        allowed = choice["allowed_tools"]
        names = {tool["function"]["name"] for tool in allowed["tools"] if "function" in tool}
        body["tools"] = [tool for tool in body["tools"] if tool.get("function", {}).get("name") in names]
        body["tool_choice"] = allowed["mode"]


def _response_format(body: JSON, target: Target) -> None:
    """Where the provider has no schemas."""
    wanted = body["response_format"]
    if not wanted or wanted.get("type") != "json_schema":
        return
    if target.unsupported != "drop":
        raise UnsupportedParameter(
            "response_format.type",
            "Invalid value: 'json_schema'. The model takes 'text' and 'json_object' only.",
        )
    body["response_format"] = {"type": "json_object"}


def _thinking(body: JSON, request: ChatRequest, dialect: Dialect, dropped: tuple[str, ...]) -> tuple[str, ...]:
    """Reasoning is switched off where the client asks for none, or where it could not go well (edge cases 31, 43).

    Gives what is dropped: ``none`` is not, where every other effort is.
    """
    if "thinking" in body or "enable_thinking" in body:
        return dropped
    none = off = request.get("reasoning_effort") == "none"
    if dialect.echo_reasoning and not off:
        calls = (m for m in body["messages"] if m["role"] == "assistant" and "tool_calls" in m)
        forced = body.get("tool_choice") == "required" or isinstance(body.get("tool_choice"), dict)
        off = forced or any(not m.get("reasoning_content") for m in calls)
    if off:
        body.pop("reasoning_effort", None)
        if dialect.thinking == "enable_thinking":
            body["enable_thinking"] = False
        else:
            body["thinking"] = {"type": "disabled"}
    return tuple(name for name in dropped if name != "reasoning_effort") if none else dropped
