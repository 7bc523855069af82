"""Stored completions: their shapes, their pages, who sees them, and that what is deleted is gone."""

import asyncio
import base64
import contextlib
import random
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr
from sqlalchemy import event, text

from config.schema import StoredCompletions as Options
from gateway.call import Principal
from gateway.errors import InvalidRequest, ResourceNotFound, StoreUnavailable
from gateway.records.database import Database, DatabaseError
from gateway.records.sealing import sealer
from gateway.records.stored import StoredCompletions, owner_of
from gateway.records.stored_shapes import Page, parse_page, parse_update

US, THEM = "t:acme/blue", "k:other/key_3"
KEY = base64.b64encode(bytes(range(32))).decode()


def completion(number: int, created: int = 1_738_960_610, model: str = "gpt-4o-2024-08-06") -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{number}",
        "object": "chat.completion",
        "created": created,
        "model": model,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": f"answer {number}", "refusal": None, "annotations": []},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 13, "completion_tokens": 18, "total_tokens": 31,
                  "prompt_tokens_details": {"cached_tokens": 0}},
        "service_tier": "default",
        "system_fingerprint": "fp_1",
    }  # fmt: skip


def request(**fields: Any) -> dict[str, Any]:
    return {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}], "store": True, **fields}


@pytest.fixture(params=["plain", "encrypted"])
def stored(request: pytest.FixtureRequest, database: Database) -> StoredCompletions:
    key = SecretStr(KEY) if request.param == "encrypted" else None
    return StoredCompletions(database, Options(encryption_key=key))


async def every(stored: StoredCompletions, owner: str, page: Page) -> list[str]:
    """Follow the pages as the SDK's pager does (C-065)."""
    seen: list[str] = []
    after = page.after
    while True:
        answer = await stored.list(owner, Page(after, page.limit, page.order, page.model, page.metadata))
        ids = [item["id"] for item in answer["data"]]
        seen += ids
        assert (answer["first_id"], answer["last_id"]) == ((ids[0], ids[-1]) if ids else (None, None))
        if not answer["has_more"] or not ids:
            return seen
        after = ids[-1]


async def test_C_070_a_stored_completion_reads_back_with_its_request(stored: StoredCompletions) -> None:
    await stored.create(US, request(user="u-1", metadata={"a": "b"}, temperature=0), completion(1), request_id="req_1")
    found = await stored.get(US, "chatcmpl-1")
    assert isinstance(found.pop("seed"), int)
    assert found == {
        "object": "chat.completion",
        "id": "chatcmpl-1",
        "model": "gpt-4o-2024-08-06",
        "created": 1_738_960_610,
        "request_id": "req_1",
        "tool_choice": None,
        "usage": {"prompt_tokens": 13, "completion_tokens": 18, "total_tokens": 31},
        "top_p": 1.0,
        "temperature": 0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "system_fingerprint": "fp_1",
        "input_user": "u-1",
        "service_tier": "default",
        "tools": None,
        "metadata": {"a": "b"},
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "answer 1", "tool_calls": None, "function_call": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "response_format": None,
    }


async def test_C_054_a_stored_completion_can_be_read_at_once_and_its_seed_stays(stored: StoredCompletions) -> None:
    await stored.create(US, request(seed=7), completion(1))
    await stored.create(US, request(seed=8), completion(1))
    assert (await stored.get(US, "chatcmpl-1"))["seed"] == 7


async def test_C_064_C_082_pages_and_empty_pages(stored: StoredCompletions) -> None:
    assert await stored.list(US, Page()) == {
        "object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False,
    }  # fmt: skip
    for n in range(6):
        await stored.create(US, request(), completion(n))
    assert (await stored.list(US, Page(limit=6)))["has_more"] is False
    assert (await stored.list(US, Page(limit=3)))["has_more"] is True
    exact = await stored.list(US, Page(after="chatcmpl-2", limit=3))
    assert ([i["id"] for i in exact["data"]], exact["has_more"]) == ([f"chatcmpl-{n}" for n in (3, 4, 5)], False)
    past = await stored.list(US, Page(after="chatcmpl-5"))
    assert (past["data"], past["first_id"], past["last_id"], past["has_more"]) == ([], None, None, False)


async def test_C_058_C_061_order_is_by_creation_with_a_stable_tie_break(stored: StoredCompletions) -> None:
    """Ascending unless asked otherwise; many share one second."""
    created = [5, 3, 3, 3, 4, 3, 9, 3]
    for n, when in enumerate(created):
        await stored.create(US, request(), completion(n, when))
    expected = [f"chatcmpl-{n}" for n in sorted(range(8), key=lambda n: (created[n], n))]
    for limit in (1, 2, 3, 8):
        assert await every(stored, US, Page(limit=limit)) == expected
        assert await every(stored, US, Page(limit=limit, order="desc")) == expected[::-1]


