"""langchain-openai."""

import asyncio
import json
import os
from typing import Any

import openai
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import BaseModel

URL, KEY, PREFIX = os.environ["SLUICE_URL"], os.environ["SLUICE_KEY"], os.environ["SLUICE_PREFIX"]
ASK = "Say one two three"


class Place(BaseModel):
    """A place."""

    city: str
    days: int


def weather(city: str) -> str:
    """The weather of a city."""
    return f"rain in {city}"


def chat(script: str, **more: Any) -> ChatOpenAI:
    return ChatOpenAI(
        base_url=URL, api_key=KEY, model=f"{PREFIX}-{script}", use_responses_api=False, max_retries=0, **more
    )  # type: ignore[arg-type]


def calls(message: Any) -> list[Any]:
    return [[c["name"], c["args"]] for c in message.tool_calls]


def collect(runnable: Any) -> Any:
    total = None
    for chunk in runnable.stream(ASK):
        total = chunk if total is None else total + chunk
    return total


def unknown() -> list[Any]:
    try:
        ChatOpenAI(base_url=URL, api_key=KEY, model="none", max_retries=0).invoke(ASK)  # type: ignore[arg-type]
    except openai.NotFoundError as exc:
        return [exc.status_code, exc.code]
    return ["no error"]


def main() -> None:
    whole = chat("echo").invoke(ASK)
    streamed = collect(chat("echo", stream_usage=True))
    asked = chat("tools").bind_tools([weather]).invoke(ASK)
    turn = [HumanMessage(ASK), asked, ToolMessage("rain", tool_call_id=asked.tool_calls[0]["id"])]
    embeddings = OpenAIEmbeddings(base_url=URL, api_key=KEY, model="embedding", check_embedding_ctx_length=False)  # type: ignore[arg-type]
    vectors = embeddings.embed_documents(["one", "two words"])
    print(json.dumps({
        "whole": whole.content,
        "usage": [whole.usage_metadata["input_tokens"], whole.usage_metadata["output_tokens"]],
        "stream": streamed.content,
        "stream_usage": [streamed.usage_metadata["input_tokens"], streamed.usage_metadata["output_tokens"]],
        "async": asyncio.run(chat("echo").ainvoke(ASK)).content,
        "tool": calls(asked),
        "forced_tool": calls(chat("ok").bind_tools([weather], tool_choice="weather").invoke(ASK)),
        "parallel_tools": calls(chat("parallel").bind_tools([weather]).invoke(ASK)),
        "stream_tools": calls(collect(chat("parallel").bind_tools([weather]))),
        "two_turns": chat("tools").bind_tools([weather]).invoke(turn).content,
        "structured": chat("ok").with_structured_output(Place, method="json_schema").invoke(ASK).model_dump(),
        "structured_by_tool": chat("ok").with_structured_output(Place, method="function_calling").invoke(ASK).model_dump(),
        "unknown_model": unknown(),
        "embedding": [len(vectors[0]), 3],
    }))  # fmt: skip


main()
