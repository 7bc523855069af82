"""Reasoning effort and thinking blocks."""

import json
from typing import Any

import pytest

from .anthropic_requests import (
    ADAPTER,
    CONTENT,
    HIDDEN,
    SIGNED,
    TIME,
    USER,
    WEATHER,
    ask,
    body,
    called,
    message,
    prepared,
    result,
)
from .anthropic_types import problems


@pytest.mark.parametrize(
    ("model", "effort", "config", "level"),
    [
        ("claude-3-5-haiku-latest", "none", None, None),
        ("claude-sonnet-4-5", "none", None, None),
        ("claude-sonnet-4-5", "minimal", {"type": "enabled", "budget_tokens": 1024}, None),
        ("claude-sonnet-4-5", "high", {"type": "enabled", "budget_tokens": 24576}, None),
        ("claude-opus-4-6", "none", None, None),
        ("claude-opus-4-6", "minimal", {"type": "adaptive", "display": "summarized"}, "low"),
        ("claude-opus-4-6", "xhigh", {"type": "adaptive", "display": "summarized"}, "max"),
        ("claude-opus-4-7", "xhigh", {"type": "adaptive", "display": "summarized"}, "xhigh"),
        ("claude-opus-5", "none", {"type": "disabled"}, None),
        ("claude-sonnet-5-5", "none", {"type": "between_tools"}, None),
        ("claude-opus-5-5", "none", None, "low"),
        ("claude-opus-5-5", "max", {"type": "adaptive", "display": "summarized"}, "max"),
    ],
)
def test_reasoning_effort_in_the_models_own_terms(model: str, effort: str, config: Any, level: str | None) -> None:
    sent = prepared(ask(reasoning_effort=effort), model)
    made = json.loads(sent.body)
    assert not problems(made)
    assert made.get("thinking") == config
    assert made.get("output_config", {}).get("effort") == level
    assert sent.dropped == ()


def test_E_044_effort_that_a_model_lacks_or_has_no_room_for_is_named() -> None:
    assert prepared(ask(reasoning_effort="high"), "claude-3-5-haiku-latest").dropped == ("reasoning_effort",)
    made = body(ask(reasoning_effort="high", max_tokens=4000), "claude-sonnet-4-5")
    assert made["thinking"]["budget_tokens"] == 3000
    short = prepared(ask(reasoning_effort="high", max_tokens=1000), "claude-sonnet-4-5")
    assert "thinking" not in json.loads(short.body)
    assert short.dropped == ("reasoning_effort",)


def test_E_031_a_forced_tool_excludes_a_thinking_budget_but_not_adaptive_thinking() -> None:
    request = ask(tools=[TIME], tool_choice="required", reasoning_effort="high")
    sent = prepared(request, "claude-sonnet-4-5")
    assert "thinking" not in json.loads(sent.body)
    assert sent.dropped == ("reasoning_effort",)
    assert body(request, "claude-opus-4-6")["thinking"]["type"] == "adaptive"


@pytest.mark.parametrize(
    ("model", "own", "expected"),
    [
        ("claude-sonnet-4-5", {"type": "enabled", "budget_tokens": 2000}, {"type": "enabled", "budget_tokens": 2000}),
        ("claude-sonnet-4-5", {"type": "adaptive"}, {"type": "enabled", "budget_tokens": 8192}),
        ("claude-opus-4-6", {"type": "enabled", "budget_tokens": 2000}, {"type": "enabled", "budget_tokens": 2000}),
        ("claude-opus-4-7", {"type": "enabled", "budget_tokens": 2000}, {"type": "adaptive"}),
        ("claude-opus-5", {"type": "adaptive", "display": "omitted"}, {"type": "adaptive", "display": "omitted"}),
        ("claude-opus-5", {"type": "disabled"}, {"type": "disabled"}),
        ("claude-opus-5-5", {"type": "disabled"}, None),
    ],
)
def test_the_clients_own_thinking_in_the_form_that_the_model_takes(model: str, own: Any, expected: Any) -> None:
    assert body(ask(thinking=own), model).get("thinking") == expected


def test_sampling_beside_thinking_is_left_out() -> None:
    sent = prepared(ask(reasoning_effort="low", temperature=0.3, top_p=0.97, top_k=4), "claude-sonnet-4-20250514")
    made = json.loads(sent.body)
    assert not problems(made)
    assert (made["top_p"], sent.dropped) == (0.97, ("temperature", "top_k"))


