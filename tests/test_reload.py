"""Another configuration while requests run: all of it or nothing, and no request sees two."""

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from adapters.errors import ErrorKind, ProviderError
from config import Config, ConfigError
from gateway import demo
from gateway.app import Gateway
from gateway.effective import effective
from gateway.generation import version
from gateway.management.roles import actor_of
from gateway.records.grants import Actor

from .running import KEY, configuration, deployment, running
from .servers import free_port
from .test_flow import ASK, client

ADMIN = "admin-0123456789abcdef0123456789abcdef"
AUTH = {"authorization": f"Bearer {ADMIN}"}


class File:
    """What a gateway reads: set ``now`` to what the file says."""

    now: Config | Exception

    def __call__(self) -> Config:
        if isinstance(self.now, Exception):
            raise self.now
        return self.now


@contextlib.asynccontextmanager
async def reloadable(
    models: dict[str, Any], **sections: Any
) -> AsyncIterator[tuple[Gateway, demo.DemoUpstream, File, Any]]:
    """A gateway, its upstream, its file, and a function that makes the configuration of other models."""
    file = File()
    async with running(models, file, admin={"keys": {"ops": ADMIN}}, **sections) as (gateway, upstream):
        folder = os.path.dirname(gateway.config.ledger.journal)

        def other(models: dict[str, Any], **more: Any) -> Config:
            return configuration(
                upstream.url, folder, models, **{"admin": {"keys": {"ops": ADMIN}}, **sections, **more}
            )

        file.now = gateway.config
        yield gateway, upstream, file, other


async def test_keys_of_the_database_do_not_outlive_their_team_or_user_in_the_file() -> None:
    """Else a key would go on without the budget of its team."""
    operator, auth = Actor("admin:ops"), {"pepper": "p" * 32}
    limited = {"limits": {"budget": {"total": 1}}}
    owners: dict[str, Any] = {"teams": {"t": limited}, "users": {"u": limited}}
    async with reloadable({"m": "demo-ok"}, auth=auth, **owners) as (gateway, _, file, other):

        async def works() -> list[bool]:
            async with aiohttp.ClientSession() as http:
                return [
                    (await http.get(f"{gateway.url}/v1/models", headers={"authorization": f"Bearer {key}"})).status
                    == 200
                    for key in (of_team["key"], of_user["key"], of_nobody["key"], shared["key"])
                ]

        admin = gateway.records.admin
        of_team = await admin.create(operator, "key", {"name": "a", "team": "t"})
        of_user = await admin.create(operator, "key", {"name": "b", "user": "u", "role": "admin"})
        of_nobody = await admin.create(operator, "key", {"name": "c"})
        lead = await gateway.records.keys.record(of_user["key"])
        assert lead is not None
        shared = await admin.create(actor_of(lead), "key", {"name": "d", **limited})
        assert shared["counts_toward"] == ["u:u"]
        assert await works() == [True, True, True, True]
        for teams, users, wanted in (
            ({}, owners["users"], [False, True, True, True]),
            (owners["teams"], {}, [True, False, True, False]),
            (owners["teams"], owners["users"], [True, True, True, True]),
        ):
            file.now = other({"m": "demo-ok"}, teams=teams, users=users)
            await gateway.reloader.try_reload()
            assert await works() == wanted


async def test_keys_and_members_do_not_outlive_their_organization_in_the_file() -> None:
    """The budget of an organization is what bounds its teams, which the database has."""
    operator, auth = Actor("admin:ops"), {"pepper": "p" * 32}
    limited = {"acme": {"limits": {"budget": {"total": 1}}}}
    async with reloadable({"m": "demo-ok"}, auth=auth, organizations=limited) as (gateway, _, file, other):
        admin, cache = gateway.records.admin, gateway.records.keys
        await admin.create(operator, "team", {"id": "t", "organization": "acme"})
        key = (await admin.create(operator, "key", {"name": "a", "team": "t"}))["key"]
        free = (await admin.create(operator, "key", {"name": "b"}))["key"]
        for organizations, works in ((limited, True), ({}, False), (limited, True)):
            file.now = other({"m": "demo-ok"}, organizations=organizations)
            await gateway.reloader.reload()
            assert (await cache.principal(key) is not None) == works
            assert (await cache.member("ann", "t") is not None) == works
            assert await cache.principal(free) is not None
            assert await cache.member("ann", None) is not None


