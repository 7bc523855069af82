"""``sluice demo``: a gateway on embedded defaults, in front of a scripted upstream, shown at work."""

import asyncio
import errno
import json
import os
import secrets
import signal
from pathlib import Path
from typing import Any

import click

from config import Config, ConfigError, parse

KEY = "sk-demo-0123456789abcdef0123456789abcdef"
ADMIN_KEY = "demo-admin-0123456789abcdef0123456789abcdef"


def configuration(upstream: str, port: int, folder: Path, *, admin: int = 0, real: bool = True) -> Config:
    """Two demo providers behind one model, the first of them dead, and the ``real`` ones whose keys are at hand."""
    providers: dict[str, Any] = {
        "demo-openai": {"adapter": "openai", "base_url": f"{upstream}/openai/v1", "api_key": "demo"},
        "demo-anthropic": {"adapter": "anthropic", "base_url": f"{upstream}/anthropic", "api_key": "demo"},
    }
    price = {"input": 1, "output": 4}  # made up, so that budgets have something to count
    models: dict[str, Any] = {
        "demo": {
            "deployments": [
                {"provider": "demo-openai", "model": "demo-529", "price": price},
                {"provider": "demo-anthropic", "model": "demo-echo", "price": price},
            ]
        },
        "demo-tools": {"deployments": [{"provider": "demo-openai", "model": "demo-parallel", "price": price}]},
        "demo-slow": {"deployments": [{"provider": "demo-openai", "model": "demo-slow", "price": price}]},
    }
    for variable, adapter, model in (
        ("OPENAI_API_KEY", "openai", "gpt-5-mini"),
        ("ANTHROPIC_API_KEY", "anthropic", "claude-haiku-4-5"),
    ):
        if real and os.environ.get(variable):
            providers[adapter] = {"adapter": adapter, "api_key": f"${{{variable}}}"}
            models[model] = {"deployments": [{"provider": adapter, "model": model}]}
    import yaml

    return parse(
        yaml.safe_dump(
            {
                "server": {"port": port, "drain_delay": 0},
                "admin": {"port": admin, "keys": {"demo": ADMIN_KEY}},
                "auth": {"pepper": secrets.token_urlsafe(32)},
                "providers": providers,
                "models": models,
                "teams": {"demo": {"limits": {"rpm": 600, "budget": {"day": 5}}}},
                "keys": [{"name": "demo", "key": KEY, "team": "demo", "limits": {"tpm": 1_000_000, "concurrency": 50}}],
                "database": {"url": f"sqlite:///{folder}/sluice.db"},
                "ledger": {"journal": f"{folder}/journal"},
                "logging": {"format": "text", "level": "warning", "access": False},
            }
        )
    )


@click.command("demo")
@click.option("--once", is_flag=True, help="End after the demonstration.")
@click.option("--port", default=8080, show_default=True, envvar="SLUICE_DEMO_PORT", type=click.IntRange(0, 65_535))
@click.option(
    "--admin-port", default=8081, show_default=True, envvar="SLUICE_DEMO_ADMIN_PORT", type=click.IntRange(0, 65_535)
)
@click.option("--upstream-only", is_flag=True, help="Serve only the scripted upstream.")
@click.option("--json", "as_json", is_flag=True, help="Print what happened as JSON.")
def command(once: bool, port: int, admin_port: int, upstream_only: bool, as_json: bool) -> None:
    """Start demo upstreams and a gateway, send one streamed completion through a failover, keep serving."""
    from ..worker import loop_factory

    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        try:
            runner.run(
                _upstream_only(port, as_json) if upstream_only else _demonstrate(once, port, admin_port, as_json)
            )
        except ConfigError as exc:
            raise click.ClickException(f"{exc}; choose others by --port and --admin-port.") from None
        except OSError as exc:
            if exc.errno != errno.EADDRINUSE:
                raise
            raise click.ClickException(f"127.0.0.1:{port} is in use; choose another by --port.") from None


async def _upstream_only(port: int, as_json: bool) -> None:
    from .. import demo

    upstream = await demo.start(port=port)
    addresses = {"openai": f"{upstream.url}/openai/v1", "anthropic": f"{upstream.url}/anthropic"}
    click.echo(json.dumps(addresses) if as_json else f"demo upstream: {' and '.join(addresses.values())}")
    await _until_stopped()
    await upstream.close()


async def _demonstrate(once: bool, port: int, admin: int, as_json: bool) -> None:
    import tempfile

    from .. import demo, logs
    from ..app import build

    with tempfile.TemporaryDirectory(prefix="sluice-demo-") as folder:
        upstream = await demo.start()
        try:
            config = configuration(upstream.url, port, Path(folder), admin=0 if once else admin)
            logs.configure(config.logging)
            gateway = await build(config)
            await gateway.start()
            try:
                await _show(gateway.url, as_json)
                if not once:
                    if not as_json:
                        _how_to(gateway.url, gateway.admin_url)
                    await _until_stopped()
            finally:
                await gateway.close()
        finally:
            await upstream.close()


async def _show(url: str, as_json: bool) -> None:
    """One streamed completion by the official SDK, through a provider that is overloaded to one that is not."""
    from openai import AsyncOpenAI

    say = (lambda *_, **__: None) if as_json else click.echo
    say(f"gateway   {url}/v1, in front of two demo providers: the first answers 529, the second works")
    client = AsyncOpenAI(base_url=f"{url}/v1", api_key=KEY)
    async with client:
        raw = await client.chat.completions.with_raw_response.create(
            model="demo",
            messages=[{"role": "user", "content": "Tell me: who answered this?"}],
            stream=True,
            stream_options={"include_usage": True},
        )
        say("answer    ", nl=False)
        usage, answer = None, ""
        async for chunk in raw.parse():
            usage = chunk.usage or usage
            for choice in chunk.choices:
                answer += choice.delta.content or ""
                say(choice.delta.content or "", nl=False)
        say()
    assert usage is not None, "usage was asked for"
    say(f"served by {raw.headers['x-sluice-deployment']}, after {raw.headers['x-sluice-attempts']} attempts")
    say(f"usage     {usage.prompt_tokens} prompt and {usage.completion_tokens} completion tokens")
    if as_json:
        told = {
            "base_url": f"{url}/v1",
            "api_key": KEY,
            "answer": answer,
            "deployment": raw.headers["x-sluice-deployment"],
            "attempts": int(raw.headers["x-sluice-attempts"]),
            "usage": {"prompt_tokens": usage.prompt_tokens, "completion_tokens": usage.completion_tokens},
        }
        click.echo(json.dumps(told))


def _how_to(url: str, admin: str) -> None:
    click.echo(
        f"""
Point any OpenAI client here:

  export OPENAI_BASE_URL={url}/v1
  export OPENAI_API_KEY={KEY}
  python -c "import openai; print(openai.OpenAI().chat.completions.create(model='demo', messages=[{{'role': 'user', 'content': 'Hello'}}]).choices[0].message.content)"

Make keys with budgets, see what was used (metrics: {admin}/metrics):

  export SLUICE_ADMIN_URL={admin}
  export SLUICE_ADMIN_KEY={ADMIN_KEY}
  sluice keys create mine --budget 5/month
  sluice usage --by key

Serving until Ctrl-C."""
    )


async def _until_stopped() -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await stop.wait()
