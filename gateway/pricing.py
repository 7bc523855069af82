"""Usage x price x tier -> nano-dollars. The same arithmetic bills a request and bounds it beforehand.

Prices are whole pico-dollars per token ($1 per million tokens is 1,000,000), so that sums are exact; a request's cost
is rounded up once, to nano-dollars.
"""

import bisect
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias

from adapters.usage import TOKEN_BUCKETS, Usage
from config import ConfigError, schema

from .call import Deployment

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


def _rates(prices: Mapping[str, int]) -> Rates:
    full = {"input": prices["input"], "output": prices.get("output", 0)}
    for bucket, other in ABSENT.items():
        full[bucket] = prices.get(bucket, full[other])
    return tuple(full[bucket] for bucket in TOKEN_BUCKETS)


def _tokens_only(prices: Mapping[str, Any]) -> dict[str, int]:
    return {name: value for name, value in prices.items() if isinstance(value, int)}


def _steps(base: Mapping[str, int], above: Mapping[str, Mapping[str, Any]]) -> tuple[tuple[int, Rates], ...]:
    steps = ((int(threshold), _rates({**base, **_tokens_only(prices)})) for threshold, prices in above.items())
    return tuple(sorted(steps))


def from_row(row: Mapping[str, Any]) -> Price:
    """A row of the price list."""
    prices = row["prices"]
    base = _tokens_only(prices)
    default = TierPrice(_rates(base), _steps(base, prices.get("above", {})))
    tiers = {}
    for name, tier in prices.get("tiers", {}).items():
        own = {**base, **_tokens_only(tier)}
        above = _steps(own, tier.get("above", {}))
        if not above:
            # The vendor has no long context at this tier: should it be served all the same, it is not sold below cost.
            above = tuple((t, tuple(map(max, _rates(own), rates))) for t, rates in default.above)
        tiers[name] = TierPrice(_rates(own), above)
    search: Mapping[str, int] = row.get("web_search_per_call_pico") or {}
    return Price(
        default,
        tiers,
        {"web_search": max(search.values()), **{f"web_search:{s}": pico for s, pico in search.items()}}
        if search
        else {},
        row.get("max_input"),
        row.get("max_output"),
    )


def from_config(price: schema.Price) -> Price:
    """A price of one's own: dollars per million tokens -> pico-dollars per token."""
    given = {b: getattr(price, b) for b in TOKEN_BUCKETS}
    rates = _rates({name: int(value.scaleb(6)) for name, value in given.items() if value is not None})
    return Price(
        TierPrice(rates),
        {tier: TierPrice(tuple(math.ceil(rate * factor) for rate in rates)) for tier, factor in price.tiers.items()},
        {tool: int(value.scaleb(12)) for tool, value in price.per_call.items()},
    )


_PROVIDERS = {"vertex-anthropic": "vertex", "gemini-openai": "gemini"}
"""Adapters that are called otherwise in the price list."""
_PREFIXES = {"vertex": "vertex_ai/"}
"""What the list puts before some of a provider's models."""

_LESS_PRECISE = (
    re.compile(r"^(ft:[^:]+):.*$"),  # ft:gpt-4o-2024-08-06:acme::id
    re.compile(r"^models/(.+)$"),
    re.compile(r"^(.+)-latest$"),
    re.compile(r"^(.+?)(?:[-@](?:\d{4}-\d{2}-\d{2}|\d{8}|\d{4}|default))(?:-v\d+(?::\d+)?)?$"),  # a dated snapshot
    re.compile(r"^arn:aws[^:]*:bedrock:[^/]+/(.+)$"),
    re.compile(r"^(?:us|eu|apac|global|jp|au|us-gov)\.(.+)$"),  # a cross-region inference profile
)
"""What a provider's model name may have around the name that has the price; tried until one is known."""


class PriceList:
    """Prices and limits of the models that are known, by provider."""

    def __init__(self, data: Mapping[str, Any]) -> None:
        self.source: str = data.get("source", "")
        self.date: str = data.get("date", "")
        self._providers: Mapping[str, Mapping[str, Any]] = data["providers"]
        """Rows, or their JSON: see ``load``."""

    @classmethod
    def load(cls, path: str | Path | None = None) -> "PriceList":
        """Read a list, or the one that is shipped. Raises OSError or ValueError."""
        source = Path(path) if path is not None else files("config") / "prices.json"
        data = json.loads(source.read_text("utf-8"), object_hook=_packed)
        if not isinstance(data, dict) or not isinstance(data.get("providers"), dict):
            raise ValueError(f"{source}: not a price list: no 'providers'")  # noqa: TRY004 - of the file, not a type
        return cls(data)

    def find(self, adapter: str, model: str) -> Price | None:
        """The price of a provider's model, dated snapshots and regional profiles included; None if unknown.

        Raises ValueError, naming the row, where that is no price.
        """
        provider = _PROVIDERS.get(adapter, adapter)
        rows = self._providers.get(provider, {})
        for name in less_and_less_precise(model):
            row = rows.get(name) or rows.get(_PREFIXES.get(provider, "") + name)
            if row is not None:
                return _checked(provider, name, json.loads(row) if isinstance(row, str) else row)
        return None


