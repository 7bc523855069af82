"""Usage x price x tier -> nano-dollars. The same arithmetic bills a request and bounds it beforehand.

Prices are whole pico-dollars per token ($1 per million tokens is 1,000,000), so that sums are exact; a request's cost
is rounded up once, to nano-dollars.
"""

import bisect
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Final, TypeAlias

from adapters.usage import TOKEN_BUCKETS, Usage

PICO_PER_NANO = 1000
PICO_PER_DOLLAR = 10**12

Rates: TypeAlias = tuple[int, ...]
"""Pico-dollars per token, in the order of TOKEN_BUCKETS."""

ABSENT: Mapping[str, str] = {
    "cache_read": "input",
    "cache_write": "input",
    "cache_write_1h": "cache_write",
    "audio_input": "input",
    "reasoning": "output",
    "audio_output": "output",
}
"""A bucket without a price of its own -> the one whose price it has."""

_INPUT = tuple(TOKEN_BUCKETS.index(b) for b in ("input", "cache_read", "cache_write", "cache_write_1h"))
_AUDIO_INPUT = TOKEN_BUCKETS.index("audio_input")
_OUTPUT = tuple(TOKEN_BUCKETS.index(b) for b in ("output", "reasoning"))
_AUDIO_OUTPUT = TOKEN_BUCKETS.index("audio_output")


@dataclass(frozen=True, slots=True)
class TierPrice:
    """What one service tier costs."""

    rates: Rates
    above: tuple[tuple[int, Rates], ...] = ()
    """Long-context steps, ascending: a prompt of more than so many tokens reprices the whole request."""

    def at(self, prompt_tokens: int) -> Rates:
        rates = self.rates
        for threshold, dearer in self.above:
            if prompt_tokens > threshold:
                rates = dearer
        return rates


@dataclass(frozen=True)
class Price:
    """What a model costs at a provider, and how much it can read and write where that is known."""

    default: TierPrice
    tiers: Mapping[str, TierPrice] = field(default_factory=dict)
    per_call: Mapping[str, int] = field(default_factory=dict)
    """Pico-dollars per call of a server-side tool."""
    max_input: int | None = None
    """Tokens of the context window."""
    max_output: int | None = None

    @cached_property
    def plain(self) -> tuple[int, int] | None:
        """What a prompt and a completion token cost at worst where one price is all there is: no tiers, no steps."""
        return None if self.tiers or self.default.above else _dearest(self.default.rates, False, False)

    def of_call(self, tool: str) -> int:
        """Pico-dollars per call; of a size (``web_search:low``) without a price of its own what the tool costs."""
        own = self.per_call.get(tool)
        return self.per_call.get(tool.partition(":")[0], 0) if own is None else own

    def of(self, tier: str | None) -> TierPrice:
        """The price of a tier; one without a price of its own costs what the default does."""
        return self.tiers.get(tier or "default", self.default)


NO_CALLS: Mapping[str, int] = {}


@dataclass(init=False, slots=True)
class Bounds:
    """The most that a request can use."""

    input_tokens: Final[int]
    output_tokens: Final[int]
    audio_input: Final[bool]
    """Whether prompt tokens may be audio, which has its own price."""
    audio_output: Final[bool]
    calls: Final[Mapping[str, int]]
    choices: Final[int]
    prediction: Final[int]
    """Tokens of a predicted output: those that the model rejects are billed beyond its answer."""

    def __init__(
        self, input_tokens: int, output_tokens: int, audio_input: bool = False, audio_output: bool = False,
        calls: Mapping[str, int] = NO_CALLS, choices: int = 1, prediction: int = 0,
    ) -> None:  # fmt: skip
        self.input_tokens, self.output_tokens, self.audio_input = input_tokens, output_tokens, audio_input
        self.audio_output, self.calls, self.choices, self.prediction = audio_output, calls, choices, prediction


def cost(usage: Usage, price: Price, tier: str | None = None) -> int:
    """The nano-dollars of what was used, at the tier that served it."""
    if price.plain is not None and not usage.calls:
        return cost_at(usage, price.default.rates)
    rates = price.of(tier).at(usage.prompt_tokens)
    return _nano(_tokens_at(usage, rates), usage.calls, price)


