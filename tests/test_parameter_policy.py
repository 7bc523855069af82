"""What becomes of parameters that a model does not take: a model's ``params``, end to end."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from config import ConfigError

from .contract import USER, Contract, contract
from .running import deployment

pytestmark = pytest.mark.asyncio(loop_scope="module")
CHANGING: dict[str, Any] = {"n": 2, "logit_bias": {"1": 5}, "logprobs": True}


def model(unsupported: str = "translate", **params: Any) -> dict[str, Any]:
    deployments = [deployment("demo-echo", "anthropic")]
    return {"deployments": deployments, "params": {"unsupported": unsupported, **params}}


MODELS: dict[str, Any] = {
    "translates": model(),
    "drops": model("drop"),
    "rejects": model("reject"),
    "extended": model(allow=["top_k"]),
    "open": {"deployments": [deployment("demo-echo")], "params": {"allow": ["top_k", "min_p"]}},
    "set": {
        "deployments": [deployment("demo-echo")],
        "params": {"default": {"temperature": 0.5, "max_completion_tokens": 2, "verbosity": "low"}},
    },
    "mixed": {"deployments": [deployment("demo-echo", "anthropic"), deployment("demo-echo")]},
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sluice() -> AsyncIterator[Contract]:
    async with contract(MODELS, retries={"attempts": 2}) as found:
        yield found


@pytest.mark.parametrize("stream", [False, True])
async def test_C_173_hints_are_dropped_and_named(sluice: Contract, stream: bool) -> None:
    reply = await sluice.ask("translates", seed=7, logit_bias={}, n=1, stream=stream)
    assert reply.status == 200
    assert reply.headers["x-sluice-dropped-params"] == "seed"  # what asks for nothing is not told
    assert "seed" not in sluice.upstream.journal[-1].body
    assert "x-sluice-dropped-params" not in (await sluice.ask("translates", stream=stream)).headers


@pytest.mark.parametrize("name", CHANGING)
async def test_C_173_what_changes_the_answer_is_refused_by_default(sluice: Contract, name: str) -> None:
    before = len(sluice.upstream.journal)
    reply = await sluice.ask("translates", **{name: CHANGING[name]})
    assert (reply.status, reply.error["code"], reply.error["param"]) == (400, "unsupported_parameter", name)
    assert len(sluice.upstream.journal) == before


async def test_C_173_drop_drops_everything_and_names_it(sluice: Contract) -> None:
    asked = {name: value for name, value in CHANGING.items() if name != "n"}
    reply = await sluice.ask("drops", seed=7, **asked)
    assert reply.status == 200
    assert set(reply.headers["x-sluice-dropped-params"].split(",")) == {"seed", *asked}
    assert not {"seed", *asked} & set(sluice.upstream.journal[-1].body)


@pytest.mark.parametrize("stream", [False, True])
async def test_C_285_fewer_choices_than_asked_for_are_refused_even_then(sluice: Contract, stream: bool) -> None:
    before = len(sluice.upstream.journal)
    reply = await sluice.ask("drops", n=3, stream=stream)
    assert (reply.status, reply.error["param"]) == (400, "n")
    assert len(sluice.upstream.journal) == before


async def test_C_173_reject_refuses_hints_too(sluice: Contract) -> None:
    reply = await sluice.ask("rejects", seed=7)
    assert (reply.status, reply.error["code"], reply.error["param"]) == (400, "unsupported_parameter", "seed")
    assert (await sluice.ask("rejects", temperature=0.2, stop=["x"])).status == 200


async def test_C_177_extensions_pass_where_the_model_allows_them(sluice: Contract) -> None:
    for name in ("extended", "open"):
        assert (await sluice.ask(name, top_k=5)).status == 200
        assert sluice.upstream.journal[-1].body["top_k"] == 5
    reply = await sluice.ask("translates", top_k=5)
    assert (reply.status, reply.error["param"]) == (400, "top_k")
    reply = await sluice.ask("open", nonsense=5)
    assert (reply.status, reply.error["code"]) == (400, "unknown_parameter")


async def test_defaults_are_set_where_the_client_sent_none(sluice: Contract) -> None:
    reply = await sluice.ask("set")
    assert reply.body["choices"][0]["finish_reason"] == "length"
    body = sluice.upstream.journal[-1].body
    assert (body["temperature"], body["max_completion_tokens"], body["verbosity"]) == (0.5, 2, "low")
    await sluice.ask("set", temperature=1, max_tokens=50, verbosity=None)
    body = sluice.upstream.journal[-1].body
    assert (body["temperature"], body["max_completion_tokens"], body["verbosity"]) == (1, 50, "low")
    assert "max_tokens" not in body


async def test_a_deployment_that_lacks_a_parameter_is_passed_over(sluice: Contract) -> None:
    reply = await sluice.ask("mixed", logit_bias={"1": 5})
    assert (reply.status, reply.headers["x-sluice-deployment"]) == (200, "openai/demo-echo")
    assert sluice.upstream.journal[-1].body["logit_bias"] == {"1": 5}


async def test_C_339_stop_sequences_are_the_providers_work(sluice: Contract) -> None:
    assert (await sluice.ask("translates", stop=["END", "STOP"])).status == 200
    assert sluice.upstream.journal[-1].body["stop_sequences"] == ["END", "STOP"]
    assert (await sluice.ask("open", stop="END")).status == 200
    assert sluice.upstream.journal[-1].body["stop"] == "END"


@pytest.mark.parametrize(
    ("params", "word"),
    [
        ({"default": {"stream": True}}, "'stream' is the client's"),
        ({"default": {"service_tier": "priority"}}, "'service_tier' is the client's"),
        ({"default": {"n": 2}}, "'n' is the client's"),
        ({"default": {"temperature": 3}}, "Invalid 'temperature'"),
        ({"default": {"stop": 1}}, "'stop'"),
        ({"allow": ["temperature"]}, "'temperature' is a parameter of the API"),
    ],
)
async def test_a_policy_that_could_not_work_is_refused_at_load(params: dict[str, Any], word: str) -> None:
    with pytest.raises(ConfigError) as caught:
        async with contract({"m": {"deployments": [deployment("demo-echo")], "params": params}}):
            pass
    (problem,) = caught.value.problems
    assert problem.startswith("models.m.params.")
    assert word in problem
    assert USER["content"] not in problem
