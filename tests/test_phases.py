"""Where the time of a call went: the gateway's own phases and the provider's."""

import asyncio

import aiohttp
import pytest

from gateway.call import CallRecord

from .running import KEY, running

PHASES = {"auth", "limits", "translate", "stream", "queue", "upstream"}


@pytest.mark.parametrize("stream", [False, True])
async def test_phases_add_up_to_the_time_of_the_call(stream: bool) -> None:
    records: list[CallRecord] = []

    class Kept:
        def call_finished(self, record: CallRecord) -> None:
            records.append(record)

    async with running({"m": "demo-ok"}) as (gateway, _), aiohttp.ClientSession() as http:
        gateway.lasting.observers = (*gateway.lasting.observers, Kept())
        gateway.apply(gateway.config)
        body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": stream}
        url, headers = f"{gateway.url}/v1/chat/completions", {"authorization": f"Bearer {KEY}"}
        async with http.post(url, json=body, headers=headers) as response:
            await response.read()
        for _ in range(100):
            if records:
                break
            await asyncio.sleep(0.01)
    (record,) = records
    assert record.phases.keys() == PHASES
    assert all(seconds >= 0 for seconds in record.phases.values())
    assert record.phases["upstream"] > 0
    assert sum(record.phases.values()) == pytest.approx(record.seconds, rel=0.05, abs=2e-4)


def test_a_call_without_an_answer_has_no_phases() -> None:
    assert CallRecord("req_1").phases == {}
