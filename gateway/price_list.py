"""Reads prices: the price list's, which is shipped or one's own, and those of a configuration."""

import json
import math
import re
from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

from adapters.usage import TOKEN_BUCKETS
from config import schema

from .pricing import ABSENT, Price, Rates, TierPrice


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
