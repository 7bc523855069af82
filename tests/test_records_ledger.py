"""The ledger: durable, exactly once, whatever is killed, torn or down."""

import asyncio
import os
import random
import re
import resource
import struct
import sys
import time
import zlib
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from sqlalchemy import func, select, text

from adapters.errors import ErrorKind
from adapters.usage import TOKEN_BUCKETS, Usage
from config.schema import Ledger as LedgerOptions
from gateway.call import Attempt, CallRecord, Principal
from gateway.errors import StoreUnavailable
from gateway.records import journal as j
from gateway.records import segment as files
from gateway.records.database import Database, DatabaseError
from gateway.records.ledger import Ledger
from gateway.records.rows import all_cleaned, cleaned, rows_of
from gateway.records.tables import LEDGER_COLUMNS
from gateway.records.tables import ledger as table

from .ledger_writer import ME, record

KILLS = int(os.environ.get("SLUICE_KILLS", "5"))
"""How many processes are killed per database; 200 for the figure in the documents."""


@pytest.fixture
async def ledger(database: Database, tmp_path: Path) -> AsyncIterator[Ledger]:
    ledger = Ledger(database, LedgerOptions(journal=f"{tmp_path}/journal"), sql_interval=60)
    await ledger.start()
    yield ledger
    await ledger.close()


@pytest.fixture
async def strict(database: Database, tmp_path: Path) -> AsyncIterator[Ledger]:
    """A ledger whose answers wait for the disk."""
    ledger = Ledger(database, LedgerOptions(journal=f"{tmp_path}/journal", wait_for="disk"), sql_interval=60)
    await ledger.start()
    yield ledger
    await ledger.close()


async def rows(database: Database) -> list[Any]:
    async with database.read() as connection:
        return list((await connection.execute(select(table).order_by(table.c.request_id, table.c.attempt))).all())


async def count(database: Database) -> int:
    async with database.read() as connection:
        return int(await connection.scalar(select(func.count()).select_from(table)) or 0)


def left(folder: Path) -> list[str]:
    """Files with records. A process killed while it made a file leaves an empty ``.new``, deleted a minute later."""
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".new")


async def test_a_row_says_everything_about_its_attempt(database: Database, ledger: Ledger) -> None:
    usage = Usage(input=1, cache_read=2, cache_write=3, cache_write_1h=4, audio_input=5, output=6, reasoning=7,
                  audio_output=8, calls={"web_search": 2})  # fmt: skip
    call = CallRecord(
        "req_1", "fast", ME, 200, stream=True, requested_tier="auto", effective_tier="priority",
        started=1_800_000_000.25, seconds=3.0,
        attempts=[
            Attempt(1, "a/m", "a", "m-1", "priority", status="rate_limited", error=ErrorKind.RATE_LIMITED, seconds=0.5),
            Attempt(2, "b/m", "b", "m-2", "priority", "default", usage, True, 987, ttft=0.125, seconds=2.5,
                    fallback="cheap"),
        ],
    )  # fmt: skip
    await ledger.append(call)
    await ledger.flush()
    failed, served = (row._asdict() for row in await rows(database))
    assert {k: v for k, v in served.items() if k != "id"} == {
        "request_id": "req_1", "attempt": 2, "final": True, "organization": "acme", "team": "blue", "user": "ann",
        "key": "key_1", "tags": '["batch"]', "model": "fast", "deployment": "b/m", "provider": "b",
        "upstream_model": "m-2", "tier_requested": "auto", "tier_effective": "priority", "tier_sent": "priority",
        "tier_served": "default", "status": "ok", "error": "", "code": "ok", "http_status": 200, "day": 20833,
        "started": 1_800_000_000_250_000, "duration": 2_500_000, "ttft": 125_000, "cost": 987, "estimated": True,
        "stream": True, "input": 1, "cache_read": 2, "cache_write": 3, "cache_write_1h": 4, "audio_input": 5,
        "output": 6, "reasoning": 7, "audio_output": 8, "calls": '{"web_search":2}', "fallback": "cheap",
    }  # fmt: skip
    assert (failed["error"], failed["final"], failed["cost"]) == ("rate_limited", False, 0)


