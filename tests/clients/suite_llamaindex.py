"""LlamaIndex's OpenAILike, as a chat model that calls functions."""

import asyncio
import json
import os
from typing import Any

import openai
from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel

URL, KEY, PREFIX = os.environ["SLUICE_URL"], os.environ["SLUICE_KEY"], os.environ["SLUICE_PREFIX"]
ASK = [ChatMessage(role="user", content="Say one two three")]


class Place(BaseModel):
    """A place."""

    city: str
    days: int


def weather(city: str) -> str:
    """The weather of a city."""
    return f"rain in {city}"


TOOL = FunctionTool.from_defaults(weather)


def chat(name: str) -> OpenAILike:
    return OpenAILike(
        model=name, api_base=URL, api_key=KEY, is_chat_model=True, is_function_calling_model=True, max_retries=0,
        context_window=8192,
    )  # fmt: skip


def model(script: str) -> OpenAILike:
    return chat(f"{PREFIX}-{script}")


def calls(llm: OpenAILike, response: Any) -> list[Any]:
    return [[c.tool_name, c.tool_kwargs] for c in llm.get_tool_calls_from_response(response)]


def unknown() -> list[Any]:
    try:
        chat("none").chat(ASK)
    except openai.NotFoundError as exc:
        return [exc.status_code, exc.code]
    return ["no error"]


def main() -> None:
    tools, parallel = model("tools"), model("parallel")
    *_, last = parallel.stream_chat_with_tools([TOOL], chat_history=list(ASK), allow_parallel_tool_calls=True)
    print(json.dumps({
        "whole": model("echo").chat(ASK).message.content,
        "stream": "".join(r.delta or "" for r in model("echo").stream_chat(ASK)),
        "async": asyncio.run(model("echo").achat(ASK)).message.content,
        "tool": calls(tools, tools.chat_with_tools([TOOL], chat_history=list(ASK))),
        "stream_tools": calls(parallel, last),
        "structured_by_tool": model("ok").as_structured_llm(Place).chat(ASK).raw.model_dump(),
        "unknown_model": unknown(),
    }))  # fmt: skip


main()
