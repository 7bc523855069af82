"""Service tiers as a client meets them: checklist C-460 to C-479, through the gateway."""

from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import pytest
import pytest_asyncio

from adapters.usage import Usage
from config.schema import Deployment, Price
from gateway.price_list import PriceList, from_config
from gateway.pricing import cost

from .contract import Contract, Reply, contract
from .running import KEY, PRICE, deployment

pytestmark = pytest.mark.asyncio(loop_scope="module")
EAGER = "sk-sl-eager-0123456789abcdef"
MODEST = "sk-sl-modest-0123456789abcdef"
MEASURED = "sk-sl-measured-0123456789abcdef"
KEYS = [
    {"name": "test", "key": KEY},
    {"name": "eager", "key": EAGER, "tiers": {"default": "priority"}},
    {"name": "modest", "key": MODEST, "tiers": {"allowed": ["default", "flex"]}},
    {"name": "measured", "key": MEASURED, "limits": {"rpm": 100}},
]
ALL = ["default", "flex", "priority", "scale", "ultrafast"]
TIERED = {**PRICE, "tiers": {"flex": "0.5", "priority": 2, "ultrafast": 6}}
MODELS: dict[str, Any] = {
    "m": [deployment("demo-ok", tiers=ALL, price=TIERED)],
    "slow": {
        "deployments": [deployment("demo-slow+delay=0.5", tiers=["default", "flex"])],
        "timeouts": {"response": 0.2},
        "timeouts_per_tier": {"flex": {"response": 5}},
    },
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sluice() -> AsyncIterator[Contract]:
    async with contract(MODELS, keys=KEYS) as found:
        yield found


async def ask(sluice: Contract, key: str = KEY, model: str = "m", **parameters: Any) -> tuple[Reply, str | None]:
    """The reply, and the tier that the provider was asked for."""
    reply = await sluice.ask(model, headers={"authorization": f"Bearer {key}"}, **parameters)
    return reply, sluice.upstream.journal[-1].body.get("service_tier")


async def test_C_461_auto_and_silence_take_the_owners_default(sluice: Contract) -> None:
    for parameters in ({}, {"service_tier": "auto"}, {"service_tier": None}):
        reply, sent = await ask(sluice, EAGER, **parameters)
        assert (reply.body["service_tier"], sent) == ("priority", "priority")
        reply, sent = await ask(sluice, **parameters)
        assert reply.body["service_tier"] == sent == "default"


async def test_C_462_default_is_default_whatever_the_owner_prefers(sluice: Contract) -> None:
    reply, sent = await ask(sluice, EAGER, service_tier="default")
    assert (reply.body["service_tier"], sent) == ("default", "default")


async def test_C_463_flex_is_flex(sluice: Contract) -> None:
    reply, sent = await ask(sluice, service_tier="flex")
    assert (reply.body["service_tier"], sent) == ("flex", "flex")


async def test_C_466_flex_may_take_longer(sluice: Contract) -> None:
    assert (await ask(sluice, model="slow"))[0].status == 504
    assert (await ask(sluice, model="slow", service_tier="flex"))[0].status == 200


async def test_C_469_fast_is_priority_in_every_place(sluice: Contract) -> None:
    reply, sent = await ask(sluice, service_tier="fast")
    assert reply.body["service_tier"] == "priority"
    assert sent in ("fast", "priority")
    refused, _ = await ask(sluice, MODEST, service_tier="fast")
    assert (refused.status, refused.error["param"]) == (400, "service_tier")


@pytest.mark.parametrize("tier", ["ultrafast", "scale"])
async def test_C_470_471_tiers_of_few_models(sluice: Contract, tier: str) -> None:
    reply, sent = await ask(sluice, service_tier=tier)
    assert reply.body["service_tier"] == sent == tier
    reply, sent = await ask(sluice, model="openai-ok", service_tier=tier)  # an address that declared no tiers
    assert reply.body["service_tier"] == "default"
    assert sent is None
    assert reply.headers["x-sluice-tier-downgrade"] == "unsupported"


async def test_C_468_475_priority_has_no_limits_of_its_own_unless_configured(sluice: Contract) -> None:
    left = [
        int((await ask(sluice, MEASURED, service_tier=tier))[0].headers["x-ratelimit-remaining-requests"])
        for tier in ("default", "priority", "default", "priority")
    ]
    assert left == sorted(left, reverse=True)
    assert len(set(left)) == 4  # one bucket for both
    reply, _ = await ask(sluice, MEASURED, service_tier="priority")
    assert reply.body["service_tier"] == "priority"  # whatever the growth, where no `ramp` is set


async def test_C_474_a_policy_may_forbid_a_tier(sluice: Contract) -> None:
    for tier, status in (("default", 200), ("flex", 200), ("priority", 400), ("fast", 400), ("ultrafast", 400)):
        reply, _ = await ask(sluice, MODEST, service_tier=tier)
        assert reply.status == status, tier
    reply, _ = await ask(sluice, MODEST, service_tier="auto")
    assert reply.body["service_tier"] == "default"


async def test_C_477_multipliers_are_data(sluice: Contract) -> None:
    assert isinstance(sluice, Contract)
    usage = Usage(input=1000, output=100)
    configured = from_config(Price(input=Decimal(2), output=Decimal(8), tiers={"flex": Decimal("0.5")}))
    assert cost(usage, configured, "flex") * 2 == cost(usage, configured, "default") == 2_800_000
    listed = PriceList.load().find("openai", "gpt-5-mini")
    assert listed is not None
    ratio = Decimal(cost(usage, listed, "priority")) / cost(usage, listed, "default")
    assert ratio == Decimal("1.8")
    assert cost(usage, listed, "flex") * 2 == cost(usage, listed, "default")
    assert Deployment(provider="p", model="m").price is None