async def test_a_row_counts_once_however_often_it_is_appended(database: Database, ledger: Ledger) -> None:
    for _ in range(3):
        await ledger.append(record("req_1", 5, attempts=2))
        await ledger.flush()
    assert [(row.attempt, row.cost) for row in await rows(database)] == [(1, 1), (2, 5)]


async def test_many_calls_share_a_sync(strict: Ledger) -> None:
    began = time.monotonic()
    await asyncio.gather(*(_appended(strict, f"req_{n}") for n in range(500)))
    assert time.monotonic() - began < 1


async def _appended(ledger: Ledger, call_id: str) -> None:
    await ledger.append(record(call_id, 1))


async def test_a_cancelled_waiter_leaves_the_others_waiting(strict: Ledger) -> None:
    waiters = [asyncio.ensure_future(_appended(strict, f"req_{n}")) for n in range(10)]
    await asyncio.sleep(0)
    waiters[0].cancel()
    results = await asyncio.gather(*waiters, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    assert results[1:] == [None] * 9


async def test_hostile_values_do_not_hold_up_the_ledger(database: Database, ledger: Ledger) -> None:
    """NUL and lone surrogates in names, token counts beyond 64 bits, very many tags."""
    odd = Principal("key\x00", "ünï" * 100, tags=tuple(f"tag-{n}" for n in range(200)))
    call = CallRecord("req_1", "m\udcff\x00" * 50, odd, 200, started=1e9)
    call.attempts.append(Attempt(1, "d" * 999, "p", "m", usage=Usage(input=10**30, output=2**63), cost=2**64))
    await ledger.append(call)
    await ledger.append(record("req_2", 1))
    await ledger.flush()
    first, second = await rows(database)
    assert (first.input, first.output, first.cost) == (10**12, 10**12, 9 * 10**15)
    assert len(first.organization.encode()) <= 200
    assert len(first.deployment) == 200
    assert second.cost == 1


def test_rows_of_an_older_version_are_filled_up() -> None:
    (row,) = rows_of(record("req_1", 1))
    assert cleaned(row[:-3]) == (*cleaned(row)[:-3], None, None, None)
    assert len(cleaned(row)) == len(LEDGER_COLUMNS)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        (None, None), ("code", "x" * 201), ("model", "na\x00me"), ("team", "Grüße"), ("tags", '["a"]'),
        ("tags", '["' + "a" * 300 + '","' + "b" * 300 + '"]'), ("cost", -1), ("cost", 10**17), ("input", 10**13),
        ("started", -5), ("started", 2**62), ("duration", 10**12 + 1),
    ],
)  # fmt: skip
def test_many_rows_are_cleaned_as_each_alone_is(column: str | None, value: Any) -> None:
    many = [list(row) for number in range(9) for row in rows_of(record(f"req_{number}", 2))]
    if column is not None:
        many[5][LEDGER_COLUMNS.index(column)] = value
    expected = [cleaned(row) for row in many]
    assert [*map(tuple, all_cleaned(many))] == expected
    assert [*map(tuple, all_cleaned([many[0][:-3], *many[1:]]))] == expected  # and one of an older version


def test_a_row_has_each_kind_of_token_in_its_column() -> None:
    used = {kind: number for number, kind in enumerate(TOKEN_BUCKETS, start=11)}
    whole = record("req_1", 1)
    whole.attempts[0].usage = Usage(**used)
    (row,) = rows_of(whole)
    assert {kind: row[LEDGER_COLUMNS.index(kind)] for kind in TOKEN_BUCKETS} == used


async def test_a_clean_end_leaves_no_file(database: Database, tmp_path: Path) -> None:
    ledger = Ledger(database, LedgerOptions(journal=f"{tmp_path}/journal"), sql_interval=60)
    await ledger.start()
    await ledger.append(record("req_1", 5))
    await ledger.close()
    assert left(tmp_path / "journal") == []
    assert await count(database) == 1


async def test_full_files_are_deleted_once_sql_has_them(database: Database, tmp_path: Path) -> None:
    """And a request that runs longer than its file lives is still known to be open."""
    options = LedgerOptions(journal=f"{tmp_path}/journal", flush_interval=0.001)
    ledger = Ledger(database, options, sql_interval=60, segment_size=20_000)
    await ledger.start()
    ledger.open("req_long", ME, "fast", reserved=77)
    for n in range(400):
        await ledger.append(record(f"req_{n}", 1))
    await ledger.flush()
    await ledger.append(record("req_last", 1))
    await ledger.flush()
    assert len(left(tmp_path / "journal")) <= 3
    await _abandon(ledger)
    after = Ledger(database, options, sql_interval=60)
    await after.start()
    assert await count(database) == 402
    async with database.read() as connection:
        row = (await connection.execute(select(table).where(table.c.request_id == "req_long"))).one()
    assert (row.status, row.cost, row.estimated, row.attempt) == ("unfinished", 77, True, 0)
    await after.close()
    assert left(tmp_path / "journal") == []


