"""What a provider's rate-limit headers say is left, in one small value that routing reads."""

from collections.abc import Mapping
from dataclasses import dataclass

from .classify import duration


def _names(*kinds: str) -> tuple[str, ...]:
    return tuple(
        n for kind in kinds for n in (f"x-ratelimit-remaining-{kind}", f"anthropic-ratelimit-{kind}-remaining")
    )


_BARE = "x-ratelimit-remaining"
_REQUESTS = _names("requests", "req-minute")
_TOKENS = _names("tokens", "tokens-minute", "input-tokens")
_REMAINING = frozenset({*_REQUESTS, *_TOKENS, _BARE})
_RESETS = ("x-ratelimit-reset-requests", "x-ratelimit-reset-tokens", "x-ratelimit-reset")
NAMES = frozenset(name.encode() for name in {*_REMAINING, *_RESETS})
"""All headers that ``read`` looks at."""


@dataclass(frozen=True, slots=True)
class RateLimits:
    """What is left of the smallest bucket of each kind; None where the provider told nothing."""

    requests: int | None = None
    tokens: int | None = None
    reset: float | None = None
    """Seconds until the longer-lasting of the buckets is full again, where the provider tells a duration."""


def read(headers: Mapping[str, str]) -> RateLimits | None:
    """Read the headers of a response (names in lower case), or None when there are none.

    Understood are OpenAI's ``x-ratelimit-remaining-*`` (also Azure's, Groq's, xAI's, Cerebras'), Mistral's per-minute
    names, Together's bare ``x-ratelimit-remaining`` and Anthropic's ``anthropic-ratelimit-*-remaining``.
    """
    if _REMAINING.isdisjoint(headers):
        return None
    requests = _least(headers, _REQUESTS)
    tokens = _least(headers, _TOKENS)
    if requests is None and _BARE in headers:
        requests = _count(headers[_BARE])
    if requests is None and tokens is None:
        return None
    resets = [
        seconds
        for name in _RESETS
        if name in headers and (seconds := duration(headers[name])) is not None and seconds < 1_000_000
    ]  # OpenRouter's reset is a moment in milliseconds, Anthropic's a date: both need a clock
    return RateLimits(requests, tokens, max(resets, default=None))


def _least(headers: Mapping[str, str], names: tuple[str, ...]) -> int | None:
    found = [left for name in names if name in headers and (left := _count(headers[name])) is not None]
    return min(found) if found else None


def _count(text: str) -> int | None:
    if len(text) <= 12 and text.isdecimal():
        return int(text)
    number = duration(text) if text.replace(".", "", 1).isdecimal() else None
    return None if number is None else int(number)
