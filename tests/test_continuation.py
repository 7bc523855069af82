"""A plain text stream that breaks off is gone on with where that was asked for; anything else ends with an error."""

import sqlite3
from typing import Any

import openai
import pytest

from adapters import registry
from adapters.errors import ErrorKind, ProviderError
from adapters.interface import ContinuingAdapter, Target
from adapters.jsonio import loads
from config import ConfigError
from gateway.continuation import Seam
from gateway.deployments import routes

from .running import KEY, configuration, deployment, running
from .test_flow import ASK, TOOL, client

WORDS = "ok" + "".join(f" word{i}" for i in range(1, 10))
BROKEN = "demo-ok+chunks=10+cut=4"
WAYS = ("reset", "close", "end", "error")
VLLM = {"vllm": {"adapter": "vllm", "base_url": "{}/openai/v1", "api_key": "up"}}


def model(first: Any = BROKEN, second: str = "demo-ok+chunks=10", provider: str = "anthropic", **more: Any) -> Any:
    begins = deployment(first, name="begins") if isinstance(first, str) else first
    return [begins, deployment(second, provider, name="goes-on", continuation=True, **more)]


async def streamed(sdk: openai.AsyncOpenAI, name: str = "m", **more: Any) -> list[Any]:
    asked: dict[str, Any] = {"stream_options": {"include_usage": True}, **ASK, **more}
    stream = await sdk.chat.completions.create(model=name, stream=True, **asked)
    return [chunk async for chunk in stream]


def text(chunks: list[Any]) -> str:
    return "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)


def rows(gateway: Any) -> list[dict[str, Any]]:
    path = gateway.config.database.url.get_secret_value().removeprefix("sqlite:///")
    with sqlite3.connect(path) as database:
        database.row_factory = sqlite3.Row
        found = [dict(row) for row in database.execute("SELECT * FROM ledger ORDER BY attempt")]
    database.close()
    return found


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize(("first", "silent"), [("openai", ""), ("anthropic", ""), ("openai", "+no-usage")])
async def test_the_client_sees_one_answer(how: str, first: str, silent: str) -> None:
    """``silent``: the second provider tells no usage, so the client is told what it is charged."""
    begins = deployment(f"{BROKEN}+how={how}", first, name="begins")
    models = {"m": model(begins, f"demo-ok+chunks=10{silent}")}
    async with running(models) as (gateway, upstream), client(gateway) as sdk:
        chunks = await streamed(sdk)
        assert gateway.records.ledger is not None
        await gateway.records.ledger.flush()
        ledger = rows(gateway)
    assert text(chunks) == WORDS
    assert len({(c.id, c.model, c.created) for c in chunks}) == 1
    assert [c.choices[0].delta.role for c in chunks if c.choices and c.choices[0].delta.role] == ["assistant"]
    assert [c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason] == ["stop"]
    assert [(r["deployment"], r["status"], bool(r["final"])) for r in ledger] == [
        ("begins", "continued", False),
        ("goes-on", "ok", True),
    ]
    assert ledger[0]["error"] in ("incomplete", "connection", "overloaded", "server")
    assert ledger[0]["cost"] > 0
    assert ledger[1]["cost"] > 0
    assert bool(ledger[1]["estimated"]) is bool(silent)
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == ledger[0]["output"] + ledger[1]["output"]
    assert chunks[-1].usage.prompt_tokens == ledger[0]["input"] + ledger[1]["input"]
    assert [entry.body["messages"][-1]["role"] for entry in upstream.journal] == ["user", "assistant"]


async def test_what_a_provider_repeats_is_not_told_twice() -> None:
    models = {"m": model(second="demo-ok+chunks=10+repeat=1")}
    async with running(models) as (gateway, _), client(gateway) as sdk:
        assert text(await streamed(sdk)) == WORDS


@pytest.mark.parametrize("adapter", ["vllm", "sglang", "mistral", "compatible"])
async def test_each_provider_is_asked_in_its_own_words(adapter: str) -> None:
    options = {"options": {"continue_final_message": True}} if adapter == "compatible" else {}
    name = "openai-compatible" if adapter == "compatible" else adapter
    async with running({"other": "demo-ok"}) as (_, upstream):
        base = f"{upstream.url}/mistral/v1" if adapter == "mistral" else f"{upstream.url}/openai/v1"
        providers = {"other": {"adapter": name, "base_url": base, "api_key": "up", **options}}
        async with running({"m": model(provider="other")}, providers=providers) as (gateway, own):
            async with client(gateway) as sdk:
                assert text(await streamed(sdk)) == WORDS
            assert len(own.journal) == 1
        assert len(upstream.journal) == 1