async def _abandon(ledger: Ledger) -> None:
    """Let go of a ledger's files as the kernel does when a process dies: locks end, nothing is written."""
    for task in ledger._tasks:
        task.cancel()
    await asyncio.gather(*ledger._tasks, return_exceptions=True)
    ledger._journal._syncer.shutdown()
    for segment in (*ledger._journal._segments, *([ledger._journal._spare] if ledger._journal._spare else [])):
        segment.close()


async def test_rows_wait_for_a_database_that_is_down(tmp_path: Path, database: Database) -> None:
    ledger = Ledger(database, LedgerOptions(journal=f"{tmp_path}/journal"), sql_interval=0.05)
    await ledger.start()
    async with database.write() as connection:
        await connection.execute(text("ALTER TABLE ledger RENAME TO elsewhere"))
    for n in range(50):
        await ledger.append(record(f"req_{n}", 1))  # durable all the same
    await asyncio.sleep(0.1)
    async with database.write() as connection:
        await connection.execute(text("ALTER TABLE elsewhere RENAME TO ledger"))
    await ledger.flush()
    assert await count(database) + len(_rejected(tmp_path / "journal")) == 50
    await ledger.close()


def _rejected(folder: Path) -> list[str]:
    return [line for path in folder.glob("rejected-*") for line in path.read_text().splitlines()]


async def test_a_journal_that_cannot_be_written_sends_rows_straight_to_sql(database: Database, tmp_path: Path) -> None:
    """A full disk, by the process's own file size limit: admission is told, and nothing is lost."""
    folder = tmp_path / "journal"
    ledger = Ledger(database, LedgerOptions(journal=str(folder)), sql_interval=60, segment_size=4096)
    await ledger.start()
    await ledger.append(record("req_0", 1))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(ledger._journal._segments[-1].map or b""), limits[1]))
    try:
        count_before, tickets = 1, []
        while ledger.is_healthy:  # up to the room that the file was made with
            tickets.append(ledger.append(record(f"req_{count_before}", 2)))
            count_before += 1
        with pytest.raises(StoreUnavailable) as caught:
            ledger.open("req_refused", ME, "fast" * 500)
        assert caught.value.code == "ledger_unavailable"
        assert not tickets[-1].is_durable
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    await ledger.flush()
    for ticket in tickets:
        await ticket
    assert await count(database) == count_before
    await ledger.append(record("req_last", 2))
    assert ledger.is_healthy
    await ledger.close()


async def test_rows_that_cannot_be_synced_are_durable_once_sql_has_them(database: Database, strict: Ledger) -> None:
    """After a failed fdatasync a second one proves nothing: the kernel may have dropped the pages."""
    ledger, segment = strict, strict._journal._segments[-1]
    real, (reader, writer) = segment.fd, os.pipe()
    ticket = ledger.append(record("req_1", 1))
    segment.fd = writer  # a pipe cannot be synced
    while ledger.is_healthy:
        await asyncio.sleep(0.005)
    segment.fd = real
    os.close(reader)
    os.close(writer)
    assert not ticket.is_durable
    await ledger.flush()
    await ticket
    assert await count(database) == 1
    await ledger.append(record("req_2", 1))
    assert ledger.is_healthy


async def test_a_folder_that_cannot_be_used_is_named(database: Database) -> None:
    with pytest.raises(DatabaseError, match=r"ledger\.journal"):
        await Ledger(database, LedgerOptions(journal="/proc/none")).start()


