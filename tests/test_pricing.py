"""Prices: exact integers, one rounding, and a bound that no bill can pass."""

import json
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.interface import Target
from adapters.openai.dialect import read_usage
from adapters.registry import load
from adapters.usage import TOKEN_BUCKETS, Usage
from config import ConfigError, schema
from gateway.call import Deployment
from gateway.price_book import PriceBook
from gateway.price_list import PriceList, check, differences, from_config, from_row
from gateway.pricing import Bounds, Price, TierPrice, affordable_output, cost, most, within, worst_case

from .beside import SHARED

PRICES = PriceList.load()
ROW = {
    "prices": {
        "input": 2_500_000,
        "output": 15_000_000,
        "cache_read": 250_000,
        "above": {"272000": {"input": 5_000_000, "output": 22_500_000, "cache_read": 500_000}},
        "tiers": {
            "flex": {"input": 1_250_000, "output": 7_500_000, "cache_read": 130_000},
            "priority": {"input": 5_000_000, "output": 30_000_000},
        },
    },
    "max_input": 1_050_000,
    "max_output": 128_000,
    "web_search_per_call_pico": {"low": 5, "high": 10_000_000_000},
}
PRICE = from_row(ROW)


def test_every_row_of_the_shipped_list_is_usable() -> None:
    data = json.loads((Path(__file__).parents[1] / "config" / "prices.json").read_text())
    check(data)
    assert PRICES.source
    assert PRICES.date
    assert sum(map(len, data["providers"].values())) > 1000


def test_the_shipped_list_is_as_complete_as_its_source() -> None:
    source = SHARED / "reference" / "prices.json"
    if not source.exists():
        pytest.skip("the source of the list is not here")
    ours = json.loads((Path(__file__).parents[1] / "config" / "prices.json").read_text())
    theirs = json.loads(source.read_text())
    for provider, rows in theirs["providers"].items():
        for model, row in rows.items():
            row.pop("supports", None)
            assert ours["providers"][provider][model] == row


def test_a_bill_by_hand() -> None:
    usage = Usage(input=1000, cache_read=500, output=100, reasoning=50, calls={"web_search": 2})
    dollars = Decimal("2.5") / 1000 + Decimal("0.25") * 500 / 10**6 + Decimal(15) * 150 / 10**6 + Decimal("0.02")
    assert cost(usage, PRICE) == int(dollars * 10**9)


@pytest.mark.parametrize(
    ("model", "told", "dollars"),
    [
        (
            "sonar-deep-research",
            {
                "citation_tokens": 8000,
                "num_search_queries": 54,
                "reasoning_tokens": 92_000,
                "search_context_size": None,
            },
            "0.596",  # 2, 8, 2 and 3 dollars per million tokens; 5 per thousand queries
        ),
        ("sonar", {"search_context_size": "low", "citation_tokens": None, "num_search_queries": None}, "0.01"),
        ("sonar-pro", {"search_context_size": "medium"}, "0.073"),
        ("sonar-pro", {}, "0.063"),
    ],
)
def test_Perplexity_is_billed_what_its_usage_tells_beside_the_answer(
    model: str, told: dict[str, Any], dollars: str
) -> None:
    usage = read_usage({"prompt_tokens": 1000, "completion_tokens": 4000, "total_tokens": 5000, **told})
    price = PRICES.find("perplexity", model)
    assert usage is not None
    assert price is not None
    assert cost(usage, price) == int(Decimal(dollars) * 10**9)
    assert usage.completion_tokens == 4000 + told.get("reasoning_tokens", 0)


def test_a_call_of_any_size_costs_what_the_tool_does_where_sizes_have_no_prices() -> None:
    own = from_config(schema.Price.model_validate({"input": 1, "output": 1, "per_call": {"web_search": "0.01"}}))
    assert cost(Usage(calls={"web_search:low": 2, "other": 1}), own) == 20_000_000


def test_the_tier_that_served_is_billed() -> None:
    usage = Usage(input=1000, output=100)
    assert cost(usage, PRICE, "priority") == 2 * cost(usage, PRICE) == 4 * cost(usage, PRICE, "flex")
    assert cost(usage, PRICE, "scale") == cost(usage, PRICE, None) == cost(usage, PRICE, "default")


def test_a_long_prompt_reprices_the_whole_request() -> None:
    assert cost(Usage(input=272_000, output=1), PRICE) == 272_000 * 2500 + 15_000
    assert cost(Usage(input=272_000, cache_read=1), PRICE) == 272_000 * 5000 + 500
    # a tier without a long-context price is never cheaper than the default there
    assert cost(Usage(input=300_000), PRICE, "flex") == cost(Usage(input=300_000), PRICE)


def test_fractions_are_rounded_up_once() -> None:
    tiny = from_row({"prices": {"input": 1, "output": 1}})
    assert cost(Usage(), tiny) == 0
    assert cost(Usage(input=1), tiny) == 1
    assert cost(Usage(input=999, output=1), tiny) == 1
    assert cost(Usage(input=1000, output=1), tiny) == 2


