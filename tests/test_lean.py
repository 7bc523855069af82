"""A worker's aiohttp reads no certificate authorities, and everybody who asks over https has some all the same."""

import os
import subprocess
import sys
from pathlib import Path

from .certificates import self_signed

ASKING = """
import asyncio, ssl, sys

import gateway.worker
import aiohttp
from aiohttp import connector, web
from gateway import tls
from gateway.credentials.fetch import HTTPFetch
from gateway.observers.budgets import BudgetObserver
from gateway.remote_images import RemoteImages
from prometheus_client import CollectorRegistry

assert not connector._SSL_CONTEXT_VERIFIED.get_ca_certs(), "authorities were read"
assert ssl.create_default_context().get_ca_certs(), "and by nobody ever after"


async def main():
    asked = []

    async def answer(request):
        asked.append(request.path)
        return web.Response(body=b"GIF", content_type="image/gif")

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*sys.argv[1:])
    listening = web.ServerRunner(web.Server(answer))
    await listening.setup()
    for encrypted in (context, None):
        await web.TCPSite(listening, "127.0.0.1", 0, ssl_context=encrypted).start()
    url = f"https://127.0.0.1:{listening.addresses[0][1]}"

    async with aiohttp.ClientSession() as session:
        try:
            await session.get(url)
        except aiohttp.ClientConnectorCertificateError:
            assert not asked
        else:
            raise AssertionError("who names no authorities trusts somebody")
        plain = f"http://127.0.0.1:{listening.addresses[1][1]}/plain"
        assert (await HTTPFetch(session)("GET", plain, data=None, headers={}, timeout=5))[0] == 200
        assert tls.default_tls.cache_info().currsize == 0, "nobody needed them"
        assert await HTTPFetch(session)("GET", url + "/keys", data=None, headers={}, timeout=5) == (200, b"GIF")
        assert tls.default_tls.cache_info().currsize == 1
        observer = BudgetObserver(CollectorRegistry(), session, None)
        assert await observer._post(url + "/webhook", b"{}")
        images = RemoteImages(None, allow_private=True)
        part = {"type": "image_url", "image_url": {"url": url.replace("https", "HTTPS") + "/image"}}
        request = {"messages": [{"role": "user", "content": [part]}]}
        (message,) = (await images.fetched(request))["messages"]
        assert message["content"][0]["image_url"]["url"] == "data:image/gif;base64,R0lG", message
        await images.close()
    assert asked == ["/plain", "/keys", "/webhook", "/image"]
    await listening.cleanup()


asyncio.run(asyncio.wait_for(main(), 20))
"""


def test_authorities_are_read_by_who_needs_them(tmp_path: Path) -> None:
    certificate, key = self_signed(tmp_path, "127.0.0.1")
    done = subprocess.run(
        [sys.executable, "-c", ASKING, certificate, key],
        env={**os.environ, "SSL_CERT_FILE": certificate},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