async def collected(stream: Any, got: list[Any]) -> None:
    async for chunk in stream:
        got.append(chunk)  # noqa: PERF401 - what came before an error is kept


async def test_an_answer_begun_anew_is_never_put_behind_another() -> None:
    models = {"m": model("demo-ok+chunks=30+cut=20", "demo-ok+chunks=5+anew=1")}
    async with running(models) as (gateway, _), client(gateway) as sdk:
        got: list[Any] = []
        with pytest.raises(openai.APIError):
            await collected(await sdk.chat.completions.create(model="m", stream=True, **ASK), got)
    assert text(got) == "ok" + "".join(f" word{i}" for i in range(1, 20))


NAMES = [f"name{i}" for i in range(8)]
SCHEMA = {"type": "object", "required": NAMES, "properties": {name: {"type": "string"} for name in NAMES}}
NOT_PLAIN: dict[str, dict[str, Any]] = {
    "tools": {"tools": [TOOL]},
    "json": {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}},
    "n": {"n": 2},
    "logprobs": {"logprobs": True},
}


@pytest.mark.parametrize("what", NOT_PLAIN)
async def test_what_is_no_plain_text_is_never_gone_on_with(what: str) -> None:
    first = deployment(f"{BROKEN}", name="begins")
    async with running({"m": model(first)}) as (gateway, upstream), client(gateway) as sdk:
        with pytest.raises(openai.APIError):
            await streamed(sdk, **NOT_PLAIN[what])
        assert len(upstream.journal) == 1


@pytest.mark.parametrize("first", ["demo-tools+cut=3", "demo-ok+reasoning=5+chunks=10+cut=7"])
async def test_nor_is_an_answer_that_is_more_than_text(first: str) -> None:
    async with running({"m": model(first)}) as (gateway, upstream), client(gateway) as sdk:
        more = {"tools": [TOOL]} if "tools" in first else {}
        with pytest.raises(openai.APIError):
            await streamed(sdk, **more)
        assert len(upstream.journal) == 1


async def test_without_the_option_a_broken_stream_ends_with_an_error() -> None:
    models = {"m": [deployment(BROKEN), deployment("demo-ok+chunks=10", "anthropic")]}
    async with running(models) as (gateway, upstream), client(gateway) as sdk:
        with pytest.raises(openai.APIError):
            await streamed(sdk)
        assert len(upstream.journal) == 1


@pytest.mark.parametrize("second", ["demo-500", "demo-ok+chunks=10+cut=2", "demo-ok+chunks=10+cut=0"])
async def test_a_rest_that_fails_too_ends_as_the_first_would_have(second: str) -> None:
    async with running({"m": model(second=second)}) as (gateway, upstream), client(gateway) as sdk:
        got: list[Any] = []
        with pytest.raises(openai.APIError):
            await collected(await sdk.chat.completions.create(model="m", stream=True, **ASK), got)
        told = second == "demo-ok+chunks=10+cut=2"
        assert text(got) == "ok" + "".join(f" word{i}" for i in range(1, 6 if told else 4))
        assert len(upstream.journal) == 2
        assert gateway.records.ledger is not None
        await gateway.records.ledger.flush()
        ledger = rows(gateway)
        assert len(ledger) == 2
        by_name = {r["deployment"]: r for r in ledger}
        assert by_name["begins"]["status"] == ("continued" if told else "incomplete")
        assert [r["deployment"] for r in ledger if r["final"]] == ["goes-on" if told else "begins"]
        assert by_name["begins"]["output"] >= 1
        assert all(known.load.in_flight == 0 for known in (gateway.lasting.fleet[n] for n in ("begins", "goes-on")))
        assert gateway.state.in_flight == 0


async def test_the_one_that_broke_off_may_go_on_itself() -> None:
    one = deployment(f"{BROKEN}+first=1", "anthropic", continuation=True)
    async with running({"m": [one]}) as (gateway, upstream), client(gateway) as sdk:
        assert text(await streamed(sdk)) == WORDS
        assert len(upstream.journal) == 2


async def test_a_budget_that_cannot_bear_the_second_attempt_ends_the_stream() -> None:
    """Enough for one answer of 40 tokens; the rest would need more on top of what its beginning may be billed."""
    dear = {"input": 0, "output": 1000}
    first = deployment(BROKEN, name="begins", price=dear)
    keys = [{"name": "test", "key": KEY, "limits": {"budget": {"total": 0.041}, "concurrency": 1}}]
    models = {"m": model(first, price={"input": 1000, "output": 1000})}
    async with running(models, keys=keys) as (gateway, upstream), client(gateway) as sdk:
        with pytest.raises(openai.APIError):
            await streamed(sdk, max_tokens=1)
        with pytest.raises(openai.APIError):
            await streamed(sdk, max_tokens=40)
        assert len(upstream.journal) <= 1