def _packed(found: dict[str, Any]) -> Any:
    """An object of a price list; a row as JSON, a quarter of the size: few of them are asked for, and what all of them
    take while they are read stays with the process, 1 MB."""
    return json.dumps(found, separators=(",", ":")) if isinstance(found.get("prices"), dict) else found


def less_and_less_precise(model: str) -> Iterator[str]:
    """The names under which a model's price may be listed, the most precise first."""
    seen = [model]
    for name in seen:
        yield name
        for pattern in _LESS_PRECISE:
            match = pattern.match(name)
            if match and match[1] not in seen:
                seen.append(match[1])


class PriceBook:
    """The price of each deployment under one configuration. ``known`` is a price list instead of the configured one.

    All deployments are priced at once: nobody then keeps the list, which is 0.7 MB. Raises ConfigError for a list that
    cannot be read or used.
    """

    def __init__(self, config: schema.Config, known: PriceList | None = None) -> None:
        self._config = config.pricing
        self._adapters = {name: provider.adapter for name, provider in config.providers.items()}
        self._default = from_config(config.pricing.default) if config.pricing.default is not None else None
        self._found: dict[int, tuple[schema.Deployment, Price | None]] = {}
        """By identity, since equal deployments of two models may differ in policy. The deployment is kept with its price:
        only a living object's identity is its own."""
        try:
            known = known or PriceList.load(config.pricing.prices)
            for model in config.models.values():
                for d in model.deployments:
                    self._found[id(d)] = d, self._of(d, known, model.unpriced)
        except OSError as exc:
            raise ConfigError([f"pricing.prices: cannot be read: {exc.strerror}"]) from exc
        except ValueError as exc:
            raise ConfigError([f"pricing.prices: {exc}"]) from exc

    def price(self, deployment: Deployment) -> Price | None:
        """The price of a deployment of the configuration; None when it has none and that is to be refused."""
        return self._found[id(deployment.config)][1]

    def cost(self, deployment: Deployment, usage: Usage, tier: str | None = None) -> int:
        """The nano-dollars of what a deployment used at the tier that served; 0 where there is no price."""
        price = self.price(deployment)
        return 0 if price is None else cost(usage, price, tier)

    def worst_case(self, deployment: Deployment, bounds: Bounds, *tiers: str) -> int | None:
        """The most nano-dollars that a deployment may cost within ``bounds``; None when it has no price."""
        price = self.price(deployment)
        return None if price is None else most(bounds, price, tiers)

    def _of(self, deployment: schema.Deployment, known: PriceList, unpriced: str | None) -> Price | None:
        """Its own price, else the price list's, else (policy ``default``) the default one; None: has no price.

        ``unpriced`` is the public model's policy, where it has one.
        """
        provider, model = self._adapters.get(deployment.provider, deployment.provider), deployment.model
        if deployment.priced_as is not None:
            provider, _, model = deployment.priced_as.partition("/")
        listed = known.find(provider, model)
        price = listed
        if deployment.price is not None:
            price = from_config(deployment.price)
        elif price is None and (unpriced or self._config.unpriced) == "default":
            price = self._default
        if price is None:
            return None
        return replace(
            price,
            max_input=deployment.max_input or (listed.max_input if listed else None),
            max_output=deployment.max_output or (listed.max_output if listed else None),
        )


class Change(NamedTuple):
    """One difference between two price lists; None where a model is not in one of them."""

    provider: str
    model: str
    before: Mapping[str, Any] | None
    after: Mapping[str, Any] | None


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Change]:
    """What changes when one price list takes the place of another, ordered by provider and model."""
    found = []
    for provider in sorted({*before["providers"], *after["providers"]}):
        old, new = before["providers"].get(provider, {}), after["providers"].get(provider, {})
        found += [
            Change(provider, model, old.get(model), new.get(model))
            for model in sorted({*old, *new})
            if old.get(model) != new.get(model)
        ]
    return found


def _checked(provider: str, model: str, row: Any) -> Price:
    try:
        return from_row(row)
    except (KeyError, TypeError, ValueError, AttributeError) as e:
        raise ValueError(f"{provider}/{model}: {e!r}") from e


def check(data: Mapping[str, Any]) -> None:
    """Raise ValueError, naming the row, if a price list cannot be used."""
    for provider, rows in data["providers"].items():
        for model, row in rows.items():
            price = _checked(provider, model, row)
            tiers = (price.default, *price.tiers.values())
            if any(rate < 0 for tier in tiers for rates in (tier.rates, *(r for _, r in tier.above)) for rate in rates):
                raise ValueError(f"{provider}/{model}: a price below 0")
