"""C-055: images that a prompt names become part of the stored copy, and nothing inside is reached by way of them."""

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from gateway import remote_images
from gateway.remote_images import RemoteImages

PNG = b"\x89PNG\r\n" + b"x" * 100
KEPT = "data:image/png;base64," + base64.b64encode(PNG).decode()


class Site:
    """A server of images; ``asked`` are the paths that were called."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.url = ""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request.path)
        if request.path == "/moved":
            raise web.HTTPFound(f"{self.url}/image.png")
        if request.path == "/slow":
            response = web.StreamResponse(headers={"content-type": "image/png"})
            await response.prepare(request)
            await response.write(PNG)
            await remote_images.asyncio.sleep(60)
        kind = "text/html" if request.path == "/page" else "image/png"
        size = remote_images.MAX_IMAGE + 1 if request.path == "/large" else 0
        return web.Response(status=404 if request.path == "/none" else 200, body=PNG + bytes(size), content_type=kind)


@asynccontextmanager
async def site() -> AsyncIterator[Site]:
    site = Site()
    runner = web.ServerRunner(web.Server(site.answer), shutdown_timeout=0.1)  # type: ignore[arg-type] # as aiohttp's own
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    site.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield site
    finally:
        await runner.cleanup()


def prompt(*urls: str) -> dict[str, Any]:
    parts = [{"type": "image_url", "image_url": {"url": url, "detail": "low"}} for url in urls]
    text = {"type": "text", "text": "what is this?"}
    return {"messages": [{"role": "system", "content": "be kind"}, {"role": "user", "content": [text, *parts]}]}


async def nowhere(host: str, port: int) -> list[str]:
    raise OSError("no such host")


async def kept(images: RemoteImages, *urls: str) -> list[str]:
    found = await images.fetched(prompt(*urls))
    assert found["messages"][0]["content"] == "be kind"
    parts = found["messages"][1]["content"]
    assert parts[0]["text"] == "what is this?"
    assert all(part["image_url"]["detail"] == "low" for part in parts[1:])
    return [part["image_url"]["url"] for part in parts[1:]]


async def test_C_055_remote_images_become_data_urls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_images, "SECONDS", 1.0)
    images = RemoteImages(nowhere, allow_private=True)
    async with site() as there:
        data = "data:image/gif;base64,AAAA"
        urls = [f"{there.url}/image.png", data, *(f"{there.url}/{name}" for name in ("none", "page", "moved", "slow"))]
        assert await kept(images, *urls) == [KEPT, *urls[1:]]
        assert await kept(images, f"{there.url}/large", f"{there.url}/image.png") == [KEPT]
        assert there.asked.count("/image.png") == 2  # a redirect is not followed
        many = [f"{there.url}/{n}.png" for n in range(remote_images.MAX_IMAGES + 2)]
        assert (await kept(images, *many))[-2:] == many[-2:]
        await images.close()


async def test_nothing_but_public_addresses_is_called() -> None:
    """By number or by name, however it is written; nothing is sent."""
    async with site() as there:
        port = there.url.rpartition(":")[2]
        inside = {
            "loopback.example": "127.0.0.1", "metadata.example": "169.254.169.254", "private.example": "10.0.0.7",
            "mapped.example": "::ffff:127.0.0.1", "six.example": "::1", "0x7f000001": "127.0.0.1", "localhost": "127.0.0.1",
        }  # fmt: skip

        async def resolve(host: str, _: int) -> list[str]:
            return [inside[host]]

        images = RemoteImages(resolve)
        hosts = [*inside, "127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "10.0.0.7", "user@127.0.0.1"]
        urls = [f"{scheme}://{host}:{port}/image.png" for host in hosts for scheme in ("https", "http")]
        urls += ["file:///etc/passwd", "https://", "ftp://127.0.0.1/x", "//127.0.0.1/x", "javascript:1", ""]
        for url in urls:
            assert await kept(images, url) == [url]
        assert there.asked == []
        await images.close()


async def test_an_address_in_other_characters_is_the_address_that_it_means() -> None:
    """aiohttp reads full-width digits and ideographic full stops as a literal address, and asks no resolver for that."""
    connected = 0

    def accept(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connected
        connected += 1
        writer.close()

    async def resolve(_host: str, _port: int) -> list[str]:
        return ["127.0.0.1"]

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    images = RemoteImages(resolve)
    for host in ("127\u30020\u30020\u30021", "\uff11\uff12\uff17.0.0.1", "127\uff0e0\uff0e0\uff0e1"):
        url = f"https://{host}:{port}/image.png"
        assert await kept(images, url) == [url]
    await images.close()
    server.close()
    assert connected == 0
