"""Chat Completions into Converse (service model ``bedrock-runtime/2023-09-30``)."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from .. import history, tools
from ..anthropic import schemas
from ..draft import RequestDraft
from ..interface import JSON, ChatRequest, Target, UpstreamRequest
from ..jsonio import dumps
from ..params import GATEWAY_PARAMS, Fate, unsupported
from ..tools import Tool, Tools
from . import reasoning
from .content import Conversation, cache_point
from .models import Family, family
from .options import BedrockOptions, endpoint
from .plain import plain

_P, _T, _D, _R, _E = Fate.PASS, Fate.TRANSLATE, Fate.DROP, Fate.REJECT, Fate.EMULATE
PARAMS: Mapping[str, Fate] = {
    "messages": _T, "model": _T, "audio": _R, "frequency_penalty": _D, "function_call": _T, "functions": _T,
    "logit_bias": _R, "logprobs": _R, "max_completion_tokens": _T, "max_tokens": _T, "metadata": _T, "modalities": _R,
    "moderation": _R, "n": _R, "parallel_tool_calls": _T, "prediction": _D, "presence_penalty": _D,
    "prompt_cache_key": _D, "prompt_cache_options": _D, "prompt_cache_retention": _D, "reasoning_effort": _T,
    "response_format": _T, "safety_identifier": _T, "seed": _D, "service_tier": _T, "stop": _T, "store": _E,
    "stream": _T, "stream_options": _E, "temperature": _T, "tool_choice": _T, "tools": _T, "top_logprobs": _R,
    "top_p": _T, "user": _T, "verbosity": _D, "web_search_options": _R,
    # extensions, in the words of Anthropic and Converse
    "top_k": _T, "thinking": _T, "guardrailConfig": _P, "performanceConfig": _P, "promptVariables": _P,
    "additionalModelRequestFields": _P, "additionalModelResponseFieldPaths": _P,
}  # fmt: skip
TIERS: Mapping[str, str] = {"default": "default", "flex": "flex", "priority": "priority", "scale": "reserved"}
TOOL_IDS = history.IdRule(r"[a-zA-Z0-9_.:-]+")
_METADATA = re.compile(r"[a-zA-Z0-9\s:_@$#=/+,.-]{0,256}")
JSON_TOOL = "json_response"
"""The tool that stands for a JSON answer, where the model has no such mode."""
MAX_CACHE_POINTS = 4
SPARE_OUTPUT = 8192
"""maxTokens beyond the thinking budget, when the client gave no bound and the model's own is not known."""


@dataclass(slots=True, kw_only=True)
class Draft(RequestDraft):
    """A request to Converse while it is built."""

    family: Family
    fields: JSON = field(default_factory=dict)
    """additionalModelRequestFields"""
    json_tool: Tool | None = None
    room: schemas.Room = field(default_factory=schemas.Room)
    """Claude's, for what it compiles."""


def build(request: ChatRequest, target: Target) -> UpstreamRequest:
    """Translate; raises UnsupportedParameter."""
    options: BedrockOptions = target.options or BedrockOptions()
    given = {name: value for name, value in request.items() if name not in GATEWAY_PARAMS}
    dropped = unsupported(given, PARAMS, target.unsupported)
    kind = family(options.profiles.get(target.model, target.model))
    draft = Draft(request, target.unsupported, list(dropped), family=kind)
    wanted = tools.read(request)
    body: JSON = {}
    _format(draft, wanted, body)
    plan = _reasoning(draft, wanted, target.max_output)
    messages: Sequence[Mapping[str, Any]] = request["messages"]
    read = history.asked(history.read(list(messages), TOOL_IDS))
    spoken = Conversation(cache=kind.cache, thinking=kind.claude and plan.on, tools=wanted.choice != "none")
    spoken.add(read)
    spoken.close(prefill=kind.prefill and not (kind.claude and "outputConfig" in body))
    body["messages"] = spoken.turns
    if spoken.system:
        body["system"] = spoken.system
    if wanted.choice == "none":
        _tools(draft, Tools(), [], body)  # Converse has no such choice: only the tool of a JSON answer is offered
    else:
        _tools(draft, wanted, [call.name for message in read for call in message.calls], body)
    _inference(draft, plan, target.max_output, body)
    _operation(draft, options, body)
    _cache(body)
    stream = request.get("stream") is True
    host = endpoint(target.base_url, options.region)
    return UpstreamRequest(
        url=f"{host}/model/{quote(target.model, safe='')}/{'converse-stream' if stream else 'converse'}",
        headers=_headers(target, stream=stream),
        body=dumps(body),
        stream=stream,
        dropped=tuple(dict.fromkeys(draft.dropped)),
        notes={"json_tool": draft.json_tool.name if draft.json_tool else None, **wanted.notes()},
    )


