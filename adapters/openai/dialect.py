"""How a provider's Chat Completions differ from OpenAI's own: values, no code."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from operator import itemgetter
from typing import Any, Literal, TypeAlias

from ..params import PARAMS, Fate
from ..usage import Usage, count
from .think import ThinkTags

Thinking: TypeAlias = Literal["type", "enable_thinking"]
"""How a provider is told not to reason: ``thinking: {type}`` or ``enable_thinking``."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """One OpenAI-shaped provider."""

    name: str
    base_url: str = ""
    params: Mapping[str, Fate] = field(default_factory=dict)
    tiers: Mapping[str, str] = field(default_factory=dict)
    tiers_declared: bool = False
    """Whether only some accounts or models have them: asked for where a deployment declares them, not by default."""
    served_words: Mapping[str, str] | None = None
    """The provider's words for the tier that served -> OpenAI's; None: the words it is asked with."""
    reports_tier: bool = True
    priorities: Mapping[str, int] = field(default_factory=dict)
    """Service tier -> the server's numeric priority, for ``send_priority``."""
    send_priority: bool = False
    max_tokens: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    developer_role: bool = False
    stream_options: bool = True
    relay: bool = False
    lenient: bool = True
    """Whether ``[DONE]`` without a finish, or a finish without ``[DONE]``, is still a natural end."""
    message_keys: frozenset[str] = frozenset({"reasoning_content"})
    """Keys of assistant messages beyond OpenAI's that the provider wants back."""
    reasoning_key: str | None = None
    """One of them, for reasoning that the client sends back as the ``reasoning_content`` that it was given."""
    strict: bool = False
    """Whether it refuses what other providers put into tool calls, and the marks that some want on parts and tools."""
    parts: frozenset[str] | None = None
    """The content parts it takes; None: all of OpenAI's."""
    flat: bool = False
    """Whether content made of text parts must be one string."""
    merge_roles: bool = False
    """Whether turns of the same role in a row must be one."""
    json_schema: bool = True
    custom_tools: bool = False
    thinking: Thinking | None = None
    echo_reasoning: bool = False
    """Whether a tool call in the history needs the reasoning before it, else reasoning must be off."""
    think_tags: ThinkTags | None = None
    continue_final_message: bool = False
    packs_embeddings: bool = False
    """Whether it surely knows ``encoding_format: base64``."""
    longest_id: int | None = None
    """Of a tool call; longer ones, which came from other providers, are rewritten (edge case 12)."""
    extra: Mapping[str, Any] = field(default_factory=dict)


_KEPT = dict.fromkeys(PARAMS, Fate.PASS)
OPENAI = Dialect(
    name="openai",
    base_url="https://api.openai.com/v1",
    params=_KEPT
    | {
        "model": Fate.TRANSLATE,
        "messages": Fate.TRANSLATE,
        "max_tokens": Fate.TRANSLATE,
        "service_tier": Fate.TRANSLATE,
        "stream_options": Fate.TRANSLATE,
        "store": Fate.EMULATE,
        "metadata": Fate.EMULATE,
    },
    tiers={name: name for name in ("default", "flex", "priority", "scale", "fast", "ultrafast")},
    max_tokens="max_completion_tokens",
    developer_role=True,
    relay=True,
    lenient=False,
    message_keys=frozenset(),
    strict=True,
    custom_tools=True,
    packs_embeddings=True,
    longest_id=40,
)


_PLAIN = ("prompt_tokens", "completion_tokens", "total_tokens", "prompt_tokens_details", "completion_tokens_details")
_KEYS = frozenset(_PLAIN)
_PARTS = itemgetter(*_PLAIN)


