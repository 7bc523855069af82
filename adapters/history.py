"""A conversation in one shape, for providers that are stricter about it than OpenAI.

Deprecated function calls become tool calls, arguments become objects, ids become what the provider accepts,
and every call is answered right after it was made.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from .errors import ProviderError, UnsupportedParameter
from .jsonio import exact
from .tools import INPUT


@dataclass(frozen=True, slots=True)
class Call:
    id: str
    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Message:
    """``role`` is system, user, assistant or tool; ``parts`` are content parts, blank texts left out."""

    index: int
    """Of the client's message: for naming it in an error."""
    role: str
    parts: tuple[Mapping[str, Any], ...] = ()
    calls: tuple[Call, ...] = ()
    call_id: str = ""
    """Of a tool message: the call that it answers."""
    name: str = ""
    """Of a tool message: the tool that was called."""
    source: Mapping[str, Any] | None = None
    """The client's own message, for extensions such as reasoning."""


class IdRule:
    """Which tool call ids a provider takes; others are rewritten the same way wherever they occur (edge case 12)."""

    def __init__(self, pattern: str, longest: int = 64) -> None:
        self._lawful = re.compile(pattern)
        self._longest = longest

    def apply(self, call_id: str) -> str:
        if len(call_id) <= self._longest and self._lawful.fullmatch(call_id):
            return call_id
        return "call_" + hashlib.sha256(call_id.encode(errors="replace")).hexdigest()[:24]


ROLES = {"developer": "system", "function": "tool"}


def read(messages: list[Mapping[str, Any]], rule: IdRule) -> Iterator[Message]:
    """Normalise; raises UnsupportedParameter for a call without its result, or a result without its call."""
    open_calls: dict[str, list[Call]] = {}
    """What the client calls them -> the calls, in order, until each is answered: some give one id to several."""
    used: set[str] = set()
    for index, message in enumerate(messages):
        role = ROLES.get(message["role"], message["role"])
        if role == "tool":
            yield _result(index, message, open_calls)
            continue
        if open_calls:
            raise _unanswered(open_calls)
        calls = _calls(index, message, rule, used) if role == "assistant" else []
        open_calls = {}
        for given, call in calls:
            open_calls.setdefault(given, []).append(call)
        yield Message(index, role, tuple(_parts(message)), tuple(call for _, call in calls), source=message)
    if open_calls:
        raise _unanswered(open_calls)


def asked(messages: Iterable[Message]) -> list[Message]:
    """The conversation with instructions at its very end, behind an answer, told as the user's: they are what is asked.

    Among the first ones, where most providers want them, they would leave the answer the last word (edge cases 15 and 17).
    """
    told = list(messages)
    end = next((at for at in range(len(told), 0, -1) if told[at - 1].role != "system"), 0)
    if end and told[end - 1].role == "assistant":
        told[end:] = [replace(message, role="user") if message.parts else message for message in told[end:]]
    return told


def _unanswered(open_calls: Mapping[str, list[Call]]) -> UnsupportedParameter:
    ids = ", ".join(open_calls)
    return UnsupportedParameter(
        "messages",
        "An assistant message with 'tool_calls' must be followed by tool messages responding to each 'tool_call_id'. "
        f"The following tool_call_ids did not have response messages: {ids[:200]}",
    )


def _result(index: int, message: Mapping[str, Any], open_calls: dict[str, list[Call]]) -> Message:
    key = (message.get("tool_call_id") if message["role"] == "tool" else message.get("name")) or ""
    waiting = open_calls.get(key)
    if not waiting:
        raise UnsupportedParameter(
            f"messages[{index}].role",
            "Invalid parameter: messages with role 'tool' must be a response to a preceding message with 'tool_calls'.",
        )
    call = waiting.pop(0)
    if not waiting:
        del open_calls[key]
    return Message(index, "tool", tuple(_parts(message)), call_id=call.id, name=call.name, source=message)


def _calls(index: int, message: Mapping[str, Any], rule: IdRule, used: set[str]) -> list[tuple[str, Call]]:
    """Each call, and what the client calls it."""
    calls: list[tuple[str, Call]] = []
    for position, call in enumerate(message.get("tool_calls") or ()):
        at = f"messages[{index}].tool_calls[{position}]"
        arguments: Mapping[str, Any]
        if call.get("type") == "custom":
            name, arguments = call["custom"]["name"], {INPUT: call["custom"].get(INPUT) or ""}
        else:
            name, arguments = call["function"]["name"], _arguments(call["function"].get("arguments"), at)
        made = Call(_unique(rule.apply(call["id"]), used, index, position), name, arguments)
        calls.append((call["id"], made))
    if legacy := message.get("function_call"):
        arguments = _arguments(legacy.get("arguments"), f"messages[{index}].function_call")
        calls.append((legacy["name"], Call(_unique("call_function", used, index, 0), legacy["name"], arguments)))
    return calls


def _unique(call_id: str, used: set[str], index: int, position: int) -> str:
    """The id, or another when the conversation used it before (edge case 13)."""
    if call_id in used:
        call_id = f"call_{index}_{position}_" + hashlib.sha256(call_id.encode(errors="replace")).hexdigest()[:12]
    used.add(call_id)
    return call_id


def _arguments(text: Any, at: str) -> Mapping[str, Any]:
    """The object that providers want: empty and null are no arguments (edge cases 8 to 10)."""
    if isinstance(text, Mapping):
        return text
    try:
        value = exact(text) if isinstance(text, str) and text.strip() else None
    except ProviderError:
        raise UnsupportedParameter(
            f"{at}.function.arguments" if "tool_calls" in at else f"{at}.arguments",
            f"Invalid '{at}': the arguments are not valid JSON, which this model's provider requires.",
        ) from None
    if value is None:
        return {}
    return value if isinstance(value, dict) else {INPUT: value}


def _parts(message: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Content as parts, blank texts left out: providers refuse them (edge cases 1 and 19)."""
    content = message.get("content")
    if isinstance(content, str):
        if content.strip():
            yield {"type": "text", "text": content}
    else:
        for part in content or ():
            kind = part.get("type")
            if kind == "refusal" and part.get("refusal", "").strip():
                yield {"type": "text", "text": part["refusal"]}
            elif kind != "refusal" and (kind != "text" or part.get("text", "").strip()):
                yield part
    refusal = message.get("refusal")
    if isinstance(refusal, str) and refusal.strip() and not content:
        yield {"type": "text", "text": refusal}
