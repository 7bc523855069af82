"""What budgets begin with: all that is known to be spent, or they wait for it."""

import time
from pathlib import Path

import pytest
from sqlalchemy import insert

from gateway.call import Principal
from gateway.limits.amounts import Amounts
from gateway.limits.engine import Refused, StoreDown
from gateway.limits.memory import MemoryEngine
from gateway.limits.rules import quote
from gateway.records.database import Database
from gateway.records.heirs import only_heir
from gateway.records.journal import orphans
from gateway.records.ledger import Ledger
from gateway.records.spent import spent_in
from gateway.records.tables import counted_keys
from gateway.records.usage import UsageStore

from .ledger_writer import ME, record
from .limits_worker import limit_set
from .test_records_ledger import _abandon
from .test_records_rejected import Trouble, hasty, ledger_in, locked, read_only, until

__all__ = ["hasty"]
LIMITS = limit_set("org", ("k:key_1", "budget.day", 10))
ONE = Amounts(1, cost=1).vector()


async def left_behind(folder: Path, database: Database, rows: int) -> None:
    """The journal of a process that died with so many rows of $1, and one request under way that had reserved as much."""
    ledger = ledger_in(folder, database)
    await ledger.start()
    for number in range(rows):
        finished = record(f"req_{number}", 1)
        finished.started = time.time()
        ledger.append(finished)
    ledger.open("req_open", ME, "fast", reserved=1)
    await ledger._journal.ticket()
    await _abandon(ledger)


async def admitted(engine: MemoryEngine) -> int:
    await until(lambda: _is_known(engine))
    outcomes = [await engine.reserve(f"new_{number}", LIMITS, ONE) for number in range(12)]
    return sum(not isinstance(outcome, Refused) for outcome in outcomes)


async def _is_known(engine: MemoryEngine) -> bool:
    """Whether the ledger told what was spent; on a busy machine it may answer too late for so hasty a database."""
    try:
        await engine.states(LIMITS)
    except StoreDown:
        return False
    return True


def engine_of(database: Database, ledger: Ledger) -> MemoryEngine:
    return MemoryEngine(spent_in(UsageStore(database), ledger, dict))


@pytest.mark.parametrize("trouble", [locked, read_only])
async def test_a_budget_waits_for_the_rows_of_a_dead_process(tmp_path: Path, hasty: Database, trouble: Trouble) -> None:
    await left_behind(tmp_path / "journal", hasty, 6)
    ledger = ledger_in(tmp_path / "journal", hasty)
    async with trouble(hasty):
        await ledger.start()
        assert not ledger.is_healthy
        engine = engine_of(hasty, ledger)
        with pytest.raises(StoreDown):
            await engine.reserve("new", LIMITS, ONE)
    with pytest.raises(StoreDown):  # SQL is back, and does not have them yet
        await engine.reserve("new", LIMITS, ONE)
    await until(lambda: ledger.is_healthy)  # by itself
    assert await admitted(engine) == 3
    await ledger.close()


async def test_a_budget_waits_for_nobody_where_no_process_died(tmp_path: Path, hasty: Database) -> None:
    ledger = ledger_in(tmp_path / "journal", hasty)
    async with locked(hasty):
        await ledger.start()
        assert ledger.is_healthy
        assert await admitted(engine_of(hasty, ledger)) == 10
    await ledger.close()


async def test_a_budget_waits_while_another_process_has_such_rows_in_hand(tmp_path: Path, hasty: Database) -> None:
    """Its lock on the dead one's journal looks like that of a living owner."""
    folder = tmp_path / "journal"
    await left_behind(folder, hasty, 6)
    ledger = ledger_in(folder, hasty)
    async with only_heir(folder):
        (orphan,) = orphans(folder, "")
        await ledger.start()
        with pytest.raises(StoreDown):
            await engine_of(hasty, ledger).reserve("new", LIMITS, ONE)
        orphan.release(recovered=False)
    await until(lambda: ledger.is_healthy)
    assert await admitted(engine_of(hasty, ledger)) == 3
    await ledger.close()


async def append(ledger: Ledger, principal: Principal) -> None:
    """A request for 7 nano-dollars, in SQL at once."""
    finished = record("req_1", 7)
    finished.principal, finished.started = principal, time.time()
    ledger.append(finished)
    await ledger.flush()


async def test_a_budget_of_a_tier_begins_with_what_a_dead_process_had_reserved_at_it(
    tmp_path: Path, database: Database
) -> None:
    dead = ledger_in(tmp_path / "journal", database)
    await dead.start()
    dead.open("req_open", ME, "fast", reserved=7, effective_tier="flex")
    await dead._journal.ticket()
    await _abandon(dead)
    ledger = ledger_in(tmp_path / "journal", database)
    await ledger.start()
    engine = engine_of(database, ledger)
    used = {}
    for tier in ("flex", "default"):
        (state,) = await engine.states(limit_set("acme", (f"k:{ME.key_id}|s:{tier}", "budget.total", 10)))
        used[tier] = state.used
    assert used == {"flex": 7, "default": 0}
    await ledger.close()


async def test_a_budget_of_a_group_begins_with_each_model_once(tmp_path: Path, database: Database) -> None:
    ledger = ledger_in(tmp_path / "journal", database)
    await ledger.start()
    await append(ledger, ME)
    spent = spent_in(UsageStore(database), ledger, lambda: {"best": ("fast", "slow", "fast")})
    found = await spent("acme", f"k:{ME.key_id}|m:best", 0, int(time.time() * 1000) + 1000)
    assert found.cost == 7
    await ledger.close()


@pytest.mark.parametrize("scope", ["t:blue", "u:ann", "u:lead", "u:ann|m:fast", "k:key_1"])
async def test_S_07_a_budget_begins_with_what_its_owner_spent_in_its_organization(
    tmp_path: Path, database: Database, scope: str
) -> None:
    """Another tenant's of the same name, before or beside it, is somebody else; names of keys are had once."""
    ledger = ledger_in(tmp_path / "journal", database)
    await ledger.start()
    await append(ledger, ME)
    async with database.write() as connection:
        await connection.execute(insert(counted_keys).values(owner="u:lead", key_id=ME.key_id))
    engine = engine_of(database, ledger)
    used = {}
    for shard in ("acme", "evil"):
        (state,) = await engine.states(limit_set(shard, (scope, "budget.total", 10)))
        used[shard] = state.used
    assert used == {"acme": 7, "evil": 7 if scope[0] == "k" else 0}
    await ledger.close()


async def test_a_budget_of_an_organization_with_an_uncommon_name_begins_with_what_it_spent(
    tmp_path: Path, database: Database
) -> None:
    ledger = ledger_in(tmp_path / "journal", database)
    await ledger.start()
    await append(ledger, Principal("key_1", "Ä {%} |x", user="ann"))
    (state,) = await engine_of(database, ledger).states(limit_set(quote("Ä {%} |x"), ("u:ann", "budget.total", 10)))
    assert state.used == 7
    await ledger.close()
