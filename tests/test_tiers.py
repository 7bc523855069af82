"""Entitlement to service tiers: requested -> effective."""

from typing import Any

import pytest

from config.schema import TierPolicy
from gateway.call import Owner, Principal
from gateway.errors import InvalidRequest
from gateway.tiers import effective


def whose(*policies: dict[str, Any]) -> Principal:
    return Principal("k", "o", owners=tuple(Owner(f"x{i}", tiers=TierPolicy(**p)) for i, p in enumerate(policies)))


@pytest.mark.parametrize(
    ("asked", "policies", "tier"),
    [
        (None, [], "default"),
        ("auto", [], "default"),
        ("flex", [], "flex"),
        ("fast", [], "priority"),
        (None, [{"default": "flex"}, {"default": "priority"}], "flex"),
        (None, [{}, {"default": "priority"}], "priority"),
        (None, [{"default": "priority"}, {"max": "default"}], "default"),
        ("auto", [{"default": "auto"}], "default"),
        ("auto", [{"allowed": ("flex",)}], "flex"),
        ("priority", [{"allowed": ("flex", "default"), "on_denied": "downgrade"}], "default"),
        ("priority", [{"max": "flex", "on_denied": "downgrade"}], "flex"),
        ("flex", [{"allowed": ("default", "priority"), "on_denied": "downgrade"}], "default"),
        ("ultrafast", [{}, {"max": "priority", "on_denied": "downgrade"}], "priority"),
    ],
)
def test_the_narrowest_default_and_every_ceiling(asked: str | None, policies: list[dict[str, Any]], tier: str) -> None:
    assert effective({"service_tier": asked}, whose(*policies)) == tier


@pytest.mark.parametrize(
    "policies", [[{"allowed": ("default",)}], [{}, {"max": "default"}], [{"on_denied": "reject", "max": "flex"}]]
)
def test_C_398_an_explicit_tier_above_the_policy_is_refused(policies: list[dict[str, Any]]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        effective({"service_tier": "priority"}, whose(*policies))
    assert caught.value.param == "service_tier"
    assert caught.value.message.startswith("Invalid service_tier argument")