def _headers(target: Target, *, stream: bool) -> dict[str, str]:
    accept = "application/vnd.amazon.eventstream" if stream else "application/json"
    headers = {"content-type": "application/json", "accept": accept}
    if target.api_key:
        headers["authorization"] = f"Bearer {target.api_key}"
    headers.update(target.headers)
    return headers


def _format(draft: Draft, wanted: Tools, body: JSON) -> None:
    """``response_format``: natively where the model has it, else a tool that must be called."""
    form = draft.request.get("response_format") or {}
    if form.get("type") not in ("json_schema", "json_object"):
        return
    described = form.get("json_schema") or {}
    schema = described.get("schema")
    if (native := _native(draft, schema)) is not None:
        definition = {"schema": dumps(native).decode(), "name": described.get("name") or JSON_TOOL}
        if described.get("description"):
            definition["description"] = described["description"]
        structure = {"type": "json_schema", "structure": {"jsonSchema": definition}}
        body["outputConfig"] = {"textFormat": structure}
        return
    if wanted.choice == "named":
        return  # the forced call is the answer
    if not draft.family.forced_choice:
        draft.lacks("response_format", "Unsupported value: this model cannot be held to this format.")
        return
    root = schemas.tool_input(schema or {"type": "object"})
    if root is None:
        draft.lacks("response_format", "Invalid schema: its root must be an object with this model.")
        return
    taken = {tool.name for tool in wanted.tools}
    name = next(n for n in (JSON_TOOL, *(f"{JSON_TOOL}_{i}" for i in range(2, 200))) if n not in taken)
    text = described.get("description") or "Answer the user: the arguments are the whole answer, as JSON."
    draft.json_tool = Tool(name, text, root)


def _native(draft: Draft, schema: Any) -> Any:
    """The schema that the model's decoding is held to, or None where it cannot be: Claude's knows closed objects only.

    Bounds and open objects are a 400 for every model (user guide, "Get validated JSON results from models").
    """
    if not draft.family.schema:
        return None
    return draft.room.strict(schema) if draft.family.claude else schemas.closed(schema) or schema


def _reasoning(draft: Draft, wanted: Tools, max_output: int | None) -> reasoning.Plan:
    """The plan, given up where a forced tool, an unsigned tool call or an answer that was begun forbids thinking.

    See edge cases 17, 31 and 38.
    """
    request = draft.request
    limit = _max_tokens(request) or max_output
    plan = reasoning.plan(request.get("reasoning_effort"), draft.family, limit, request.get("thinking"))
    forced = wanted.choice in ("required", "named") or draft.json_tool is not None
    begun = request["messages"][-1]["role"] == "assistant"
    if plan.strict and (forced or begun or reasoning.open_loop_unthought(request["messages"])):
        plan = reasoning.Plan(dropped=True)
    if plan.dropped:
        draft.leaves_out("thinking" if request.get("thinking") else "reasoning_effort")
    elif request.get("thinking") and not draft.family.claude:
        draft.leaves_out("thinking")
    draft.fields.update(plan.fields)
    return plan


