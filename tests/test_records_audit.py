"""The audit log: every edit, removal and reordering is found."""

import asyncio

import pytest
from sqlalchemy import delete, insert, select, text, update

from gateway.records.audit import AuditLog
from gateway.records.database import Database
from gateway.records.tables import audit, audit_head


@pytest.fixture
async def log(database: Database) -> AuditLog:
    log = AuditLog(database, clock=lambda: 1_800_000_000.5)
    for n in range(6):
        await log.record(
            actor="ops", action="key.update", target=f"key:{n}", before={"n": n}, after={"n": n + 1}, request_id="req_1"
        )
    return log


async def test_S_39_a_whole_log_is_intact(log: AuditLog) -> None:
    verdict = await log.verify()
    assert verdict.is_intact
    assert verdict.head.seq == 6
    rows = await log.list(after=2, limit=2)
    assert [(r["seq"], r["target"], r["before"], r["at"]) for r in rows] == [
        (3, "key:2", {"n": 2}, 1_800_000_000.5), (4, "key:3", {"n": 3}, 1_800_000_000.5),
    ]  # fmt: skip
    assert [r["seq"] for r in await log.list(target="key:5")] == [6]
    assert await log.list(target="key:\x00") == []


@pytest.mark.parametrize("column", [c.name for c in audit.columns if c.name != "seq"])
async def test_S_39_each_row_and_column_that_is_changed_is_found(
    log: AuditLog, database: Database, column: str
) -> None:
    for seq in range(1, 7):
        async with database.write() as connection:
            old = await connection.scalar(select(audit.c[column]).where(audit.c.seq == seq))
            new = old + 1 if isinstance(old, int) else "0" * 64 if old != "0" * 64 else "1" * 64
            await connection.execute(update(audit).where(audit.c.seq == seq).values({column: new}))
        verdict = await log.verify()
        assert not verdict.is_intact
        assert verdict.broken_at is not None
        assert seq <= verdict.broken_at <= seq + 1
        async with database.write() as connection:
            await connection.execute(update(audit).where(audit.c.seq == seq).values({column: old}))
    assert (await log.verify()).is_intact


async def test_S_39_each_row_that_is_removed_is_found(log: AuditLog, database: Database) -> None:
    for seq in range(1, 7):
        async with database.write() as connection:
            row = (await connection.execute(select(audit).where(audit.c.seq == seq))).one()._asdict()
            await connection.execute(delete(audit).where(audit.c.seq == seq))
        assert (await log.verify()).broken_at == seq
        async with database.write() as connection:
            await connection.execute(insert(audit).values(row))
    assert (await log.verify()).is_intact


async def test_S_39_rows_that_change_places_are_found(log: AuditLog, database: Database) -> None:
    async with database.write() as connection:
        for old, new in ((3, 99), (4, 3), (99, 4)):
            await connection.execute(update(audit).where(audit.c.seq == old).values(seq=new))
    assert (await log.verify()).broken_at == 3


async def test_S_39_a_log_cut_off_with_its_head_is_found_by_an_anchor(log: AuditLog, database: Database) -> None:
    anchor = (await log.verify()).head
    await log.record(actor="ops", action="key.delete", target="key:1")
    assert (await log.verify(anchor)).is_intact
    async with database.write() as connection:
        hash_ = await connection.scalar(select(audit.c.hash).where(audit.c.seq == 4))
        await connection.execute(delete(audit).where(audit.c.seq > 4))
        await connection.execute(update(audit_head).values(seq=4, hash=hash_))
    assert (await log.verify()).is_intact
    assert not (await log.verify(anchor)).is_intact
    for _ in range(3):
        await log.record(actor="ops", action="key.delete", target="key:1")
    assert (await log.verify(anchor)).broken_at == 6


async def test_S_39_rows_behind_the_head_are_found(log: AuditLog, database: Database) -> None:
    async with database.write() as connection:
        await connection.execute(text("UPDATE audit_head SET seq = 5"))
    assert not (await log.verify()).is_intact


async def test_appends_at_once_keep_one_chain(database: Database, database_url: str) -> None:
    """From several connections, and from a second engine like that of another process."""
    from pydantic import SecretStr

    from config.schema import Database as Options

    other = Database(Options(url=SecretStr(database_url)))
    logs = [AuditLog(database), AuditLog(other)]
    await asyncio.gather(
        *(logs[n % 2].record(actor=f"a{n}", action="x", target="t\x00\udcff", after={"n": n}) for n in range(40))
    )
    verdict = await logs[0].verify()
    assert verdict.is_intact
    assert verdict.head.seq == 40
    await other.close()


async def test_a_change_that_is_rolled_back_leaves_no_row(log: AuditLog, database: Database) -> None:
    with pytest.raises(ZeroDivisionError):
        async with database.write() as connection:
            await log.append(connection, actor="ops", action="x", target="y")
            raise ZeroDivisionError
    verdict = await log.verify()
    assert verdict.is_intact
    assert verdict.head.seq == 6
