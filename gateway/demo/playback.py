"""Sends an answer as its script says: paced, whole or broken off."""

import asyncio
import socket
import struct
from dataclasses import dataclass, replace

import orjson
from aiohttp import web

from .answer import Answer, Dialect, Prompt
from .journal import Entry
from .refusals import HTML, Refusal
from .scripts import Script

_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER on, for no time: closing sends a TCP reset."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request being answered."""

    request: web.Request
    dialect: Dialect
    prompt: Prompt
    script: Script
    entry: Entry
    strikes: bool
    """Whether the script's fault or cut happens this time."""

    @property
    def cut(self) -> int | None:
        return self.script.cut if self.strikes else None

    def refuse(self, refusal: Refusal) -> web.Response:
        self.entry.status = refusal.status
        if refusal.html:
            return web.Response(status=refusal.status, body=HTML, content_type="text/html")
        after = self.script.retry_after
        headers = {"retry-after": f"{after:g}"} if after else {}
        headers |= self.dialect.headers(self.entry.number)
        return web.json_response(self.dialect.refusal(refusal), status=refusal.status, headers=headers)

    async def play(self, answer: Answer) -> web.StreamResponse:
        self.entry.tier = answer.tier
        if self.cut == -1:
            _reset(self.request)
            return web.Response()
        return await (self._stream(answer) if self.prompt.stream else self._whole(answer))

    async def _whole(self, answer: Answer) -> web.StreamResponse:
        entry, headers = self.entry, self.dialect.headers(self.entry.number)
        entry.status, entry.usage = 200, answer.usage
        body = orjson.dumps(self.dialect.whole(answer))
        if self.cut is None:
            entry.reported, entry.complete = answer.tell_usage, True
            return web.Response(body=body, content_type="application/json", headers=headers)
        half = body[: len(body) // 2]
        if self.script.how in ("end", "error"):
            return web.Response(body=half, content_type="application/json", headers=headers)
        response = web.StreamResponse(headers={**headers, "content-type": "application/json"})
        response.content_length = len(body)
        await response.prepare(self.request)
        await response.write(half)
        await self._break_off(response)
        return response

    async def _stream(self, answer: Answer) -> web.StreamResponse:
        entry, script = self.entry, self.script
        headers = {"content-type": self.dialect.stream_type, "cache-control": "no-cache"}
        response = web.StreamResponse(headers={**headers, **self.dialect.headers(entry.number)})
        await response.prepare(self.request)
        entry.status, entry.usage = 200, replace(answer.usage, output=0, reasoning=0)
        for frame in self.dialect.frames(answer):
            tokens = frame.output + frame.reasoning
            if tokens:
                sent = entry.usage.completion_tokens
                if self.cut is not None and sent >= self.cut:
                    await self._break_off(response)
                    return response
                if script.gap and sent:
                    await asyncio.sleep(script.gap)
                usage = entry.usage
                output, reasoning = usage.output + frame.output, usage.reasoning + frame.reasoning
                entry.usage = replace(usage, output=output, reasoning=reasoning)
            entry.reported = entry.reported or frame.usage
            entry.complete = frame.last
            await response.write(frame.data)
        await response.write_eof()
        return response

    async def _break_off(self, response: web.StreamResponse) -> None:
        how, transport = self.script.how, self.request.transport
        if how == "error":
            await response.write(self.dialect.error_event())
        if how in ("end", "error"):
            await response.write_eof()
            return
        while transport is not None and transport.get_write_buffer_size():  # noqa: ASYNC110 - has no event for it
            await asyncio.sleep(0.001)
        response.force_close()
        if how == "reset":
            _reset(self.request)
        elif transport is not None:
            transport.close()


def _reset(request: web.Request) -> None:
    transport = request.transport
    if transport is None or transport.is_closing():
        return
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    transport.abort()