def _tools(draft: Draft, wanted: Tools, called: list[str], body: JSON) -> None:
    given = list(wanted.tools)
    known = {tool.name for tool in given}
    # tool blocks in the history need their tools, or else 400 (edge case 5)
    given += [Tool(name, "", tools.NO_PARAMETERS) for name in dict.fromkeys(called) if name not in known]
    if draft.json_tool:
        given.append(draft.json_tool)
    if not given:
        return
    specs: list[JSON] = []
    for tool in given:
        specs.append({"toolSpec": _spec(draft, tool)})
        if draft.family.cache and tool.cache and (point := cache_point({"cache_control": tool.cache})):
            specs.append(point)
    body["toolConfig"] = {"tools": specs}
    _choice(draft, wanted, body["toolConfig"])


def _spec(draft: Draft, tool: Tool) -> JSON:
    if draft.family.plain:
        root: JSON | None = plain(tool.parameters)
    else:
        root = schemas.tool_input(tool.parameters) if draft.family.claude else None  # without a union, which is a 400
    spec: JSON = {"name": tool.name, "inputSchema": {"json": root or dict(tool.parameters)}}
    if tool.description.strip():
        spec["description"] = tool.description
    if tool.strict:
        schema = _strict(draft, tool)
        if schema is None:
            draft.leaves_out("tools[].function.strict")
        else:
            spec["inputSchema"], spec["strict"] = {"json": schema}, True
    return spec


def _strict(draft: Draft, tool: Tool) -> JSON | None:
    """The arguments that the model is held to, or None where it cannot be."""
    if not draft.family.schema:
        return None
    root = schemas.tool_input(tool.parameters)
    if not draft.family.claude:
        return schemas.closed(root) or dict(tool.parameters)
    return draft.room.strict(root, tool=True)


def _choice(draft: Draft, wanted: Tools, config: JSON) -> None:
    """``auto`` is left out: it is the default, and not every family knows the field."""
    choice: JSON | None = None
    if wanted.choice == "named":
        choice = {"tool": {"name": wanted.named}}
    elif wanted.choice == "required" or draft.json_tool:
        only = draft.json_tool is not None and not wanted.tools
        choice = {"tool": {"name": draft.json_tool.name}} if only and draft.json_tool else {"any": {}}
    if choice and not draft.family.forced_choice:
        draft.lacks("tool_choice", "Unsupported value: this model cannot be made to call a tool.")
        choice = None
    if not wanted.parallel and wanted.tools:
        if draft.family.claude:
            # in Claude's own words, which then must tell the choice as well
            native = {"tool": "tool", "any": "any"}.get(next(iter(choice or {}), ""), "auto")
            told: JSON = {"type": native, "disable_parallel_tool_use": True}
            if choice and "tool" in choice:
                told["name"] = choice["tool"]["name"]
            draft.fields["tool_choice"] = told
            return
        draft.leaves_out("parallel_tool_calls")
    if choice:
        config["toolChoice"] = choice


def _max_tokens(request: ChatRequest) -> int | None:
    given = request.get("max_completion_tokens")
    found = given if given is not None else request.get("max_tokens")
    return found if isinstance(found, int) else None


