"""What a provider's rate-limit headers say is left, in one small value that routing reads."""

from collections.abc import Mapping
from dataclasses import dataclass

from .classify import duration

_REQUESTS = ("requests", "req-minute")
_TOKENS = ("tokens", "tokens-minute", "input-tokens")


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
    requests = _least(headers, _REQUESTS)
    tokens = _least(headers, _TOKENS)
    if requests is None and "x-ratelimit-remaining" in headers:
        requests = _count(headers["x-ratelimit-remaining"])
    if requests is None and tokens is None:
        return None
    resets = [
        seconds
        for name in ("x-ratelimit-reset-requests", "x-ratelimit-reset-tokens", "x-ratelimit-reset")
        if (seconds := duration(headers.get(name, ""))) is not None and seconds < 1_000_000
    ]  # OpenRouter's reset is a moment in milliseconds, Anthropic's a date: both need a clock
    return RateLimits(requests, tokens, max(resets, default=None))


def _least(headers: Mapping[str, str], kinds: tuple[str, ...]) -> int | None:
    names = [n for kind in kinds for n in (f"x-ratelimit-remaining-{kind}", f"anthropic-ratelimit-{kind}-remaining")]
    return min((left for n in names if (left := _count(headers.get(n, ""))) is not None), default=None)


def _count(text: str) -> int | None:
    number = duration(text) if text.replace(".", "", 1).isdecimal() else None
    return None if number is None else int(number)
