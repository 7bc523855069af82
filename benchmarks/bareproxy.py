"""The least a gateway on aiohttp can do, as fast as aiohttp can: forward bytes. ``bareproxy.py PORT UPSTREAM [PROCESSES]``.

Several processes listen on the same port and share nothing.
"""

import asyncio
import os
import sys

import aiohttp
import uvloop
from aiohttp import web

PORT, UPSTREAM = int(sys.argv[1]), sys.argv[2]
PROCESSES = int(sys.argv[3]) if len(sys.argv) > 3 else 1
HEADERS = {"Content-Type": "application/json", "Authorization": "Bearer sk-upstream"}


async def main() -> None:
    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, ttl_dns_cache=300, keepalive_timeout=60),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None, sock_read=300),
        auto_decompress=False,
        skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding"),
    )

    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        body = await request.read()
        async with session.post(UPSTREAM + request.raw_path, data=body, headers=HEADERS) as answer:
            headers = {"Content-Type": answer.headers.get("Content-Type", "application/json")}
            if not headers["Content-Type"].startswith("text/event-stream"):
                return web.Response(body=await answer.read(), status=answer.status, headers=headers)
            response = web.StreamResponse(status=answer.status, headers=headers)
            await response.prepare(request)
            async for chunk in answer.content.iter_any():
                await response.write(chunk)
            await response.write_eof()
            return response

    runner = web.ServerRunner(web.Server(handler, access_log=None))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", PORT, backlog=4096, reuse_port=PROCESSES > 1).start()
    await asyncio.Event().wait()


for _ in range(PROCESSES - 1):
    if os.fork() == 0:
        break
uvloop.run(main())
