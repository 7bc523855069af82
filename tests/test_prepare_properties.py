"""Every adapter prepares, or refuses by name, whatever validation accepts: a crash would be a 500 of ours."""

import random
from collections.abc import Iterator
from functools import cache
from typing import Any

import orjson
import pytest

from adapters import registry
from adapters.errors import UnsupportedParameter
from adapters.interface import Adapter, Target, UpstreamRequest
from gateway.outgoing import OURS
from gateway.validation import validate_chat

from .chat_requests import RICH, USER, refusal
from .fuzz_validation import mutated, refusal_of

OPTIONS: dict[str, dict[str, Any]] = {
    "azure": {"api_version": "preview"},
    "vertex": {"project": "p", "location": "global"},
    "vertex-anthropic": {"project": "p", "location": "global"},
    "bedrock": {"region": "us-east-1"},
}
MODELS = {
    "bedrock": ("anthropic.claude-3-7-sonnet-20250219-v1:0", "meta.llama3-3-70b-instruct-v1:0", "amazon.nova-pro-v1:0"),
}
ANY_MODEL = ("claude-opus-4-5", "gpt-5-mini", "gemini-3-pro", "mistral-large-latest")
FUNCTION_CALLED: dict[str, Any] = {"functions": [{"name": "f"}], "messages": [USER]}
FOUND: list[dict[str, Any]] = [
    {**FUNCTION_CALLED, "function_call": {"name": "f", "": "f"}},
    {**FUNCTION_CALLED, "function_call": {"name": "f", "type": "name"}},
    {"messages": [{**USER, "tool_calls": [], "tool_call_id": ""}]},
]
"""What fuzzing found once."""


@cache
def accepted(seed: int, count: int) -> tuple[dict[str, Any], ...]:
    """Mutated requests that validation lets through, as they reach an adapter."""

    def supply() -> Iterator[dict[str, Any]]:
        rng, requests = random.Random(seed), list(RICH.values())
        while True:
            request = mutated(rng, rng.choice(requests))
            if refusal_of(validate_chat, request) is None:
                yield orjson.loads(orjson.dumps(request))

    wanted = (request for request, _ in zip(supply(), range(count), strict=False))
    return tuple({k: v for k, v in r.items() if k not in OURS and v is not None} for r in [*FOUND, *wanted])


def prepared(adapter: Adapter, options: Any, name: str, request: dict[str, Any], at: int) -> UpstreamRequest | None:
    models = MODELS.get(name, ANY_MODEL)
    policy = ("translate", "drop", "reject")[at % 3]
    target = Target("https://x/v1", models[at % len(models)], "k", options, policy)  # type: ignore[arg-type]
    try:
        return adapter.prepare(request, target)
    except UnsupportedParameter:
        return None


@pytest.mark.parametrize("name", registry.names())
def test_C_404_what_validation_accepts_is_prepared_or_refused_by_name(name: str) -> None:
    adapter = registry.load(name)
    options = adapter.options(OPTIONS.get(name, {}))
    requests = [{"model": "m", **request} for request in accepted(20261123, 120)]
    before = orjson.dumps(requests)
    sent = [prepared(adapter, options, name, request, at) for at, request in enumerate(requests)]
    assert orjson.dumps(requests) == before, "another deployment may be sent the same request"
    made = [one for one in sent if one is not None]
    assert len(made) > 20
    for one in made:
        assert isinstance(orjson.loads(one.body), dict)


@pytest.mark.parametrize("role", ["user", "system", "developer", "function", "tool", "assistant"])
@pytest.mark.parametrize("name", ["tool_calls", "function_call", "refusal", "audio", "tool_call_id"])
def test_C_102_what_only_another_role_has_is_refused(role: str, name: str) -> None:
    own = (role == "assistant") != (name == "tool_call_id") if role in ("assistant", "tool") else False
    message: dict[str, Any] = {"role": role, "content": "x", **({"name": "f"} if role == "function" else {})}
    if role == "tool":
        message["tool_call_id"] = "call_1"
    if own:
        return
    for nothing in (None, [], ""):
        found = refusal_of(validate_chat, {"model": "m", "messages": [{**message, name: nothing}]})
        assert found is None or role == "tool", found  # an answer without its call is refused for that
    for something in ("user", [1], {"id": "x"}, 5):
        told = refusal({"model": "m", "messages": [{**message, name: something}]})
        assert told.code == "unknown_parameter"
        assert told.param == f"messages[0].{name}"


def test_a_schema_goes_with_its_own_type_only() -> None:
    for kind in ("text", "json_object"):
        form = {"type": kind, "json_schema": "x"}
        told = refusal({"model": "m", "messages": [{"role": "user", "content": "json"}], "response_format": form})
        assert (told.code, told.param) == ("unknown_parameter", "response_format.json_schema")
        validate_chat({"model": "m", "messages": [{"role": "user", "content": "json"}], "response_format": {**form, "json_schema": None}})  # fmt: skip
