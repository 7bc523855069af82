"""A process that writes the ledger under load until it is killed; each line it prints is a call that it was told is durable.

python tests/ledger_writer.py DATABASE_URL JOURNAL_FOLDER kernel|disk
"""

import asyncio
import os
import random
import secrets
import sys
from typing import Literal

from pydantic import SecretStr

from adapters.usage import Usage
from config.schema import Database as DatabaseOptions
from config.schema import Ledger as LedgerOptions
from gateway.call import Attempt, CallRecord, Principal
from gateway.records.database import Database
from gateway.records.ledger import Ledger

ME = Principal("key_1", "acme", team="blue", user="ann", tags=("batch",))


def record(call_id: str, cost: int, attempts: int = 1) -> CallRecord:
    """``cost`` is the last attempt's; those before it cost 1 each."""
    made = [
        Attempt(n, "p/m", "p", "m", "default", "default", Usage(input=cost), cost=1 if n < attempts else cost)
        for n in range(1, attempts + 1)
    ]
    return CallRecord(call_id, "fast", ME, 200, attempts=made, started=1_800_000_000.0, seconds=0.1)


async def call(ledger: Ledger) -> None:
    while True:
        call_id, cost = f"req_{secrets.token_hex(16)}", random.randrange(1_000)
        os.write(1, f"open {call_id}\n".encode())
        ledger.open(call_id, ME, "fast", reserved=1_000_000, started=1_800_000_000.0)
        await asyncio.sleep(random.random() * 0.01)
        attempts = random.choice((1, 1, 1, 2))
        finished = record(call_id, cost, attempts)
        ticket = ledger.append(finished)
        if random.random() < 0.1:
            ledger.append(finished)  # a retry of the settlement must not count twice
        await ticket
        os.write(1, f"done {call_id} {cost + attempts - 1}\n".encode())


async def main(url: str, folder: str, wait_for: Literal["kernel", "disk"]) -> None:
    database = Database(DatabaseOptions(url=SecretStr(url)))
    options = LedgerOptions(journal=folder, wait_for=wait_for)
    ledger = Ledger(database, options, sql_interval=0.02, segment_size=64 * 1024)
    await ledger.start()
    await asyncio.gather(*(call(ledger) for _ in range(20)))


if __name__ == "__main__":
    _, url, folder, mode = sys.argv
    asyncio.run(main(url, folder, "disk" if mode == "disk" else "kernel"))
