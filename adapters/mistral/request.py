"""A Chat Completions request in Mistral's words.

Mistral refuses fields it does not know, and tool call ids that are not nine letters or digits.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..errors import UnsupportedParameter
from ..interface import JSON, ChatRequest, Target, UpstreamRequest
from ..openai import request as family
from ..openai.dialect import Dialect
from ..openai.legacy import modern
from ..params import PARAMS, Fate
from ..tools import NO_PARAMETERS

_ID = re.compile(r"[A-Za-z0-9]{9}")
_FUNCTION = frozenset({"name", "description", "parameters", "strict"})
_EFFORTS: Mapping[str, str] = {"none": "none", "minimal": "none"}
"""Mistral knows reasoning on and off; every other effort is ``high``."""
_HOTTEST = 1.5
"""The most ``temperature``: OpenAI's goes to 2, and more is a 422."""

MISTRAL = Dialect(
    name="mistral",
    base_url="https://api.mistral.ai/v1",
    params=dict.fromkeys(PARAMS, Fate.PASS)
    | dict.fromkeys(
        ("prompt_cache_options", "prompt_cache_retention", "safety_identifier", "user", "verbosity"), Fate.DROP
    )
    | dict.fromkeys(("audio", "logit_bias", "modalities", "moderation", "web_search_options"), Fate.REJECT)
    | dict.fromkeys(("metadata", "store", "stream_options"), Fate.EMULATE)
    | dict.fromkeys(
        ("function_call", "functions", "max_completion_tokens", "max_tokens", "messages", "model", "reasoning_effort"),
        Fate.TRANSLATE,
    )
    | dict.fromkeys(("seed", "service_tier", "temperature", "tool_choice", "tools"), Fate.TRANSLATE),
    # Priority takes an agreement with Mistral; without it, or over its limits, `auto` is served at the standard tier.
    # Source: docs.mistral.ai/inference/priority-tier.
    tiers={"default": "standard_only", "priority": "auto"},
    tiers_declared=True,
    served_words={"standard": "default", "priority": "priority"},
    stream_options=False,
    message_keys=frozenset({"prefix"}),
    lenient=True,
)


def prepare(request: ChatRequest, target: Target) -> UpstreamRequest:
    """Translate; raises UnsupportedParameter."""
    told = dict(modern(request))
    told["messages"] = _messages(told["messages"])
    if tools := told.get("tools"):
        told["tools"] = [_tool(tool) for tool in tools]
    if (effort := told.get("reasoning_effort")) is not None:
        told["reasoning_effort"] = _EFFORTS.get(effort, "high")
    if (seed := told.pop("seed", None)) is not None:
        told["random_seed"] = seed
        target = replace(target, allow=target.allow | {"random_seed"})
    if (temperature := told.get("temperature")) is not None:
        told["temperature"] = min(temperature, _HOTTEST)
    if told.get("tool_choice") == "required":
        told["tool_choice"] = "any"
    elif isinstance(choice := told.get("tool_choice"), dict) and choice.get("type") == "allowed_tools":
        told |= _allowed(told, choice["allowed_tools"])
    return family.prepare(told, target, MISTRAL)


def _allowed(told: JSON, allowed: JSON) -> JSON:
    names = {tool["function"]["name"] for tool in allowed["tools"] if "function" in tool}
    kept = [tool for tool in told.get("tools") or () if tool.get("function", {}).get("name") in names]
    return {"tools": kept, "tool_choice": "any" if allowed["mode"] == "required" else "auto"}


def _tool(tool: JSON) -> JSON:
    """Mistral wants a schema even of a tool without arguments (edge case 26)."""
    if tool.get("type") != "function":
        return tool
    known = {key: value for key, value in _known(tool["function"]).items() if key in _FUNCTION}
    return {"type": "function", "function": {"parameters": NO_PARAMETERS, **known}}


def _known(given: JSON) -> JSON:
    return {key: value for key, value in given.items() if value is not None}


def _messages(messages: list[JSON]) -> list[JSON]:
    ids = _Ids()
    told = [_message(message, index, ids) for index, message in enumerate(messages)]
    said = [m for m in told if m["role"] != "assistant" or m.get("content") or "tool_calls" in m]
    told = _ordered(said or told)  # a blank turn of the assistant is a 400
    if told[-1]["role"] == "assistant" and "tool_calls" not in told[-1]:
        told[-1]["prefix"] = True  # without it the last turn may not be the assistant's
    return told


