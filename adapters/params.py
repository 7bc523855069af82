"""The fate of each Chat Completions parameter at a provider: a table, not code."""

from collections.abc import Collection, Mapping
from enum import StrEnum
from typing import Any, Literal, TypeAlias

from .errors import UnsupportedParameter


class Fate(StrEnum):
    PASS = "pass"
    """Sent under the same name with the same meaning."""
    TRANSLATE = "translate"
    """Sent in the provider's own words."""
    EMULATE = "emulate"
    """The provider has nothing like it; the adapter or the gateway does it."""
    DROP = "drop"
    """A hint the answer does not depend on: left out, and named in ``x-sluice-dropped-params``."""
    REJECT = "reject"
    """It changes the answer and cannot be had: 400, naming the parameter."""


Policy: TypeAlias = Literal["translate", "drop", "reject"]
"""A model's ``params.unsupported``: the table as it stands; drop instead of reject; reject instead of drop."""

GATEWAY_PARAMS = frozenset({"model", "stream", "stream_options", "store", "metadata", "service_tier"})
"""Handled by the gateway whatever the provider has; an adapter may still send them on."""

PARAMS: tuple[str, ...] = (
    "messages", "model", "audio", "frequency_penalty", "function_call", "functions", "logit_bias", "logprobs",
    "max_completion_tokens", "max_tokens", "metadata", "modalities", "moderation", "n", "parallel_tool_calls",
    "prediction", "presence_penalty", "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention",
    "reasoning_effort", "response_format", "safety_identifier", "seed", "service_tier", "stop", "store", "stream",
    "stream_options", "temperature", "tool_choice", "tools", "top_logprobs", "top_p", "user", "verbosity",
    "web_search_options",
)  # fmt: skip
"""Every top-level parameter of Create Chat Completion (OpenAPI of 2026-08, plus ``moderation``)."""

NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "n": (1,),
    "modalities": (["text"],),
    "stop": ("", []),
    "store": (False,),
    "tools": ([],),
    "functions": ([],),
    "user": ("",),
    "verbosity": ("medium",),
    "service_tier": ("auto",),
    "parallel_tool_calls": (True,),
}
"""Values that ask for nothing: many clients send them always, so no provider refuses them (edge case 85)."""


NEVER_DROPPED = frozenset({"n"})
"""Without it the answer would have fewer choices than were asked for (checklist C-285)."""


def unsupported(
    request: Mapping[str, Any], fates: Mapping[str, Fate], policy: Policy, allow: Collection[str] = ()
) -> tuple[str, ...]:
    """The parameters of ``request`` to leave out, or UnsupportedParameter for the first that must not be.

    A parameter that is null or asks for nothing (NEUTRAL) counts as absent. One that the table does not know is an
    extension: it is rejected unless ``allow`` (a model's ``params.allow``) names it.
    """
    dropped = []
    for name, value in request.items():
        if name in GATEWAY_PARAMS:
            continue
        fate = fates.get(name, Fate.PASS if name in allow else Fate.REJECT)
        if value is None or fate in (Fate.PASS, Fate.TRANSLATE) or value in NEUTRAL.get(name, ()):
            continue
        if fate is Fate.EMULATE and policy != "reject":
            continue
        kept = policy != "drop" or name in NEVER_DROPPED
        if (fate is Fate.REJECT and kept) or (fate is not Fate.REJECT and policy == "reject"):
            raise UnsupportedParameter(name, f"Unsupported parameter: '{name}' is not supported with this model.")
        dropped.append(name)
    return tuple(dropped)


def harmless(fates: Mapping[str, Fate], allow: Collection[str] = ()) -> frozenset[str]:
    """The parameters of which ``unsupported`` never has anything to say, whatever their values."""
    passed = {name for name, fate in fates.items() if fate in (Fate.PASS, Fate.TRANSLATE)}
    return frozenset(passed | GATEWAY_PARAMS | {name for name in allow if name not in fates})
