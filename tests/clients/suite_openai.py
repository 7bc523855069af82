"""openai-python, whichever major is installed: raw calls, streams, helpers, stored completions, errors."""

import asyncio
import contextlib
import json
import os
from typing import Any

import openai
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel

URL, KEY, PREFIX = os.environ["SLUICE_URL"], os.environ["SLUICE_KEY"], os.environ["SLUICE_PREFIX"]
ASK: list[Any] = [{"role": "user", "content": "Say one two three"}]
TOOL: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
client = OpenAI(base_url=URL, api_key=KEY, max_retries=0, _strict_response_validation=True)
lenient = OpenAI(base_url=URL, api_key=KEY, max_retries=0)
"""Where the SDK's own strict types are wrong: base64 embeddings, which it asks for, and the roles of stored messages."""


class Place(BaseModel):
    city: str
    days: int


def model(script: str) -> str:
    return f"{PREFIX}-{script}"


def calls(message: Any) -> list[Any]:
    return [[c.function.name, json.loads(c.function.arguments)] for c in message.tool_calls]


def refusal(call: Any, *names: str) -> list[Any]:
    try:
        call()
    except openai.APIStatusError as exc:
        return [exc.status_code, *(getattr(exc, name) for name in names)]
    return ["no error"]


def streamed(**more: Any) -> tuple[str, list[int] | None]:
    text, usage = "", None
    options = {"include_usage": True}
    for chunk in client.chat.completions.create(
        model=model("echo"), messages=ASK, stream=True, stream_options=options, **more
    ):
        text += (chunk.choices[0].delta.content or "") if chunk.choices else ""
        usage = [chunk.usage.prompt_tokens, chunk.usage.completion_tokens] if chunk.usage else usage
    return text, usage


def helper(**more: Any) -> Any:
    """The accumulating helper: the strictest consumer of streams."""
    api = client.chat.completions if hasattr(client.chat.completions, "stream") else client.beta.chat.completions
    with api.stream(messages=ASK, **more) as stream:
        for _ in stream:
            pass
        return stream.get_final_completion()


def cut() -> str:
    try:
        list(client.chat.completions.create(model=model("cut"), messages=ASK, stream=True))
    except openai.APIError:
        return "error"
    return "complete"


def stored() -> bool:
    """Store two, find them by metadata over pages, read, change and delete them."""
    api = client.chat.completions
    mark = {"run": os.urandom(8).hex()}
    made = [api.create(model=model("echo"), messages=ASK, store=True, metadata=mark).id for _ in range(2)]
    found = [c.id for c in api.list(limit=1, order="asc", metadata=mark)]
    assert sorted(found) == sorted(made), (found, made)
    assert api.retrieve(made[0]).choices[0].message.content == ASK[0]["content"]
    assert [m.content for m in lenient.chat.completions.messages.list(made[0])] == [ASK[0]["content"]]
    assert api.update(made[0], metadata={"a": "b"}).id == made[0]
    assert all(api.delete(i).deleted for i in made)
    return refusal(lambda: api.retrieve(made[0]), "code") == [404, "not_found"]


async def again() -> str | None:
    async with AsyncOpenAI(base_url=URL, api_key=KEY) as other:
        answer = await other.chat.completions.create(model=model("echo"), messages=ASK)
        return answer.choices[0].message.content


def main() -> None:
    api = client.chat.completions
    whole = api.create(model=model("echo"), messages=ASK)
    assert whole.usage is not None
    text, usage = streamed()
    tool = api.create(model=model("tools"), messages=ASK, tools=[TOOL]).choices[0]
    turn = [*ASK, tool.message.model_dump(), {
        "role": "tool", "tool_call_id": tool.message.tool_calls[0].id, "content": "rain"  # type: ignore[index]
    }]  # fmt: skip
    named: Any = {"type": "function", "function": {"name": "weather"}}
    parse = api.parse if hasattr(api, "parse") else client.beta.chat.completions.parse
    raw = api.with_raw_response.create(model=model("echo"), messages=ASK)
    with contextlib.closing(OpenAI(base_url=URL, api_key="sk-wrong-0123456789abcdef0123", max_retries=0)) as stranger:
        wrong_key = refusal(stranger.models.list, "code")
    vectors = lenient.embeddings.create(model="embedding", input=["one", "two words"])
    print(json.dumps({
        "whole": whole.choices[0].message.content,
        "usage": [whole.usage.prompt_tokens, whole.usage.completion_tokens],
        "stream": text,
        "stream_usage": usage,
        "async": asyncio.run(again()),
        "tool": calls(tool.message),
        "forced_tool": calls(api.create(model=model("ok"), messages=ASK, tools=[TOOL], tool_choice=named).choices[0].message),
        "parallel_tools": calls(api.create(model=model("parallel"), messages=ASK, tools=[TOOL]).choices[0].message),
        "stream_tools": calls(helper(model=model("parallel"), tools=[TOOL]).choices[0].message),
        "two_turns": api.create(model=model("tools"), messages=turn, tools=[TOOL]).choices[0].message.content,
        "structured": parse(model=model("ok"), messages=ASK, response_format=Place).choices[0].message.parsed.model_dump(),
        "stream_structured": helper(model=model("ok"), response_format=Place).choices[0].message.parsed.model_dump(),
        "refusal": api.create(model=model("refusal"), messages=ASK).choices[0].message.refusal,
        "unknown_model": refusal(lambda: api.create(model="none", messages=ASK), "code"),
        "wrong_key": wrong_key,
        "bad_parameter": refusal(lambda: api.create(model=model("ok"), messages=ASK, temperature=3), "code", "param"),
        "context": refusal(lambda: api.create(model=model("context"), messages=ASK), "code"),
        "upstream_down": refusal(lambda: api.create(model=model("500"), messages=ASK))[0],
        "cut_stream": cut(),
        "models": model("echo") in [m.id for m in client.models.list()],
        "request_id": raw.headers["x-request-id"] == raw.parse()._request_id,
        "embedding": [len(vectors.data[0].embedding), vectors.usage.prompt_tokens],
        "stored": stored(),
    }))  # fmt: skip


main()