def _ordered(told: list[JSON]) -> list[JSON]:
    """Instructions where Mistral takes them: at the begin or after a user, never last (edge cases 15 and 16).

    Those after an answer or a result join the first ones; at the end of it all they are told as the user's.
    """
    end = next((at for at in range(len(told), 0, -1) if told[at - 1]["role"] != "system"), len(told) - 1)
    kept: list[JSON] = []
    moved: list[JSON] = []
    last = "system"
    for at, message in enumerate(told):
        if message["role"] != "system":
            last = message["role"]
            kept.append(message)
        elif at >= end and last != "tool":
            kept.append({**message, "role": "user"})
        elif last in ("assistant", "tool"):
            moved.append(message)
        else:
            kept.append(message)
    first = next((at for at, message in enumerate(kept) if message["role"] != "system"), len(kept))
    return [*kept[:first], *moved, *kept[first:]]


def _message(message: JSON, index: int, ids: "_Ids") -> JSON:
    told: JSON = {key: message[key] for key in ("role", "content") if key in message}
    if told["role"] == "developer":
        told["role"] = "system"
    if isinstance(content := message.get("content"), list):
        told["content"] = _content(content, index, message["role"])
    elif not content and (refusal := message.get("refusal")):
        told["content"] = refusal  # Mistral has no such field: the model said it
    if calls := message.get("tool_calls"):
        made = ids.of_turn([call["id"] for call in calls], index)
        told["tool_calls"] = [_call(call, call_id, index) for call, call_id in zip(calls, made, strict=True)]
    if message["role"] == "tool":
        told["tool_call_id"] = ids.answered(message["tool_call_id"])
    return told


def _call(call: JSON, call_id: str, index: int) -> JSON:
    if not isinstance(call.get("function"), dict):
        raise UnsupportedParameter(f"messages[{index}].tool_calls", "The model takes calls of function tools only.")
    arguments = call["function"].get("arguments")
    function = {
        "name": call["function"]["name"],
        "arguments": arguments if arguments not in (None, "", "null") else "{}",
    }
    return {"id": call_id, "type": "function", "function": function}


class _Ids:
    """Mistral's ids of a conversation's calls, each its own though a client gave one to several (edge case 13)."""

    def __init__(self) -> None:
        self._used: set[str] = set()
        self._open: dict[str, list[str]] = {}
        """The client's id -> ours of the calls of the last turn that wait for their results, in order."""

    def of_turn(self, given: list[str], index: int) -> list[str]:
        self._open = {}
        made = []
        for position, call_id in enumerate(given):
            ours = tool_id(call_id)
            if ours in self._used:
                ours = tool_id(f"{call_id}/{index}/{position}")
            self._used.add(ours)
            self._open.setdefault(call_id, []).append(ours)
            made.append(ours)
        return made

    def answered(self, call_id: str) -> str:
        waiting = self._open.get(call_id)
        return waiting.pop(0) if waiting else tool_id(call_id)


def tool_id(given: str) -> str:
    """Nine letters and digits, the same for the same id wherever it occurs (edge case 11)."""
    if _ID.fullmatch(given):
        return given
    return hashlib.sha256(given.encode(errors="replace")).hexdigest()[:9]


def _content(parts: list[JSON], index: int, role: str) -> str | list[JSON]:
    if role != "user":
        return "\n".join(_text(part, f"messages[{index}].content[{at}]") for at, part in enumerate(parts))
    return [_part(part, f"messages[{index}].content[{at}]") for at, part in enumerate(parts)]


def _text(part: JSON, at: str) -> str:
    """Of a turn that is told as one text, a tool's result above all: an image in it would be lost unseen."""
    kind: Any = part["type"]
    if kind not in ("text", "refusal"):
        raise UnsupportedParameter(f"{at}.type", f"Content of type '{kind}' is supported in user messages only.")
    return part.get(kind) or ""


def _part(part: JSON, at: str) -> JSON:
    kind: Any = part["type"]
    if kind == "text":
        return {"type": "text", "text": part["text"]}
    if kind == "image_url":
        return {"type": "image_url", "image_url": _known(part["image_url"])}
    if kind == "input_audio":
        return {"type": "input_audio", "input_audio": part["input_audio"]["data"]}
    if kind == "file":
        return _file(part["file"])
    raise UnsupportedParameter(f"{at}.type", f"Invalid value: '{kind}'.")


def _file(file: JSON) -> JSON:
    if file.get("file_id"):
        return {"type": "file", "file_id": file["file_id"]}
    document = {"type": "document_url", "document_url": file.get("file_data") or ""}
    return document | ({"document_name": file["filename"]} if file.get("filename") else {})