async def test_C_057_C_062_C_063_filters(stored: StoredCompletions) -> None:
    for n in range(8):
        metadata = {"a": "b c" if n % 2 else "x", "n": str(n % 4)}
        await stored.create(US, request(metadata=metadata), completion(n, model="m-1" if n < 6 else "m-2"))
    await stored.create(US, request(), completion(9))
    assert await every(stored, US, Page(metadata={"a": "b c"}, limit=2)) == [f"chatcmpl-{n}" for n in (1, 3, 5, 7)]
    assert await every(stored, US, Page(metadata={"a": "b c", "n": "1"})) == ["chatcmpl-1", "chatcmpl-5"]
    assert await every(stored, US, Page(metadata={"a": "b c", "n": "1"}, model="m-1", limit=1)) == [
        "chatcmpl-1", "chatcmpl-5",
    ]  # fmt: skip
    assert await every(stored, US, Page(model="m-2")) == ["chatcmpl-6", "chatcmpl-7"]
    for nothing in ({"a": "B C"}, {"a": "b"}, {"a": "%"}, {"z": "x"}, {"a\x00": "b"}, {"\udcff": "x"}):
        assert await every(stored, US, Page(metadata=nothing)) == []
    assert await every(stored, US, Page(model="m\x00\udcff")) == []


async def test_C_060_an_unknown_after_does_not_start_again_at_page_one(stored: StoredCompletions) -> None:
    await stored.create(US, request(), completion(1))
    await stored.create(THEM, request(), completion(2))
    for after in ("chatcmpl-9", "chatcmpl-2", "", "a/b", "\x00", "\udcff", "x" * 10_000):
        with pytest.raises(InvalidRequest) as caught:
            await stored.list(US, Page(after=after))
        assert (caught.value.status, caught.value.param) == (400, "after")


async def test_C_066_a_deleted_cursor_still_finds_its_place(stored: StoredCompletions) -> None:
    for n in range(6):
        await stored.create(US, request(), completion(n))
    await stored.delete(US, "chatcmpl-2")
    assert await every(stored, US, Page(after="chatcmpl-2", limit=2)) == ["chatcmpl-3", "chatcmpl-4", "chatcmpl-5"]
    assert "chatcmpl-2" not in await every(stored, US, Page())


