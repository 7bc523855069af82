"""Active checks: what is away is known before a request must find out, and nobody pays for that."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from .running import KEY, deployment, running
from .servers import free_port
from .test_reload import reloadable

ACTIVE = {"interval": 0.05, "timeout": 0.5}


@asynccontextmanager
async def server(handler: Any, port: int = 0) -> AsyncIterator[str]:
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def account(url: str, adapter: str = "openai") -> dict[str, Any]:
    base = f"{url}/v1" if adapter == "openai" else url
    return {"second": {"adapter": adapter, "base_url": base, "api_key": "sk-of-the-account"}}


async def until(holds: Any, seconds: float = 10) -> None:
    async with asyncio.timeout(seconds):
        while not holds():
            await asyncio.sleep(0.02)


async def test_nothing_is_checked_unless_asked() -> None:
    asked: list[str] = []

    async def take(request: web.Request) -> web.Response:
        asked.append(request.path)
        return web.json_response({})

    async with server(take) as url, running({"m": [deployment("x", "second")]}, providers=account(url)) as (gateway, _):
        await asyncio.sleep(0.3)
        assert [m.name for m in gateway.registry.collect() if m.name == "sluice_upstream_reachable" and m.samples] == []
    assert asked == []


async def test_an_upstream_that_is_away_opens_the_breaker_and_one_that_is_back_closes_it() -> None:
    port = free_port()
    models = {"m": [deployment("demo-ok", "second"), deployment("demo-ok")]}
    health = {"active": ACTIVE, "consecutive_failures": 3, "open_seconds": 60}
    providers = account(f"http://127.0.0.1:{port}")
    async with running(models, providers=providers, health=health) as (gateway, upstream):
        breakers = gateway.lasting.fleet.breakers
        value = gateway.registry.get_sample_value
        await until(lambda: "second/demo-ok" in breakers() and not breakers()["second/demo-ok"].closed)
        assert value("sluice_upstream_reachable", {"provider": "second"}) == 0
        assert value("sluice_upstream_reachable", {"provider": "openai"}) == 1
        assert breakers()["openai/demo-ok"].closed
        async with aiohttp.ClientSession(headers={"authorization": f"Bearer {KEY}"}) as http:
            body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
            async with http.post(f"{gateway.url}/v1/chat/completions", json=body) as response:
                assert response.status == 200
                assert response.headers["x-sluice-attempts"] == "1", "the one that is away was not even tried"
        assert upstream.connections, "a check leaves its connection for the next request"

        async def never(_: web.Request) -> web.Response:
            raise AssertionError("connect sends nothing")

        async with server(never, port):
            await until(lambda: breakers()["second/demo-ok"].closed)
            assert value("sluice_upstream_reachable", {"provider": "second"}) == 1


@pytest.mark.parametrize(
    ("adapter", "path", "header", "credential"),
    [
        ("openai", "/v1/models", "authorization", "Bearer sk-of-the-account"),
        ("anthropic", "/v1/models", "x-api-key", "sk-of-the-account"),
    ],
)
async def test_models_are_listed_with_the_account_s_credential(
    adapter: str, path: str, header: str, credential: str
) -> None:
    seen: list[tuple[str, str, str | None]] = []
    status = 200

    async def take(request: web.Request) -> web.Response:
        seen.append((request.method, request.path, request.headers.get(header)))
        return web.json_response({"data": []} if status == 200 else {"error": {"message": "no"}}, status=status)

    async with server(take) as url:
        models = {"a": [deployment("x", "second")], "b": [deployment("y", "second"), deployment("demo-ok")]}
        active = {"active": {**ACTIVE, "kind": "models"}}
        async with running(models, providers=account(url, adapter), health=active) as (gateway, upstream):
            await until(lambda: len(seen) >= 3)
            value = gateway.registry.get_sample_value
            assert value("sluice_upstream_reachable", {"provider": "second"}) == 1
            status = 401
            await until(lambda: value("sluice_upstream_reachable", {"provider": "second"}) == 0)
            breakers = gateway.lasting.fleet.breakers()
            assert breakers["second/x"].cooling > 0, "a refused credential cools down, as for a request"
            assert breakers["second/y"].cooling > 0
            assert list(upstream.journal) == [], "nobody asked for a token"
    assert set(seen) == {("GET", path, credential)}


async def test_a_credential_that_cannot_be_had_is_no_word_on_the_deployment() -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    entra = {"tenant_id": "t", "client_id": "c", "client_secret": "s", "authority": nobody}
    providers = {"second": {"adapter": "azure", "base_url": nobody, "options": entra}}
    active = {"active": {"interval": 0.05, "timeout": 5, "kind": "models"}}
    async with running({"m": [deployment("x", "second")]}, providers=providers, health=active) as (gateway, _):
        value = gateway.registry.get_sample_value
        await until(lambda: value("sluice_upstream_reachable", {"provider": "second"}) == 0)
        assert gateway.lasting.fleet.breakers()["second/x"].serves


async def test_a_check_that_a_token_was_refused_for_renews_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.credentials.refresh.SETTLED", 0.2)
    tokens, ended = 0, ""

    async def answer(request: web.Request) -> web.Response:
        nonlocal tokens
        if request.path.endswith("/token"):
            tokens += 1
            return web.json_response({"access_token": f"token-{tokens}", "expires_in": 3600})
        refused = request.headers["authorization"] == ended
        return web.json_response(
            {"error": {"message": "no"}} if refused else {"data": []}, status=401 if refused else 200
        )

    async with server(answer) as url:
        entra = {"tenant_id": "t", "client_id": "c", "client_secret": "s", "authority": url}
        providers = {"second": {"adapter": "azure", "base_url": url, "options": entra}}
        active = {"active": {**ACTIVE, "kind": "models"}}
        async with running({"m": [deployment("x", "second")]}, providers=providers, health=active) as (gateway, _):
            await until(lambda: tokens == 1)
            await asyncio.sleep(0.3)
            ended = "Bearer token-1"
            await until(lambda: tokens == 2)
            await asyncio.sleep(0.2)
            assert gateway.lasting.fleet.breakers()["second/x"].serves
            assert gateway.registry.get_sample_value("sluice_upstream_reachable", {"provider": "second"}) == 1


async def test_a_completion_is_asked_for_where_that_is_wanted_and_nothing_is_booked() -> None:
    active = {"active": {**ACTIVE, "kind": "completion"}}
    async with running({"m": [deployment("demo-ok"), deployment("demo-500")]}, health=active) as (gateway, upstream):
        await until(lambda: len(list(upstream.journal)) >= 4)
        assert {e.model for e in upstream.journal} == {"demo-ok", "demo-500"}
        await until(lambda: "openai/demo-500" in gateway.lasting.fleet.breakers())
        assert gateway.registry.get_sample_value("sluice_tokens_total", {}) is None


async def test_a_provider_is_reachable_while_any_of_its_deployments_answers() -> None:
    """The one that fails answers last: what is told is not whichever came last."""
    active = {"active": {**ACTIVE, "kind": "completion"}}
    models = {
        "m": [deployment("demo-ok"), deployment("demo-500+delay=0.05")],
        "n": [deployment("demo-500", "anthropic")],
    }
    async with running(models, health=active) as (gateway, upstream):
        value = gateway.registry.get_sample_value
        await until(lambda: value("sluice_upstream_reachable", {"provider": "openai"}) is not None)
        told = set()
        for _ in range(100):
            told.add(value("sluice_upstream_reachable", {"provider": "openai"}))
            await asyncio.sleep(0.005)
        assert told == {1}
        assert len([e for e in upstream.journal if e.model.startswith("demo-500+")]) > 1
        assert value("sluice_upstream_reachable", {"provider": "anthropic"}) == 0
        assert value("sluice_upstream_check_seconds", {"provider": "openai"}) > 0.05


async def test_a_server_that_says_nothing_counts_as_away() -> None:
    async def silent(_: web.Request) -> web.Response:
        await asyncio.sleep(30)
        return web.Response()

    async with server(silent) as url:
        active = {"active": {"interval": 0.05, "timeout": 0.1, "kind": "models"}}
        async with running({"m": [deployment("x", "second")]}, providers=account(url), health=active) as (gateway, _):
            value = gateway.registry.get_sample_value
            await until(lambda: value("sluice_upstream_reachable", {"provider": "second"}) == 0)


@pytest.mark.parametrize(("workers", "gone"), [("one", (None, None)), ("several", (1, 0))])
async def test_what_is_checked_no_longer_is_in_no_gauge(
    workers: str, gone: tuple[float | None, float | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Among several workers a series ends with its worker: there it raises no alarm."""
    models = {"m": [deployment("demo-ok", "second"), deployment("demo-ok")]}
    sections = {"providers": account(f"http://127.0.0.1:{free_port()}"), "health": {"active": ACTIVE}}
    async with reloadable(models, **sections) as (gateway, _, file, other):

        def told(provider: str) -> tuple[float | None, ...]:
            gauges = ("sluice_upstream_reachable", "sluice_upstream_check_seconds")
            return tuple([gateway.registry.get_sample_value(gauge, {"provider": provider}) for gauge in gauges])

        await until(lambda: told("second")[0] == 0 and told("openai")[0] == 1)
        if workers == "several":
            monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", "/nowhere")
        file.now = other({"m": [deployment("demo-ok")]})
        await gateway.reloader.reload()
        await until(lambda: told("second") == gone)
        assert told("openai")[0] == 1
        file.now = other(models)  # somebody's mistake is undone
        await gateway.reloader.reload()
        await until(lambda: told("second")[0] == 0)
        file.now = other(models, health={})
        await gateway.reloader.reload()
        await until(lambda: told("second") == told("openai") == gone)
