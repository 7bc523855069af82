"""Several workers tell one story: whichever answers /metrics, it is of all of them."""

import asyncio
import re
import signal
import subprocess
import sys
from pathlib import Path

import aiohttp
import pytest
import yaml

from config import cpus
from gateway import demo
from gateway.observers.vitals import SECONDS

from .running import FREE, KEY
from .servers import RedisServer, free_port

pytestmark = pytest.mark.skipif(cpus.available() < 2, reason="two workers serve where there are two CPUs")
REQUESTS = 40


async def test_the_metrics_of_two_workers_are_summed(tmp_path: Path, redis_server: RedisServer) -> None:
    upstream = await demo.start()
    port, admin = free_port(), free_port()
    document = {
        "server": {"port": port, "workers": 2, "drain_delay": 0},
        "admin": {"port": admin},
        "providers": {"openai": {"adapter": "openai", "base_url": f"{upstream.url}/openai/v1", "api_key": "up"}},
        "models": {"m": {"deployments": [{"provider": "openai", "model": "demo-ok", "price": FREE}]}},
        "keys": [{"name": "test", "key": KEY}],
        "redis": {"url": redis_server.url},
        "database": {"url": f"sqlite:///{tmp_path}/sluice.db"},
        "ledger": {"journal": f"{tmp_path}/journal"},
        "logging": {"access": False},
    }
    path = tmp_path / "sluice.yaml"
    path.write_text(yaml.safe_dump(document))
    process = subprocess.Popen([sys.executable, "-m", "gateway", "serve", str(path)])
    try:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as http:
            await ready(http, admin)
            await asyncio.gather(*(ask(http, port) for _ in range(REQUESTS)))
            await asyncio.sleep(2 * SECONDS)  # each worker tells what it counted so often
            seen = {await counted(http, admin) for _ in range(12)}
            text = await (await http.get(f"http://127.0.0.1:{admin}/metrics")).text()
            status = (await http.get(f"http://127.0.0.1:{admin}/readyz")).status
    finally:
        process.send_signal(signal.SIGTERM)
        code = await asyncio.to_thread(process.wait, 30)
        await upstream.close()
    assert seen == {(float(REQUESTS), 2.0)}
    assert code == 0
    assert status == 200
    assert total(text, "gen_ai_server_request_duration_seconds_count") == REQUESTS, "histograms are summed too"
    assert total(text, "gen_ai_client_token_usage_count") == 2 * REQUESTS
    assert total(text, 'sluice_store_healthy{store="redis"}') == 1, "the least of the two, not their sum"
    assert total(text, "sluice_config_last_reload_successful") == 1
    assert total(text, "sluice_memory_bytes") > 2 * 30_000_000
    assert "pid=" not in text, "a worker that is replaced leaves no series behind"


def total(text: str, name: str) -> float:
    """Of all series of a metric, or of one series."""
    found = re.findall(rf"^{re.escape(name)}(?:\{{.*\}})? (\S+)$", text, re.MULTILINE)
    assert found, name
    return sum(map(float, found))


async def ready(http: aiohttp.ClientSession, admin: int) -> None:
    for _ in range(300):
        try:
            async with http.get(f"http://127.0.0.1:{admin}/metrics") as response:
                if "sluice_config_info" in (text := await response.text()) and _workers(text) == 2:
                    return
        except aiohttp.ClientError:
            pass
        await asyncio.sleep(0.1)
    raise AssertionError("two workers were never there")


async def ask(http: aiohttp.ClientSession, port: int) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
    headers = {"authorization": f"Bearer {KEY}"}
    async with http.post(f"http://127.0.0.1:{port}/v1/chat/completions", json=body, headers=headers) as response:
        assert response.status == 200


async def counted(http: aiohttp.ClientSession, admin: int) -> tuple[float, float]:
    async with http.get(f"http://127.0.0.1:{admin}/metrics") as response:
        text = await response.text()
    found = re.findall(r'^sluice_requests_total\{.*status="200"\} (\S+)$', text, re.MULTILINE)
    return sum(map(float, found)), _workers(text)


def _workers(text: str) -> float:
    return sum(float(v) for v in re.findall(r"^sluice_config_info\{.*\} (\S+)$", text, re.MULTILINE))