async def test_appending_costs_little(ledger: Ledger) -> None:
    """Some 7 us of CPU on an idle machine; the bound leaves room for a busy one."""
    calls = [record(f"req_{n}", 1) for n in range(5000)]
    best = 1.0
    for start in range(0, 5000, 1000):
        before = resource.getrusage(resource.RUSAGE_THREAD)
        for call in calls[start : start + 1000]:
            ledger.append(call)
        after = resource.getrusage(resource.RUSAGE_THREAD)
        best = min(best, (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / 1000)
    assert best < 40e-6, f"{best * 1e6:.1f} us"


@pytest.mark.timeout(3600 if KILLS > 20 else 120)
async def test_kill_9_under_load_loses_and_doubles_nothing(
    database: Database, database_url: str, tmp_path: Path
) -> None:
    """Every call that a client could have seen the end of is in SQL once, at its cost; the others are told apart."""
    folder = tmp_path / "journal"
    told: dict[str, int] = {}
    opened: set[str] = set()
    for number in range(KILLS):
        writer = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.ledger_writer", database_url, str(folder), ("kernel", "disk")[number % 2]),
            cwd=Path(__file__).parents[1],
            stdout=asyncio.subprocess.PIPE,
        )
        assert writer.stdout is not None
        lines = [await writer.stdout.readline()]
        await asyncio.sleep(random.uniform(0.0, 0.3))
        writer.kill()
        lines += (await writer.stdout.read()).splitlines(keepends=True)
        await writer.wait()
        for line in lines:
            match line.decode().split():
                case ["open", call_id] if line.endswith(b"\n"):
                    opened.add(call_id)
                case ["done", call_id, cost] if line.endswith(b"\n"):
                    told[call_id] = int(cost)
        reader = Ledger(database, LedgerOptions(journal=str(folder)), sql_interval=60)
        await reader.start()
        await reader.close()
    found: dict[str, int] = {}
    states: dict[str, set[str]] = {}
    for row in await rows(database):
        found[row.request_id] = found.get(row.request_id, 0) + row.cost
        states.setdefault(row.request_id, set()).add(row.status)
    assert len(told) > KILLS
    assert {call_id: found.get(call_id) for call_id in told} == told
    assert all(state in ({"ok"}, {"unfinished"}) for state in states.values())
    unfinished = sum(state == {"unfinished"} for state in states.values())
    assert all(found[c] == 1_000_000 for c, state in states.items() if state == {"unfinished"})
    assert set(found) <= opened
    assert unfinished
    assert left(folder) == []
    print(f"{KILLS} kills: {len(told)} calls told durable, all in SQL once; {unfinished} unfinished, as such")


async def test_a_living_process_keeps_its_journal(database: Database, tmp_path: Path, ledger: Ledger) -> None:
    await ledger.append(record("req_1", 1))
    other = Ledger(database, LedgerOptions(journal=f"{tmp_path}/journal"), sql_interval=60)
    await other.start()
    assert (await other.recover()).rows == 0
    assert await count(database) == 0
    await other.close()


async def test_only_one_of_many_takes_a_journal_over(database: Database, tmp_path: Path) -> None:
    options = LedgerOptions(journal=f"{tmp_path}/journal")
    dead = Ledger(database, options, sql_interval=60)
    await dead.start()
    for n in range(100):
        await dead.append(record(f"req_{n}", 1))
    dead.open("req_open", ME, "fast", reserved=9)
    await _abandon(dead)
    heirs = [Ledger(database, options, sql_interval=60) for _ in range(5)]
    await asyncio.gather(*(heir.start() for heir in heirs))
    assert await count(database) == 101
    for heir in heirs:
        await heir.close()
    assert left(tmp_path / "journal") == []


async def test_what_died_under_a_fallback_is_borne_by_it(database: Database, tmp_path: Path) -> None:
    """And by the model asked for, where an older version wrote the journal, which knew of no fallback."""
    options = LedgerOptions(journal=f"{tmp_path}/journal")
    dead = Ledger(database, options, sql_interval=60)
    await dead.start()
    dead.open("req_1", ME, "fast", reserved=9, fallback="cheap")
    kind, _, noted = orjson.loads(dead._open["req_1"])
    dead._journal.write(orjson.dumps([kind, "req_2", ["req_2", *noted[1:-1]]]))
    await _abandon(dead)
    heir = Ledger(database, options, sql_interval=60)
    await heir.start()
    assert [(r.request_id, r.model, r.fallback, r.cost) for r in await rows(database)] == [
        ("req_1", "fast", "cheap", 9), ("req_2", "fast", None, 9),
    ]  # fmt: skip
    await heir.close()


