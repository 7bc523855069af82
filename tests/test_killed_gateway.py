"""A whole gateway killed again and again under load: what clients got is in the ledger once, as the provider billed it."""

import asyncio
import os
import random
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from config.schema import Ledger as LedgerOptions
from gateway import demo
from gateway.records.database import Database
from gateway.records.ledger import Ledger
from gateway.records.usage import UsageStore

from .running import KEY, configuration, deployment
from .servers import free_port, wait_for_port
from .test_accounting import number_of, priced

KILLS = int(os.environ.get("SLUICE_GATEWAY_KILLS", "3"))
"""How often the gateway is killed, per database."""
CLIENTS = 12
MODELS: dict[str, Any] = {
    "whole": [deployment("demo-echo")],
    "long": [deployment("demo-long+chunks=20+gap=0.005")],
    "claude": [deployment("demo-long+chunks=12", "anthropic")],
}


class Load:
    """Clients that ask without end; ``complete`` are requests whose last byte they got, ``told`` all with an id."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.complete: dict[int, str] = {}
        self.told: dict[int, str] = {}
        self._number = 0

    async def client(self, http: aiohttp.ClientSession, dice: random.Random) -> None:
        while True:
            self._number += 1
            try:
                async with asyncio.timeout(10):
                    await self._ask(http, self._number, dice)
            except (TimeoutError, aiohttp.ClientError, OSError):
                await asyncio.sleep(0.02)

    async def _ask(self, http: aiohttp.ClientSession, number: int, dice: random.Random) -> None:
        stream = dice.random() < 0.6
        body = {
            "model": dice.choice(list(MODELS)),
            "stream": stream,
            "max_tokens": 100,
            "messages": [{"role": "user", "content": f"request {number} of many"}],
        }
        async with http.post(f"{self.url}/v1/chat/completions", json=body) as response:
            self.told[number] = response.headers["x-request-id"]
            answer = await response.read()
            assert response.status == 200, answer
            if not stream or answer.endswith(b"data: [DONE]\n\n"):
                self.complete[number] = self.told[number]


def serve(path: Path, port: int) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "gateway", "serve", str(path), "--port", str(port)]
    process = subprocess.Popen(command, cwd=Path(__file__).parents[1], stderr=subprocess.DEVNULL)
    wait_for_port(port, 30)
    return process


@pytest.mark.timeout(30 + 15 * KILLS)
async def test_kill_9_of_the_gateway_under_load_loses_and_doubles_nothing(
    database_url: str, tmp_path: Path, database: Database
) -> None:
    dice, port = random.Random(11), free_port()
    upstream = await demo.start()
    folder = tempfile.mkdtemp(dir=tmp_path)
    config = configuration(upstream.url, folder, MODELS, database={"url": database_url})
    document = config.model_dump(mode="json", exclude_unset=True)
    document["providers"]["openai"]["api_key"] = document["providers"]["anthropic"]["api_key"] = "up"
    document["keys"][0]["key"], document["database"]["url"] = KEY, database_url
    path = Path(folder, "sluice.yaml")
    path.write_text(yaml.safe_dump(document))

    load = Load(f"http://127.0.0.1:{port}")
    async with aiohttp.ClientSession(headers={"authorization": f"Bearer {KEY}"}) as http:
        clients = [asyncio.create_task(load.client(http, random.Random(n))) for n in range(CLIENTS)]
        for _ in range(KILLS):
            process = await asyncio.to_thread(serve, path, port)
            await asyncio.sleep(dice.uniform(0.1, 0.6))
            process.kill()
            await asyncio.to_thread(process.wait)
        assert not [client for client in clients if client.done()]
        for client in clients:
            client.cancel()
        await asyncio.gather(*clients, return_exceptions=True)
    await upstream.close()

    ledger = Ledger(database, LedgerOptions(journal=f"{folder}/journal"))
    await ledger.start()  # takes over what the last one left
    await ledger.close()
    rows = [row async for row in _rows(database)]
    requests: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        requests[row["request_id"]].append(row)
    billed = {number_of(entry): priced(entry) for entry in upstream.journal}
    assert Counter((row["request_id"], row["attempt"]) for row in rows).most_common(1)[0][1] == 1
    charged = 0
    for number, request in load.complete.items():
        (row,) = requests[request]
        assert (row["status"], row["estimated"], row["cost"]) == ("ok", False, billed[number]), number
        charged += row["cost"]
    assert charged == sum(billed[number] for number in load.complete)
    assert len(load.complete) > KILLS
    for number, request in load.told.items():
        if number not in load.complete:  # its gateway died under it: settled already, or visible as what it is
            assert [r["status"] for r in requests[request]] in (["ok"], ["unfinished"])
    assert len(requests) >= len(billed)  # whatever a provider was asked has its row
    unfinished = [row for row in rows if row["status"] == "unfinished"]
    assert all(row["estimated"] for row in unfinished)
    print(
        f"{KILLS} kills: {len(load.complete)} answers, each with one row, {charged} n$ charged and billed; "
        f"{len(unfinished)} of {len(requests)} requests unfinished, as such"
    )


async def _rows(database: Database) -> Any:
    usage, after = UsageStore(database), 0
    while page := await usage.rows(after=after, limit=1000):
        for row in page:
            yield row
        after = page[-1]["id"]
