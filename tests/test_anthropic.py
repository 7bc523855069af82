"""Requests to Claude as a whole: parameters, limits, caching, models."""

import json
from typing import Any

import anthropic
import pytest

from adapters import registry
from adapters.anthropic import Anthropic, models
from adapters.anthropic.options import AnthropicOptions
from adapters.params import PARAMS

from . import replay
from .anthropic_requests import ADAPTER, CONTENT, USER, WEATHER, ask, body, called, message, prepared, refused, result
from .anthropic_types import problems


def test_the_request_is_addressed_and_signed() -> None:
    sent = prepared(ask(stream=True), headers={"x-extra": "1"})
    assert sent.url == "https://api.anthropic.com/v1/messages"
    assert sent.headers["x-api-key"] == "sk-ant-x"
    assert sent.headers["anthropic-version"] == "2023-06-01"
    assert sent.headers["x-extra"] == "1"
    assert "anthropic-beta" not in sent.headers
    assert json.loads(sent.body)["stream"] is True
    assert sent.stream
    assert prepared(ask(), base_url="http://127.0.0.1:1/v1").url == "http://127.0.0.1:1/v1/messages"


def test_options_are_decoded_once_and_name_the_bad_key() -> None:
    options = ADAPTER.options({"beta": ["a-1", "b-2"], "version": "2026-10-21"})
    sent = prepared(ask(), options=options)
    assert (sent.headers["anthropic-beta"], sent.headers["anthropic-version"]) == ("a-1,b-2", "2026-10-21")
    for bad in ({"betas": []}, {"beta": "x"}, {"version": 1}, {"same_as": []}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            ADAPTER.options(bad)


def test_the_adapter_is_found_by_name() -> None:
    assert isinstance(registry.load("anthropic"), Anthropic)


def test_every_parameter_has_a_fate() -> None:
    assert set(PARAMS) <= set(ADAPTER.params)


def test_the_validator_notices_what_is_wrong() -> None:
    good = body(ask(USER, called("a"), result("a"), tools=[WEATHER]))
    assert problems({**good, "nonsense": 1})
    assert problems({**good, "messages": [*good["messages"], good["messages"][-1]]})
    for at in range(3):
        turned = json.loads(json.dumps(good))
        turned["messages"][at]["content"][0]["nonsense"] = 1
        assert problems(turned)
    assert problems({**good, "messages": good["messages"][:2]})
    assert problems({k: v for k, v in good.items() if k != "max_tokens"})


def test_C_101_null_is_absent() -> None:
    nothing = dict.fromkeys(set(PARAMS) - {"messages", "model"})
    assert body(ask(**nothing)) == body(ask())


def test_E_085_values_that_ask_for_nothing_are_no_parameters() -> None:
    neutral = {"n": 1, "logprobs": False, "top_logprobs": 0, "presence_penalty": 0, "tools": [], "user": "", "stop": []}
    sent = prepared(ask(**neutral))
    assert json.loads(sent.body) == body(ask())
    assert sent.dropped == ()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("logprobs", True),
        ("top_logprobs", 3),
        ("logit_bias", {"1": 5}),
        ("modalities", ["text", "audio"]),
        ("audio", {"voice": "alloy", "format": "wav"}),
        ("moderation", {"model": "m"}),
        ("min_p", 0.1),
    ],
)
def test_what_changes_the_answer_and_cannot_be_had_is_refused(name: str, value: Any) -> None:
    assert refused(ask(**{name: value})) == name
    sent = prepared(ask(**{name: value}), unsupported="drop")
    assert sent.dropped == (name,)


@pytest.mark.parametrize(
    ("name", "value"),
    [("seed", 1), ("frequency_penalty", 0.5), ("verbosity", "low"), ("prediction", {}), ("prompt_cache_key", "k")],
)
def test_hints_without_an_equal_are_left_out_and_named(name: str, value: Any) -> None:
    assert prepared(ask(**{name: value})).dropped == (name,)
    assert refused(ask(**{name: value}), unsupported="reject") == name


def test_extensions_are_sent_on() -> None:
    assert body(ask(top_k=5))["top_k"] == 5
    sent = prepared(ask(inference_geo="eu"), allow=frozenset({"inference_geo"}))
    assert json.loads(sent.body)["inference_geo"] == "eu"