async def test_a_request_that_ended_elsewhere_is_not_unfinished(database: Database, tmp_path: Path) -> None:
    options = LedgerOptions(journal=f"{tmp_path}/journal")
    dead = Ledger(database, options, sql_interval=60)
    await dead.start()
    dead.open("req_1", ME, "fast", reserved=9)
    await _abandon(dead)
    heir = Ledger(database, options, sql_interval=60)
    heir._journal.open()
    await heir._insert(rows_of(record("req_1", 4)))
    await heir.recover()
    assert [row.cost for row in await rows(database)] == [4]
    await heir.close()


async def test_a_file_that_was_never_used_is_deleted_a_minute_later(tmp_path: Path, ledger: Ledger) -> None:
    old, young = tmp_path / "journal" / "1-a-000001.new", tmp_path / "journal" / "1-b-000001.new"
    old.touch()
    young.touch()
    os.utime(old, (time.time() - 61,) * 2)
    await ledger.recover()
    assert (old.exists(), young.exists()) == (False, True)


def frame(payload: bytes) -> bytes:
    """A record as files have it."""
    length = len(payload)
    return b"\xffSL\x01" + struct.pack("<II", length, zlib.crc32(payload, length)) + payload


def framed(n: int = 5) -> tuple[bytes, list[bytes]]:
    payloads = [f'["c","req_{i}",[]]'.encode() * (i + 1) for i in range(n)]
    return b"".join(frame(p) for p in payloads), payloads


def test_a_torn_tail_costs_only_the_torn_record() -> None:
    """Cut at every byte."""
    data, payloads = framed()
    ends = [sum(len(frame(p)) for p in payloads[: i + 1]) for i in range(len(payloads))]
    for cut in range(len(data)):
        found = files.scan(data[:cut])
        whole = sum(end <= cut for end in ends)
        assert [p for _, p in found.records] == payloads[:whole]
        assert found.damaged == 0
        assert found.torn == cut - (ends[whole - 1] if whole else 0)


def test_a_flipped_byte_costs_only_its_record() -> None:
    """Flip every byte, one at a time; length fields and magics too."""
    data, payloads = framed()
    owner = [i for i, p in enumerate(payloads) for _ in frame(p)]
    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 0x41
        found = files.scan(bytes(damaged))
        expected = [p for i, p in enumerate(payloads) if i != owner[position]]
        assert [p for _, p in found.records] == expected
        assert found.damaged + found.torn == len(frame(payloads[owner[position]]))


