"""Chat Completions into Cohere's v2 chat."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from .. import history, tools
from ..draft import RequestDraft
from ..interface import JSON, ChatRequest, Target, UpstreamRequest
from ..jsonio import dumps
from ..options import Options
from ..params import GATEWAY_PARAMS, Fate, unsupported
from ..tools import Tool, Tools
from .messages import messages, wire_name

_P, _T, _D, _R, _E = Fate.PASS, Fate.TRANSLATE, Fate.DROP, Fate.REJECT, Fate.EMULATE
PARAMS: Mapping[str, Fate] = {
    "messages": _T, "model": _P, "audio": _R, "frequency_penalty": _T, "function_call": _T, "functions": _T,
    "logit_bias": _R, "logprobs": _T, "max_completion_tokens": _T, "max_tokens": _P, "metadata": _E, "modalities": _R,
    "moderation": _R, "n": _R, "parallel_tool_calls": _D, "prediction": _D, "presence_penalty": _T,
    "prompt_cache_key": _D, "prompt_cache_options": _D, "prompt_cache_retention": _D, "reasoning_effort": _T,
    "response_format": _T, "safety_identifier": _D, "seed": _P, "service_tier": _E, "stop": _T, "store": _E,
    "stream": _P, "stream_options": _E, "temperature": _T, "tool_choice": _T, "tools": _T, "top_logprobs": _R,
    "top_p": _T, "user": _D, "verbosity": _D, "web_search_options": _R,
    # extensions, in Cohere's words
    "documents": _P, "citation_options": _P, "safety_mode": _P, "thinking": _P, "priority": _P, "top_k": _T,
}  # fmt: skip
_EXTENSIONS = ("documents", "citation_options", "safety_mode", "thinking", "priority")
_THOUGHTLESS = re.compile(r"command(-r|-light|-nightly|-a-(03|vision|translate)|$)|aya|north-mini")
"""Models that do not think; those not known here are taken to."""
BUDGETS: Mapping[str, int] = {"minimal": 1024, "low": 2048}
"""Thinking tokens for an effort; more effort means no bound."""
JSON_TOOL = "json_response"
"""The tool that stands for a JSON answer next to other tools: Cohere refuses ``response_format`` there."""
ANY_ID = history.IdRule(r"(?s).+", 256)


class CohereOptions(Options):
    safety_mode: Literal["CONTEXTUAL", "STRICT", "OFF"] | None = None
    """Where there are no tools: Cohere refuses the one with the other."""
    input_type: Literal["search_document", "search_query", "classification", "clustering"] = "search_document"
    """Of embeddings, where the client says nothing."""
    truncate: Literal["NONE", "START", "END"] | None = None


@dataclass(slots=True, kw_only=True)
class Draft(RequestDraft):
    """A request to Cohere while it is built."""

    body: JSON


def build(request: ChatRequest, target: Target) -> UpstreamRequest:
    """Translate; raises UnsupportedParameter."""
    options: CohereOptions = target.options or CohereOptions()
    given = {name: value for name, value in request.items() if name not in GATEWAY_PARAMS}
    dropped = unsupported(given, PARAMS, target.unsupported)
    wanted = tools.read(request)
    thinks = not _THOUGHTLESS.search(target.model)
    read = history.asked(history.read(list(request["messages"]), ANY_ID))
    stream = request.get("stream") is True
    body: JSON = {"model": target.model, "messages": [], "stream": stream}
    draft = Draft(request, target.unsupported, list(dropped), body=body)
    json_tool = _format(draft, wanted)
    offered = (*wanted.tools, json_tool) if json_tool else wanted.tools
    names = _names(offered)
    body["messages"] = messages(read, thinks=thinks, names=names)
    _tools(draft, wanted, offered, names)
    _sampling(draft)
    _thinking(draft, thinks=thinks)
    if options.safety_mode and "tools" not in body:
        body["safety_mode"] = options.safety_mode
    for name in _EXTENSIONS:
        if request.get(name) is not None:
            body[name] = request[name]
    return UpstreamRequest(
        url=f"{target.base_url}/v2/chat",
        headers=headers(target),
        body=dumps(body),
        stream=stream,
        dropped=tuple(dict.fromkeys(draft.dropped)),
        notes={
            "json_tool": json_tool.name if json_tool else None,
            "names": {wire: name for name, wire in names.items() if wire != name},
            **wanted.notes(),
        },
    )


def headers(target: Target) -> dict[str, str]:
    return {
        "content-type": "application/json",
        "authorization": f"Bearer {target.api_key}",
        "accept": "*/*",
        **target.headers,
    }


def _format(draft: Draft, wanted: Tools) -> Tool | None:
    """``response_format``, or the tool that stands for it."""
    form = draft.request.get("response_format") or {}
    if form.get("type") not in ("json_schema", "json_object") or wanted.choice == "named":
        return None
    described = form.get("json_schema") or {}
    schema = described.get("schema")
    if wanted.tools and wanted.choice != "none":
        if (schema or {}).get("type", "object") != "object":
            draft.lacks("response_format", "Invalid schema: its root must be an object when there are tools.")
            return None
        taken = {tool.name for tool in wanted.tools}
        name = next(n for n in (JSON_TOOL, *(f"{JSON_TOOL}_{i}" for i in range(2, 200))) if n not in taken)
        text = described.get("description") or "Answer the user: the arguments are the whole answer, as JSON."
        return Tool(name, text, {**(schema or {}), "type": "object"})
    draft.body["response_format"] = {"type": "json_object"}
    if schema is not None:
        draft.body["response_format"]["json_schema"] = schema
    return None


def _names(offered: Sequence[Tool]) -> dict[str, str]:
    """The tools' names -> what Cohere gets instead, each its own."""
    names: dict[str, str] = {}
    for tool in offered:
        name = wire_name(tool.name)
        while name in names.values():
            name += "_"
        names[tool.name] = name
    return names


