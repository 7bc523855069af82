"""The parameters of Create Chat Completion: name -> checker of its value (checklist C-105..C-172, C-460)."""

from typing import Any

from .checks import (
    INT64_MAX,
    INT64_MIN,
    Check,
    array,
    boolean,
    bounded_string,
    integer,
    mapping,
    matching,
    number,
    one_of,
    record,
    string,
    string_or,
    tagged,
    within,
)
from .content import text_part
from .messages import check_messages
from .schema import SchemaError, check_strict
from .tools import NAME_PATTERN, check_function_call, check_functions, check_tool_choice, check_tools
from .violation import Violation, clip, too_many_properties, unknown

MAX_METADATA_PAIRS, MAX_METADATA_KEY, MAX_METADATA_VALUE = 16, 64, 512
MAX_STOP_SEQUENCES = 4

SERVICE_TIERS = ("auto", "default", "flex", "scale", "priority", "fast", "ultrafast")

_metadata_key = bounded_string(MAX_METADATA_KEY)
_metadata_value = bounded_string(MAX_METADATA_VALUE)


def _metadata(value: Any) -> None:
    mapping(value)
    if len(value) > MAX_METADATA_PAIRS:
        raise too_many_properties(MAX_METADATA_PAIRS, len(value))
    for key, text in value.items():
        within(key, _metadata_key, key)
        within(key, _metadata_value, text)


_bias = number(-100, 100)


def _logit_bias(value: Any) -> None:
    mapping(value)
    for token, bias in value.items():
        if not (token.isascii() and token.isdigit()):
            raise Violation(
                f"Invalid key in 'logit_bias': '{clip(token)}'. Keys must be token ids: integers as strings.",
                code="invalid_value",
            )
        within(token, _bias, bias)


_stop = string_or(
    array(string, of="strings", nonempty=True, most=MAX_STOP_SEQUENCES), "one of a string or array of strings"
)

_json_schema_fields = record(
    {"name": matching(NAME_PATTERN), "description": string, "schema": mapping, "strict": boolean}, required=("name",)
)


def _json_schema(value: Any) -> None:
    _json_schema_fields(value)
    schema = value.get("schema")
    if value.get("strict") and schema is not None:
        check_strict(schema)


def _without_schema(value: Any) -> None:
    if value.get("json_schema"):
        raise unknown().inside("json_schema")


_response_format_types = tagged(
    {
        "json_object": _without_schema,
        "json_schema": record({"json_schema": _json_schema}, required=("json_schema",)),
        "text": _without_schema,
    }
)


def _response_format(value: Any) -> None:
    try:
        _response_format_types(value)
    except SchemaError as error:
        name = clip(value["json_schema"]["name"])
        raise Violation(f"Invalid schema for response_format '{name}': {error}") from None


_web_search_options = record(
    {
        "search_context_size": one_of("low", "medium", "high"),
        "user_location": record(
            {
                "type": one_of("approximate"),
                "approximate": record({"city": string, "country": string, "region": string, "timezone": string}),
            },
            required=("type", "approximate"),
        ),
    }
)

_moderation_mode = record({"mode": one_of("score", "block")}, required=("mode",))
_moderation = record(
    {"model": string, "policy": record({"input": _moderation_mode, "output": _moderation_mode})}, required=("model",)
)

_audio = record(
    {
        "voice": string_or(record({"id": string}, required=("id",), closed=True), "one of a string or object"),
        "format": one_of("wav", "aac", "mp3", "flac", "opus", "pcm16"),
    },
    required=("voice", "format"),
)

_prediction = record(
    {
        "type": one_of("content"),
        "content": string_or(
            array(tagged({"text": text_part}), of="objects", nonempty=True), "one of a string or array of objects"
        ),
    },
    required=("type", "content"),
)

INTEGERS = {
    "max_completion_tokens": (1, INT64_MAX),
    "max_tokens": (1, INT64_MAX),
    "n": (1, 128),
    "seed": (INT64_MIN, INT64_MAX),
}
NUMBERS = {"frequency_penalty": (-2, 2), "presence_penalty": (-2, 2), "temperature": (0, 2), "top_p": (0, 1)}
"""The lowest and the highest value of those that take numbers and ask for nothing else."""

PARAMETERS: dict[str, Check] = {
    **{name: integer(*bounds) for name, bounds in INTEGERS.items()},
    **{name: number(*bounds) for name, bounds in NUMBERS.items()},
    "model": string,
    "messages": check_messages,
    "audio": _audio,
    "function_call": check_function_call,
    "functions": check_functions,
    "logit_bias": _logit_bias,
    "logprobs": boolean,
    "metadata": _metadata,
    "modalities": array(one_of("text", "audio"), of="strings"),
    "moderation": _moderation,
    "parallel_tool_calls": boolean,
    "prediction": _prediction,
    "prompt_cache_key": string,
    "prompt_cache_options": record({"mode": one_of("implicit", "explicit"), "ttl": one_of("30m")}),
    "prompt_cache_retention": one_of("in_memory", "24h"),
    "reasoning_effort": one_of("none", "minimal", "low", "medium", "high", "xhigh", "max"),
    "response_format": _response_format,
    "safety_identifier": bounded_string(128),  # 64 in the OpenAPI of 2026-08, 128 in the newer SDK
    "service_tier": one_of(*SERVICE_TIERS),
    "stop": _stop,
    "store": boolean,
    "stream": boolean,
    "stream_options": record({"include_usage": boolean, "include_obfuscation": boolean}),
    "tool_choice": check_tool_choice,
    "tools": check_tools,
    "top_logprobs": integer(0, 20),
    "user": string,
    "verbosity": one_of("low", "medium", "high"),
    "web_search_options": _web_search_options,
}