async def test_a_damaged_journal_is_kept_for_a_person(database: Database, tmp_path: Path) -> None:
    folder = tmp_path / "journal"
    dead = Ledger(database, LedgerOptions(journal=str(folder)), sql_interval=60)
    await dead.start()
    for n in range(3):
        await dead.append(record(f"req_{n}", 1))
    await _abandon(dead)
    (path,) = folder.iterdir()
    data = bytearray(path.read_bytes())
    data[len(data.rstrip(b"\0")) // 2] ^= 0xFF
    path.write_bytes(data)
    heir = Ledger(database, LedgerOptions(journal=str(folder)), sql_interval=60)
    heir._journal.open()
    recovered = await heir.recover()
    assert recovered.rows == 2
    assert recovered.damaged > 0
    assert await count(database) == 2
    await heir.close()
    assert left(folder) == [path.with_suffix(".damaged").name]


async def test_what_sql_has_is_not_read_again_by_a_recovery(database: Database, tmp_path: Path) -> None:
    """Else a row that retention has moved into the roll-up since would come back and count twice."""
    options = LedgerOptions(journal=f"{tmp_path}/journal")
    dead = Ledger(database, options, sql_interval=60)
    await dead.start()
    await dead.append(record("req_1", 1))
    await dead.flush()
    await dead.append(record("req_2", 1))
    await _abandon(dead)
    async with database.write() as connection:
        await connection.execute(table.delete())
    heir = Ledger(database, options, sql_interval=60)
    await heir.start()
    assert [row.request_id for row in await rows(database)] == ["req_2"]
    await heir.close()


async def test_the_ledger_holds_no_prompt_and_no_key(database: Database, tmp_path: Path, ledger: Ledger) -> None:
    await ledger.append(record("req_1", 1))
    text = b"".join(path.read_bytes() for path in (tmp_path / "journal").iterdir())
    assert Counter(text.split(b'"'))[b"key_1"] == 1  # the key's id; the key itself never comes here
    assert b"sk-" not in text


async def test_a_lone_row_is_synced_at_once(database: Database, tmp_path: Path) -> None:
    """The interval between syncs is there so that many rows share one: who is alone need not wait."""
    options = LedgerOptions(journal=str(tmp_path / "journal"), wait_for="disk", flush_interval=1)
    ledger = Ledger(database, options, sql_interval=60)
    await ledger.start()
    began = time.perf_counter()
    for number in range(3):
        assert await ledger.append(record(f"req_{number}", 1)).within(5)
    assert time.perf_counter() - began < 1
    await ledger.close()


async def test_rows_wait_for_the_disk_only_where_the_operator_says_so(database: Database, tmp_path: Path) -> None:
    """What the kernel has survives the process: the heir of one that died at once finds the row."""
    options = LedgerOptions(journal=f"{tmp_path}/journal")
    ledger = Ledger(database, options, sql_interval=60)
    await ledger.start()
    assert [ledger.append(record(f"req_{n}", 1)).is_durable for n in range(2)] == [True, True]
    await _abandon(ledger)
    heir = Ledger(database, options, sql_interval=60)
    await heir.start()
    assert await count(database) == 2
    await heir.close()
    strict = Ledger(database, options.model_copy(update={"wait_for": "disk"}), sql_interval=60)
    await strict.start()
    ticket = strict.append(record("req_2", 1))
    assert not ticket.is_durable
    assert await ticket.within(5)
    await strict.close()


async def test_rows_that_nobody_waits_for_share_a_sync_within_the_interval(database: Database, tmp_path: Path) -> None:
    """So a power cut loses those of one interval at most."""
    options = LedgerOptions(journal=f"{tmp_path}/journal", flush_interval=0.3)
    ledger = Ledger(database, options, sql_interval=60)
    await ledger.start()
    segment = ledger._journal._segments[-1]
    began, reached = time.perf_counter(), set()
    while time.perf_counter() - began < 1.5:
        ledger.append(record(f"req_{time.perf_counter_ns()}", 1))
        reached.add(segment.synced)
        await asyncio.sleep(0.005)
    assert 3 <= len(reached) <= 6  # nothing, and a sync for each interval
    size = segment.size
    await asyncio.sleep(0.6)
    assert segment.synced == size
    await ledger.close()


async def test_what_is_synced_is_not_kept_in_memory(database: Database, tmp_path: Path) -> None:
    """A file of 4 MB for every few thousand rows would show in every worker's memory."""
    options = LedgerOptions(journal=f"{tmp_path}/journal", flush_interval=0.05)
    ledger = Ledger(database, options, sql_interval=0.2)
    await ledger.start()
    segment, page = ledger._journal._segments[-1], resource.getpagesize()
    for number in range(600):
        ledger.append(record(f"req_{number}", 1))
    assert segment.size > 20 * page
    assert resident(segment.path) >= segment.size, "it was only just written"
    async with asyncio.timeout(10):
        while segment.synced < segment.size:
            await asyncio.sleep(0.02)
    assert resident(segment.path) <= 2 * page
    ledger.append(record("req_last", 1))
    assert resident(segment.path) <= 4 * page
    await ledger.close()
    assert await count(database) == 601


def resident(path: Path) -> int:
    """How many bytes of a mapped file are in this process's memory."""
    maps = Path("/proc/self/smaps").read_text()
    return 1024 * int(re.search(rf"{re.escape(str(path))}\n(?:.*\n)*?Rss: +(\d+) kB", maps)[1])  # type: ignore[index]


async def test_an_end_does_not_wait_for_the_next_sync(database: Database, tmp_path: Path) -> None:
    ledger = Ledger(database, LedgerOptions(journal=f"{tmp_path}/journal", flush_interval=60), sql_interval=60)
    await ledger.start()
    ledger.append(record("req_1", 1))
    segment, began = ledger._journal._segments[-1], time.perf_counter()
    await ledger.close()
    assert time.perf_counter() - began < 3
    assert segment.synced > 0


async def test_waiting_for_a_row_ends_in_time() -> None:
    ticket = j.Ticket()
    assert not await ticket.within(0.01)


@pytest.mark.parametrize("rows", [1, 50, 101])
async def test_rows_of_several_inserts_are_all_there(database: Database, ledger: Ledger, rows: int) -> None:
    for number in range(rows):
        ledger.append(record(f"req_{number}", 1))
    await ledger.flush()
    assert await count(database) == rows


async def test_more_rows_than_memory_keeps_are_read_from_the_file(
    database: Database, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And once SQL has caught up, rows come from memory again."""
    monkeypatch.setattr(j, "_KEPT", 10)
    monkeypatch.setattr(j, "_MANY", 10)
    for number in range(25):
        ledger.append(record(f"req_{number}", 1))
    assert not ledger._journal._has_all
    await ledger.flush()
    assert await count(database) == 25
    ledger.append(record("req_25", 1))
    assert len(ledger._journal._rows) == 1
    await ledger.flush()
    assert await count(database) == 26


async def test_many_rows_do_not_wait_for_their_time(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(j, "_MANY", 5)
    ledger = Ledger(database, LedgerOptions(journal=f"{tmp_path}/journal"), sql_interval=60)
    await ledger.start()
    for number in range(5):
        assert await count(database) == 0
        ledger.append(record(f"req_{number}", 1))
    async with asyncio.timeout(5):
        while await count(database) < 5:
            await asyncio.sleep(0.01)
    ledger.append(record("req_5", 1))  # by itself it waits again
    await asyncio.sleep(0.1)
    assert await count(database) == 5
    await ledger.close()


@pytest.mark.parametrize("error", [StoreUnavailable(), OSError()])
async def test_what_failed_is_not_tried_the_sooner_for_many_rows(ledger: Ledger, error: Exception) -> None:
    many, tries = asyncio.Event(), 0

    async def work() -> None:
        nonlocal tries
        tries += 1
        many.set()  # more have come meanwhile
        if tries > 1:
            raise error

    many.set()
    task = asyncio.create_task(ledger._repeat(work, 0.2, many))
    await asyncio.sleep(0.7)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert 4 <= tries <= 5  # at once, at once, and then every 0.2 s


async def test_rows_from_memory_are_those_of_the_file(database: Database, ledger: Ledger) -> None:
    odd = Principal("key\x00", "ünï" * 100, tags=tuple(f"tag-{n}" for n in range(200)))
    hostile = CallRecord("req_3", "m\udcff\x00" * 50, odd, 200, started=1e9, code="m\udcff")
    hostile.attempts.append(Attempt(1, "d" * 999, "p", "m", usage=Usage(input=10**30, output=2**63), cost=2**64))
    failed = record("req_2", 1)
    failed.attempts[0].error, failed.attempts[0].status = ErrorKind.TIMEOUT, "timeout"
    found = []
    for in_memory in (True, False):
        for call in (record("req_1", 5, attempts=2), failed, hostile):
            ledger.append(call)
        if not in_memory:
            ledger._journal.keep_none()
        await ledger.flush()
        found.append([tuple(row)[1:] for row in await rows(database)])
        async with database.write() as connection:
            await connection.execute(table.delete())
    assert len(found[0]) == 4
    assert found[0] == found[1]


async def test_rows_that_sql_did_not_take_at_first_are_there_later(
    database: Database, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that were on their way to it, and those that came meanwhile."""
    insert = ledger._rows.insert

    async def down(_: Any) -> None:
        ledger.append(record("req_meanwhile", 1))
        raise StoreUnavailable

    ledger.append(record("req_first", 1))
    monkeypatch.setattr(ledger._rows, "insert", down)
    with pytest.raises(StoreUnavailable):
        await ledger.flush()
    monkeypatch.setattr(ledger._rows, "insert", insert)
    ledger.append(record("req_last", 1))
    await ledger.flush()
    assert [row.request_id for row in await rows(database)] == ["req_first", "req_last", "req_meanwhile"]


async def test_a_flush_ends_though_rows_keep_coming(
    database: Database, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    insert, coming = ledger._rows.insert, iter(range(100))

    async def busy(some: Any) -> None:
        ledger.append(record(f"req_{next(coming)}", 1))
        await insert(some)

    monkeypatch.setattr(ledger._rows, "insert", busy)
    ledger.append(record("req_first", 1))
    await ledger.flush()
    assert await count(database) == 1
    assert len(ledger._journal._rows) == 1