def read_usage(given: Any) -> Usage | None:
    """Usage as the family tells it, or None when it is none.

    Cached tokens come under four names; some providers (xAI, Gemini's compatible endpoint) count reasoning in the
    total only, so what the total has beyond its parts is reasoning: or, at Mistral, the sound of the prompt.
    """
    if not isinstance(given, dict) or not ("prompt_tokens" in given or "completion_tokens" in given):
        return None
    if given.keys() == _KEYS:
        prompt, completion, total, inside, outside = _PARTS(given)
        counted = type(prompt) is type(completion) is int and type(inside) is type(outside) is dict
        if counted and prompt >= 0 <= completion and total == prompt + completion:
            return Usage.parted(prompt, completion, inside, outside)  # OpenAI's own: nothing to mend
    prompt, completion = count(given, "prompt_tokens"), count(given, "completion_tokens")
    inside, outside = given.get("prompt_tokens_details"), given.get("completion_tokens_details")
    inside = inside if isinstance(inside, dict) else {}
    outside = outside if isinstance(outside, dict) else {}
    if "citation_tokens" in given or "search_context_size" in given:
        return _searched(given, prompt, completion, inside, outside)
    total = count(given, "total_tokens")
    if not count(inside, "cached_tokens"):
        names = ("prompt_cache_hit_tokens", "num_cached_tokens", "cached_tokens")
        inside = {**inside, "cached_tokens": next((n for name in names if (n := count(given, name))), 0)}
    beyond, sound = total - prompt - completion, count(inside, "audio_tokens")
    if beyond == sound > 0 and count(outside, "reasoning_tokens") != beyond:
        prompt += sound
    elif beyond > 0:
        outside = {**outside, "reasoning_tokens": beyond}
        completion += beyond
    elif not count(outside, "reasoning_tokens"):
        outside = {**outside, "reasoning_tokens": count(given, "reasoning_tokens")}
    return Usage.parted(prompt, completion, inside, outside)


def _searched(
    given: Mapping[str, Any], prompt: int, completion: int, inside: Mapping[str, Any], outside: Mapping[str, Any]
) -> Usage:
    """Perplexity's: deep research bills what it read, what it reasoned and each query beside the counts of the answer,
    the other models a fee per request, by the size of the search (docs.perplexity.ai/getting-started/pricing)."""
    cited, size = count(given, "citation_tokens"), given.get("search_context_size")
    calls: dict[str, int] = {}
    if cited:
        thought = count(given, "reasoning_tokens")
        prompt, completion, outside = prompt + cited, completion + thought, {**outside, "reasoning_tokens": thought}
        calls["web_search"] = count(given, "num_search_queries")
    elif size in ("low", "medium", "high"):
        calls[f"web_search:{size}"] = 1
    usage = Usage.parted(prompt, completion, inside, outside)
    return replace(usage, calls=calls) if any(calls.values()) else usage


def told_usage(whole: Mapping[str, Any]) -> Any:
    """Where an answer or a chunk has its usage: Groq puts it into ``x_groq`` as well, Moonshot into the choice of a chunk."""
    given = whole.get("usage")
    if given:
        return given
    if isinstance(inner := whole.get("x_groq"), dict):
        return inner.get("usage")
    choices = whole.get("choices")
    if not isinstance(choices, list):
        return None
    return next((used for choice in choices if isinstance(choice, dict) and (used := choice.get("usage"))), None)


def served_tier(dialect: Dialect, told: Any) -> str | None:
    """A provider's word for the tier that served, in OpenAI's words; None for words that are no tier."""
    if not isinstance(told, str) or not told:
        return None
    if dialect.served_words is not None:
        return dialect.served_words.get(told)
    if told == dialect.tiers.get("priority") or told == "priority":
        return "priority"
    if dialect.tiers.get(told) == told:
        return told
    return next((ours for ours, theirs in dialect.tiers.items() if theirs == told), None)


def told_tier(dialect: Dialect, answer: Mapping[str, Any]) -> str | None:
    """The tier that an answer or a chunk names, in OpenAI's words: Cerebras has a further name for it, Mistral puts it
    into the usage."""
    told = answer.get("service_tier_used") or answer.get("service_tier")
    if told is None and isinstance(usage := answer.get("usage"), dict):
        told = usage.get("service_tier")
    return served_tier(dialect, told)
