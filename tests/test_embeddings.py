"""Embeddings of providers as they are: their formats, answers that lack some, answers that tell no usage."""

import base64
import struct
from array import array
from typing import Any

import openai
import pytest
from aiohttp import web

from .running import deployment, running
from .servers import upstream_of
from .test_flow import client

NUMBERS = [0.5, -1.25, 3.0]
PACKED = base64.b64encode(struct.pack("<3f", *NUMBERS)).decode()


class Provider:
    """Answers every path with ``answer``, and keeps what it was asked."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.asked: list[dict[str, Any]] = []

    async def handle(self, request: web.Request) -> web.Response:
        self.asked.append(await request.json())
        answer = self.answer(self.asked[-1]) if callable(self.answer) else self.answer
        return web.json_response(answer)


def listed(*embeddings: Any, tokens: int = 3) -> dict[str, Any]:
    data = [{"object": "embedding", "index": i, "embedding": e} for i, e in enumerate(embeddings)]
    return {"object": "list", "data": data, "model": "m", "usage": {"prompt_tokens": tokens, "total_tokens": tokens}}


@pytest.mark.parametrize("adapter", ["openai", "azure", "openai-compatible"])
async def test_packed_embeddings_are_asked_of_those_who_pack_them(adapter: str) -> None:
    """Written out, a thousand of OpenAI's longest are more than an answer may have."""
    packs = adapter != "openai-compatible"

    def answer(asked: dict[str, Any]) -> dict[str, Any]:
        told = PACKED if asked["encoding_format"] == "base64" else NUMBERS
        return listed(told, told)

    provider = Provider(answer)
    async with upstream_of(provider.handle) as address:
        accounts = {"p": {"adapter": adapter, "base_url": address, "api_key": "up"}}
        async with running({"m": [deployment("m", "p")]}, providers=accounts) as (gateway, _), client(gateway) as sdk:
            for more in ({}, {"encoding_format": "float"}, {"encoding_format": "base64"}):
                got = await sdk.embeddings.create(model="m", input=["a", "b"], **more)  # type: ignore[call-overload]
                wanted = PACKED if more.get("encoding_format") == "base64" else NUMBERS
                assert [item.embedding for item in got.data] == [wanted, wanted]
    assert [a["encoding_format"] for a in provider.asked] == [
        *(("base64", "float", "base64") if packs else ("float", "float", "float"))
    ]


async def test_each_format_is_told_whichever_the_provider_gives() -> None:
    provider = Provider(None)
    async with upstream_of(provider.handle) as address:
        accounts = {"p": {"adapter": "openai", "base_url": address, "api_key": "up"}}
        async with running({"m": [deployment("m", "p")]}, providers=accounts) as (gateway, _), client(gateway) as sdk:
            for given in (NUMBERS, PACKED):
                provider.answer = listed(given)
                plain = await sdk.embeddings.create(model="m", input="a", encoding_format="float")
                assert plain.data[0].embedding == NUMBERS
                packed: Any = await sdk.embeddings.create(model="m", input="a", encoding_format="base64")
                assert array("f", base64.b64decode(packed.data[0].embedding)).tolist() == NUMBERS
            for given in ("?", "AAA=", "", None, {}):
                provider.answer = listed(given)
                for form in ("float", "base64"):
                    with pytest.raises(openai.InternalServerError):
                        await sdk.with_options(max_retries=0).embeddings.create(
                            model="m", input="a", encoding_format=form
                        )


@pytest.mark.parametrize("adapter", ["openai", "gemini"])
@pytest.mark.parametrize("number", [0, 1, 3])
async def test_another_number_of_embeddings_than_of_inputs_is_no_answer(adapter: str, number: int) -> None:
    """Nobody could tell which of the inputs they are of."""
    told = listed(*[NUMBERS] * number) if adapter == "openai" else {"embeddings": [{"values": NUMBERS}] * number}
    async with upstream_of(Provider(told).handle) as address:
        accounts = {"p": {"adapter": adapter, "base_url": address, "api_key": "up"}}
        models = {"m": [deployment("m", "p")], "both": [deployment("m", "p"), deployment("demo", "openai")]}
        async with running(models, providers={"q": accounts["p"], **accounts}) as (gateway, _), client(gateway) as sdk:
            with pytest.raises(openai.InternalServerError):
                await sdk.with_options(max_retries=0).embeddings.create(model="m", input=["a", "b"])
            raw = await sdk.embeddings.with_raw_response.create(model="both", input=["a", "b"])
            assert raw.headers["x-sluice-deployment"] == "openai/demo"


@pytest.mark.parametrize("given", ["a b", ["a b"], [1, 2, 3], [[1, 2, 3]]])
async def test_one_input_of_any_form_has_one_embedding(given: Any) -> None:
    async with running({"m": "demo"}) as (gateway, _), client(gateway) as sdk:
        assert len((await sdk.embeddings.create(model="m", input=given)).data) == 1


@pytest.mark.parametrize(
    ("adapter", "told"),
    [
        ("gemini", {"embeddings": [{"values": NUMBERS}]}),
        ("cohere", {"embeddings": {"float": [NUMBERS]}}),
        ("cohere", {"embeddings": {"float": [NUMBERS]}, "meta": {"tokens": {}, "billed_units": {"images": 1}}}),
        ("openai", listed(NUMBERS, tokens=0)),
    ],
)
async def test_embeddings_whose_provider_tells_no_usage_are_not_free(adapter: str, told: Any) -> None:
    async with upstream_of(Provider(told).handle) as address:
        accounts = {"p": {"adapter": adapter, "base_url": address, "api_key": "up"}}
        async with running({"m": [deployment("m", "p")]}, providers=accounts) as (gateway, _), client(gateway) as sdk:
            answer = await sdk.embeddings.create(model="m", input="some words to embed")
            ledger = gateway.records.ledger
            assert ledger is not None
            await ledger.flush()
            [row] = await gateway.records.usage.rows()
            assert row["estimated"]
            assert row["input"] > 0
            assert row["cost"] == row["input"] * 2000
            assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (row["input"], row["input"])
            assert answer.model == "m"