@pytest.mark.parametrize("model", ["claude-sonnet-4-5", "claude-opus-4-6", "claude-opus-5-5"])
def test_E_038_signed_thinking_returns_first_and_unchanged(model: str) -> None:
    history = [USER, called("a", thinking_blocks=[SIGNED, HIDDEN]), result("a")]
    made = body(ask(*history, tools=[WEATHER], reasoning_effort="high"), model)
    assert made["messages"][1]["content"][:2] == [SIGNED, HIDDEN]
    assert made["thinking"]["type"] in ("enabled", "adaptive")


def test_E_038_lost_thinking_turns_a_budget_off_until_the_next_turn() -> None:
    history = [USER, called("a", reasoning_content="Hm."), result("a")]
    sent = prepared(ask(*history, tools=[WEATHER], reasoning_effort="high"), "claude-sonnet-4-5")
    assert "thinking" not in json.loads(sent.body)
    assert sent.dropped == ("reasoning_effort",)
    later = [*history, {"role": "assistant", "content": "Sunny."}, USER]
    assert body(ask(*later, tools=[WEATHER], reasoning_effort="high"), "claude-sonnet-4-5")["thinking"]
    assert body(ask(*history, tools=[WEATHER], reasoning_effort="high"), "claude-opus-4-6")["thinking"]


def test_E_039_thinking_does_not_go_to_a_model_that_does_not_think_now() -> None:
    history = [USER, {"role": "assistant", "content": "Hi", "thinking_blocks": [SIGNED]}, USER]
    assert "Hm." not in json.dumps(body(ask(*history), "claude-sonnet-4-5"))
    assert "Hm." not in json.dumps(body(ask(*history, reasoning_effort="none"), "claude-opus-5"))
    assert "Hm." in json.dumps(body(ask(*history), "claude-opus-5"))


@pytest.mark.parametrize(
    "extras",
    [
        {"thinking_blocks": [{"type": "thinking", "thinking": "Hm."}]},
        {"reasoning_details": [{"type": "reasoning.text", "text": "Hm.", "signature": "s", "format": "google-gemini-v1"}]},
        {"thinking_blocks": ["Hm."], "reasoning_content": "Hm."},
    ],
)  # fmt: skip
def test_E_040_unsigned_and_foreign_thinking_is_left_out(extras: Any) -> None:
    history = [USER, {"role": "assistant", "content": "Hi", **extras}, USER]
    assert "Hm." not in json.dumps(body(ask(*history, reasoning_effort="high")))


def test_thinking_in_openrouters_words_is_understood() -> None:
    details = [
        {"type": "reasoning.text", "text": "Hm.", "signature": "sig", "format": "anthropic-claude-v1"},
        {"type": "reasoning.encrypted", "data": "blob", "format": "anthropic-claude-v1"},
    ]
    made = body(ask(USER, called("a", reasoning_details=details), result("a"), tools=[WEATHER], reasoning_effort="low"))
    assert made["messages"][1]["content"][:2] == [SIGNED, HIDDEN]


def test_models_that_bind_thinking_may_drop_it_instead_of_failing() -> None:
    history = [USER, {"role": "assistant", "content": "Hi", "thinking_blocks": [SIGNED]}, USER]
    sent = prepared(ask(*history), "claude-opus-5-5")
    made = json.loads(sent.body)
    assert made["thinking"]["block_binding"] == {"prefix_mismatch_behavior": "drop_block"}
    assert "thinking-binding-controls-2026-08-01" in sent.headers["anthropic-beta"]
    assert "thinking" not in json.loads(prepared(ask(USER), "claude-opus-5-5").body)


def test_interleaved_thinking_returns_to_its_exact_place() -> None:
    sent = prepared(ask(tools=[WEATHER], reasoning_effort="high"), "claude-opus-4-6")
    told = ADAPTER.parse(message(*CONTENT, stop="tool_use"), sent).completion["choices"][0]["message"]
    history = [USER, {"role": "assistant", **told}, result("toolu_1"), result("toolu_2")]
    made = body(ask(*history, tools=[WEATHER], reasoning_effort="high"), "claude-opus-4-6")
    assert made["messages"][1]["content"] == CONTENT
