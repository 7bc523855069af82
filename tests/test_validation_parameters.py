"""Every parameter of Create Chat Completion, and the rules between them."""

from typing import Any

import pytest

from adapters.params import PARAMS
from gateway.validation import describe_type, parse_json, validate_chat
from gateway.validation.parameters import PARAMETERS, SERVICE_TIERS

from .chat_requests import ASKED, CUSTOM, FUNCTION, IMAGE, RICH, STRICT_SCHEMA, USER, Refusal, chat, refusal


@pytest.mark.parametrize("name", RICH)
def test_C_104_requests_in_order_are_accepted(name: str) -> None:
    validate_chat(RICH[name])


def test_every_parameter_of_the_contract_has_a_row_and_an_example() -> None:
    assert set(PARAMETERS) == set(PARAMS)
    assert set().union(*RICH.values()) | {"max_tokens", "function_call"} >= set(PARAMS) - {"store"}


def test_C_100_366_an_unknown_parameter_is_refused_by_name() -> None:
    assert refusal(chat(top_k=3)) == Refusal("unknown_parameter", "top_k", "Unknown parameter: 'top_k'.")
    assert refusal(chat(Temperature=0.5)).param == "Temperature"
    assert refusal(chat(top_k=None)).code == "unknown_parameter"


@pytest.mark.parametrize("name", sorted(set(PARAMETERS) - {"model", "messages"}))
def test_C_101_null_is_absent(name: str) -> None:
    validate_chat(chat(**{name: None}))


@pytest.mark.parametrize(("name", "value", "expected"), [
    ("n", "1", "an integer, but got a string"),
    ("n", True, "an integer, but got a boolean"),
    ("n", 1.0, "an integer, but got a decimal number"),
    ("max_tokens", [], "an integer, but got an array"),
    ("seed", {}, "an integer, but got an object"),
    ("temperature", "1", "a decimal number, but got a string"),
    ("temperature", False, "a decimal number, but got a boolean"),
    ("stream", 1, "a boolean, but got an integer"),
    ("store", "true", "a boolean, but got a string"),
    ("user", 5, "a string, but got an integer"),
    ("logit_bias", [], "an object, but got an array"),
    ("tools", {}, "an array of objects, but got an object"),
    ("stop", 3, "one of a string or array of strings, but got an integer"),
    ("model", 3, "a string, but got an integer"),
    ("messages", "hi", "an array of objects, but got a string"),
    ("service_tier", 1, "a string, but got an integer"),
    ("response_format", "json", "an object, but got a string"),
])  # fmt: skip
def test_C_102_367_nothing_is_coerced(name: str, value: object, expected: str) -> None:
    message = f"Invalid type for '{name}': expected {expected} instead."
    assert refusal(chat(**{name: value})) == Refusal("invalid_type", name, message)


@pytest.mark.parametrize("value", [0, 1.5, "", True, None, [], {}])
def test_C_102_types_are_named_with_their_article(value: object) -> None:
    words = {0: "an integer", 1.5: "a decimal number", "": "a string"}
    named = {bool: "a boolean", type(None): "null", list: "an array", dict: "an object"}.get(type(value))
    assert describe_type(value) == (named or words[value])  # type: ignore[index]


