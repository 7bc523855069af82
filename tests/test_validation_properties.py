"""What holds for any request: only lawful refusals, agreement with OpenAI's own schema, and a small cost."""

import json
import random
import time
from collections.abc import Iterator
from typing import Any

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from benchmarks.validation import CASES, microseconds
from gateway.errors import InvalidRequest
from gateway.validation import parse_json, validate_chat, validate_embeddings
from gateway.validation.content import PARTS, _text_part, text_part
from gateway.validation.messages import _is_function_call, _tool_calls
from gateway.validation.parameters import PARAMETERS
from gateway.validation.plain import is_plain
from gateway.validation.violation import Violation

from .beside import SHARED
from .chat_requests import CALL, RICH
from .fuzz_validation import KEYS, anything, fuzz, mutated, refusal_of, survives

needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the reference material is not at hand")

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=4), inner, max_size=4),
    max_leaves=20,
)  # fmt: skip


@given(st.dictionaries(st.sampled_from(sorted(PARAMETERS)), JSON))
@settings(max_examples=300, deadline=None)
def test_C_404_any_object_is_accepted_or_refused(request_: dict[str, Any]) -> None:
    survives(validate_chat, request_)
    survives(validate_chat, {"model": "m", "messages": [{"role": "user", "content": "json"}], **request_})
    survives(validate_embeddings, request_)


@given(
    st.sampled_from(["developer", "system", "user", "assistant", "tool", "function"]),
    st.dictionaries(st.sampled_from(KEYS), JSON),
)
@settings(max_examples=300, deadline=None)
def test_C_404_any_message_is_accepted_or_refused(role: str, message: dict[str, Any]) -> None:
    survives(validate_chat, {"model": "m", "messages": [{**message, "role": role}]})


@given(st.binary(max_size=200))
@example(b"")
@settings(max_examples=300, deadline=None)
def test_C_404_any_bytes_are_accepted_or_refused(body: bytes) -> None:
    survives(parse_json, body)


def test_C_404_a_short_fuzz_sees_all_kinds_of_outcome() -> None:
    outcomes = fuzz(cases=6_000, seconds=20.0, seed=20_261_123)
    assert outcomes["accepted"] > 100
    assert {"refused", "invalid_type", "missing_required_parameter", "unknown_parameter", "invalid_value"} <= set(
        outcomes
    )


@given(
    JSON
    | st.fixed_dictionaries(
        {"id": JSON, "type": JSON, "function": st.fixed_dictionaries({"name": JSON, "arguments": JSON})}
    )
)
@example(CALL)
@settings(max_examples=200, deadline=None)
def test_the_quick_look_at_a_tool_call_agrees_with_the_thorough_one(call: Any) -> None:
    if _is_function_call(call):
        _tool_calls([call])


@given(
    st.fixed_dictionaries(
        {"type": st.just("text")}, optional={"text": JSON, "prompt_cache_breakpoint": JSON, "x": JSON}
    )
)
@example({"type": "text", "text": ""})
@settings(max_examples=200, deadline=None)
def test_the_quick_look_at_a_text_part_agrees_with_the_thorough_one(part: dict[str, Any]) -> None:
    assert PARTS["text"] is text_part
    verdicts = []
    for check in (text_part, _text_part):
        try:
            check(part)
            verdicts.append(None)
        except Violation as violation:
            verdicts.append((violation.path, violation.code))
    assert verdicts[0] == verdicts[1]


SETTINGS = ("temperature", "top_p", "max_tokens", "max_completion_tokens", "n", "seed", "stream", "store", "user", "stop",
            "presence_penalty", "top_logprobs", "stream_options", "metadata", "model", "messages", "x")  # fmt: skip
VALUES = st.sampled_from(
    [None, True, False, 0, 1, -1, 2, 3, 0.5, -0.0, 2.0001, 128, 129, 2**63, -(2**63), 2**64 - 1, 1e300, "", "a", [], {}]
)
SAID = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "system", "developer", "tool", "function", "x", None, 1, []])},
    optional={
        "content": st.sampled_from(["", "hi", None, [], [{"type": "text", "text": "hi"}], 1]),
        "name": st.just("n"),
    },
)


@given(
    st.dictionaries(st.sampled_from(SETTINGS), VALUES, max_size=5),
    st.lists(SAID | st.sampled_from([None, "hi"]), max_size=3),
)
@example({}, [{"role": "user", "content": "hi"}])
@example({"max_tokens": 1, "max_completion_tokens": 1}, [{"role": "user", "content": "hi"}])
@settings(max_examples=2000, deadline=None)
def test_the_quick_look_at_a_plain_request_agrees_with_the_thorough_one(
    options: dict[str, Any], said: list[Any]
) -> None:
    request_ = {"model": "m", "messages": said, **options}
    for whole in (request_, {name: value for name, value in request_.items() if name != "model"}):
        if is_plain(whole):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("gateway.validation.chat.is_plain", lambda _: False)
                validate_chat(whole)


def test_most_requests_are_plain() -> None:
    said = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "Hello"},
    ]
    assert is_plain(
        {"model": "m", "messages": said, "temperature": 0.2, "max_tokens": 100, "stream": True, "user": "u"}
    )
    for name, value in (
        ("temperature", 2.1),
        ("max_tokens", 0),
        ("n", True),
        ("n", 1.0),
        ("stream", 1),
        ("model", None),
        ("tools", []),
    ):
        assert not is_plain({"model": "m", "messages": said, name: value})
    assert not is_plain({"model": "m", "messages": []})