@pytest.mark.parametrize("order", ["asc", "desc"])
async def test_paging_neither_repeats_nor_skips_under_writes_and_deletes(stored: StoredCompletions, order: Any) -> None:
    """Everything that was there the whole time is seen exactly once, nothing is seen twice, nothing deleted before."""
    for n in range(120):
        await stored.create(US, request(), completion(n, created=n // 10))
    kept = {f"chatcmpl-{n}" for n in range(120) if n % 3}
    running = True

    async def write() -> None:
        dice = random.Random(1)
        for n in range(1000, 2000):
            if not running:
                break
            await stored.create(US, request(), completion(n, created=dice.randrange(14)))

    async def erase() -> None:
        for n in range(0, 120, 3):
            await stored.delete(US, f"chatcmpl-{n}")
            await asyncio.sleep(0.002)

    writers = [asyncio.create_task(write()), asyncio.create_task(erase())]
    seen = await every(stored, US, Page(limit=7, order=order))
    running = False
    await asyncio.gather(*writers)
    assert len(seen) == len(set(seen))
    assert kept <= set(seen)


@pytest.mark.parametrize("hostile", ["chatcmpl-9", "chatcmpl-2", "a/b", "..", "", "\x00", "\udcff", "ü", "x" * 10_000])
async def test_C_071_C_072_C_029_unknown_foreign_and_hostile_ids_are_alike(
    stored: StoredCompletions, hostile: str
) -> None:
    await stored.create(THEM, request(), completion(2))
    for operation in (
        stored.get(US, hostile),
        stored.update(US, hostile, {}),
        stored.delete(US, hostile),
        stored.messages(US, hostile, Page()),
    ):
        with pytest.raises(ResourceNotFound) as caught:
            await operation
        error = caught.value.to_openai()["error"]
        assert (caught.value.status, error["param"], error["code"]) == (404, "completion_id", "not_found")
        assert error["type"] == "invalid_request_error"
        assert len(error["message"]) < 200
    assert (await stored.get(THEM, "chatcmpl-2"))["id"] == "chatcmpl-2"


async def test_C_073_C_075_an_update_replaces_the_metadata_and_nothing_else(stored: StoredCompletions) -> None:
    await stored.create(US, request(metadata={"a": "1", "b": "2"}), completion(1))
    before = await stored.get(US, "chatcmpl-1")
    after = await stored.update(US, "chatcmpl-1", {"b": "3"})
    assert after == {**before, "metadata": {"b": "3"}} == await stored.get(US, "chatcmpl-1")
    assert await every(stored, US, Page(metadata={"b": "3"})) == ["chatcmpl-1"]
    assert await every(stored, US, Page(metadata={"a": "1"})) == []
    assert (await stored.update(US, "chatcmpl-1", None))["metadata"] == {}


async def test_concurrent_updates_leave_one_of_them(stored: StoredCompletions) -> None:
    await stored.create(US, request(), completion(1))
    await asyncio.gather(*(stored.update(US, "chatcmpl-1", {"n": str(n)}) for n in range(20)))
    last = (await stored.get(US, "chatcmpl-1"))["metadata"]
    matching = [n for n in range(20) if await every(stored, US, Page(metadata={"n": str(n)}))]
    assert [{"n": str(n)} for n in matching] == [last]


async def test_C_078_a_deleted_completion_is_gone(stored: StoredCompletions) -> None:
    await stored.create(US, request(), completion(1))
    assert await stored.delete(US, "chatcmpl-1") == {
        "object": "chat.completion.deleted", "id": "chatcmpl-1", "deleted": True,
    }  # fmt: skip
    for operation in (
        stored.get(US, "chatcmpl-1"),
        stored.delete(US, "chatcmpl-1"),
        stored.messages(US, "chatcmpl-1", Page()),
    ):
        with pytest.raises(ResourceNotFound):
            await operation
    assert await every(stored, US, Page()) == []


async def test_C_079_C_080_C_081_C_083_messages_are_those_sent(stored: StoredCompletions) -> None:
    image = {"url": "data:image/png;base64,AAAA"}
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages = [
        {"role": "system", "content": "be kind", "name": "boss"},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Whose logo is this?"},
                {"type": "image_url", "image_url": image},
                {"type": "input_audio", "input_audio": {"data": "x", "format": "wav"}},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 12_000_000}},
            ],
        },
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "42", "tool_call_id": "c1"},
    ]
    await stored.create(US, request(messages=messages), completion(1))
    answer = await stored.messages(US, "chatcmpl-1", Page())
    empty = {"text": None, "image_url": None, "input_audio": None, "file": None}
    assert answer == {
        "object": "list",
        "data": [
            {"id": "chatcmpl-1-0", "role": "system", "content": "be kind", "name": "boss", "content_parts": None},
            {
                "id": "chatcmpl-1-1",
                "role": "user",
                "content": "Whose logo is this?",
                "name": None,
                "content_parts": [
                    {**empty, "type": "text", "text": "Whose logo is this?"},
                    {**empty, "type": "image_url", "image_url": image},
                ],
            },
            {"id": "chatcmpl-1-2", "role": "assistant", "content": None, "name": None, "content_parts": None,
             "tool_calls": [call]},
            {"id": "chatcmpl-1-3", "role": "tool", "content": "42", "name": None, "content_parts": None,
             "tool_call_id": "c1"},
        ],
        "first_id": "chatcmpl-1-0",
        "last_id": "chatcmpl-1-3",
        "has_more": False,
    }  # fmt: skip
    page = await stored.messages(US, "chatcmpl-1", Page(after="chatcmpl-1-2", limit=2, order="desc"))
    assert ([m["id"] for m in page["data"]], page["has_more"]) == (["chatcmpl-1-1", "chatcmpl-1-0"], False)
    with pytest.raises(InvalidRequest, match="after"):
        await stored.messages(US, "chatcmpl-1", Page(after="chatcmpl-1-9"))


async def test_C_056_expired_completions_are_gone_and_swept(database: Database) -> None:
    now = [1000.0]
    stored = StoredCompletions(database, Options(ttl_days=1), clock=lambda: now[0])
    for n in range(3):
        await stored.create(US, request(metadata={"a": "b"}), completion(n))
    now[0] += 86_400
    await stored.create(US, request(), completion(3))
    assert await every(stored, US, Page()) == ["chatcmpl-3"]
    with pytest.raises(ResourceNotFound):
        await stored.get(US, "chatcmpl-1")
    assert await stored.sweep() == 3
    async with database.read() as connection:
        assert await connection.scalar(text("SELECT count(*) FROM stored_metadata")) == 0
    assert await every(stored, US, Page(after="chatcmpl-1")) == ["chatcmpl-3"]
    now[0] += 86_400
    assert await stored.sweep() == 3 + 1
    async with database.read() as connection:
        assert await connection.scalar(text("SELECT count(*) FROM stored_completions")) == 1


