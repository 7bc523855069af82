"""instructor: forced tools, JSON schemas, partial objects over streams."""

import asyncio
import json
import os
from typing import Any

import instructor
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel

URL, KEY, PREFIX = os.environ["SLUICE_URL"], os.environ["SLUICE_KEY"], os.environ["SLUICE_PREFIX"]
ASK: list[Any] = [{"role": "user", "content": "Say one two three"}]
MODEL = f"{PREFIX}-ok"


class Place(BaseModel):
    city: str
    days: int


def client(mode: instructor.Mode) -> instructor.Instructor:
    return instructor.from_openai(OpenAI(base_url=URL, api_key=KEY, max_retries=0), mode=mode)


async def later() -> str:
    made = instructor.from_openai(AsyncOpenAI(base_url=URL, api_key=KEY, max_retries=0))
    place = await made.chat.completions.create(model=MODEL, messages=ASK, response_model=Place)
    return "Say one two three" if place.city == "demo" else place.city


def main() -> None:
    tools, schema = client(instructor.Mode.TOOLS), client(instructor.Mode.JSON_SCHEMA)
    partial = tools.chat.completions.create_partial(model=MODEL, messages=ASK, response_model=Place)
    *_, last = list(partial)
    print(json.dumps({
        "structured": schema.chat.completions.create(model=MODEL, messages=ASK, response_model=Place).model_dump(),
        "structured_by_tool": tools.chat.completions.create(model=MODEL, messages=ASK, response_model=Place).model_dump(),
        "stream_structured": last.model_dump(),
        "async": asyncio.run(later()),
    }))  # fmt: skip


main()