def cost_at(usage: Usage, rates: Rates) -> int:
    """The nano-dollars of tokens alone."""
    return -(-_tokens_at(usage, rates) // PICO_PER_NANO)


def _tokens_at(usage: Usage, rates: Rates) -> int:
    """The pico-dollars of tokens."""
    plain, read, written, written_1h, audio, output, reasoning, spoken = rates
    return (
        usage.input * plain + usage.cache_read * read + usage.cache_write * written + usage.cache_write_1h * written_1h
        + usage.audio_input * audio + usage.output * output + usage.reasoning * reasoning + usage.audio_output * spoken
    )  # fmt: skip


def worst_case(bounds: Bounds, price: Price, tiers: Iterable[str] = ("default",)) -> int:
    """The most nano-dollars a request may cost, whichever of ``tiers`` serves it and whatever a cache does."""
    most = 0
    for step in {price.default, *map(price.of, tiers)} if price.tiers else (price.default,):
        for rates in _reachable(step, bounds.input_tokens) if step.above else (step.rates,):
            prompt, completion = _dearest(rates, bounds.audio_input, bounds.audio_output)
            pico = bounds.input_tokens * prompt + bounds.output_tokens * completion
            most = max(most, _nano(pico, bounds.calls, price))
    return most


def most(bounds: Bounds, price: Price, tiers: Iterable[str] = ("default",)) -> int:
    """``worst_case`` as far as the model can reach the bounds."""
    tokens, output, plain = bounds.input_tokens, bounds.output_tokens, price.plain
    if plain is None or bounds.calls or bounds.audio_input or bounds.audio_output:
        return worst_case(within(bounds, price), price, tiers)
    prompt, completion = plain
    if price.max_input is not None and price.max_input < tokens:
        tokens = price.max_input
    if price.max_output is not None:
        output = min(output, price.max_output * bounds.choices + bounds.prediction)
    return -(-(tokens * prompt + output * completion) // PICO_PER_NANO)


def within(bounds: Bounds, price: Price) -> Bounds:
    """The bounds as far as the model can reach them: its context window, its longest answer."""
    tokens = bounds.input_tokens if price.max_input is None else min(bounds.input_tokens, price.max_input)
    output = bounds.output_tokens
    if price.max_output is not None:
        output = min(output, price.max_output * bounds.choices + bounds.prediction)
    if tokens == bounds.input_tokens and output == bounds.output_tokens:
        return bounds
    return replace(bounds, input_tokens=tokens, output_tokens=output)


def _nano(pico: int, calls: Mapping[str, int] | None, price: Price) -> int:
    """The nano-dollars of tokens that cost ``pico``, and of calls of tools."""
    if calls:
        pico += sum(number * price.of_call(tool) for tool, number in calls.items())
    return -(-pico // PICO_PER_NANO)


def _reachable(price: TierPrice, prompt_tokens: int) -> Iterator[Rates]:
    yield price.rates
    for threshold, rates in price.above:
        if prompt_tokens > threshold:
            yield rates


@lru_cache(maxsize=4096)
def _dearest(rates: Rates, audio_input: bool, audio_output: bool) -> tuple[int, int]:
    """What a prompt token and a completion token cost in the bucket where each costs most."""
    prompt = (*_INPUT, _AUDIO_INPUT) if audio_input else _INPUT
    completion = (*_OUTPUT, _AUDIO_OUTPUT) if audio_output else _OUTPUT
    return max(rates[i] for i in prompt), max(rates[i] for i in completion)


def affordable_output(money: int, bounds: Bounds, price: Price, tiers: Iterable[str] = ("default",)) -> int:
    """The most completion tokens that ``money`` (nano-dollars) pays for within ``bounds``; 0 when not even one."""
    tiers = tuple(tiers)

    def price_of(output: int) -> int:
        return worst_case(replace(bounds, output_tokens=output), price, tiers)

    # Cost grows with the tokens: the first number that is too dear is one above the last that is not.
    return max(bisect.bisect_right(range(bounds.output_tokens + 1), money, key=price_of) - 1, 0)
