"""POST /admin/v1/explain: the decision without the deed, and no secret in it."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from .contract import USER, Contract, contract
from .running import PRICE, deployment

pytestmark = pytest.mark.asyncio(loop_scope="module")
ADMIN = "admin-0123456789abcdef0123456789abcdef"
KEY = "sk-sl-blue-0123456789abcdef"
SECRETS = ("sk-sl-", "upstream-secret", "header-secret")
KEYS = [
    {"name": "blue", "key": KEY, "team": "azure", "limits": {"rpm": 60, "budget": {"month": "12.50"}},
     "tiers": {"allowed": ["default", "flex"]}, "models": ["fast", "wide"]},
]  # fmt: skip
MODELS: dict[str, Any] = {
    "fast": {
        "deployments": [deployment("demo-echo", "anthropic"), deployment("gpt-5-mini", "secretive")],
        "fallbacks": {"any": ["wide"]},
        "params": {"unsupported": "translate", "default": {"temperature": 0.5}},
    },
    "wide": "demo-echo",
    "extended": {"deployments": [deployment("demo-echo")], "params": {"allow": ["top_k"]}},
    "other": "demo-echo",
}
ASK: dict[str, Any] = {"model": "fast", "messages": [USER], "max_tokens": 100, "seed": 7, "logit_bias": {"1": 1}}
SECTIONS: dict[str, Any] = {
    "keys": KEYS,
    "teams": {"azure": {"limits": {"tpm": 90_000}}},
    "admin": {"keys": {"ops": ADMIN}},
    "auth": {"pepper": "p" * 32},
    "providers": {
        "secretive": {
            "adapter": "openai", "base_url": "http://127.0.0.1:9/v1", "api_key": "upstream-secret",
            "headers": {"x-secret": "header-secret"},
        }
    },
}  # fmt: skip


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sluice() -> AsyncIterator[Contract]:
    async with contract(MODELS, **SECTIONS) as found:
        yield found


async def explained(sluice: Contract, request: Any, key: str | None = "blue") -> tuple[int, Any]:
    body = {"request": request, **({"key": key} if key is not None else {})}
    headers = {"authorization": f"Bearer {ADMIN}"}
    reply = await sluice.send("POST", "/admin/v1/explain", json=body, headers=headers, admin=True)
    assert not [s for s in SECRETS if s.encode() in reply.raw]
    return reply.status, reply.body


async def test_the_decision_is_told_and_nothing_is_sent(sluice: Contract) -> None:
    before = len(sluice.upstream.journal)
    status, told = await explained(sluice, ASK)
    assert status == 200
    assert told["refused"] is None
    assert (told["route"], told["key"]) == ("fast", "blue")
    assert told["service_tier"] == {"requested": None, "effective": "default"}
    assert {(m["scope"], m["limit"], m["cap"]) for m in told["limits"]} == {
        ("k:blue", "rpm", 60), ("k:blue", "budget.month", "$12.5"), ("t:azure", "tpm", 90_000),
    }  # fmt: skip
    assert told["reserves"]["output_tokens"] == 100
    assert told["otherwise"] == {"fallbacks": {"any": ["wide"]}, "cheaper": None, "left_out": []}
    anthropic, openai = told["plan"]
    assert anthropic["refused"]["param"] == "logit_bias"
    assert "request" not in anthropic
    assert openai["request"]["model"] == "gpt-5-mini"
    assert openai["request"]["temperature"] == 0.5  # the model's default
    assert openai["request"]["max_completion_tokens"] == 100
    assert openai["url"] == "http://127.0.0.1:9/v1/chat/completions"
    assert "x-secret" in openai["headers"]
    assert len(sluice.upstream.journal) == before


async def test_what_is_explained_is_what_is_sent(sluice: Contract) -> None:
    ask = {"model": "anthropic-echo", "messages": [USER], "seed": 7, "max_tokens": 50, "stop": ["x"]}
    _, told = await explained(sluice, ask, None)
    reply = await sluice.ask("anthropic-echo", **{k: ask[k] for k in ("seed", "max_tokens", "stop")}, headers=bearer())
    assert reply.status == 200
    (plan,) = told["plan"]
    assert plan["request"] == sluice.upstream.journal[-1].body
    assert plan["deployment"] == reply.headers["x-sluice-deployment"]
    assert ",".join(plan["dropped"]) == reply.headers["x-sluice-dropped-params"] == "seed"


def bearer() -> dict[str, str]:
    return {"authorization": f"Bearer {OPEN}"}


OPEN = "sk-sl-open-0123456789abcdef"
KEYS.append({"name": "open", "key": OPEN})


async def test_the_cost_is_an_upper_bound_in_dollars(sluice: Contract) -> None:
    _, told = await explained(sluice, {"model": "wide", "messages": [USER], "max_tokens": 1000})
    (plan,) = told["plan"]
    at_most, prompt = float(plan["cost_usd"]["at_most"]), float(plan["cost_usd"]["likely_prompt"])
    assert at_most >= 1000 * PRICE["output"] / 1e6
    assert 0 < prompt < at_most
    assert told["reserves"]["cost_usd"] == plan["cost_usd"]["at_most"]


async def test_an_extension_of_another_model_is_refused_by_each_deployment(sluice: Contract) -> None:
    _, told = await explained(sluice, {"model": "wide", "messages": [USER], "top_k": 5})
    assert [plan["refused"]["param"] for plan in told["plan"]] == ["top_k"]
    _, told = await explained(sluice, {"model": "extended", "messages": [USER], "top_k": 5}, None)
    assert told["plan"][0]["request"]["top_k"] == 5


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"temperature": 3}, 400, "decimal_above_max_value"),
        ({"model": "other"}, 404, "model_not_found"),
        ({"service_tier": "priority"}, 400, None),
        ({"model": "fast@openai"}, 403, "permission_denied"),
        ({"messages": []}, 400, "empty_array"),
    ],
)
async def test_a_refusal_is_explained_not_raised(
    sluice: Contract, change: dict[str, Any], status: int, code: str | None
) -> None:
    answered, told = await explained(sluice, {**ASK, **change})
    assert answered == 200
    assert (told["refused"]["status"], told["refused"]["code"]) == (status, code)
    sent = await sluice.send(
        "POST", "/v1/chat/completions", json={**ASK, **change}, headers={"authorization": f"Bearer {KEY}"}
    )
    assert (sent.status, sent.error["message"]) == (status, told["refused"]["message"])


async def test_nobody_has_no_limits_and_a_key_of_the_database_has_its_own(sluice: Contract) -> None:
    _, told = await explained(sluice, ASK, None)
    assert told["limits"] == []
    status, told = await explained(sluice, ASK, "key_none")
    assert (status, told["error"]["code"]) == (404, "not_found")
    headers = {"authorization": f"Bearer {ADMIN}"}
    body = {"name": "n", "limits": {"rpm": 5}}
    made = await sluice.send("POST", "/admin/v1/keys", json=body, headers=headers, admin=True)
    _, told = await explained(sluice, ASK, made.body["id"])
    assert [(m["limit"], m["cap"]) for m in told["limits"]] == [("rpm", 5)]


@pytest.mark.parametrize("body", [{}, {"request": 1}, {"request": {}, "x": 1}, {"request": {}, "key": 1}, [], "x"])
async def test_a_question_of_the_wrong_shape_is_400(sluice: Contract, body: Any) -> None:
    headers = {"authorization": f"Bearer {ADMIN}"}
    reply = await sluice.send("POST", "/admin/v1/explain", json=body, headers=headers, admin=True)
    assert reply.status == 400
    assert reply.error["message"]


async def test_only_operators_ask(sluice: Contract) -> None:
    reply = await sluice.send("POST", "/admin/v1/explain", json={"request": ASK}, headers=bearer(), admin=True)
    assert reply.status in (401, 403)


async def test_embeddings_are_explained(sluice: Contract) -> None:
    _, told = await explained(sluice, {"model": "wide", "input": "hi"})
    (plan,) = told["plan"]
    assert plan["url"].endswith("/embeddings")
    assert plan["request"]["input"] == "hi"
