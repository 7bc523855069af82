"""Every fault that the proxy can inject, between a gateway and one of its two upstreams: the client gets its answer."""

import time
from typing import Any

import openai
import pytest

from .chaos.upstreams import two_upstreams
from .test_flow import ASK, client

WORDS = "ok" + "".join(f" word{i}" for i in range(1, 10))
FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "latency": ({"latency": 0.1}, "faulty"),
    "bandwidth": ({"bandwidth": 20_000}, "faulty"),
    "slices of a byte": ({"slice": 1}, "faulty"),
    "time-out": ({"black_hole": True}, "good"),
    "lost replies": ({"lose_replies": True}, "good"),
    "cut after 50 bytes": ({"cut_after": 50}, "good"),
    "reset after 50 bytes": ({"cut_after": 50, "cut_with_reset": True}, "good"),
    "down": ({}, "good"),
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fault", FAULTS)
async def test_the_client_gets_its_answer(fault: str, stream: bool) -> None:
    settings, serves = FAULTS[fault]
    scripts = ("demo-ok+chunks=10", "demo-ok+chunks=10")
    async with two_upstreams(*scripts, strategy="ordered") as (gateway, net, _), client(gateway) as sdk:
        for name, value in settings.items():
            setattr(net, name, value)
        if fault == "down":
            await net.down()
        began = time.monotonic()
        raw = await sdk.chat.completions.with_raw_response.create(model="m", stream=stream, **ASK)
        answer: Any = raw.parse()
        if stream:
            text = "".join([c.choices[0].delta.content or "" async for c in answer])
        else:
            text = answer.choices[0].message.content
        took = time.monotonic() - began
    assert text == WORDS
    assert raw.headers["x-sluice-deployment"] == serves
    assert raw.headers["x-sluice-attempts"] == ("1" if serves == "faulty" else "2")
    if fault == "latency":
        assert took >= 0.2  # each way
    if fault == "bandwidth":
        assert took >= 0.02


@pytest.mark.parametrize("with_reset", [False, True])
async def test_a_stream_cut_by_the_network_does_not_look_complete(with_reset: bool) -> None:
    async with two_upstreams("demo-ok+chunks=100", strategy="ordered") as (gateway, net, _), client(gateway) as sdk:
        net.cut_after, net.cut_with_reset = 4000, with_reset
        stream = await sdk.chat.completions.create(model="m", stream=True, **ASK)
        with pytest.raises(openai.APIError):
            async for _chunk in stream:
                pass