@pytest.mark.parametrize(("request_", "param"), [
    (chat({"role": "bot", "content": ""}), "messages[0].role"),
    (chat(USER, {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text"}]}), "messages[1].content[1].text"),
    (chat(tools=[FUNCTION, {"type": "function", "function": {"name": "no spaces"}}]), "tools[1].function.name"),
    (chat(response_format={"type": "json_schema", "json_schema": {}}), "response_format.json_schema.name"),
    (chat(web_search_options={"user_location": {"type": "approximate", "approximate": {"city": 1}}}),
     "web_search_options.user_location.approximate.city"),
])  # fmt: skip
def test_C_103_403_param_is_the_path_of_the_field(request_: dict[str, Any], param: str) -> None:
    assert refusal(request_).param == param


@pytest.mark.parametrize(("request_", "name"), [
    ({}, "model"), ({"messages": [USER]}, "model"), ({"model": "m"}, "messages"),
    ({"model": None, "messages": [USER]}, "model"), ({"model": "m", "messages": None}, "messages"),
])  # fmt: skip
def test_C_104_365_model_and_messages_are_required(request_: dict[str, Any], name: str) -> None:
    expected = Refusal("missing_required_parameter", name, f"Missing required parameter: '{name}'.")
    assert refusal(request_) == expected


def test_C_105_messages_are_at_least_one() -> None:
    assert refusal({"model": "m", "messages": []}) == Refusal(
        "empty_array", "messages",
        "Invalid 'messages': empty array. Expected an array with minimum length 1, but got an empty array instead.",
    )  # fmt: skip


def test_the_model_is_a_string() -> None:
    assert refusal({"model": ["m"], "messages": [USER]}).param == "model"


RANGES: dict[str, tuple[int, int, str]] = {
    "temperature": (0, 2, "decimal"),
    "top_p": (0, 1, "decimal"),
    "frequency_penalty": (-2, 2, "decimal"),
    "presence_penalty": (-2, 2, "decimal"),
    "n": (1, 128, "integer"),
    "max_completion_tokens": (1, 2**63 - 1, "integer"),
    "max_tokens": (1, 2**63 - 1, "integer"),
    "top_logprobs": (0, 20, "integer"),
    "seed": (-(2**63), 2**63 - 1, "integer"),
}


def check_range(name: str) -> None:
    """Both ends are accepted, one step beyond is refused, with OpenAI's words and code."""
    low, high, kind = RANGES[name]
    extra = {"logprobs": True} if name == "top_logprobs" else {}
    for value in (low, high):
        validate_chat(chat(**{name: value}, **extra))
    for value, word, side, sign, bound in (
        (low - 1, "below", "minimum", ">=", low),
        (high + 1, "above", "maximum", "<=", high),
    ):
        assert refusal(chat(**{name: value}, **extra)) == Refusal(
            f"{kind}_{word}_{side[:3]}_value", name,
            f"Invalid '{name}': {kind} {word} {side} value. Expected a value {sign} {bound}, but got {value} instead.",
        )  # fmt: skip


def test_C_110_369_temperature() -> None:
    check_range("temperature")
    validate_chat(chat(temperature=1.999))
    assert refusal(chat(temperature=2.0001)).code == "decimal_above_max_value"


def test_C_111_top_p() -> None:
    check_range("top_p")


def test_C_112_frequency_penalty() -> None:
    check_range("frequency_penalty")


def test_C_113_presence_penalty() -> None:
    check_range("presence_penalty")


def test_C_114_369_n() -> None:
    check_range("n")


def test_C_115_max_completion_tokens() -> None:
    check_range("max_completion_tokens")


def test_C_116_max_tokens() -> None:
    check_range("max_tokens")


def test_C_122_top_logprobs() -> None:
    check_range("top_logprobs")


@pytest.mark.parametrize("others", [{}, {"logprobs": False}, {"logprobs": None}])
def test_C_122_top_logprobs_need_logprobs(others: dict[str, Any]) -> None:
    assert refusal(chat(top_logprobs=2, **others)).param == "top_logprobs"


def test_C_124_seed() -> None:
    check_range("seed")
    for digits, code in (
        ("9223372036854775808", "above_max"),
        ("18446744073709551616", "above_max"),
        ("-9223372036854775809", "below_min"),
    ):
        request = parse_json(b'{"model":"m","messages":[{"role":"user","content":""}],"seed":%s}' % digits.encode())
        assert refusal(request)[:2] == (f"integer_{code}_value", "seed")


def test_C_117_375_both_token_limits_exclude_each_other() -> None:
    assert refusal(chat(max_tokens=1, max_completion_tokens=1)) == Refusal(
        "invalid_parameter_combination", "max_tokens",
        "Setting 'max_tokens' and 'max_completion_tokens' at the same time is not supported.",
    )  # fmt: skip
    validate_chat(chat(max_tokens=1, max_completion_tokens=None))


@pytest.mark.parametrize("stop", ["a", "", ["a"], ["a", "b", "c", "d"]])
def test_C_119_stop(stop: object) -> None:
    validate_chat(chat(stop=stop))


def test_C_119_370_stop_is_bounded() -> None:
    assert refusal(chat(stop=["a"] * 5))[:2] == ("array_above_max_length", "stop")
    assert refusal(chat(stop=[]))[:2] == ("empty_array", "stop")
    assert refusal(chat(stop=["a", 1]))[:2] == ("invalid_type", "stop[1]")


@pytest.mark.parametrize(
    "bias", [{"a": 1}, {"": 1}, {"-1": 1}, {"1.5": 1}, {"٣": 1}, {"1": 101}, {"1": -100.5}, {"1": "1"}, {"1": True}]
)
def test_C_120_logit_bias(bias: dict[str, object]) -> None:
    assert refusal(chat(logit_bias=bias)).param in {"logit_bias", f"logit_bias.{next(iter(bias))}"}
    validate_chat(chat(logit_bias={"1": 100, "2": -100, "3": 0.5}))


def test_C_121_logprobs() -> None:
    assert refusal(chat(logprobs=5)).param == "logprobs"


def test_C_125_user() -> None:
    validate_chat(chat(user=""))
    assert refusal(chat(user={})).code == "invalid_type"


def test_C_126_safety_identifier() -> None:
    validate_chat(chat(safety_identifier="x" * 128))
    assert refusal(chat(safety_identifier="x" * 129)) == Refusal(
        "string_above_max_length", "safety_identifier",
        "Invalid 'safety_identifier': string too long. Expected a string with maximum length 128, but got a string with length 129 instead.",
    )  # fmt: skip


def test_C_127_prompt_cache_key() -> None:
    assert refusal(chat(prompt_cache_key=1)).code == "invalid_type"


def test_C_128_prompt_cache_retention() -> None:
    validate_chat(chat(prompt_cache_retention="in_memory"))
    assert refusal(chat(prompt_cache_retention="1h")) == Refusal(
        "invalid_value", "prompt_cache_retention", "Invalid value: '1h'. Supported values are: 'in_memory' and '24h'."
    )


@pytest.mark.parametrize(("options", "param"), [({"mode": "x"}, "mode"), ({"ttl": "1h"}, "ttl"), ({"ttl": 30}, "ttl")])
def test_C_129_prompt_cache_options(options: dict[str, Any], param: str) -> None:
    assert refusal(chat(prompt_cache_options=options)).param == f"prompt_cache_options.{param}"
    validate_chat(chat(prompt_cache_options={"mode": "implicit"}))


@pytest.mark.parametrize(("metadata", "code"), [
    ({str(i): "" for i in range(17)}, "object_above_max_properties"),
    ({"k" * 65: ""}, "string_above_max_length"),
    ({"k": "v" * 513}, "string_above_max_length"),
    ({"k": 1}, "invalid_type"), ({"k": None}, "invalid_type"), ([], "invalid_type"), ("x", "invalid_type"),
])  # fmt: skip
def test_C_131_metadata_limits(metadata: object, code: str) -> None:
    found = refusal(chat(metadata=metadata, store=True))
    assert found.code == code
    assert str(found.param).startswith("metadata")
    validate_chat(chat(store=True, metadata={str(i) * 32: "v" * 512 for i in range(16)}))


@pytest.mark.parametrize("others", [{}, {"store": False}, {"store": None}])
def test_C_132_metadata_needs_store(others: dict[str, Any]) -> None:
    assert refusal(chat(metadata={"a": "b"}, **others)) == Refusal(
        None, "metadata", "The 'metadata' parameter is only allowed when 'store' is enabled."
    )
    validate_chat(chat(metadata={}, **others))


def test_C_133_store() -> None:
    assert refusal(chat(store=1)).code == "invalid_type"


def test_C_134_stream() -> None:
    assert refusal(chat(stream="yes")).code == "invalid_type"


@pytest.mark.parametrize("others", [{}, {"stream": False}, {"stream": None}])
def test_C_135_stream_options_need_stream(others: dict[str, Any]) -> None:
    assert refusal(chat(stream_options={"include_usage": True}, **others)) == Refusal(
        None, "stream_options", "The 'stream_options' parameter is only allowed when 'stream' is enabled."
    )


def test_C_136_include_usage() -> None:
    assert refusal(chat(stream=True, stream_options={"include_usage": 1})).param == "stream_options.include_usage"


def test_C_137_include_obfuscation() -> None:
    validate_chat(chat(stream=True, stream_options={"include_obfuscation": False}))
    found = refusal(chat(stream=True, stream_options={"include_obfuscation": "no"}))
    assert found.param == "stream_options.include_obfuscation"


def test_C_158_json_objects_need_the_word() -> None:
    wanted = {"response_format": {"type": "json_object"}}
    assert refusal(chat(**wanted)) == Refusal(
        None, "messages",
        "'messages' must contain the word 'json' in some form, to use 'response_format' of type 'json_object'.",
    )  # fmt: skip
    for text in ("json", "JSON", "in Json, please", "xjsonx"):
        validate_chat(chat({"role": "user", "content": text}, **wanted))
        validate_chat(chat(USER, {"role": "user", "content": [{"type": "text", "text": text}]}, **wanted))


@pytest.mark.parametrize(("value", "code", "param"), [
    ({"type": "xml"}, "invalid_value", "response_format.type"),
    ({}, "missing_required_parameter", "response_format.type"),
    ({"type": ["text"]}, "invalid_type", "response_format.type"),
    ({"type": "json_schema"}, "missing_required_parameter", "response_format.json_schema"),
    ({"type": "json_schema", "json_schema": None}, "invalid_type", "response_format.json_schema"),
    ({"type": "json_schema", "json_schema": {"schema": {}}}, "missing_required_parameter", "response_format.json_schema.name"),
    ({"type": "json_schema", "json_schema": {"name": "a", "schema": []}}, "invalid_type", "response_format.json_schema.schema"),
    ({"type": "json_schema", "json_schema": {"name": "a", "strict": 1}}, "invalid_type", "response_format.json_schema.strict"),
])  # fmt: skip
def test_C_156_response_format(value: object, code: str, param: str) -> None:
    assert refusal(chat(response_format=value))[:2] == (code, param)
    validate_chat(chat(response_format={"type": "text"}))


@pytest.mark.parametrize("name", ["", "a b", "a" * 65, "ü", "a\n"])
def test_C_157_schema_name(name: str) -> None:
    found = refusal(chat(response_format={"type": "json_schema", "json_schema": {"name": name}}))
    assert found[:2] == ("invalid_value", "response_format.json_schema.name")
    assert "^[a-zA-Z0-9_-]{1,64}$" in found.message


@pytest.mark.parametrize("modalities", [["text"], ["text", "audio"], ["audio"]])
def test_C_161_modalities(modalities: list[str]) -> None:
    validate_chat(chat(modalities=modalities, audio={"voice": "alloy", "format": "wav"}))
    assert refusal(chat(modalities=["video"]))[:2] == ("invalid_value", "modalities[0]")


def test_C_162_audio_is_required_for_audio() -> None:
    assert refusal(chat(modalities=["text", "audio"]))[:2] == ("missing_required_parameter", "audio")
    assert refusal(chat(audio={"voice": "alloy"}))[:2] == ("missing_required_parameter", "audio.format")


@pytest.mark.parametrize("format_", ["wav", "aac", "mp3", "flac", "opus", "pcm16"])
def test_C_163_audio_format(format_: str) -> None:
    spoken = {"modalities": ["audio"], "audio": {"voice": "alloy", "format": format_}}
    validate_chat(chat(**spoken))
    if format_ == "pcm16":
        validate_chat(chat(stream=True, **spoken))
    else:
        assert refusal(chat(stream=True, **spoken))[:2] == ("unsupported_value", "audio.format")


def test_C_163_unknown_audio_format() -> None:
    assert refusal(chat(audio={"voice": "alloy", "format": "ogg"}))[:2] == ("invalid_value", "audio.format")


@pytest.mark.parametrize(
    ("voice", "param"), [(1, "audio.voice"), ({}, "audio.voice.id"), ({"id": "v", "x": 1}, "audio.voice.x")]
)
def test_C_164_audio_voice(voice: object, param: str) -> None:
    assert refusal(chat(audio={"voice": voice, "format": "wav"})).param == param
    validate_chat(chat(audio={"voice": "any at all", "format": "wav"}))


@pytest.mark.parametrize(("prediction", "param"), [
    ({"type": "content"}, "prediction.content"), ({"content": "x"}, "prediction.type"),
    ({"type": "x", "content": "x"}, "prediction.type"), ({"type": "content", "content": []}, "prediction.content"),
    ({"type": "content", "content": [IMAGE]}, "prediction.content[0].type"),
    ({"type": "content", "content": None}, "prediction.content"),
])  # fmt: skip
def test_C_165_prediction(prediction: dict[str, Any], param: str) -> None:
    assert refusal(chat(prediction=prediction)).param == param


@pytest.mark.parametrize("other", [
    {"n": 2}, {"logprobs": True}, {"presence_penalty": 0.1}, {"frequency_penalty": 0.1}, {"max_completion_tokens": 9},
    {"audio": {"voice": "alloy", "format": "wav"}}, {"tools": [FUNCTION]},
    {"modalities": ["audio"], "audio": {"voice": "alloy", "format": "wav"}},
])  # fmt: skip
def test_C_166_prediction_excludes(other: dict[str, Any]) -> None:
    found = refusal(chat(prediction={"type": "content", "content": "x"}, **other))
    assert found[:2] == ("invalid_parameter_combination", "prediction")


def test_C_166_prediction_goes_with_defaults() -> None:
    validate_chat(
        chat(
            prediction={"type": "content", "content": "x"},
            n=1,
            logprobs=False,
            presence_penalty=-1,
            modalities=["text"],
        )
    )


@pytest.mark.parametrize("effort", ["none", "minimal", "low", "medium", "high", "xhigh", "max"])
def test_C_168_reasoning_effort(effort: str) -> None:
    validate_chat(chat(reasoning_effort=effort))
    assert refusal(chat(reasoning_effort=effort.upper()))[:2] == ("invalid_value", "reasoning_effort")


def test_C_169_verbosity() -> None:
    assert (
        refusal(chat(verbosity="max")).message
        == "Invalid value: 'max'. Supported values are: 'low', 'medium', and 'high'."
    )


@pytest.mark.parametrize(("options", "param"), [
    ({"search_context_size": "huge"}, "search_context_size"), ({"user_location": {}}, "user_location.type"),
    ({"user_location": {"type": "exact", "approximate": {}}}, "user_location.type"),
    ({"user_location": {"type": "approximate"}}, "user_location.approximate"),
])  # fmt: skip
def test_C_170_web_search_options(options: dict[str, Any], param: str) -> None:
    assert refusal(chat(web_search_options=options)).param == f"web_search_options.{param}"
    validate_chat(chat(web_search_options={"user_location": None}))


@pytest.mark.parametrize(("value", "param"), [
    ({}, "moderation.model"), ({"model": 1}, "moderation.model"),
    ({"model": "m", "policy": {"input": {}}}, "moderation.policy.input.mode"),
    ({"model": "m", "policy": {"output": {"mode": "x"}}}, "moderation.policy.output.mode"),
])  # fmt: skip
def test_C_171_moderation(value: dict[str, Any], param: str) -> None:
    assert refusal(chat(moderation=value)).param == param


def test_C_177_extensions_pass_by_name_only() -> None:
    validate_chat(chat(top_k=3, thinking={"type": "enabled"}), allow=frozenset({"top_k", "thinking"}))
    assert refusal(chat(top_k=3, min_p=0), allow=frozenset({"top_k"})).param == "min_p"
    usage = chat(stream=True, stream_options={"include_usage": True, "continuous_usage_stats": True})
    validate_chat(usage, allow=frozenset({"stream_options.continuous_usage_stats"}))
    assert refusal(usage)[:2] == ("unknown_parameter", "stream_options.continuous_usage_stats")


def test_C_178_a_responses_body_is_told_what_is_missing() -> None:
    found = refusal({"model": "m", "input": "Hello", "stream": True})
    assert found[:2] == ("missing_required_parameter", "messages")
    assert found.message.startswith("Missing required parameter: 'messages'.")
    assert "Responses API" in found.message


@pytest.mark.parametrize("tier", [*SERVICE_TIERS, None])
def test_C_172_460_service_tiers(tier: str | None) -> None:
    validate_chat(chat(service_tier=tier))
    assert refusal(chat(service_tier="turbo"))[:2] == ("invalid_value", "service_tier")


def test_C_364_messages_repeat_little_of_the_input() -> None:
    flood = "x" * 1_000_000
    for request in (
        chat(**{flood: 1}), chat(service_tier=flood), chat({"role": flood, "content": ""}), chat(logit_bias={flood: 1}),
        chat(metadata={flood: "v"}, store=True), chat(metadata={flood[:65]: "v"}, store=True),
        chat(tools=[FUNCTION], tool_choice={"type": "function", "function": {"name": flood}}),
        chat(tools=[{"type": "custom", "custom": {"name": flood}}] * 2),
        chat(USER, {**ASKED, "tool_calls": [{**ASKED["tool_calls"][0], "id": flood}]}),
        chat(tools=[{"type": "function", "function": {"name": "f", "strict": True, "parameters": {
            **STRICT_SCHEMA, "properties": {flood: {"type": "object"}}, "required": [flood]}}}]),
    ):  # fmt: skip
        found = refusal(request)
        assert len(found.message) < 5000
        assert len(found.param or "") < 200
    assert refusal(chat(CUSTOM)).code == "missing_required_parameter"
