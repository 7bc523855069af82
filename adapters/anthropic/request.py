"""ChatRequest -> a Messages request."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from .. import history
from ..interface import JSON, ChatRequest, Target
from ..jsonio import dumps
from ..params import GATEWAY_PARAMS, Fate, unsupported
from . import models, schemas, thinking
from .messages import TOOL_IDS, Conversation
from .models import Gates
from .omitted import Omitted
from .options import AnthropicOptions
from .parts import cache_control, text_block
from .platform import Platform
from .tools import Toolbox, add_answer, toolbox

T, D, E, R = Fate.TRANSLATE, Fate.DROP, Fate.EMULATE, Fate.REJECT
PARAMS: Mapping[str, Fate] = {
    "messages": T,
    "model": T,
    "audio": R,
    "frequency_penalty": D,
    "function_call": T,
    "functions": T,
    "logit_bias": R,
    "logprobs": R,
    "max_completion_tokens": T,
    "max_tokens": Fate.PASS,
    "metadata": E,
    "modalities": R,
    "moderation": R,
    "n": R,
    "parallel_tool_calls": T,
    "prediction": D,
    "presence_penalty": D,
    "prompt_cache_key": D,
    "prompt_cache_options": T,
    "prompt_cache_retention": T,
    "reasoning_effort": T,
    "response_format": T,
    "safety_identifier": T,
    "seed": D,
    "service_tier": T,
    "stop": T,
    "store": E,
    "stream": Fate.PASS,
    "stream_options": E,
    "temperature": T,
    "tool_choice": T,
    "tools": T,
    "top_logprobs": R,
    "top_p": T,
    "user": T,
    "verbosity": D,
    "web_search_options": T,
    # Anthropic's own
    "top_k": Fate.PASS,
    "thinking": T,
    "cache_control": T,
}
"""``n``, ``logprobs`` and ``modalities`` are refused only for values that ask for something (``NEUTRAL``)."""

TIERS: Mapping[str, str] = {"default": "standard_only", "priority": "auto"}
"""``auto`` takes priority capacity where the account has bought some."""
MAX_MARKERS = 4
"""Cache markers per request; a fifth is a 400."""
MAX_USER_ID = 256
NO_SAMPLING_SINCE = "2026-10-21"
JSON_PROMPT = "Answer with one valid JSON object and nothing else: no prose around it and no code fence."
FILES_BETA = "files-api-2025-04-14"


@dataclass(slots=True)
class Draft:
    """A Messages body without the model, and what goes with it."""

    body: JSON
    betas: list[str] = field(default_factory=list)
    dropped: tuple[str, ...] = ()
    notes: JSON = field(default_factory=dict)


def draft(request: ChatRequest, target: Target, options: AnthropicOptions, platform: Platform) -> Draft:
    """Translate; raises UnsupportedParameter."""
    asked = {name: value for name, value in request.items() if value is not None and name not in GATEWAY_PARAMS}
    left_out = unsupported(asked, PARAMS, target.unsupported, target.allow)
    omitted = Omitted(target.unsupported, left_out)
    asked = {name: value for name, value in asked.items() if name not in left_out}
    gates = platform.gates(models.gates(options.same_as.get(target.model, target.model)))
    room = schemas.Room()
    native = _native(asked.get("response_format"), room) if gates.schemas else None  # before tools take the room
    box = toolbox(asked, gates, options.web_search, omitted, room)
    output, prompt = _response_format(asked.get("response_format"), native, box, gates)

    if native is not None:
        gates = replace(gates, prefill=False)  # a compiled answer goes on with nothing that was begun
    talk = Conversation(gates, platform, omitted)
    talk.read(history.read(list(asked["messages"]), TOOL_IDS))

    max_tokens = _max_tokens(asked, target, gates)
    hindered = box.forced or talk.excludes_budget()
    thoughts = thinking.decide(asked, gates, max_tokens, hindered=hindered, omitted=omitted)
    if not thoughts.on:
        talk.forget_thinking()
    thinking.bind(thoughts, gates, talk.turns)

    made = Draft({"max_tokens": max_tokens, "messages": talk.turns}, [*options.beta, *thoughts.betas])
    body = made.body
    if prompt:
        made.notes["json"] = _prefill(talk, box, gates, thoughts.on)
        talk.system.append(text_block(prompt))
    if talk.system:
        body["system"] = talk.system
    _add_tools(body, box, made.notes)
    if thoughts.config:
        body["thinking"] = thoughts.config
    if thoughts.effort:
        output["effort"] = thoughts.effort
    if output:
        body["output_config"] = output
    _add_sampling(
        body, asked, gates.sampling and options.version.removeprefix("vertex-") < NO_SAMPLING_SINCE, gates, omitted
    )
    _add_rest(body, request, omitted)
    _add_cache_markers(body, asked)
    if any(_uses_files(turn) for turn in talk.turns):
        made.betas.append(FILES_BETA)
    body.update({name: asked[name] for name in target.allow if name in asked and name not in PARAMS})
    made.dropped = omitted.names
    return made


def _add_tools(body: JSON, box: Toolbox, notes: JSON) -> None:
    if box.tools:
        body["tools"] = box.tools
        if box.choice:
            body["tool_choice"] = box.choice
    notes["custom"] = box.custom
    notes["answer"] = box.answer


def _native(asked: Any, room: schemas.Room) -> JSON | None:
    """The schema of a format, where the model's decoding can be held to it."""
    given = asked.get("json_schema") if isinstance(asked, Mapping) and asked.get("type") == "json_schema" else None
    return room.strict(given.get("schema")) if given else None


