"""Canaries put wherever a secret, a prompt or an answer can be do not come out in logs, metrics, traces or error bodies."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import aiohttp
import yaml

from gateway import demo
from gateway.demo.server import Verbatim

from .servers import free_port
from .test_tracing import receiver

CANARY = "ca7a51e5"
KEY, ADMIN, PEPPER = f"sk-sl-{CANARY}-client-key-0001", f"{CANARY}-admin-" + "a" * 32, f"{CANARY}-pepper-" + "p" * 32
PROVIDER, HEADER, COLLECTOR = f"sk-{CANARY}-provider", f"{CANARY}-extra-header", f"{CANARY}-collector"
SECRETS = (KEY, ADMIN, PEPPER, PROVIDER, HEADER, COLLECTOR)
PROMPT = f"{CANARY} in a prompt"
ANSWER = f"{CANARY} in an answer"


def configuration(upstream: str, collector: str, folder: Path, port: int, admin: int) -> str:
    openai = {"adapter": "openai", "base_url": f"{upstream}/openai/v1", "api_key": "${PROVIDER_KEY}"}
    models = {
        name: {"deployments": [{"provider": "openai", "model": name}]} for name in ("demo-echo", "quotes", "says")
    }
    document = {
        "server": {"port": port, "drain_delay": 0, "drain": 1},
        "admin": {"port": admin, "keys": {"ops": "${ADMIN_KEY}"}},
        "auth": {"pepper": "${PEPPER}"},
        "providers": {"openai": {**openai, "headers": {"x-extra": "${EXTRA}"}}},
        "models": models,
        "keys": [{"name": "test", "key": "${CLIENT_KEY}"}],
        "database": {"url": f"sqlite:///{folder}/sluice.db"},
        "ledger": {"journal": f"{folder}/journal"},
        "logging": {"level": "debug"},
        "metrics": {"tenant_labels": True},
        "tracing": {"endpoint": f"{collector}/v1/traces", "headers": {"authorization": "${COLLECTOR}"}},
    }
    return yaml.safe_dump(document)


async def test_no_canary_comes_out(tmp_path: Path) -> None:
    upstream, port, admin = await demo.start(), free_port(), free_port()
    quoted = {
        "error": {"message": f"Incorrect API key provided: {PROVIDER}. You said: {PROMPT}", "code": "invalid_api_key"}
    }
    upstream.verbatim["quotes"] = Verbatim(json.dumps(quoted).encode(), 401)
    said = {"choices": [{"index": 0, "message": {"role": "assistant", "content": ANSWER}, "finish_reason": "stop"}]}
    upstream.verbatim["says"] = Verbatim(
        json.dumps({"id": "x", "object": "chat.completion", "model": "says", **said}).encode()
    )
    given = {"PROVIDER_KEY": PROVIDER, "ADMIN_KEY": ADMIN, "PEPPER": PEPPER, "EXTRA": HEADER}
    environment = {**os.environ, **given, "CLIENT_KEY": KEY, "COLLECTOR": COLLECTOR}
    async with receiver() as otlp:
        path = tmp_path / "sluice.yaml"
        path.write_text(configuration(upstream.url, otlp.url, tmp_path, port, admin))
        logs = tmp_path / "stderr"
        with logs.open("wb") as sink:
            process = subprocess.Popen(
                [sys.executable, "-m", "gateway", "serve", str(path)], stderr=sink, env=environment
            )
        try:
            async with aiohttp.ClientSession() as http:
                await ready(http, admin)
                told = await everything(http, port, admin)
                metrics = await (await http.get(f"http://127.0.0.1:{admin}/metrics")).text()
        finally:
            process.send_signal(signal.SIGTERM)
            code = await asyncio.to_thread(process.wait, 30)
            await upstream.close()
    log = logs.read_text()
    assert code == 0
    assert log.count('"event":"call"') >= 8, "the log is on, and tells of calls"
    assert 'gen_ai_request_model="says"' in metrics
    assert len(otlp.spans) >= 8
    assert otlp.headers[0]["authorization"] == COLLECTOR, "where it belongs"
    assert CANARY not in log
    assert CANARY not in metrics
    assert not [body for body in otlp.bodies if CANARY.encode() in body]
    assert not [(where, secret) for where, body in told for secret in SECRETS if secret in body]


async def ready(http: aiohttp.ClientSession, admin: int) -> None:
    for _ in range(300):
        try:
            async with http.get(f"http://127.0.0.1:{admin}/readyz") as response:
                if response.status == 200:
                    return
        except aiohttp.ClientError:
            pass
        await asyncio.sleep(0.1)
    raise AssertionError("never ready")


async def everything(http: aiohttp.ClientSession, port: int, admin: int) -> list[tuple[str, str]]:
    """Requests of every kind that can go wrong, and what was answered."""
    url, good = f"http://127.0.0.1:{port}/v1/chat/completions", {"authorization": f"Bearer {KEY}"}
    said = [{"role": "user", "content": PROMPT}]
    image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{CANARY}"}}
    tool = {"type": "function", "function": {"name": "f", "description": PROMPT, "parameters": {"type": PROMPT}}}
    bodies = {
        "answer": {"model": "demo-echo", "messages": said},
        "stream": {"model": "demo-echo", "messages": said, "stream": True},
        "says": {"model": "says", "messages": said},
        "provider's refusal": {"model": "quotes", "messages": said},
        "unknown model": {"model": f"gpt-{CANARY}", "messages": said},
        "wrong role": {"model": "demo-echo", "messages": [{"role": PROMPT, "content": PROMPT}]},
        "wrong type": {"model": "demo-echo", "messages": said, "temperature": PROMPT},
        "unknown parameter": {"model": "demo-echo", "messages": said, CANARY: 1},
        "image": {"model": "demo-echo", "messages": [{"role": "user", "content": [image]}]},
        "tool": {"model": "demo-echo", "messages": said, "tools": [tool]},
        "metadata": {"model": "demo-echo", "messages": said, "metadata": {"a": PROMPT}, "user": CANARY},
    }
    told = []
    for name, body in bodies.items():
        async with http.post(url, json=body, headers=good) as response:
            told.append((name, await response.text() + str(response.headers)))
    raw = [
        ("not JSON", f'{{"model": "{CANARY}'.encode(), good),
        ("unknown key", json.dumps(bodies["answer"]).encode(), {"authorization": f"Bearer sk-{CANARY}-unknown"}),
        ("marks", json.dumps(bodies["answer"]).encode(), {**good, "x-forwarded-for": CANARY, "cookie": CANARY}),
    ]
    for name, data, headers in raw:
        async with http.post(url, data=data, headers={"content-type": "application/json", **headers}) as response:
            told.append((name, await response.text() + str(response.headers)))
    operators = f"http://127.0.0.1:{admin}/admin/v1"
    for name, path, key in (
        ("config", "config", ADMIN),
        ("wrong admin key", "keys", f"{ADMIN}x"),
        ("keys", "keys", ADMIN),
    ):
        async with http.get(f"{operators}/{path}", headers={"authorization": f"Bearer {key}"}) as response:
            told.append((name, await response.text()))
    return told