usages = st.builds(Usage, **{bucket: st.integers(0, 400_000) for bucket in TOKEN_BUCKETS})
rows = st.sampled_from([from_row(r) for p in json.loads((Path(__file__).parents[1] / "config" / "prices.json").read_text())["providers"].values() for r in p.values()])  # fmt: skip
TIERS = ["default", "flex", "priority", "ultrafast"]


@given(usages, rows, st.sampled_from(TIERS))
def test_no_bill_passes_its_bound(usage: Usage, price: Price, tier: str) -> None:
    bounds = Bounds(usage.prompt_tokens + 3, usage.completion_tokens + 5, audio_input=True, audio_output=True)
    assert cost(usage, price, tier) <= worst_case(bounds, price, [tier])


@given(usages, rows)
def test_a_bound_without_audio_holds_without_audio(usage: Usage, price: Price) -> None:
    plain = Usage(**{b: getattr(usage, b) for b in TOKEN_BUCKETS if "audio" not in b})
    assert cost(plain, price) <= worst_case(Bounds(plain.prompt_tokens, plain.completion_tokens), price)


@given(usages, rows, st.sampled_from(TIERS))
def test_one_price_for_all_is_billed_as_one_price_of_many(usage: Usage, price: Price, tier: str) -> None:
    plain = Price(price.default if not price.default.above else TierPrice(price.default.rates), per_call=price.per_call)
    assert plain.plain is not None
    assert cost(usage, plain, tier) == cost(usage, replace(plain, tiers={"other": PRICE.default}), tier)


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(1, 3), st.integers(0, 99), rows)
def test_the_most_is_the_worst_case_within_reach(
    tokens: int, output: int, choices: int, prediction: int, price: Price
) -> None:
    bounds = Bounds(tokens, output, choices=choices, prediction=prediction)
    assert most(bounds, price) == worst_case(within(bounds, price), price)


@given(st.integers(0, 10**9), rows)
def test_the_affordable_output_is_the_largest_that_the_money_pays(money: int, price: Price) -> None:
    bounds = Bounds(1000, 50_000)
    tokens = affordable_output(money, bounds, price)
    if tokens:
        assert worst_case(replace(bounds, output_tokens=tokens), price) <= money
    if tokens < bounds.output_tokens:
        assert worst_case(replace(bounds, output_tokens=tokens + 1), price) > money


def test_the_bound_covers_calls_of_tools() -> None:
    assert worst_case(Bounds(0, 0, calls={"web_search": 3}), PRICE) == 30_000_000


@pytest.mark.parametrize(
    ("adapter", "model", "listed"),
    [
        ("openai", "gpt-4.1-2099-01-01", "gpt-4.1"),
        ("openai", "ft:gpt-4.1-2025-04-14:acme::x1", "ft:gpt-4.1-2025-04-14"),
        ("anthropic", "claude-haiku-4-5-20991231", "claude-haiku-4-5"),
        ("anthropic", "claude-haiku-4-5-latest", "claude-haiku-4-5"),
        ("gemini", "models/gemini-2.5-pro", "gemini-2.5-pro"),
        ("bedrock", "jp.amazon.nova-lite-v1:0", "amazon.nova-lite-v1:0"),
        (
            "bedrock",
            "arn:aws:bedrock:us-east-1:1:inference-profile/eu.amazon.nova-lite-v1:0",
            "eu.amazon.nova-lite-v1:0",
        ),
    ],
)
def test_a_snapshot_has_the_price_of_its_model(adapter: str, model: str, listed: str) -> None:
    found = PRICES.find(adapter, model)
    assert found is not None
    assert found == PRICES.find(adapter, listed)


def test_an_unknown_model_has_no_price() -> None:
    assert PRICES.find("openai", "gpt-4o-and-a-half") is None
    assert PRICES.find("nobody", "gpt-4.1") is None


def test_vertex_models_of_anthropic_are_found_under_vertex() -> None:
    assert PRICES.find("vertex-anthropic", "claude-haiku-4-5@20251001") is not None


def test_a_price_of_ones_own_is_exact() -> None:
    own = schema.Price.model_validate(
        {"input": "0.0375", "output": "0.15", "tiers": {"priority": "1.75", "flex": "0.333333"}, "per_call": {"web_search": "0.01"}}
    )  # fmt: skip
    price = from_config(own)
    assert price.default.rates[0] == 37_500
    assert price.of("priority").rates[0] == 65_625
    assert price.of("flex").rates[0] == 12_500  # 12499.9875, rounded up: never below what was asked
    assert price.per_call["web_search"] == 10**10
    assert cost(Usage(input=1_000_000, cache_read=1_000_000, reasoning=1_000_000), price) == 225_000_000