@pytest.mark.parametrize(
    ("asked", "model", "limit", "expected"),
    [
        ({}, "claude-opus-4-5", None, 64_000),
        ({}, "claude-opus-4-5", 5_000, 5_000),
        ({"max_tokens": 10}, "claude-opus-4-5", None, 10),
        ({"max_tokens": 10, "max_completion_tokens": 20}, "claude-opus-4-5", None, 20),
        ({"max_completion_tokens": 999_999}, "claude-opus-4-5", None, 64_000),
        ({"max_completion_tokens": 99_999}, "glm-5", None, 99_999),
    ],
)
def test_E_080_max_tokens_is_always_sent(asked: Any, model: str, limit: int | None, expected: int) -> None:
    assert body(ask(**asked), model, max_output=limit)["max_tokens"] == expected


@pytest.mark.parametrize(("temperature", "expected"), [(0, 0), (0.7, 0.7), (1.5, 1), (2, 1)])
def test_E_081_temperatures_are_clamped(temperature: float, expected: float) -> None:
    assert body(ask(temperature=temperature))["temperature"] == expected


def test_E_045_models_that_refuse_sampling_get_none() -> None:
    sent = prepared(ask(temperature=0.5, top_p=1, top_k=3), "claude-opus-4-7")
    assert not {"temperature", "top_p", "top_k"} & json.loads(sent.body).keys()
    assert sent.dropped == ("temperature", "top_k")
    newer = prepared(ask(temperature=1), options=AnthropicOptions(version="2026-10-21"))
    assert "temperature" not in json.loads(newer.body)
    pair = prepared(ask(temperature=0.5, top_p=0.5), "claude-sonnet-4-5")
    assert (json.loads(pair.body)["temperature"], pair.dropped) == (0.5, ("top_p",))
    assert "top_p" not in json.loads(pair.body)
    assert body(ask(temperature=0.5, top_p=0.5), "claude-sonnet-4-20250514")["top_p"] == 0.5


@pytest.mark.parametrize(
    ("stop", "expected", "dropped"),
    [
        ("END", ["END"], ()),
        ("", None, ()),
        ([], None, ()),
        (["a", " ", "\n"], ["a"], ("stop",)),
        (["\n\n"], None, ("stop",)),
        (["1", "2", "3", "4"], ["1", "2", "3", "4"], ()),
    ],
)
def test_E_084_stop_sequences_without_blank_ones(stop: Any, expected: Any, dropped: Any) -> None:
    sent = prepared(ask(stop=stop))
    assert json.loads(sent.body).get("stop_sequences") == expected
    assert sent.dropped == dropped


def test_the_user_stays_opaque_and_short() -> None:
    assert body(ask(user="u1"))["metadata"] == {"user_id": "u1"}
    assert body(ask(user="u1", safety_identifier="s"))["metadata"] == {"user_id": "s"}
    assert len(body(ask(user="x" * 1000))["metadata"]["user_id"]) <= 256


@pytest.mark.parametrize(
    ("tier", "expected"), [("default", "standard_only"), ("priority", "auto"), ("auto", None), ("flex", None)]
)
def test_C_478_service_tiers_in_the_providers_words(tier: str, expected: str | None) -> None:
    assert body(ask(service_tier=tier)).get("service_tier") == expected


def test_cache_markers_of_both_dialects_stay_at_their_place() -> None:
    own = {"type": "text", "text": "a", "cache_control": {"type": "ephemeral", "ttl": "1h"}}
    openais = {"type": "text", "text": "b", "prompt_cache_breakpoint": {"mode": "explicit", "ttl": "30m"}}
    made = body(
        ask(
            {"role": "system", "content": [own]},
            {"role": "user", "content": [openais]},
            {"role": "assistant", "content": "c", "cache_control": {"type": "ephemeral"}},
            USER,
            tools=[{**WEATHER, "cache_control": {"type": "ephemeral"}}],
        )
    )
    assert made["system"][0]["cache_control"] == {"type": "ephemeral", "ttl": "1h"}
    assert made["messages"][0]["content"][0]["cache_control"] == {"type": "ephemeral", "ttl": "1h"}
    assert made["messages"][1]["content"][0]["cache_control"] == {"type": "ephemeral"}
    assert made["tools"][0]["cache_control"] == {"type": "ephemeral", "ttl": "1h"}  # what follows is kept as long


def test_a_cache_marker_inside_a_function_is_the_tools() -> None:
    function = {**WEATHER["function"], "cache_control": {"type": "ephemeral"}}
    assert body(ask(tools=[{"type": "function", "function": function}]))["tools"][0]["cache_control"] == {
        "type": "ephemeral"
    }