async def test_the_clients_own_bound_holds_over_both() -> None:
    async with running({"m": model()}) as (gateway, upstream), client(gateway) as sdk:
        await streamed(sdk, max_tokens=50)
        asked = [e.body.get("max_completion_tokens") or e.body.get("max_tokens") for e in upstream.journal]
    assert asked[0] == 50
    assert 30 <= asked[1] < 50


async def test_reservations_are_settled_with_both_attempts() -> None:
    keys = [{"name": "test", "key": KEY, "limits": {"budget": {"total": 5}, "concurrency": 1, "tpm": 100_000}}]
    async with running({"m": model()}, keys=keys) as (gateway, _), client(gateway) as sdk:
        for _ in range(3):
            assert text(await streamed(sdk)) == WORDS
        assert gateway.records.ledger is not None
        await gateway.records.ledger.flush()
        spent = sum(r["cost"] for r in rows(gateway))
        owner = next(iter(gateway.pipeline.auth._keys.values()))[0].owners[0]
        states = {s.limit.field: s for s in await gateway.pipeline.meter.limiter.usage(owner, "default")}
    assert states["$t"].used == spent
    assert states["$t"].reserved == 0
    assert states["c"].used == 0


async def test_stored_completions_hold_the_whole_answer() -> None:
    async with running({"m": model()}) as (gateway, _), client(gateway) as sdk:
        chunks = await streamed(sdk, store=True)
        kept = await sdk.chat.completions.retrieve(chunks[0].id)
    assert kept.choices[0].message.content == WORDS


def test_a_deployment_that_cannot_is_refused_when_the_file_is_loaded(tmp_path: Any) -> None:
    for provider, name in (("openai", "gpt-5"), ("anthropic", "claude-opus-4-6"), ("compatible", "x")):
        models = {"m": [{"provider": provider, "model": name, "continuation": True}]}
        with pytest.raises(ConfigError) as caught:
            routes(configuration("http://127.0.0.1:1", str(tmp_path), models))
        assert "models.m.deployments[0].continuation" in caught.value.problems[0]
    models = {"m": [{"provider": "anthropic", "model": "claude-sonnet-4-5", "continuation": True}]}
    assert routes(configuration("http://127.0.0.1:1", str(tmp_path), models))["m"].deployments[0].resumable


def test_the_words_of_each_adapter() -> None:
    request = {"messages": [{"role": "user", "content": "x"}], "stream": True}
    for name, last in (
        ("vllm", {"role": "assistant", "content": "so far"}),
        ("mistral", {"role": "assistant", "content": "so far", "prefix": True}),
        ("anthropic", {"role": "assistant", "content": [{"type": "text", "text": "so far"}]}),
    ):
        adapter = registry.load(name)
        assert isinstance(adapter, ContinuingAdapter)
        asked = adapter.continuing(request, "so far", Target("http://x", "m", options=adapter.options({})))
        assert asked is not None
        body = loads(adapter.prepare(*asked).body)
        assert body["messages"][-1] == last
        assert body.get("continue_final_message") is (True if name == "vllm" else None)
        assert body.get("add_generation_prompt") is (False if name == "vllm" else None)


def joined(shown: str, *pieces: str) -> str:
    seam = Seam(shown)
    return shown + "".join(map(seam.join, pieces)) + seam.rest()


@pytest.mark.parametrize("size", [1, 2, 5, 100])
def test_the_seam_wherever_the_pieces_are_cut(size: int) -> None:
    whole = "One two.\n\n- three\n- four and five"
    for at in range(1, len(whole)):
        shown, said = whole[:at], whole[:at].rstrip()
        if not said:
            continue
        for rest in (whole[len(said) :], whole):  # goes on after what it was given, or repeats it first
            pieces = [rest[i : i + size] for i in range(0, len(rest), size)]
            assert joined(shown, *pieces) == whole, (shown, pieces)


def test_a_text_that_begins_like_the_first_and_goes_on_otherwise_is_refused() -> None:
    for rest in ("The capital of Frankfurt is", "The capital of France"):
        seam = Seam("The capital of France is Par")
        with pytest.raises(ProviderError) as caught:
            seam.join(rest)
            seam.rest()
        assert caught.value.kind is ErrorKind.PROTOCOL
