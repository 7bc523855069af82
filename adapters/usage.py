"""Tokens used, in disjoint buckets that sum: the one shape that pricing, limits and the ledger read."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any


@dataclass(init=False, slots=True, unsafe_hash=True)
class Usage:
    """Tokens by the price they have. Every token is in exactly one bucket (OpenAI's own counts are inclusive).

    Nobody changes one.
    """

    input: int
    """Prompt tokens at the plain price: neither cached, nor written to a cache, nor audio."""
    cache_read: int
    cache_write: int
    """Written to a prompt cache at the provider's default time to live."""
    cache_write_1h: int
    """Written for an hour (Anthropic's second price)."""
    audio_input: int
    output: int
    """Visible generated tokens, rejected predictions included."""
    reasoning: int
    audio_output: int
    accepted_prediction: int
    """A part of ``output``, told again for the client's sake; not added to totals."""
    rejected_prediction: int
    """A part of ``output``, as above."""
    calls: Mapping[str, int] | None
    """Per-call charges of server-side tools, say ``{"web_search": 2}``; ``web_search:low`` where its size has a price of its own."""

    def __init__(
        self, input: int = 0, cache_read: int = 0, cache_write: int = 0, cache_write_1h: int = 0,  # noqa: A002
        audio_input: int = 0, output: int = 0, reasoning: int = 0, audio_output: int = 0,
        accepted_prediction: int = 0, rejected_prediction: int = 0, calls: Mapping[str, int] | None = None,
    ) -> None:  # fmt: skip
        self.input, self.cache_read, self.cache_write = input, cache_read, cache_write
        self.cache_write_1h, self.audio_input = cache_write_1h, audio_input
        self.output, self.reasoning, self.audio_output = output, reasoning, audio_output
        self.accepted_prediction, self.rejected_prediction = accepted_prediction, rejected_prediction
        self.calls = calls

    @property
    def prompt_tokens(self) -> int:
        return self.input + self.cache_read + self.cache_write + self.cache_write_1h + self.audio_input

    @property
    def completion_tokens(self) -> int:
        return self.output + self.reasoning + self.audio_output

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens

    def plus(self, other: "Usage") -> "Usage":
        """The sum of two attempts' usage."""
        calls = dict(self.calls or {})
        for name, number in (other.calls or {}).items():
            calls[name] = calls.get(name, 0) + number
        values: dict[str, Any] = {n: getattr(self, n) + getattr(other, n) for n in _NUMBERS}
        return Usage(**values, calls=calls or None)

    def to_openai(self) -> dict[str, Any]:
        """The ``usage`` object of a completion, whose counts are inclusive (checklist C-274, C-275)."""
        prompt, completion = self.prompt_tokens, self.completion_tokens
        details = {"cached_tokens": self.cache_read, "audio_tokens": self.audio_input}
        if written := self.cache_write + self.cache_write_1h:
            details["cache_write_tokens"] = written
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "prompt_tokens_details": details,
            "completion_tokens_details": {
                "reasoning_tokens": self.reasoning,
                "audio_tokens": self.audio_output,
                "accepted_prediction_tokens": self.accepted_prediction,
                "rejected_prediction_tokens": self.rejected_prediction,
            },
        }

    @classmethod
    def from_openai(cls, usage: Mapping[str, Any]) -> "Usage":
        """Read an OpenAI-shaped ``usage``; foreign or missing numbers count as 0, and no bucket is ever negative."""
        inside, outside = usage.get("prompt_tokens_details"), usage.get("completion_tokens_details")
        return cls.parted(
            count(usage, "prompt_tokens"),
            count(usage, "completion_tokens"),
            inside if isinstance(inside, dict) else {},
            outside if isinstance(outside, dict) else {},
        )

    @classmethod
    def parted(cls, prompt: int, completion: int, inside: Mapping[str, Any], outside: Mapping[str, Any]) -> "Usage":
        """Two inclusive counts, and what OpenAI's details say is inside of them."""
        if not any(inside.values()) and not any(outside.values()):  # nearly always
            return cls(prompt, 0, 0, 0, 0, completion)
        audio_in = min(count(inside, "audio_tokens"), prompt)
        read = min(count(inside, "cached_tokens"), prompt - audio_in)
        write = min(count(inside, "cache_write_tokens"), prompt - audio_in - read)
        audio_out = min(count(outside, "audio_tokens"), completion)
        reasoning = min(count(outside, "reasoning_tokens"), completion - audio_out)
        return cls(
            input=prompt - audio_in - read - write,
            cache_read=read,
            cache_write=write,
            audio_input=audio_in,
            output=completion - audio_out - reasoning,
            reasoning=reasoning,
            audio_output=audio_out,
            accepted_prediction=count(outside, "accepted_prediction_tokens"),
            rejected_prediction=count(outside, "rejected_prediction_tokens"),
        )


NO_USAGE = Usage()
_NUMBERS = tuple(f.name for f in fields(Usage) if f.name != "calls")
TOKEN_BUCKETS = tuple(
    f.name for f in fields(Usage) if f.name not in ("accepted_prediction", "rejected_prediction", "calls")
)
"""The names of the disjoint buckets, in a fixed order."""


def count(mapping: Mapping[str, Any], key: str) -> int:
    """A token count as providers really send it: an int, a whole float or nothing; never negative."""
    value = mapping.get(key)
    if type(value) is int:  # nearly always
        return max(value, 0)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return 0
    return max(int(value), 0)
