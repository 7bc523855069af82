"""Several gateway processes with one configuration and one Redis, in front of demo upstreams of this process."""

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from gateway import demo

from .running import KEY
from .servers import free_port

ADMIN = "admin-0123456789abcdef0123456789abcdef"


@dataclass(frozen=True, slots=True)
class Replica:
    process: asyncio.subprocess.Process
    url: str
    admin_url: str
    home: Path

    async def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples with these labels; 0 where there is none."""
        async with aiohttp.ClientSession() as http, http.get(f"{self.admin_url}/metrics") as response:
            lines = (await response.text()).splitlines()
        wanted = [f'{label}="{value}"' for label, value in labels.items()]
        found = [
            line for line in lines if line.startswith((f"{name}{{", f"{name} ")) and all(w in line for w in wanted)
        ]
        return sum(float(line.rpartition(" ")[2]) for line in found)


@contextlib.asynccontextmanager
async def replicas(
    folder: Path, models: dict[str, Any], redis: str, number: int = 2, **sections: Any
) -> AsyncIterator[tuple[list[Replica], demo.DemoUpstream]]:
    upstream = await demo.start()
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(upstream.close)
        started = [
            await stack.enter_async_context(replica(folder / str(i), upstream.url, models, redis=redis, **sections))
            for i in range(number)
        ]
        yield started, upstream


@contextlib.asynccontextmanager
async def replica(
    home: Path, upstream: str, models: dict[str, Any], *, redis: str, **sections: Any
) -> AsyncIterator[Replica]:
    """``sluice serve`` in a process of its own."""
    home.mkdir()
    port, admin = free_port(), free_port()
    server = {"port": port, **sections.pop("server", {})}
    redis_section = {"redis": {"url": redis}} if redis else {}
    document = {
        "server": {"drain_delay": 0, **server},
        "admin": {"port": admin, "keys": {"ops": ADMIN}},
        "providers": {
            "openai": {"adapter": "openai", "base_url": f"{upstream}/openai/v1", "api_key": "up"},
            "anthropic": {"adapter": "anthropic", "base_url": f"{upstream}/anthropic", "api_key": "up"},
        },
        "models": {
            name: model if isinstance(model, dict) else {"deployments": model} for name, model in models.items()
        },
        "keys": [{"name": "test", "key": KEY}],
        "database": {"url": f"sqlite:///{home}/sluice.db"},
        "ledger": {"journal": f"{home}/journal"},
        "logging": {"access": False},
        **redis_section,
        **sections,
    }
    path = home / "sluice.yaml"
    path.write_text(yaml.safe_dump(document))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway", "serve", str(path)), cwd=Path(__file__).parents[1]
    )
    try:
        await _until_it_answers(process, f"http://127.0.0.1:{port}/healthz")
        yield Replica(process, f"http://127.0.0.1:{port}", f"http://127.0.0.1:{admin}", home)
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


async def _until_it_answers(process: asyncio.subprocess.Process, url: str) -> None:
    deadline = time.monotonic() + 20
    async with aiohttp.ClientSession() as http:
        while True:
            assert process.returncode is None
            assert time.monotonic() < deadline
            with contextlib.suppress(aiohttp.ClientConnectionError):
                async with http.get(url):
                    return
            await asyncio.sleep(0.05)
