"""Every panel of the Grafana dashboards asks for something that a real Prometheus has after some traffic."""

import asyncio
import contextlib
import importlib.util
import json
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import aiohttp
import pytest

from gateway.app import Gateway
from gateway.protection import LASTING

from .running import KEY, deployment, running
from .servers import RedisServer, free_port, wait_for_port

GRAFANA = Path(__file__).parents[1] / "deploy" / "grafana"
SCRAPED = 0.25
"""Seconds between two scrapes."""
needs_prometheus = pytest.mark.skipif(shutil.which("prometheus") is None, reason="Debian's package prometheus")


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("dashboards", GRAFANA / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def queries() -> list[str]:
    boards = [json.loads(path.read_text()) for path in sorted(GRAFANA.glob("*.json"))]
    return [t["expr"].replace("$__rate_interval", "10s") for b in boards for p in b["panels"] for t in p["targets"]]


def test_the_dashboards_are_up_to_date() -> None:
    module = generator()
    for name in module.BOARDS:
        assert (GRAFANA / f"{name}.json").read_text() == module.dashboard(name), "run `make generated`"


FREE_TIERS = {"tiers": ["default", "flex", "priority"]}
MODELS: dict[str, Any] = {
    "m": [deployment("demo-529"), deployment("demo-long+gap=0.002", "anthropic")],
    "falls": {"deployments": [deployment("demo-500")], "fallbacks": {"any": ["m"]}},
    "downgraded": {"deployments": [deployment("demo-downgraded", **FREE_TIERS)]},
    "queued": {
        "deployments": [deployment("demo-ok+delay=0.3")],
        "queue": {"capacity": 1, "wait_priority": 0.1, "wait_default": 0.2},
    },
}
"""A demo run: failover, fallback, tiers and their downgrade, a queue with less room than asked for."""
CALLS: tuple[dict[str, Any], ...] = (
    {"model": "m"},
    {"model": "m", "stream": True},
    {"model": "falls"},
    {"model": "nowhere"},
    {"model": "downgraded", "service_tier": "priority"},
    {"model": "queued"},
    {"model": "queued", "service_tier": "priority"},
    {"model": "queued", "service_tier": "flex"},
)


async def traffic(gateway: Gateway, seconds: float) -> None:
    assert gateway.pipeline.protection is not None
    url = gateway.url
    end = time.monotonic() + seconds

    async def call(http: aiohttp.ClientSession, body: dict[str, Any]) -> None:
        body = {**body, "max_completion_tokens": 200, "messages": [{"role": "user", "content": "hi"}]}
        async with http.post(f"{url}/v1/chat/completions", json=body) as response:
            await response.read()

    async with aiohttp.ClientSession(headers={"authorization": f"Bearer {KEY}"}) as http:
        while time.monotonic() < end:
            await asyncio.gather(*(call(http, body) for body in CALLS))
            for _ in range(LASTING):  # a worker with too much to do
                gateway.pipeline.protection.note_lag(0.11)
            await call(http, {"model": "queued", "service_tier": "flex"})


@needs_prometheus
async def test_every_panel_has_data_after_a_demo_run(redis_server: RedisServer) -> None:
    port, folder = free_port(), Path(tempfile.mkdtemp(prefix="sluice-prometheus-"))
    sections: dict[str, Any] = {
        "metrics": {"tenant_labels": True},
        "redis": {"url": redis_server.url},
        "health": {"active": {"interval": 0.25}},
        "counters": {"thresholds": [1]},
        "teams": {f"t{port}": {"limits": {"budget": {"day": 1}}}},  # its counters are in nobody's way
        "keys": [{"name": f"k{port}", "key": KEY, "team": f"t{port}", "limits": {"rpm": 60_000}}],
    }
    async with running(MODELS, **sections) as (gateway, _):
        with prometheus(gateway.admin.port, port, folder):
            await asyncio.to_thread(wait_for_port, port)
            async with aiohttp.ClientSession() as http:
                while not await ask(http, port, "up == 1"):
                    await asyncio.sleep(0.1)
                await traffic(gateway, 3)
                await gateway.telemetry.standing.look()
                await asyncio.sleep(3 * SCRAPED)  # for one more scrape
                empty = [query for query in queries() if not await ask(http, port, query)]
                unnamed = [query for query in queries() if "{}" in str(await ask(http, port, query))]
    assert empty == []
    assert [query for query in unnamed if " by (" in query] == [], "a label that no series has"


def test_every_label_of_a_legend_is_one_that_the_query_keeps() -> None:
    for board in (json.loads(path.read_text()) for path in sorted(GRAFANA.glob("*.json"))):
        for target in (t for panel in board["panels"] for t in panel["targets"]):
            for label in re.findall(r"{{(\w+)}}", target["legendFormat"]):
                assert re.search(rf"by \([^)]*\b{label}\b[^)]*\)", target["expr"]), (
                    target["legendFormat"],
                    target["expr"],
                )


@contextlib.contextmanager
def prometheus(scraped: int, port: int, folder: Path) -> Iterator[None]:
    """A real one that scrapes the gateway more often than others would, and looks for it at once."""
    scrape = {"job_name": "sluice", "static_configs": [{"targets": [f"127.0.0.1:{scraped}"]}]}
    config = {"global": {"scrape_interval": f"{SCRAPED * 1000:.0f}ms"}, "scrape_configs": [scrape]}
    (folder / "prometheus.yml").write_text(json.dumps(config))
    process = subprocess.Popen(
        [
            *("prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"),
            *(f"--web.listen-address=127.0.0.1:{port}", "--scrape.discovery-reload-interval=100ms"),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        process.terminate()
        process.wait()
        shutil.rmtree(folder)


async def ask(http: aiohttp.ClientSession, port: int, query: str) -> list[Any]:
    async with http.get(f"http://127.0.0.1:{port}/api/v1/query", params={"query": query}) as response:
        if response.status == 503:
            return []  # it is still starting
        answer = await response.json()
    assert answer["status"] == "success", (query, answer)
    found: list[Any] = [s for s in answer["data"]["result"] if s["value"][1] != "NaN"]
    return found