def _response_format(asked: Any, native: JSON | None, box: Toolbox, gates: Gates) -> tuple[JSON, str | None]:
    """The ``output_config`` that the format makes, or the instruction that stands for one.

    A schema is compiled by models that can, where the subset can say it; else it is a tool that must be called;
    else, and for ``json_object``, it is told.
    """
    kind = asked.get("type") if isinstance(asked, Mapping) else None
    if kind == "json_object":
        return {}, JSON_PROMPT
    if kind != "json_schema":
        return {}, None
    given = asked.get("json_schema") or {}
    schema = given.get("schema") or {"type": "object"}
    if native is not None:
        return {"format": {"type": "json_schema", "schema": native}}, None
    if gates.forced_tools:
        add_answer(box, schema, given.get("description"))
        return {}, None
    return {}, f"{JSON_PROMPT} It must match this JSON Schema:\n{dumps(schema).decode()}"


def _prefill(talk: Conversation, box: Toolbox, gates: Gates, thinks: bool) -> str:
    """Begin the answer with a brace where the model can continue it and neither thinks nor calls tools."""
    if not gates.prefill or thinks or box.tools or talk.turns[-1]["role"] != "user":
        return ""
    talk.turns.append({"role": "assistant", "content": [text_block("{")]})
    return "{"


def _max_tokens(asked: Mapping[str, Any], target: Target, gates: Gates) -> int:
    """What the client asked for, up to what the model has: more is a 400 and changes nothing."""
    limit = target.max_output or gates.max_output
    wanted = asked.get("max_completion_tokens") or asked.get("max_tokens")
    if wanted is None:
        return limit
    known = target.max_output is not None or gates is not models.OTHER
    return min(int(wanted), limit) if known else int(wanted)


def _add_sampling(body: JSON, asked: Mapping[str, Any], taken: bool, gates: Gates, omitted: Omitted) -> None:
    """Temperature, top_p and top_k within the model's range; what it refuses is left out and named."""
    given = {name: asked[name] for name in ("temperature", "top_p", "top_k") if name in asked}
    thinks = body.get("thinking", {}).get("type") in ("enabled", "adaptive")
    for name, value in given.items():
        if not taken or (thinks and not (name == "top_p" and value >= 0.95)):
            if name == "top_k" or value != 1:  # the default of the other two
                omitted.hint(name)
            continue
        body[name] = min(value, 1) if name == "temperature" else value
    if not gates.sampling_pair and "temperature" in body and "top_p" in body:
        if body["top_p"] != 1:
            omitted.hint("top_p")
        del body["top_p"]


def _add_rest(body: JSON, request: ChatRequest, omitted: Omitted) -> None:
    if request.get("stream"):
        body["stream"] = True
    stop = request.get("stop")
    if sequences := [stop] if isinstance(stop, str) and stop else stop:
        said = [sequence for sequence in sequences if sequence.strip()]
        if said:
            body["stop_sequences"] = said
        if len(said) < len(sequences):
            omitted.hint("stop")  # a blank one is a 400
    if tier := TIERS.get(str(request.get("service_tier"))):
        body["service_tier"] = tier
    if user := request.get("safety_identifier") or request.get("user"):
        body["metadata"] = {"user_id": _opaque(str(user))}


def _opaque(user: str) -> str:
    """Anthropic wants an id that names nobody: an address, or what is too long for one, is told as its digest."""
    if len(user) <= MAX_USER_ID and "@" not in user:
        return user
    return hashlib.sha256(user.encode(errors="replace")).hexdigest()


def _add_cache_markers(body: JSON, asked: Mapping[str, Any]) -> None:
    """Mark the end of the conversation where caching was asked for at large, and keep to the number of markers."""
    mark = cache_control(asked.get("cache_control")) or _automatic(asked)
    final = body["messages"][-1]["content"][-1]
    if mark and not thinking.is_thought(final):
        final.setdefault("cache_control", mark)
    marked: list[JSON] = [
        block
        for blocks in (body.get("tools", ()), body.get("system", ()), *(turn["content"] for turn in body["messages"]))
        for block in blocks
        if "cache_control" in block
    ]
    for block in marked[:-MAX_MARKERS]:
        del block["cache_control"]
    hour = False
    for block in reversed(marked[-MAX_MARKERS:]):
        if block["cache_control"].get("ttl") == "1h":
            hour = True
        elif hour:  # what is kept for an hour may not follow what is kept for less
            block["cache_control"] = {"type": "ephemeral", "ttl": "1h"}


def _automatic(asked: Mapping[str, Any]) -> JSON | None:
    """OpenAI caches by itself; here it costs, so only a request that speaks of caching gets it."""
    options = asked.get("prompt_cache_options")
    retention = asked.get("prompt_cache_retention")
    if isinstance(options, Mapping):
        return None if options.get("mode") == "explicit" else cache_control(options)
    if retention:
        return cache_control({"ttl": "1h"} if retention == "24h" else {})
    return None


def _uses_files(turn: Mapping[str, Any]) -> bool:
    return any(
        isinstance(source := block.get("source"), dict) and source["type"] == "file" for block in turn["content"]
    )
