"""pydantic-ai: streams always ask for usage, structured output forces a tool call."""

import asyncio
import json
import os
from typing import Any

from pydantic import BaseModel
from pydantic_ai import Agent, ModelHTTPError, NativeOutput, ToolOutput
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

URL, KEY, PREFIX = os.environ["SLUICE_URL"], os.environ["SLUICE_KEY"], os.environ["SLUICE_PREFIX"]
ASK = "Say one two three"


class Place(BaseModel):
    city: str
    days: int


def model(name: str) -> OpenAIChatModel:
    return OpenAIChatModel(name, provider=OpenAIProvider(base_url=URL, api_key=KEY))


def chat(script: str, **more: Any) -> Agent[None, Any]:
    return Agent(model(f"{PREFIX}-{script}"), **more)


async def unknown() -> list[Any]:
    try:
        await Agent(model("none")).run(ASK)
    except ModelHTTPError as exc:
        return [exc.status_code, exc.body["code"]]  # type: ignore[index,call-overload]
    return ["no error"]


async def main() -> None:
    whole = await chat("echo").run(ASK)
    async with chat("echo").run_stream(ASK) as run:
        streamed = await run.get_output()
        usage = run.usage
        usage = usage() if callable(usage) else usage
    told = whole.usage
    told = told() if callable(told) else told

    agent = chat("tools")

    @agent.tool_plain
    def weather(city: str) -> str:
        return f"rain in {city}"

    print(json.dumps({
        "whole": whole.output,
        "usage": [told.input_tokens, told.output_tokens],
        "stream": streamed,
        "stream_usage": [usage.input_tokens, usage.output_tokens],
        "agent": (await agent.run(ASK)).output == "rain in demo",
        "structured": (await chat("ok", output_type=NativeOutput(Place)).run(ASK)).output.model_dump(),
        "structured_by_tool": (await chat("ok", output_type=ToolOutput(Place)).run(ASK)).output.model_dump(),
        "unknown_model": await unknown(),
    }))  # fmt: skip


asyncio.run(main())