async def test_a_reload_swaps_models_keys_and_version() -> None:
    async with reloadable({"a": "demo-ok"}) as (gateway, _, file, other), client(gateway) as sdk:
        first = await sdk.chat.completions.with_raw_response.create(model="a", **ASK)
        file.now = other({"b": "demo-echo"}, keys=[{"name": "test", "key": KEY}, {"name": "new", "key": KEY + "new"}])
        assert await gateway.reloader.reload() == gateway.generation.version
        async with client(gateway, KEY + "new") as new:
            second = await new.chat.completions.with_raw_response.create(model="b", **ASK)
            assert [m.id async for m in new.models.list()] == ["b"]
    assert first.headers["x-sluice-config"] != second.headers["x-sluice-config"] == version(file.now)


async def test_a_stream_finishes_on_the_configuration_it_began_with() -> None:
    models = {"a": [deployment("demo-slow+chunks=20+gap=0.05")]}
    async with reloadable(models) as (gateway, upstream, file, other), client(gateway) as sdk:
        stream = await sdk.chat.completions.create(model="a", stream=True, **ASK)
        await anext(stream)
        elsewhere = {"openai": {"adapter": "openai", "base_url": f"{upstream.url}/openai/v1", "max_concurrency": 7}}
        file.now = other({"a": "demo-ok"}, providers=elsewhere)
        await gateway.reloader.reload()
        file.now = other({"a": "demo-ok"}, providers={})
        await gateway.reloader.reload()
        assert len(gateway.retiring) == 2  # the pools are kept for the stream
        assert len([chunk async for chunk in stream]) >= 19
        deadline = time.monotonic() + 3
        while gateway.retiring:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)


async def test_pools_and_what_is_known_of_deployments_survive() -> None:
    async with reloadable({"a": "demo-ok"}) as (gateway, _, file, other), client(gateway) as sdk:
        await sdk.chat.completions.create(model="a", **ASK)
        pool, known = gateway.generation.pools["openai"], gateway.lasting.fleet["openai/demo-ok"]
        file.now = other({"a": "demo-ok", "b": "demo-echo"})
        await gateway.reloader.reload()
        assert gateway.generation.pools["openai"] is pool
        await sdk.chat.completions.create(model="a", **ASK)
        assert pool[1].connections == 1
        assert gateway.lasting.fleet["openai/demo-ok"] is known


def broken(gateway: Gateway, deployment: str) -> None:
    """Open its breaker."""
    for _ in range(5):
        gateway.lasting.fleet[deployment].health.failed(ProviderError(ErrorKind.SERVER, "x"))