@pytest.mark.parametrize("name", CASES)
def test_checking_costs_little_beside_parsing(name: str) -> None:
    """Measured by benchmarks/validation.py: 0.2 to 2 times what orjson needs to parse the same body, and 2 us at least."""
    request = CASES[name]
    body = orjson.dumps(request)
    for _ in range(3):  # a busy machine may need a second look
        parsing, checking = microseconds(lambda: orjson.loads(body)), microseconds(lambda: validate_chat(request))
        if checking < 6 * parsing + 5:
            return
    pytest.fail(f"checking takes {checking:.0f} us, parsing {parsing:.0f} us")


def test_C_158_looking_for_a_word_is_linear() -> None:
    body = {"model": "m", "response_format": {"type": "json_object"}}
    texts = [{"role": "user", "content": "jso" * 1_000_000}] * 4
    start = time.process_time()
    assert not any("json" in text["content"].lower() for text in texts)
    reading = time.process_time() - start
    start = time.process_time()
    with pytest.raises(InvalidRequest):
        validate_chat({**body, "messages": texts})
    assert time.process_time() - start < 10 * reading + 0.1


# --- against OpenAI's schema and recorded traffic ---------------------------------------------------------------

STRICTER = {
    "unknown_parameter": "C-100: the schema leaves objects open",
    "invalid_parameter_combination": "C-117, C-153, C-166",
    "unsupported_value": "C-163: streamed audio is pcm16",
    "invalid_function_parameters": "C-143",
    "string_above_max_length": "C-210: ids of tool calls",
}
"""Codes of rules that the schema cannot say or does not."""
STRICTER_WORDS = (
    "is only allowed when",  # C-122, C-132, C-135, C-148, C-152
    "must be a response to a preceeding message",  # C-205
    "must be followed by tool messages",  # C-206
    "must contain the word 'json'",  # C-158
    "Invalid schema for response_format",  # C-159
    "not found in 'tools' parameter", "not found in 'functions' parameter",  # C-149, C-154
    "more than one tool named",  # C-146
    "a refusal must be the only part",  # C-202
    r"^[^\s<|\\/>]+$",  # C-207
    "Expected a valid URL",  # C-214
    "expected an integer, but got a decimal number",  # C-102: 1.0 is an integer to JSON Schema
    "Missing required parameter: 'audio'",  # C-162
    "Expected a value <= 9223372036854775807",  # C-011: integers have 64 bits
    "Invalid type for 'logit_bias.", "Invalid type for 'metadata.",  # nulls that are values, pruned for the schema
)  # fmt: skip
STRICTER_PARAMS = (".file.file_id", ".content", "tool_choice.allowed_tools.tools[0].type", "allowed_tools.tools")
"""C-216, C-204, C-149: where the schema asks for less."""


def openai_schema() -> Draft202012Validator:
    document = json.loads((SHARED / "reference" / "openai" / "chat-completions.openapi.json").read_bytes())
    reference = "#/components/schemas/CreateChatCompletionRequest"
    return Draft202012Validator({"$ref": reference, "components": document["components"]})


def without_optional_nulls(value: Any) -> Any:
    """Null is absent to us wherever it is optional (C-101); the schema wants it left out."""
    if isinstance(value, dict):
        return {
            key: without_optional_nulls(item) for key, item in value.items() if item is not None or key == "content"
        }
    return [without_optional_nulls(item) for item in value] if isinstance(value, list) else value


def samples(count: int) -> Iterator[dict[str, Any]]:
    rng = random.Random(505)
    for _ in range(count):
        request = mutated(rng, rng.choice(list(RICH.values())))
        if rng.random() < 0.2:
            request[rng.choice(sorted(PARAMETERS))] = anything(rng)
        yield request


@needs_shared
def test_C_104_agreement_with_the_schema_of_openai() -> None:
    """What the schema takes we take, and what it refuses we refuse, but for the rules listed above."""
    schema, accepted, refused = openai_schema(), 0, 0
    for request in samples(1_500):
        lawful = schema.is_valid(without_optional_nulls(request))
        error = refusal_of(validate_chat, request)
        if error is None:
            accepted += 1
            assert lawful or shows_a_tool_an_image(request), request
        else:
            refused += 1
            assert not lawful or is_stricter(error), (error.message, error.param, request)
    assert accepted > 100
    assert refused > 300


def is_stricter(error: InvalidRequest) -> bool:
    return (
        error.code in STRICTER
        or any(words in error.message for words in STRICTER_WORDS)
        or str(error.param).endswith(STRICTER_PARAMS)
    )


def shows_a_tool_an_image(request: dict[str, Any]) -> bool:
    """C-202: the schema has text only in tool messages, the live service text and image_url."""
    contents = [message["content"] for message in request["messages"] if message["role"] == "tool"]
    return any(part["type"] == "image_url" for content in contents if isinstance(content, list) for part in content)


def recorded(endpoint: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for path in sorted((SHARED / "recorded" / "openai").glob("*.json")):
        exchange = json.loads(path.read_bytes())
        body = (exchange.get("request") or {}).get("body")
        if exchange["endpoint"] == endpoint and exchange["response"]["status"] == 200 and isinstance(body, dict):
            yield path.name, body


@needs_shared
def test_C_218_what_openai_answered_is_accepted() -> None:
    """No exceptions: every recorded request that the live API took."""
    names = []
    for name, body in recorded("chat.completions"):
        validate_chat(parse_json(orjson.dumps(body)))
        names.append(name)
    assert len(names) > 150


@needs_shared
def test_C_505_what_openai_embedded_is_accepted() -> None:
    bodies = [body for _, body in recorded("embeddings")]
    for body in bodies:
        validate_embeddings(parse_json(orjson.dumps(body)))
    assert bodies
