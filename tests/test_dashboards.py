"""Every panel of the Grafana dashboards asks for something that a real Prometheus has after some traffic."""

import asyncio
import importlib.util
import json
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import aiohttp
import pytest

from gateway.app import Gateway
from gateway.protection import LASTING

from .running import KEY, deployment, running
from .servers import free_port, wait_for_port

GRAFANA = Path(__file__).parents[1] / "deploy" / "grafana"
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


async def traffic(gateway: Gateway, seconds: float) -> None:
    """Answers, failures, tiers that cannot be had, a full queue and a worker with too much to do."""
    end = time.monotonic() + seconds
    assert gateway.pipeline.protection is not None
    async with aiohttp.ClientSession(headers={"authorization": f"Bearer {KEY}"}) as http:

        async def ask(model: str, **more: Any) -> None:
            body = {"model": model, "messages": [{"role": "user", "content": "hi"}], **more}
            async with http.post(f"{gateway.url}/v1/chat/completions", json=body) as response:
                await response.read()

        while time.monotonic() < end:
            await ask("m")
            await ask("m", stream=True, service_tier="priority")
            await ask("nowhere")
            await asyncio.gather(ask("q"), ask("q", service_tier="flex"), ask("q", service_tier="flex"))
            for _ in range(LASTING):
                gateway.pipeline.protection.note_lag(0.11)
            await ask("q", service_tier="flex")
            await asyncio.sleep(0.05)


@needs_prometheus
async def test_every_panel_has_data_after_some_traffic() -> None:
    models = {
        "m": [deployment("demo-529"), deployment("demo-echo", "anthropic")],
        "q": {"deployments": [deployment("demo-ok+delay=0.1")], "queue": {"capacity": 1}},
    }
    port, folder = free_port(), Path(tempfile.mkdtemp(prefix="sluice-prometheus-"))
    async with running(models, metrics={"tenant_labels": True}) as (gateway, _):
        scrape = {"job_name": "sluice", "static_configs": [{"targets": [f"127.0.0.1:{gateway.admin.port}"]}]}
        config = {"global": {"scrape_interval": "1s"}, "scrape_configs": [scrape]}
        (folder / "prometheus.yml").write_text(json.dumps(config))
        process = subprocess.Popen(
            [
                *("prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"),
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            await asyncio.to_thread(wait_for_port, port)
            async with aiohttp.ClientSession() as http:
                while not await ask(http, port, "up == 1"):  # it looks for targets every five seconds
                    await asyncio.sleep(0.2)
                await traffic(gateway, 5)
                empty = [query for query in queries() if not await ask(http, port, query)]
        finally:
            process.terminate()
            process.wait()
            shutil.rmtree(folder)
    assert empty == []


async def ask(http: aiohttp.ClientSession, port: int, query: str) -> list[Any]:
    async with http.get(f"http://127.0.0.1:{port}/api/v1/query", params={"query": query}) as response:
        if response.status == 503:
            return []  # it is still starting
        answer = await response.json()
    assert answer["status"] == "success", (query, answer)
    found: list[Any] = answer["data"]["result"]
    return found
