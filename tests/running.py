"""A gateway in front of demo upstreams, in this process, on free ports of 127.0.0.1."""

import shutil
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import yaml
from pydantic import SecretStr

from config import Config, parse
from config.schema import Database
from gateway import demo
from gateway.app import Gateway, build
from gateway.records import database as records

KEY = "sk-sl-test-0123456789abcdef"
FREE = {"input": 0, "output": 0}
PRICE = {"input": 2, "output": 8}
"""US dollars per million tokens: 2,000 and 8,000 nano-dollars a token."""


def deployment(script: str, provider: str = "openai", **more: Any) -> dict[str, Any]:
    return {"provider": provider, "model": script, "price": PRICE, **more}


def configuration(upstream: str, folder: str, models: dict[str, Any], **sections: Any) -> Config:
    """``models`` maps a public name to a script name, a list of deployments or a whole model."""
    shaped = {name: _model(value) for name, value in models.items()}
    document: dict[str, Any] = {
        "server": {"port": 0, "drain_delay": 0, **sections.pop("server", {})},
        "admin": {"port": 0, **sections.pop("admin", {})},
        "providers": {
            "openai": {"adapter": "openai", "base_url": f"{upstream}/openai/v1", "api_key": "up"},
            "anthropic": {"adapter": "anthropic", "base_url": f"{upstream}/anthropic", "api_key": "up"},
            "compatible": {"adapter": "openai-compatible", "base_url": f"{upstream}/openai/v1", "api_key": "up"},
            **sections.pop("providers", {}),
        },
        "models": shaped,
        "keys": sections.pop("keys", [{"name": "test", "key": KEY}]),
        "retries": {"base_delay": 0.001, "max_delay": 0.01, **sections.pop("retries", {})},
        "database": {"url": f"sqlite:///{folder}/sluice.db", **sections.pop("database", {})},
        "ledger": {"journal": f"{folder}/journal", **sections.pop("ledger", {})},
        "logging": {"access": False},
        **sections,
    }
    return parse(yaml.safe_dump(document), {})


def _model(value: Any) -> Any:
    if isinstance(value, str):
        return {"deployments": [deployment(value)]}
    return {"deployments": value} if isinstance(value, list) else value


_empty: list[bytes] = []


async def empty_database() -> bytes:
    """What a gateway makes of a new file, made once: it is a third of its start."""
    if not _empty:
        with tempfile.TemporaryDirectory(prefix="sluice-test-") as folder:
            database = records.Database(Database(url=SecretStr(f"sqlite:///{folder}/sluice.db")))
            await database.upgrade()
            await database.close()
            _empty.append(Path(folder, "sluice.db").read_bytes())
    return _empty[0]


@asynccontextmanager
async def running(
    models: dict[str, Any],
    read: Callable[[], Config] | None = None,
    upstream: demo.DemoUpstream | None = None,
    **sections: Any,
) -> AsyncIterator[tuple[Gateway, demo.DemoUpstream]]:
    """A started gateway and the demo upstream behind it (``upstream``, or a new one); both are closed at the end.

    ``read``: for reloads.
    """
    upstream = upstream or await demo.start()
    folder = tempfile.mkdtemp(prefix="sluice-test-")
    try:
        config = configuration(upstream.url, folder, models, **sections)
        if config.database == Database(url=SecretStr(f"sqlite:///{folder}/sluice.db")):
            Path(folder, "sluice.db").write_bytes(await empty_database())
        gateway = await build(config, read)
        await gateway.start()
        try:
            yield gateway, upstream
        finally:
            await gateway.close()
    finally:
        await upstream.close()
        shutil.rmtree(folder, ignore_errors=True)
