"""The tools of a request in one shape, for providers that know function tools only.

Deprecated ``functions`` become tools, custom tools become functions with one string, ``allowed_tools`` filters;
``back`` turns a provider's call into what the client asked for.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from .errors import UnsupportedParameter

NO_PARAMETERS: Mapping[str, Any] = {"type": "object", "properties": {}}
"""The schema of a tool without arguments (edge case 26)."""
INPUT = "input"
"""The one argument of the function that stands for a custom tool."""

Choice: TypeAlias = Literal["auto", "none", "required", "named"]


@dataclass(frozen=True, slots=True)
class Tool:
    name: str
    description: str
    parameters: Mapping[str, Any]
    strict: bool = False
    cache: Mapping[str, Any] | None = None
    """A cache breakpoint after this tool."""


@dataclass(frozen=True, slots=True)
class Tools:
    """``choice`` is ``auto``, ``none``, ``required`` or ``named``; then ``named`` is the tool's name."""

    tools: tuple[Tool, ...] = ()
    choice: Choice = "auto"
    named: str = ""
    parallel: bool = True
    custom: frozenset[str] = frozenset()
    legacy: bool = False
    """Whether the client speaks of ``functions``; ``adapters.emit`` turns the answer back."""

    def notes(self) -> dict[str, Any]:
        """What ``back`` must know when the answer comes."""
        return {"custom": self.custom}


def read(request: Mapping[str, Any]) -> Tools:
    """Normalise; raises UnsupportedParameter for a choice that names no tool of the request."""
    legacy = not request.get("tools") and bool(request.get("functions"))
    given = [{"type": "function", "function": f} for f in request["functions"]] if legacy else request.get("tools")
    tools = [_tool(tool) for tool in given or ()]
    custom = frozenset(t["custom"]["name"] for t in given or () if t.get("type") == "custom")
    wanted = request.get("function_call") if legacy else request.get("tool_choice")
    if not tools:
        return Tools()
    choice, named, allowed = _choice(wanted)
    known = {tool.name for tool in tools}
    if missing := ({named} if named else allowed or set()) - known:
        raise UnsupportedParameter(
            "function_call" if legacy else "tool_choice",
            f"Tool choice '{min(missing)}' not found in 'tools' parameter.",
        )
    if allowed is not None:
        tools = [tool for tool in tools if tool.name in allowed]
    return Tools(tuple(tools), choice, named, request.get("parallel_tool_calls") is not False, custom, legacy)


def _choice(wanted: Any) -> tuple[Choice, str, set[str] | None]:
    if wanted in ("none", "required"):
        return wanted, "", None
    if not isinstance(wanted, Mapping):
        return "auto", "", None
    if wanted.get("type") == "allowed_tools":
        inner = wanted.get("allowed_tools") or wanted
        names = {(tool.get(tool.get("type", "function")) or {}).get("name", "") for tool in inner["tools"]}
        return "required" if inner.get("mode") == "required" else "auto", "", names
    body = wanted.get(wanted.get("type"))
    chosen = body if isinstance(body, Mapping) else wanted  # the deprecated function_call is {"name"}
    return "named", chosen["name"], None


def _tool(tool: Mapping[str, Any]) -> Tool:
    cache = tool.get("cache_control") or tool.get("prompt_cache_breakpoint")
    if tool.get("type") == "custom":
        body = tool["custom"]
        return Tool(body["name"], body.get("description") or "", _custom_schema(body.get("format") or {}), cache=cache)
    body = tool["function"]
    parameters = body.get("parameters") or NO_PARAMETERS
    if parameters.get("type") != "object":
        parameters = {**parameters, "type": "object"}
    cache = cache or body.get("cache_control")  # where LiteLLM's clients put it
    return Tool(body["name"], body.get("description") or "", parameters, bool(body.get("strict")), cache)


def _custom_schema(form: Mapping[str, Any]) -> dict[str, Any]:
    """One string. A grammar cannot be enforced, so the model is told of it."""
    text = "The whole input of the tool, as free text."
    if isinstance(grammar := form.get("grammar"), Mapping):
        text += f" It must match this {grammar.get('syntax')} grammar:\n{grammar.get('definition')}"
    return {
        "type": "object",
        "properties": {INPUT: {"type": "string", "description": text}},
        "required": [INPUT],
        "additionalProperties": False,
    }


def back(call_id: str, name: str, arguments: str, notes: Mapping[str, Any]) -> dict[str, Any]:
    """An OpenAI tool call of a provider's whole call; the arguments are JSON text."""
    if name in notes.get("custom", ()):
        return {"id": call_id, "type": "custom", "custom": {"name": name, INPUT: custom_input(arguments)}}
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def custom_input(arguments: str) -> str:
    """The free text inside the emulating function's arguments; what is no such object is the text itself."""
    try:
        value = json.loads(arguments)
    except ValueError:
        return arguments
    if value == {}:
        return ""
    if isinstance(value, dict) and isinstance(text := value.get(INPUT), str):
        return text
    return arguments