def test_a_short_cache_marker_before_an_hours_is_one_for_an_hour() -> None:
    opened = {"type": "text", "text": "s", "prompt_cache_breakpoint": {"mode": "explicit"}}
    made = body(ask({"role": "system", "content": [opened]}, USER, prompt_cache_retention="24h"))
    hour = {"type": "ephemeral", "ttl": "1h"}
    assert (made["system"][0]["cache_control"], made["messages"][0]["content"][0]["cache_control"]) == (hour, hour)
    made = body(ask({"role": "system", "content": [opened]}, USER, prompt_cache_retention="in_memory"))
    assert made["system"][0]["cache_control"] == {"type": "ephemeral"}


def test_cache_markers_inside_tool_results_are_the_results_own() -> None:
    text = {"type": "text", "text": "r", "cache_control": {"type": "ephemeral"}}
    turns = [turn for i in "abcde" for turn in (called(i), result(i, [text]))]
    made = body(ask(USER, *turns, tools=[WEATHER]))
    results = [turn["content"][0] for turn in made["messages"] if turn["content"][0]["type"] == "tool_result"]
    assert [bool(r.get("cache_control")) for r in results] == [False, True, True, True, True]
    assert all(r["content"] == [{"type": "text", "text": "r"}] for r in results)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"prompt_cache_retention": "24h"}, {"type": "ephemeral", "ttl": "1h"}),
        ({"prompt_cache_retention": "in_memory"}, {"type": "ephemeral"}),
        ({"prompt_cache_options": {"mode": "implicit", "ttl": "30m"}}, {"type": "ephemeral", "ttl": "1h"}),
        ({"prompt_cache_options": {"mode": "explicit"}}, None),
        ({"cache_control": {"type": "ephemeral"}}, {"type": "ephemeral"}),
        ({}, None),
    ],
)
def test_caching_at_large_marks_the_end(asked: Any, expected: Any) -> None:
    assert body(ask(**asked))["messages"][-1]["content"][-1].get("cache_control") == expected


def test_a_fifth_cache_marker_gives_way() -> None:
    parts = [{"type": "text", "text": str(n), "cache_control": {"type": "ephemeral"}} for n in range(6)]
    made = body(ask({"role": "user", "content": parts}))
    assert ["cache_control" in b for b in made["messages"][0]["content"]] == [False, False, True, True, True, True]


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("claude-3-5-sonnet-20241022", "claude-3-5"),
        ("claude-opus-4-20250514", "claude-opus-4"),
        ("claude-opus-4-1@20250805", "claude-opus-4-1"),
        ("us.anthropic.claude-sonnet-4-5-20250929-v1:0", "claude-sonnet-4-5"),
        ("anthropic/claude-haiku-4.5", "claude-haiku-4-5"),
        ("claude-opus-5", "claude-opus-5"),
        ("claude-opus-5-5@default", "claude-opus-5-5"),
    ],
)
def test_models_are_known_by_every_name(name: str, family: str) -> None:
    assert models.gates(name) is models.GATES[family]


def test_later_models_are_taken_for_the_newest_and_others_for_older_ones() -> None:
    assert models.gates("claude-opus-6") is models.NEWEST
    assert models.gates("claude-opus-5-7") is models.NEWEST
    assert models.gates("kimi-k3") is models.OTHER
    sent = prepared(ask(temperature=0.5), "mine", options=AnthropicOptions(same_as={"mine": "claude-opus-5"}))
    assert sent.dropped == ("temperature",)


def test_the_recorded_requests_pass_the_same_check_as_ours() -> None:
    """The validator itself is sane: what the provider accepted, it accepts (server tools aside)."""
    found = replay.need(replay.recordings("anthropic", endpoint="messages", stream=False))
    bodies = [r.request for r in found if r.request]
    shaped = [b for b in bodies if all(isinstance(m["content"], list) for m in b["messages"])]
    wrong = [b for b in shaped if problems(b)]
    assert len(shaped) > 100
    assert len(wrong) < len(shaped) * 0.1


def test_the_answers_that_we_simulate_are_messages_for_the_sdk() -> None:
    parsed = anthropic.types.Message.model_validate_json(message(*CONTENT, stop="tool_use"))
    assert [block.type for block in parsed.content] == [block["type"] for block in CONTENT]