def priced(adapter: str, unpriced: str | None = None, pricing: Any = None, **options: object) -> Price | None:
    """What one deployment of a configuration costs. ``unpriced``: its model's policy."""
    config = schema.Config.model_validate(
        {
            "providers": {"p": {"adapter": adapter}},
            "pricing": pricing or {},
            "models": {
                "m": {"deployments": [{"provider": "p", "model": "gpt-4.1", **options}], "unpriced": unpriced},
            },
        }
    )
    own = config.models["m"].deployments[0]
    return PriceBook(config, PRICES).price(Deployment("m", "p", load("openai"), Target("", "x"), own))


def test_which_price_a_deployment_has() -> None:
    listed = priced("openai")
    assert listed is not None
    assert listed.max_output == 32_768
    own = priced("openai", price={"input": 1, "output": 2}, max_output=99)
    assert own is not None
    assert (own.default.rates[0], own.max_output, own.max_input) == (1_000_000, 99, listed.max_input)
    assert priced("azure", model="my-own-name", priced_as="openai/gpt-4.1") == listed
    assert priced("openai", model="nothing") is None


def test_an_unpriced_model_is_refused_unless_there_is_a_default() -> None:
    fallback = {"input": 3, "output": 4}
    pricing = {"unpriced": "default", "default": fallback}
    found = priced("openai", pricing=pricing, model="nothing")
    assert found is not None
    assert found.default == from_config(schema.Price.model_validate(fallback)).default
    assert priced("openai", "refuse", pricing, model="nothing") is None


def test_differences_between_two_lists() -> None:
    before = {"providers": {"a": {"x": ROW, "y": ROW}, "b": {"z": ROW}}}
    after = {"providers": {"a": {"x": ROW, "y": {"prices": {"input": 1}}}, "c": {"w": ROW}}}
    assert [(c.provider, c.model, c.before is None, c.after is None) for c in differences(before, after)] == [
        ("a", "y", False, False),
        ("b", "z", False, True),
        ("c", "w", True, False),
    ]
    assert differences(before, before) == []


@pytest.mark.parametrize("row", [{}, {"prices": {"output": 1}}, {"prices": {"input": -1}}, {"prices": 3}])
def test_a_bad_row_is_named(row: object) -> None:
    with pytest.raises(ValueError, match=r"^a/x: "):
        check({"providers": {"a": {"x": row}}})


def test_what_is_no_price_list_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "prices.json"
    file.write_text("[]")
    with pytest.raises(ValueError, match="not a price list"):
        PriceList.load(file)


@pytest.mark.parametrize(
    ("written", "why"),
    [
        (None, "pricing.prices: cannot be read: No such file or directory"),
        ("{", "pricing.prices: Expecting property name"),
        ("[]", "not a price list"),
        (
            '{"providers": {"openai": {"gpt-4.1": {"prices": {"output": 1}}}}}',
            "pricing.prices: openai/gpt-4.1: KeyError",
        ),
    ],
)
def test_a_list_of_ones_own_that_is_no_use_is_a_mistake_of_the_configuration(
    written: str | None, why: str, tmp_path: Path
) -> None:
    file = tmp_path / "prices.json"
    if written is not None:
        file.write_text(written)
    config = schema.Config.model_validate(
        {
            "providers": {"p": {"adapter": "openai"}},
            "pricing": {"prices": str(file)},
            "models": {"m": {"deployments": [{"provider": "p", "model": "gpt-4.1"}]}},
        }
    )
    with pytest.raises(ConfigError) as failure:
        PriceBook(config)
    assert why in "".join(failure.value.problems)


def test_the_book_prices_deployments_by_their_adapter_and_their_models_policy() -> None:
    config = schema.Config.model_validate(
        {
            "providers": {"p": {"adapter": "openai"}},
            "pricing": {"default": {"input": 1, "output": 1}},
            "models": {
                "fast": {"deployments": [{"provider": "p", "model": "gpt-4.1"}]},
                "mine": {"deployments": [{"provider": "p", "model": "x"}], "unpriced": "default"},
                "none": {"deployments": [{"provider": "p", "model": "x"}]},
            },
        }
    )
    prices = PriceBook(config, PRICES)
    adapter = load("anthropic")

    def ready(name: str) -> Deployment:
        return Deployment(name, "p", adapter, Target("", "x"), config.models[name].deployments[0])

    fast, mine, none = map(ready, config.models)
    bounds = Bounds(10**9, 10**9, choices=2)
    listed = PRICES.find("openai", "gpt-4.1")
    assert listed is not None
    assert listed.max_input is not None
    assert prices.worst_case(fast, bounds, "flex") == worst_case(Bounds(listed.max_input, 2 * 32_768), listed, ["flex"])
    assert prices.cost(fast, Usage(output=1000)) == 8_000_000
    assert prices.worst_case(mine, bounds) == 2 * 10**12
    assert prices.worst_case(none, bounds) is None
    assert prices.cost(none, Usage(output=1000)) == 0
