"""Edge cases that concern every dialect alike, through the gateway; and that each of the 86 has a test."""

import json
import re
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gateway.app import Gateway

from .dialects import DIALECTS, each, every_dialect
from .running import KEY
from .test_dialects import TOOLS
from .test_flow import ASK

CASES = range(1, 87)


async def raw_chunks(gateway: Gateway, **request: Any) -> list[dict[str, Any]]:
    """The events of a stream as a client without an SDK sees them."""
    headers = {"authorization": f"Bearer {KEY}"}
    async with aiohttp.ClientSession(headers=headers) as session:
        async with session.post(
            f"{gateway.url}/v1/chat/completions", json={**ASK, "stream": True, **request}
        ) as answer:
            assert answer.status == 200
            events = (await answer.text()).split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    return [json.loads(event.removeprefix("data: ")) for event in events[:-2]]


def names(value: Any) -> set[str]:
    if isinstance(value, dict):
        return set(value).union(*map(names, value.values()))
    return set().union(*map(names, value)) if isinstance(value, list) else set()


@pytest.mark.parametrize("script", ["demo-parallel", "demo-reasoning"])
async def test_E_063_one_id_time_and_model_in_all_chunks_and_the_role_in_the_first_alone(script: str) -> None:
    async with every_dialect(each(script)) as (gateway, _, _):
        for dialect in DIALECTS:
            chunks = await raw_chunks(gateway, model=dialect, tools=TOOLS, stream_options={"include_usage": True})
            for name in ("id", "created", "model", "object"):
                assert len({chunk[name] for chunk in chunks}) == 1, (dialect, name)
            assert chunks[0]["id"].startswith("chatcmpl-"), dialect
            deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
            assert ["role" in delta for delta in deltas] == [True] + [False] * (len(deltas) - 1), dialect
            assert deltas[0]["role"] == "assistant"


async def test_E_065_padding_is_ours_alone_and_goes_where_the_client_does_not_want_it() -> None:
    """Bedrock's ``p`` and an upstream's ``obfuscation`` pad *its* events; ours have other lengths."""
    async with every_dialect(each("demo-ok+chunks=4")) as (gateway, _, _):
        for dialect in DIALECTS:
            padded = await raw_chunks(gateway, model=dialect)
            assert all("obfuscation" in chunk for chunk in padded), dialect
            plain = await raw_chunks(gateway, model=dialect, stream_options={"include_obfuscation": False})
            for chunk in (*plain, *padded):
                assert names(chunk).isdisjoint({"p", "prompt_filter_results", "content_filter_results"}), dialect
            assert "obfuscation" not in set().union(*map(names, plain)), dialect


async def test_E_067_stream_options_without_a_stream_are_refused_before_any_provider() -> None:
    async with every_dialect(each("demo-ok")) as (gateway, upstream, _):
        headers = {"authorization": f"Bearer {KEY}"}
        async with aiohttp.ClientSession(headers=headers) as session:
            for dialect in DIALECTS:
                for more in ({}, {"stream": False}):
                    request = {"model": dialect, "stream_options": {"include_usage": True}, **ASK, **more}
                    async with session.post(f"{gateway.url}/v1/chat/completions", json=request) as answer:
                        error = (await answer.json())["error"]
                    assert (answer.status, error["param"]) == (400, "stream_options"), dialect
                    assert error["type"] == "invalid_request_error"
        assert len(upstream.journal) == 0


async def test_E_086_the_model_that_answered_is_named_in_every_chunk_and_in_a_whole_answer_alike() -> None:
    async with every_dialect(each("demo-ok+chunks=3")) as (gateway, _, _):
        headers = {"authorization": f"Bearer {KEY}"}
        async with aiohttp.ClientSession(headers=headers) as session:
            for dialect in DIALECTS:
                async with session.post(f"{gateway.url}/v1/chat/completions", json={"model": dialect, **ASK}) as answer:
                    whole = (await answer.json())["model"]
                chunks = await raw_chunks(gateway, model=dialect, stream_options={"include_usage": True})
                assert {whole, *(chunk["model"] for chunk in chunks)} == {"demo-ok+chunks=3"}, dialect


def test_each_edge_case_has_a_test() -> None:
    tests = "\n".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    found = {int(number) for name in re.findall(r"def (test_\w*)", tests) for number in re.findall(r"E_(\d{3})", name)}
    assert set(CASES) - found == set()