def _inference(draft: Draft, plan: reasoning.Plan, max_output: int | None, body: JSON) -> None:
    request = draft.request
    config: JSON = {}
    max_tokens = _max_tokens(request)
    if max_tokens is None and plan.budget:
        max_tokens = max_output or plan.budget + SPARE_OUTPUT
    if max_tokens is not None:
        config["maxTokens"] = max_tokens
    stop = request.get("stop") or []
    sequences = [s for s in ([stop] if isinstance(stop, str) else stop) if s.strip()]
    if sequences:
        config["stopSequences"] = sequences
    sampling = {"temperature": request.get("temperature"), "topP": request.get("top_p"), "top_k": request.get("top_k")}
    names = {"temperature": "temperature", "topP": "top_p", "top_k": "top_k"}
    asked = {name: value for name, value in sampling.items() if value is not None}
    for name in _refused(draft.family, plan, asked):
        draft.leaves_out(names[name])
        del asked[name]
    if "temperature" in asked:
        asked["temperature"] = min(asked["temperature"], 1)  # Converse ends at 1 (edge case 81)
    if (top_k := asked.pop("top_k", None)) is not None:
        if draft.family.claude:
            draft.fields["top_k"] = top_k
        else:
            draft.fields["inferenceConfig"] = {"topK": top_k}
    config.update(asked)
    if plan.bare and config:
        for name in ("maxTokens", "temperature", "topP"):  # Nova at high effort takes none of them
            if config.pop(name, None) is not None:
                draft.leaves_out({"maxTokens": "max_completion_tokens", **names}[name])
    if config:
        body["inferenceConfig"] = config


def _refused(kind: Family, plan: reasoning.Plan, asked: Mapping[str, Any]) -> list[str]:
    """Sampling parameters that would be a 400 (edge case 45)."""
    if kind.sampling == "none":
        return [name for name in asked if asked[name] != 1]
    if plan.strict:
        return [name for name in asked if name != "temperature" or asked[name] != 1]
    if kind.sampling == "one" and "temperature" in asked and "topP" in asked:
        return ["topP"]
    return []


def _cache(body: JSON) -> None:
    """Keep the last four cache points, and none for an hour behind one for less: both are a 400."""
    places = [body.get("toolConfig", {}).get("tools", []), body.get("system", [])]
    places += [turn["content"] for turn in body["messages"]]
    points = [(blocks, block) for blocks in places for block in blocks if "cachePoint" in block]
    for blocks, block in points[:-MAX_CACHE_POINTS]:
        blocks.remove(block)  # the first that is equal, which is this one
    hour = False
    for _, block in reversed(points[-MAX_CACHE_POINTS:]):
        if block["cachePoint"].get("ttl") == "1h":
            hour = True
        elif hour:
            block["cachePoint"] = {"type": "default", "ttl": "1h"}


def _operation(draft: Draft, options: BedrockOptions, body: JSON) -> None:
    """What is Converse's own: tier, guardrail, latency, metadata and the model's further fields."""
    request = draft.request
    tier = request.get("service_tier")
    if isinstance(tier, str) and (word := TIERS.get(tier, tier)) in ("flex", "priority", "reserved"):
        body["serviceTier"] = {"type": word}
    for name in ("guardrailConfig", "performanceConfig", "promptVariables", "additionalModelResponseFieldPaths"):
        if request.get(name):
            body[name] = request[name]
    if options.guardrail:
        body["guardrailConfig"] = options.guardrail.told(stream=request.get("stream") is True)
    if options.latency:
        body["performanceConfig"] = {"latency": options.latency}
    fields = {**(request.get("additionalModelRequestFields") or {}), **draft.fields, **options.additional_fields}
    if fields:
        body["additionalModelRequestFields"] = fields
    if metadata := _metadata(draft):
        body["requestMetadata"] = metadata


def _metadata(draft: Draft) -> dict[str, str]:
    """Sixteen pairs of at most 256 harmless letters; what does not fit is named as dropped."""
    request = draft.request
    found = {name: request[name] for name in ("user", "safety_identifier") if request.get(name)}
    pairs = [(name, name, value) for name, value in found.items()]
    pairs += [("metadata", key, value) for key, value in (request.get("metadata") or {}).items()]
    metadata: dict[str, str] = {}
    for param, key, value in pairs:
        if len(metadata) < 16 and key and _METADATA.fullmatch(key) and _METADATA.fullmatch(value):
            metadata.setdefault(key, value)
        else:
            draft.leaves_out(param)
    return metadata
