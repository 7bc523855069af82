"""A Chat Completions request as Gemini's ``generateContent`` body."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .. import tools as openai_tools
from ..errors import UnsupportedParameter
from ..interface import JSON, ChatRequest, Target
from ..params import PARAMS, Fate, unsupported
from . import functions, schema
from .contents import Conversation
from .models import Gates, gates
from .signatures import Memory

_DROPPED = (
    "prediction", "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention", "safety_identifier", "user",
    "verbosity",
)  # fmt: skip
FATES: Mapping[str, Fate] = {
    **dict.fromkeys(PARAMS, Fate.TRANSLATE),
    **dict.fromkeys(_DROPPED, Fate.DROP),
    "audio": Fate.REJECT,
    "logit_bias": Fate.REJECT,
    "metadata": Fate.EMULATE,
    "moderation": Fate.REJECT,
    "parallel_tool_calls": Fate.EMULATE,
    "store": Fate.EMULATE,
    "stream_options": Fate.EMULATE,
    "top_k": Fate.TRANSLATE,
}

_NUMBERS = {
    "temperature": "temperature",
    "top_p": "topP",
    "top_k": "topK",
    "presence_penalty": "presencePenalty",
    "frequency_penalty": "frequencyPenalty",
}
_MOST_CANDIDATES = 8
_MOST_LOGPROBS = 20


@dataclass(frozen=True, slots=True)
class Built:
    """A translated request: the body, what was left out, and what reading the answer needs to know."""

    body: JSON
    dropped: tuple[str, ...]
    notes: Mapping[str, Any]


def build(
    request: ChatRequest,
    target: Target,
    memory: Memory,
    *,
    files: str,
    safety: list[Mapping[str, Any]],
    vertex: bool,
) -> Built:
    """Translate; raises UnsupportedParameter for what cannot be told.

    ``files`` is the address of Google's own file service, where there is one. ``vertex`` tells whether the request goes to Vertex AI.
    """
    asked = {name: value for name, value in request.items() if value is not None and value not in ({}, [])}
    dropped = _left_out(asked, target)
    model = gates(target.model)
    if model.penalties != "everywhere" and not (vertex and model.penalties == "vertex"):
        _leave_out_penalties(asked, target, dropped)
    tools = openai_tools.read(asked)
    if tools.choice == "none" and _wants_json(asked) and not model.generation_3:
        tools = openai_tools.Tools()  # JSON cannot be asked for beside tools, and these may not be called
    system, contents = Conversation(model, memory, files).read(list(request["messages"]))
    body: JSON = {"contents": contents}
    if system is not None:
        body["systemInstruction"] = system
    searches = request.get("web_search_options") is not None  # an empty object asks for it too
    if searches and tools.tools and (vertex or not model.generation_3):
        _refuse("web_search_options", "Web search beside function tools is not supported here.", target, dropped)
        searches = False
    body.update(_tools(tools, model, searches=searches))
    if tools.tools and not model.generation_3 and _wants_json(asked):
        _refuse("response_format", "JSON together with tools is not supported with this model.", target, dropped)
        del asked["response_format"]
    if generation := _generation(asked, model):
        body["generationConfig"] = generation
    body.update({name: value for name, value in asked.items() if name in target.allow and name not in FATES})
    if safety:
        body["safetySettings"] = safety
    count = asked.get("n", 1)
    told = {**functions.notes(tools), "n": count, "nonce": secrets.token_hex(8)}
    return Built(body, tuple(dropped), told)


def _left_out(asked: Mapping[str, Any], target: Target) -> list[str]:
    dropped = list(unsupported(asked, FATES, target.unsupported, target.allow))
    if "audio" in asked.get("modalities", ()):
        _refuse("modalities", "Unsupported value: 'modalities' does not support 'audio' here.", target, dropped)
    for hint, value in (asked.get("web_search_options") or {}).items():
        if value is not None and target.unsupported == "reject":
            _refuse(f"web_search_options.{hint}", f"Unsupported parameter: '{hint}' is not supported.", target, dropped)
        elif value is not None:
            dropped.append(f"web_search_options.{hint}")
    return dropped


def _leave_out_penalties(asked: JSON, target: Target, dropped: list[str]) -> None:
    for name in ("presence_penalty", "frequency_penalty"):
        if not asked.pop(name, 0):
            continue
        if target.unsupported == "reject":
            _refuse(name, f"Unsupported parameter: '{name}' is not supported with this model.", target, dropped)
        dropped.append(name)


def _refuse(param: str, message: str, target: Target, dropped: list[str]) -> None:
    """Refuse a value, or leave it out where the operator prefers that."""
    if target.unsupported != "drop":
        raise UnsupportedParameter(param, message)
    dropped.append(param)


def _tools(tools: openai_tools.Tools, model: Gates, *, searches: bool) -> JSON:
    out: JSON = {}
    config: JSON = {}
    listed: list[JSON] = []
    if declared := functions.declarations(tools, model):
        listed.append({"functionDeclarations": declared})
        if choice := functions.config(tools, model):
            config["functionCallingConfig"] = choice
    if searches:
        listed.append({"googleSearch": {}})
        if declared:
            config["includeServerSideToolInvocations"] = True
    if listed:
        out["tools"] = listed
    if config:
        out["toolConfig"] = config
    return out


def _generation(asked: Mapping[str, Any], model: Gates) -> JSON:
    config: JSON = {name: asked[key] for key, name in _NUMBERS.items() if key in asked}
    if (most := asked.get("max_completion_tokens", asked.get("max_tokens"))) is not None:
        config["maxOutputTokens"] = most
    if stops := _stops(asked.get("stop")):
        config["stopSequences"] = stops
    if "seed" in asked:
        config["seed"] = (asked["seed"] + 2**31) % 2**32 - 2**31  # ours has 64 bits, Gemini's 32
    if (count := asked.get("n", 1)) > 1:
        if count > _MOST_CANDIDATES:
            raise UnsupportedParameter("n", f"Invalid 'n': this model gives at most {_MOST_CANDIDATES} choices.")
        config["candidateCount"] = count
    if asked.get("logprobs"):
        config["responseLogprobs"] = True
        if top := asked.get("top_logprobs"):
            config["logprobs"] = min(top, _MOST_LOGPROBS)
    if (thinking := model.thinking(asked.get("reasoning_effort"))) is not None:
        config["thinkingConfig"] = thinking
    if _sees_little(asked["messages"]):
        config["mediaResolution"] = "MEDIA_RESOLUTION_LOW"
    config.update(_format(asked.get("response_format") or {}, model))
    return config


def _stops(stop: str | list[str] | None) -> list[str]:
    given = [stop] if isinstance(stop, str) else stop or []
    return [sequence for sequence in given if sequence]


def _wants_json(asked: Mapping[str, Any]) -> bool:
    return (asked.get("response_format") or {}).get("type") in ("json_object", "json_schema")


def _format(wanted: Mapping[str, Any], model: Gates) -> JSON:
    if wanted.get("type") == "json_object":
        return {"responseMimeType": "application/json"}
    if wanted.get("type") != "json_schema":
        return {}
    config: JSON = {"responseMimeType": "application/json"}
    given, param = wanted["json_schema"].get("schema"), "response_format.json_schema.schema"
    if given and model.json_schema:
        config["responseJsonSchema"] = schema.raw(given, param)
    elif given:
        config["responseSchema"] = schema.subset(given, param)
    return config


def _sees_little(messages: list[Mapping[str, Any]]) -> bool:
    """Whether the client wants a low resolution for every image: Gemini has one for all of a request."""
    details = [
        part["image_url"].get("detail")
        for message in messages
        if isinstance(message.get("content"), list)
        for part in message["content"]
        if part.get("type") == "image_url"
    ]
    return bool(details) and all(detail == "low" for detail in details)
