"""An adapter of somebody else's package: the one in docs/adding-a-provider.md, installed and served as it stands there."""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from aiohttp import web

from adapters import registry

from .running import deployment, running
from .test_flow import ASK, client

PAGE = Path(__file__).parents[1] / "docs" / "adding-a-provider.md"


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The page's module and entry point, as pip would leave them on the path."""
    text = PAGE.read_text()
    module = re.search(r"```python\n(.+?)```", text, re.DOTALL)
    point = re.search(r'```toml\n\[project.entry-points."(.+?)"\]\n(\w+) = "(.+?)"\n```', text)
    assert module is not None
    assert point is not None
    (tmp_path / "acme_sluice.py").write_text(module[1])
    told = tmp_path / "acme_sluice-1.0.dist-info"
    told.mkdir()
    (told / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-sluice\nVersion: 1.0\n")
    (told / "entry_points.txt").write_text(f"[{point[1]}]\n{point[2]} = {point[3]}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    registry.load.cache_clear()
    yield
    registry.load.cache_clear()
    sys.modules.pop("acme_sluice", None)


class AcmeServer:
    """The provider of the page."""

    def __init__(self) -> None:
        self.asked: list[tuple[dict[str, Any], str]] = []
        self.status = 200
        self.cut = False

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.asked.append((body, request.headers["x-acme-key"]))
        if self.status != 200:
            return web.json_response({"error": {"message": "busy"}}, status=self.status)
        end = {"why": "done", "spent": {"in": 4, "out": 2}}
        if not body["live"]:
            return web.json_response({"text": "Hello there", **end})
        lines = "".join(json.dumps(line) + "\n" for line in ({"text": "Hello "}, {"text": "there"}, end)).encode()
        response = web.StreamResponse()
        await response.prepare(request)
        for at in range(0, len(lines), 7):
            await response.write(lines[at : at + 7])
            if self.cut and at > 30:
                break
        await response.write_eof()
        return response


async def test_the_guides_adapter_serves_streams_fails_over_and_refuses(installed: None) -> None:
    assert "acme" in registry.names()
    server = AcmeServer()
    app = web.Application()
    app.router.add_post("/v1/generate", server.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    address = f"http://127.0.0.1:{runner.addresses[0][1]}"
    provider = {"adapter": "acme", "base_url": address, "api_key": "up", "options": {"tone": "dry"}}
    models = {"acme": [deployment("rocket", "acme")], "both": [deployment("rocket", "acme"), deployment("demo-echo")]}
    try:
        async with running(models, providers={"acme": provider}) as (gateway, _), client(gateway) as sdk:
            whole = await sdk.chat.completions.create(model="acme", **ASK)
            assert whole.choices[0].message.content == "Hello there"
            assert whole.usage is not None
            assert whole.usage.total_tokens == 6
            stream = await sdk.chat.completions.create(model="acme", stream=True, seed=3, **ASK)
            assert "".join([c.choices[0].delta.content or "" async for c in stream]) == "Hello there"
            sent = {"model": "rocket", "turns": [{"who": "user", "says": ASK["messages"][0]["content"]}], "tone": "dry"}
            assert server.asked == [({**sent, "limit": None, "live": live}, "up") for live in (False, True)]
            with pytest.raises(openai.BadRequestError, match="temperature"):
                await sdk.chat.completions.create(model="acme", temperature=0.5, **ASK)
            server.cut = True
            with pytest.raises(openai.APIError):
                cut = await sdk.chat.completions.create(model="acme", stream=True, **ASK)
                [chunk async for chunk in cut]
            server.status = 503
            other = await sdk.chat.completions.with_raw_response.create(model="both", **ASK)
            assert other.headers["x-sluice-deployment"] == "openai/demo-echo"
    finally:
        await runner.cleanup()


async def test_a_wrong_option_of_such_an_adapter_is_named(installed: None) -> None:
    provider = {"adapter": "acme", "options": {"tune": "dry"}}
    with pytest.raises(Exception, match=r"providers\.acme\.options: tune"):
        async with running({"acme": [deployment("rocket", "acme")]}, providers={"acme": provider}):
            pass
