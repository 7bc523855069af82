"""Every adapter's table of parameters is what its code does."""

from typing import Any

import pytest

from adapters import registry
from adapters.compatible import ROWS
from adapters.errors import UnsupportedParameter
from adapters.interface import Adapter, Target, UpstreamRequest
from adapters.jsonio import loads
from adapters.params import GATEWAY_PARAMS, NEVER_DROPPED, PARAMS, Fate

FUNCTION = {"name": "f", "parameters": {"type": "object", "properties": {}}}
SAMPLES: dict[str, Any] = {
    "audio": {"voice": "alloy", "format": "wav"},
    "frequency_penalty": 0.5,
    "function_call": "auto",
    "functions": [FUNCTION],
    "logit_bias": {"1": 5},
    "logprobs": True,
    "max_completion_tokens": 7,
    "max_tokens": 7,
    "modalities": ["text", "audio"],
    "moderation": {"model": "m"},
    "n": 2,
    "parallel_tool_calls": False,
    "prediction": {"type": "content", "content": "x"},
    "presence_penalty": 0.5,
    "prompt_cache_key": "k",
    "prompt_cache_options": {"mode": "explicit"},
    "prompt_cache_retention": "24h",
    "reasoning_effort": "low",
    "response_format": {"type": "json_object"},
    "safety_identifier": "s",
    "seed": 3,
    "stop": ["x"],
    "temperature": 0.5,
    "tool_choice": "auto",
    "tools": [{"type": "function", "function": FUNCTION}],
    "top_logprobs": 2,
    "top_p": 0.5,
    "user": "u",
    "verbosity": "low",
    "web_search_options": {},
}
"""A value of each that asks for something."""
WITH = {"parallel_tool_calls": "tools", "tool_choice": "tools", "function_call": "functions"}
"""What means nothing without another; providers refuse the one alone, so it is left out then."""
BY_MODEL = ("reasoning_effort", "prompt_cache_retention", "parallel_tool_calls")
"""Translated for the models that have it, and named as dropped for the others."""
NAMES = [name for name in registry.names() if type(registry.load(name)).__module__.startswith("adapters.")]
OPTIONS: dict[str, Any] = {"vertex": {"project": "p"}, "vertex-anthropic": {"project": "p"}}
CLAUDE, GEMINI = "claude-haiku-4-5", "gemini-2.0-flash"
MODELS = {
    "anthropic": CLAUDE,
    "vertex-anthropic": CLAUDE,
    "mistral": "mistral-large",
    "gemini": GEMINI,
    "vertex": GEMINI,
}


def sent(name: str, param: str, policy: str = "translate") -> UpstreamRequest:
    adapter = registry.load(name)
    target = Target(
        adapter.base_url or "http://x",
        MODELS.get(name, "m"),
        options=adapter.options(OPTIONS.get(name, {})),
        unsupported=policy,  # type: ignore[arg-type]
    )
    request = {"messages": [{"role": "user", "content": "hi"}], param: SAMPLES[param]}
    if (other := WITH.get(param)) is not None and adapter.params[other] is not Fate.REJECT:
        request[other] = SAMPLES[other]
    return adapter.prepare(request, target)


def fated(adapter: Adapter, *fates: Fate) -> list[str]:
    return [p for p in PARAMS if p in SAMPLES and adapter.params[p] in fates]


def keys(value: Any) -> set[str]:
    """All names in a body, however deep."""
    if isinstance(value, dict):
        return set(value).union(*map(keys, value.values()))
    return set().union(*map(keys, value)) if isinstance(value, list) else set()


def test_every_parameter_has_a_fate_everywhere() -> None:
    assert set(SAMPLES) | GATEWAY_PARAMS | {"messages"} == set(PARAMS)
    for name in NAMES:
        assert set(PARAMS) <= set(registry.load(name).params), name
    assert len(NAMES) == len(ROWS) + 9


@pytest.mark.parametrize("name", NAMES)
def test_what_is_rejected_is_named_and_can_be_dropped_instead(name: str) -> None:
    for param in fated(registry.load(name), Fate.REJECT):
        with pytest.raises(UnsupportedParameter) as caught:
            sent(name, param)
        assert caught.value.param == param
        if param in NEVER_DROPPED:
            with pytest.raises(UnsupportedParameter):
                sent(name, param, "drop")
            continue
        left = sent(name, param, "drop")
        assert param in left.dropped, param
        assert param not in keys(loads(left.body)), param


@pytest.mark.parametrize("name", NAMES)
def test_what_is_dropped_is_told_and_can_be_refused_instead(name: str) -> None:
    for param in fated(registry.load(name), Fate.DROP):
        left = sent(name, param)
        assert left.dropped == (param,), param
        assert param not in keys(loads(left.body)), param
        with pytest.raises(UnsupportedParameter) as caught:
            sent(name, param, "reject")
        assert caught.value.param == param


@pytest.mark.parametrize("name", NAMES)
def test_what_is_passed_arrives_under_its_name(name: str) -> None:
    for param in fated(registry.load(name), Fate.PASS):
        done = sent(name, param)
        if param not in done.dropped:  # an exact model may be stricter than its provider
            assert loads(done.body)[param] == SAMPLES[param], param


@pytest.mark.parametrize("name", NAMES)
def test_what_is_translated_is_neither_left_out_nor_refused_by_default(name: str) -> None:
    for param in fated(registry.load(name), Fate.TRANSLATE, Fate.EMULATE):
        if param == "modalities":
            continue  # audio is a matter of the model
        try:
            done = sent(name, param)
        except UnsupportedParameter as refused:
            pytest.fail(f"{param}: {refused.message}")
        assert param not in done.dropped or param in BY_MODEL, param