async def test_S_35_deleted_content_is_not_on_the_disk(tmp_path: Path) -> None:
    database = Database(_sqlite(tmp_path))
    await database.upgrade()
    stored = StoredCompletions(database)
    secret = "canary-in-a-prompt"
    await stored.create(US, request(messages=[{"role": "user", "content": secret * 500}]), completion(1))
    await stored.create(US, request(), completion(2))
    assert secret.encode() in b"".join(path.read_bytes() for path in tmp_path.iterdir())
    await stored.delete(US, "chatcmpl-1")
    await stored.sweep()
    assert secret.encode() not in b"".join(path.read_bytes() for path in tmp_path.iterdir())
    await database.close()


async def test_S_35_encrypted_content_is_never_on_the_disk(tmp_path: Path) -> None:
    database = Database(_sqlite(tmp_path))
    await database.upgrade()
    stored = StoredCompletions(database, Options(encryption_key=SecretStr(KEY)))
    secret = "canary-in-a-prompt"
    await stored.create(
        US, request(messages=[{"role": "user", "content": secret}], metadata={"who": secret}), completion(1)
    )
    assert (await stored.messages(US, "chatcmpl-1", Page()))["data"][0]["content"] == secret
    assert secret.encode() not in b"".join(path.read_bytes() for path in tmp_path.iterdir())
    await database.close()


def _sqlite(folder: Path) -> Any:
    from config.schema import Database as DatabaseOptions

    return DatabaseOptions(url=SecretStr(f"sqlite:///{folder}/records.db"))


async def test_encryption_may_be_turned_on_later_but_not_off(database: Database) -> None:
    plain = StoredCompletions(database)
    sealed = StoredCompletions(database, Options(encryption_key=SecretStr(KEY)))
    other = StoredCompletions(database, Options(encryption_key=SecretStr(base64.b64encode(b"x" * 32).decode())))
    await plain.create(US, request(metadata={"a": "b"}), completion(1))
    await sealed.create(US, request(metadata={"a": "b"}), completion(2))
    assert await every(sealed, US, Page(metadata={"a": "b"})) == ["chatcmpl-1", "chatcmpl-2"]
    for cannot in (plain, other):
        with pytest.raises(StoreUnavailable, match="decrypted"):
            await cannot.get(US, "chatcmpl-2")