def _tools(draft: Draft, wanted: Tools, offered: Sequence[Tool], names: Mapping[str, str]) -> None:
    """``offered`` are those wanted, and the one that stands for a JSON answer."""
    chosen = [tool for tool in offered if wanted.choice != "named" or tool.name == wanted.named]
    if not chosen or "response_format" in draft.body:
        return
    draft.body["tools"] = [_function(tool, names[tool.name]) for tool in chosen]
    choices = {"none": "NONE", "required": "REQUIRED", "named": "REQUIRED"}
    choice = "REQUIRED" if len(offered) > len(wanted.tools) else choices.get(wanted.choice)
    if choice:
        draft.body["tool_choice"] = choice
    if any(tool.strict for tool in chosen):
        # for all tools or none, and each then needs a required parameter
        if all(tool.parameters.get("required") for tool in chosen):
            draft.body["strict_tools"] = True
        else:
            draft.leaves_out("tools[].function.strict")


def _function(tool: Tool, name: str) -> JSON:
    function: JSON = {"name": name, "parameters": dict(tool.parameters)}
    if tool.description:
        function["description"] = tool.description
    return {"type": "function", "function": function}


def _sampling(draft: Draft) -> None:
    request, body = draft.request, draft.body
    if request.get("temperature") is not None:
        body["temperature"] = min(request["temperature"], 1)  # edge case 81
    if request.get("seed") is not None:
        body["seed"] = request["seed"]
    limit = request.get("max_completion_tokens")
    limit = limit if limit is not None else request.get("max_tokens")
    if limit is not None:
        body["max_tokens"] = limit
    if (top_p := request.get("top_p")) is not None:
        body["p"] = min(max(top_p, 0.01), 0.99)
    if (top_k := request.get("top_k")) is not None:
        body["k"] = top_k
    for name in ("frequency_penalty", "presence_penalty"):
        value = request.get(name)
        if value and value < 0:
            draft.lacks(name, f"Unsupported value: '{name}' may not be negative with this model.")
        elif value and "frequency_penalty" in body:
            draft.leaves_out(name)  # many models take but one of them
        elif value:
            body[name] = min(value, 1)
    stop = request.get("stop") or []
    if sequences := [s for s in ([stop] if isinstance(stop, str) else stop) if s]:
        body["stop_sequences"] = sequences
    if request.get("logprobs"):
        body["logprobs"] = True


def _thinking(draft: Draft, *, thinks: bool) -> None:
    effort = draft.request.get("reasoning_effort")
    if effort is None or draft.request.get("thinking") is not None:
        return
    if not thinks:
        if effort != "none":
            draft.leaves_out("reasoning_effort")
        return
    draft.body["thinking"] = {"type": "disabled" if effort == "none" else "enabled"}
    if effort in BUDGETS:
        draft.body["thinking"]["token_budget"] = BUDGETS[effort]