@pytest.mark.parametrize(("workers", "gone"), [("one", None), ("several", 0)])
async def test_a_deployment_that_was_removed_is_in_no_gauge(
    workers: str, gone: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Among several workers a series ends with its worker: there it says that nothing is open."""
    async with reloadable({"a": "demo-ok"}) as (gateway, _, file, other):
        removed = {"deployment": "openai/demo-ok"}
        gauges = ("sluice_breaker_open", "sluice_cool_down_seconds")

        def told() -> list[float | None]:
            gateway.vitals.refresh()
            return [gateway.registry.get_sample_value(gauge, removed) for gauge in gauges]

        broken(gateway, "openai/demo-ok")
        assert told() == [1, 0]
        file.now = other({"a": "demo-echo"})
        await gateway.reloader.reload()
        assert gateway.lasting.fleet.breakers().keys() == {"openai/demo-echo"}
        if workers == "several":
            monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", "/nowhere")
        assert told() == [gone, gone]
        file.now = other({"a": "demo-ok"})  # somebody's mistake is undone
        await gateway.reloader.reload()
        assert told() == [1, 0]


async def test_what_is_known_of_removed_deployments_is_forgotten_by_the_next_reload() -> None:
    async with reloadable({"a": "demo-ok"}) as (gateway, _, file, other):
        broken(gateway, "openai/demo-ok")
        for i in range(10):
            file.now = other({"a": [deployment("demo-ok", name=f"d{i}")]})
            await gateway.reloader.reload()
            assert len(gateway.lasting.fleet.healths()) == 2
        file.now = other({"a": "demo-ok"})
        await gateway.reloader.reload()
        assert gateway.lasting.fleet["openai/demo-ok"].health.closed


async def test_a_removed_deployment_is_known_as_long_as_a_stream_runs_there() -> None:
    slow = "demo-slow+chunks=20+gap=0.05"
    async with reloadable({"a": slow}) as (gateway, _, file, other), client(gateway) as sdk:
        fleet, name = gateway.lasting.fleet, f"openai/{slow}"
        known = fleet[name]
        stream = await sdk.chat.completions.create(model="a", stream=True, **ASK)
        await anext(stream)
        for i in range(3):
            file.now = other({"a": [deployment("demo-ok", name=f"d{i}")]})
            await gateway.reloader.reload()
        file.now = other({"a": slow})
        await gateway.reloader.reload()
        assert fleet[name] is known
        assert known.load.in_flight == 1
        assert len([chunk async for chunk in stream]) >= 19
        deadline = time.monotonic() + 3
        while known.load.in_flight:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
        for i in range(2):
            file.now = other({"a": [deployment("demo-ok", name=f"d{i}")]})
            await gateway.reloader.reload()
        assert name not in fleet.healths()


async def test_limits_keep_their_counts_under_other_rules() -> None:
    keys = [{"name": "test", "key": KEY, "limits": {"rpm": 2}}]
    async with reloadable({"a": "demo-ok"}, keys=keys) as (gateway, _, file, other), client(gateway) as sdk:
        await sdk.chat.completions.create(model="a", **ASK)
        file.now = other({"a": "demo-ok", "b": "demo-ok"})
        await gateway.reloader.reload()
        raw = await sdk.chat.completions.with_raw_response.create(model="b", **ASK)
        assert raw.headers["x-ratelimit-remaining-requests"] == "0"


async def test_a_file_with_mistakes_changes_nothing_and_is_counted() -> None:
    async with reloadable({"a": "demo-ok"}) as (gateway, _, file, other), aiohttp.ClientSession(headers=AUTH) as http:
        before = gateway.generation
        value = gateway.registry.get_sample_value
        mistakes: list[Config | ConfigError] = [
            ConfigError(["models: wrong"]),
            other({"a": "demo-ok"}, server={"keepalive": 10}),
            other({"a": "demo-ok"}, providers={"x": {"adapter": "nothing", "api_key": "x"}}),
        ]
        for file.now in mistakes:
            async with http.post(f"{gateway.admin_url}/admin/v1/config/reload", json={}) as response:
                assert response.status == 400
                assert (await response.json())["error"]["code"] == "invalid_config"
        assert gateway.generation is before
        assert value("sluice_config_reloads_total", {"result": "invalid"}) == 3
        assert value("sluice_config_last_reload_successful") == 0
        file.now = other({"b": "demo-ok"})
        async with http.post(f"{gateway.admin_url}/admin/v1/config/reload", json={}) as response:
            assert response.status == 200
            assert (await response.json())["version"] == gateway.generation.version != before.version
        assert value("sluice_config_last_reload_successful") == 1
        noted = await gateway.records.audit.list()
        assert [(row["action"], row["result"]) for row in noted] == [
            *[("config.reload", "invalid_config")] * 3, ("config.reload", "ok"),
        ]  # fmt: skip
        assert noted[-1]["after"] == {"version": gateway.generation.version}


async def test_a_reload_that_fails_as_nobody_foresaw_is_told_by_the_metric_and_by_readiness() -> None:
    async with reloadable({"a": "demo-ok"}) as (gateway, _, file, other), aiohttp.ClientSession(headers=AUTH) as http:
        before, value = gateway.generation, gateway.registry.get_sample_value
        file.now = RecursionError("maximum recursion depth exceeded")
        await gateway.reloader.try_reload()
        assert gateway.generation is before
        assert gateway.reloader.refused
        assert value("sluice_config_last_reload_successful") == 0
        async with http.post(f"{gateway.admin_url}/admin/v1/config/reload", json={}) as response:
            assert response.status == 500
        assert value("sluice_config_reloads_total", {"result": "invalid"}) == 2
        file.now = other({"b": "demo-ok"})
        await gateway.reloader.try_reload()
        assert value("sluice_config_last_reload_successful") == 1


async def test_the_effective_configuration_has_no_secret() -> None:
    secret = "wJalrXUtnFEMI-0123456789"
    keys = {"region": "eu-west-1", "access_key_id": "AKIDEXAMPLE", "secret_access_key": secret}
    providers = {"aws": {"adapter": "bedrock", "options": keys}}
    async with (
        reloadable({"a": "demo-ok"}, providers=providers) as (gateway, _, _file, _other),
        aiohttp.ClientSession(headers=AUTH) as http,
    ):
        async with http.get(f"{gateway.admin_url}/admin/v1/config/effective") as response:
            text = await response.text()
            shown = await response.json()
        assert shown["version"] == gateway.generation.version
        assert shown["config"]["models"]["a"]["strategy"] == "ordered"
        assert shown["config"]["providers"]["aws"]["options"] == {**keys, "secret_access_key": "**********"}
        assert secret not in text
        assert KEY not in text
        assert ADMIN not in text
        async with http.get(f"{gateway.url}/admin/v1/config/effective") as response:
            assert response.status == 404


def test_the_effective_configuration_has_no_secret_of_an_address() -> None:
    jwt = {"issuer": "i", "audience": "a", "jwks_url": "https://ann:hunter2@issuer/keys?token=hunter2"}
    langfuse = {"host": "https://ann:hunter2@langfuse:3000/", "public_key": "p", "secret_key": "s"}
    config = configuration(
        "http://127.0.0.1:1", "/nowhere", {"a": "demo-ok"}, auth={"jwt": jwt},
        tracing={"endpoint": "http://collector:4318/v1/traces?api_key=hunter2", "langfuse": langfuse},
    )  # fmt: skip
    shown = effective(config)
    assert "hunter2" not in str(shown)
    assert shown["tracing"]["endpoint"] == "http://collector:4318/v1/traces?**********"
    assert shown["tracing"]["langfuse"]["host"] == "https://**********@langfuse:3000/"
    assert shown["auth"]["jwt"]["jwks_url"] == "https://**********@issuer/keys?**********"


def test_the_version_tells_any_two_configurations_apart() -> None:
    def made(**more: Any) -> str:
        return version(configuration("http://127.0.0.1:1", "/nowhere", {"a": "demo-ok"}, **more))

    assert made() == made()
    rotated = made(keys=[{"name": "test", "key": KEY + "rotated"}])
    assert len({made(), rotated, made(retries={"attempts": 2})}) == 3


async def test_no_request_sees_two_configurations_under_load() -> None:
    """Each configuration has one deployment, named after it; 60 reloads while requests run."""
    made: dict[str, str] = {}
    async with reloadable({"a": [deployment("demo-ok+delay=0.01", name="d0")]}) as (gateway, _, file, other):
        made[gateway.generation.version] = "d0"
        answers: list[tuple[int, str, str]] = []
        stop = asyncio.Event()

        async def ask(http: aiohttp.ClientSession) -> None:
            while not stop.is_set():
                body = {"model": "a", **ASK}
                async with http.post(f"{gateway.url}/v1/chat/completions", json=body) as response:
                    headers = response.headers
                    await response.read()
                    answers.append(
                        (response.status, headers["x-sluice-config"], headers.get("x-sluice-deployment", ""))
                    )

        async with aiohttp.ClientSession(headers={"authorization": f"Bearer {KEY}"}) as http:
            tasks = [asyncio.create_task(ask(http)) for _ in range(4)]
            for i in range(1, 61):
                file.now = other({"a": [deployment("demo-ok+delay=0.01", name=f"d{i}")]})
                made[await gateway.reloader.reload()] = f"d{i}"
                await asyncio.sleep(0.01)
            stop.set()
            await asyncio.gather(*tasks)
    assert {status for status, _, _ in answers} == {200}
    assert all(made[config] == served for _, config, served in answers)
    assert len({config for _, config, _ in answers}) > 20


async def test_the_process_reads_a_changed_file_and_obeys_sighup(tmp_path: Path) -> None:
    upstream = await demo.start()
    port, admin = free_port(), free_port()
    path = tmp_path / "sluice.yaml"

    def write(model: str) -> None:
        document = {
            "server": {"port": port, "drain_delay": 0},
            "admin": {"port": admin},
            "providers": {"openai": {"adapter": "openai", "base_url": f"{upstream.url}/openai/v1", "api_key": "up"}},
            "models": {model: {"deployments": [{"provider": "openai", "model": "demo-ok"}]}},
            "keys": [{"name": "test", "key": KEY}],
            "database": {"url": f"sqlite:///{tmp_path}/sluice.db"},
            "ledger": {"journal": f"{tmp_path}/journal"},
        }
        replacement = tmp_path / "new.yaml"
        replacement.write_text(yaml.safe_dump(document))
        replacement.replace(path)

    write("one")
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "gateway",
        "serve",
        str(path),
        cwd=Path(__file__).parents[1],
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with aiohttp.ClientSession(headers={"authorization": f"Bearer {KEY}"}) as http:

            async def models() -> list[str]:
                try:
                    async with http.get(f"http://127.0.0.1:{port}/v1/models") as response:
                        return [m["id"] for m in (await response.json())["data"]]
                except aiohttp.ClientConnectionError:
                    return []

            async def until(expected: str) -> None:
                deadline = time.monotonic() + 15
                while await models() != [expected]:
                    assert time.monotonic() < deadline
                    await asyncio.sleep(0.05)

            await until("one")
            write("two")
            await until("two")
            path.write_text("models: [")
            os.utime(path)
            await asyncio.sleep(1.5)
            assert await models() == ["two"]
            write("three")
            process.send_signal(signal.SIGHUP)
            await until("three")
        process.terminate()
        assert await asyncio.wait_for(process.wait(), 15) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        await upstream.close()