async def test_pages_of_a_filter_run_through_both_sides_of_encryption(database: Database) -> None:
    """As they were created, though some of them are found by another digest; an update changes its side."""
    plain = StoredCompletions(database)
    sealed = StoredCompletions(database, Options(encryption_key=SecretStr(KEY)))
    for n in range(12):
        store = (plain, sealed)[n % 3 == 0]
        await store.create(US, request(metadata={"a": "b"}), completion(n, created=1_738_960_610 + n // 2))
    await sealed.update(US, "chatcmpl-4", {"a": "b"})
    wanted = [f"chatcmpl-{n}" for n in range(12)]
    for limit in (1, 2, 5, 12):
        assert await every(sealed, US, Page(metadata={"a": "b"}, limit=limit)) == wanted
        assert await every(sealed, US, Page(metadata={"a": "b"}, limit=limit, order="desc")) == wanted[::-1]


async def test_sealed_bytes_moved_to_another_owner_do_not_open(database: Database) -> None:
    stored = StoredCompletions(database, Options(encryption_key=SecretStr(KEY)))
    await stored.create(US, request(), completion(1))
    async with database.write() as connection:
        await connection.execute(text("UPDATE stored_completions SET owner = :them"), {"them": THEM})
    with pytest.raises(StoreUnavailable, match="decrypted"):
        await stored.get(THEM, "chatcmpl-1")


@pytest.mark.parametrize("key", ["", "short", base64.b64encode(b"x" * 31).decode(), "ü"])
def test_a_bad_encryption_key_is_refused_at_load(key: str) -> None:
    with pytest.raises(DatabaseError, match="encryption_key"):
        sealer(Options(encryption_key=SecretStr(key)))


def test_C_029_owners_are_teams_or_single_keys() -> None:
    first, second = Principal("key_1", "acme", "blue"), Principal("key_2", "acme", "blue")
    assert owner_of(first) == owner_of(second) == US
    assert owner_of(Principal("key_1", "acme")) != owner_of(Principal("key_2", "acme"))
    assert owner_of(Principal("key_1", "acme", "blue")) != owner_of(Principal("key_1", "other", "blue"))
    assert owner_of(Principal("key_1", "acme", "eu/blue")) != owner_of(Principal("key_1", "acme/eu", "blue"))
    assert owner_of(Principal("key_1", "acme%2Feu", "blue")) != owner_of(Principal("key_1", "acme/eu", "blue"))


def test_C_057_C_063_a_query_string_becomes_a_page() -> None:
    query = [("after", "chatcmpl-1"), ("limit", "100"), ("order", "desc"), ("model", "m"), ("metadata[a]", "b c"),
             ("metadata[x[y]]", ""), ("unknown", "1")]  # fmt: skip
    assert parse_page(query) == Page("chatcmpl-1", 100, "desc", "m", {"a": "b c", "x[y]": ""})
    assert parse_page([]) == Page(None, 20, "asc")


@pytest.mark.parametrize("limit", ["0", "101", "abc", "1.5", "", "-1", "1e2", "٣", "9" * 5000, " 5"])
def test_C_059_a_bad_limit_is_refused(limit: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_page([("limit", limit)])
    assert (caught.value.status, caught.value.param) == (400, "limit")


def test_C_067_a_bad_order_is_refused() -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_page([("order", "DESC")])
    assert (caught.value.code, caught.value.param) == ("invalid_value", "order")


@given(st.lists(st.tuples(st.text(max_size=20), st.text(max_size=20)), max_size=10))
def test_any_query_is_a_page_or_a_400(query: list[tuple[str, str]]) -> None:
    with contextlib.suppress(InvalidRequest):
        assert 1 <= parse_page(query).limit <= 100


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({}, "metadata", "missing_required_parameter"),
        ({"metadata": {}, "model": "x"}, "model", "unknown_parameter"),
        ({"metadata": []}, "metadata", "invalid_type"),
        ({"metadata": {"a": 1}}, "metadata", "invalid_type"),
        ({"metadata": {str(n): "" for n in range(17)}}, "metadata", "object_above_max_properties"),
        ({"metadata": {"a" * 65: ""}}, "metadata", "string_above_max_length"),
        ({"metadata": {"a": "b" * 513}}, "metadata", "string_above_max_length"),
        ([], None, None),
    ],
)
def test_C_074_C_131_bad_updates_are_refused(body: Any, param: str | None, code: str | None) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_update(body)
    assert (caught.value.status, caught.value.param, caught.value.code) == (400, param, code)


def test_C_074_good_updates_are_taken() -> None:
    assert parse_update({"metadata": {"a" * 64: "b" * 512}}) == {"a" * 64: "b" * 512}
    assert parse_update({"metadata": None}) == {}


async def test_a_page_of_a_large_store_is_quick(database: Database) -> None:
    stored = StoredCompletions(database)
    for n in range(300):
        await stored.create(US, request(metadata={"n": str(n)}), completion(n))
    began = time.monotonic()
    for _ in range(10):
        await stored.list(US, Page(after="chatcmpl-150", limit=20))
    assert time.monotonic() - began < 1


async def test_C_057_a_filter_reads_only_what_it_finds(database: Database) -> None:
    """The plans name an index that holds the filter and the order, however many others there are."""
    stored = StoredCompletions(database)
    for n in range(400):
        await stored.create(US, request(metadata={"n": str(n), "all": "x"}), completion(n, model=f"m{n}"))
    statements: list[tuple[str, Any]] = []

    def heard(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if "ORDER BY" in statement:
            statements.append((statement, parameters))

    event.listen(database._engine, "before_cursor_execute", heard)
    for page in (Page(metadata={"n": "7"}), Page(metadata={"n": "7", "all": "x"}, order="desc"), Page(model="m7")):
        assert [item["id"] for item in (await stored.list(US, page))["data"]] == ["chatcmpl-7"]
    assert (await stored.list(US, Page(metadata={"all": "x"}, limit=2, after="chatcmpl-9")))["has_more"]
    event.remove(database._engine, "before_cursor_execute", heard)
    for (statement, parameters), index in zip(
        statements, ["metadata_digest"] * 2 + ["model", "metadata_digest"], strict=True
    ):
        async with database.write() as connection:
            if not database.is_sqlite:
                await connection.exec_driver_sql("ANALYZE stored_completions, stored_metadata")
                await connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
            prefix = "EXPLAIN QUERY PLAN " if database.is_sqlite else "EXPLAIN "
            rows = (await connection.exec_driver_sql(prefix + statement, parameters)).all()
        plan = "\n".join(str(row[-1]) for row in rows)
        assert f"ix_stored_{'' if index == 'metadata_digest' else 'completions_'}{index}" in plan, plan
