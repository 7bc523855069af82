"""What comes along from LiteLLM's database: every key, and of every sum exactly what was spent, however often it is asked."""

import asyncio
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from openai import AsyncOpenAI
from pydantic import SecretStr
from sqlalchemy import Column, DateTime, Double, MetaData, String, Table, text

from config.schema import Database as DatabaseOptions
from gateway.__main__ import main
from gateway.litellm.tables import plain
from gateway.records.database import Database
from gateway.records.usage import ScopeKind, UsageStore

from .running import deployment, running

LONG_AGO = datetime(2020, 1, 1)  # noqa: DTZ001 - as that database has its times
SECRET = "sk-litellm-0123456789"
_TYPES: Mapping[str, Any] = {"spend": Double, "max_budget": Double, "budget_reset_at": DateTime}
COLUMNS = {
    "LiteLLM_BudgetTable": "budget_id max_budget soft_budget budget_duration",
    "LiteLLM_OrganizationTable": "organization_id organization_alias budget_id spend",
    "LiteLLM_TeamTable": "team_id team_alias organization_id max_budget budget_duration budget_reset_at spend",
    "LiteLLM_UserTable": "user_id user_email teams max_budget budget_duration spend",
    "LiteLLM_VerificationToken": "token key_alias team_id user_id organization_id project_id budget_id max_budget budget_duration "
    "spend model_max_budget metadata models",
    "LiteLLM_Config": "param_name",
    "LiteLLM_ProjectTable": "project_id",
    "LiteLLM_DailyTeamSpend": "id",
    "LiteLLM_NewFeatureTable": "id",
}
Rows = dict[str, list[dict[str, Any]]]


def digest(secret: str) -> str:
    return sha256(secret.encode()).hexdigest()


async def filled(url: str, rows: Rows) -> None:
    """Tables with ``rows`` and no others."""
    metadata = MetaData()
    tables = {
        name: Table(name, metadata, *(Column(c, _TYPES.get(c, String)) for c in columns.split()))
        for name, columns in COLUMNS.items()
    }
    database = Database(DatabaseOptions(url=SecretStr(url)))
    async with database.write() as connection:
        for name in COLUMNS:
            await connection.execute(text(f'DROP TABLE IF EXISTS "{name}"'))
        await connection.run_sync(metadata.create_all)
        for name, some in rows.items():
            for row in some:
                await connection.execute(tables[name].insert(), [row])
    await database.close()


async def imported(source: str, folder: Path, code: int = 0) -> Any:
    config = folder / "litellm.yaml"
    config.write_text("model_list: []\n")
    arguments = ["import-litellm", str(config), "-o", str(folder / "out.yaml"), "--force", "--json"]
    arguments += ["--database-url", source, "--into", f"sqlite:///{folder}/sluice.db"]
    done = await asyncio.to_thread(CliRunner().invoke, main, arguments)
    assert done.exit_code == code, done.output
    return json.loads(done.output)


async def spent(folder: Path, *owners: tuple[ScopeKind, str]) -> list[int]:
    """US dollars of each; keys by their secrets."""
    database = Database(DatabaseOptions(url=SecretStr(f"sqlite:///{folder}/sluice.db")))
    found = []
    async with database.read() as connection:
        rows = (await connection.execute(text("SELECT digest, key_id FROM key_digests"))).all()
        ids = {row.digest: row.key_id for row in rows}
    for kind, name in owners:
        identity = ids[f"sha256:{digest(name)}"] if kind == "key" else name
        found.append(await UsageStore(database).spent(kind, identity) // 10**9)
    (whole,) = await UsageStore(database).report()
    assert whole["errors"] == 0
    await database.close()
    return found


LIVED: Rows = {
    "LiteLLM_OrganizationTable": [{"organization_id": "acme", "organization_alias": "ACME", "spend": 70.0}],
    "LiteLLM_TeamTable": [
        {"team_id": "monthly", "max_budget": 100.0, "budget_duration": "30d", "spend": 20.0},
        {"team_id": "over", "budget_duration": "1d", "budget_reset_at": LONG_AGO, "spend": 5.0},
        {"team_id": "theirs", "organization_id": "acme", "spend": 60.0},
    ],
    "LiteLLM_UserTable": [{"user_id": "ann", "spend": 1000.0}, {"user_id": "litellm-proxy-budget", "spend": 9.0}],
    "LiteLLM_VerificationToken": [
        {"token": digest(SECRET), "team_id": "monthly", "user_id": "ann", "spend": 1000.0},
        {"token": digest("two"), "team_id": "theirs", "spend": 40.0},
        {"token": digest("three"), "organization_id": "acme", "spend": 3.0},
        {"token": digest("four"), "spend": 0.0},
    ],
}
"""A key without a budget has what it ever spent; its team, what it spent this month."""
SUMS: dict[tuple[ScopeKind, str], int] = {
    ("key", SECRET): 1000, ("key", "two"): 40, ("key", "three"): 3, ("key", "four"): 0, ("team", "monthly"): 20, ("team", "over"): 0,
    ("team", "theirs"): 60, ("user", "ann"): 1000, ("organization", "acme"): 70,
}  # fmt: skip


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
async def test_each_sum_comes_along_exactly_and_once(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    source = f"sqlite:///{tmp_path}/l.db" if kind == "sqlite" else request.getfixturevalue("postgres_url")
    await filled(source, LIVED)
    first = await imported(source, tmp_path)
    assert first["spent"] == 1070 * 10**9
    assert await spent(tmp_path, *SUMS) == [*SUMS.values()]
    for _ in range(2):
        assert (await imported(source, tmp_path))["spent"] == 0
        assert await spent(tmp_path, *SUMS) == [*SUMS.values()]
    sections: dict[str, Any] = {"database": {"url": f"sqlite:///{tmp_path}/sluice.db"}, "auth": {"pepper": "p" * 32}}
    async with (
        running({"m": [deployment("demo-echo")]}, **sections) as (gateway, _),
        AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=SECRET, max_retries=0) as sdk,
    ):
        answer = await sdk.chat.completions.create(model="m", messages=[{"role": "user", "content": "hi"}])
        assert answer.choices[0].message.content == "hi"  # $80 of its team's month are left
    if kind == "postgres":
        await filled(source, {})


async def test_a_run_after_one_that_was_broken_off_brings_what_is_missing(tmp_path: Path) -> None:
    source = f"sqlite:///{tmp_path}/l.db"
    await filled(source, LIVED)
    await imported(source, tmp_path)
    database = Database(DatabaseOptions(url=SecretStr(f"sqlite:///{tmp_path}/sluice.db")))
    async with database.write() as connection:
        await connection.execute(text("DELETE FROM ledger"))  # as if it had come no further than the keys
    await database.close()
    assert (await imported(source, tmp_path))["made"] == {}
    assert await spent(tmp_path, *SUMS) == [*SUMS.values()]


async def test_what_the_whole_proxy_spent_is_the_default_organizations(tmp_path: Path) -> None:
    source = f"sqlite:///{tmp_path}/l.db"
    users = [{"user_id": "litellm-proxy-budget", "max_budget": 100.0, "budget_duration": "30d", "spend": 30.0}]
    keys = [{"token": digest("one"), "spend": 500.0}, {"token": digest("two"), "spend": 10.0}]
    await filled(source, {"LiteLLM_UserTable": users, "LiteLLM_VerificationToken": keys})
    assert (await imported(source, tmp_path))["made"] == {"key": 2}
    assert await spent(tmp_path, ("organization", "default"), ("key", "one"), ("key", "two")) == [30, 500, 10]


async def test_no_key_is_lost_for_its_name_or_its_organization(tmp_path: Path) -> None:
    source = f"sqlite:///{tmp_path}/l.db"
    keys = [
        {"token": digest("one"), "key_alias": "my key"},
        {"token": digest("two"), "key_alias": "my-key"},
        {"token": digest("three"), "key_alias": "my-key", "organization_id": "acme"},
        {"token": digest("four"), "key_alias": "lost", "organization_id": "nowhere"},
    ]
    organizations = [{"organization_id": "acme", "spend": 0.0}]
    await filled(source, {"LiteLLM_OrganizationTable": organizations, "LiteLLM_VerificationToken": keys})
    report = await imported(source, tmp_path)
    assert report["made"] == {"organization": 1, "key": 4}
    called = f"my-key-{digest('two')[:8]}"
    assert f"key my-key: there is another of this name; it is called {called}" in report["notes"]
    assert "key lost: its organization nowhere does not exist" in report["notes"]
    database = Database(DatabaseOptions(url=SecretStr(f"sqlite:///{tmp_path}/sluice.db")))
    async with database.read() as connection:
        found = (await connection.execute(text("SELECT name, organization FROM keys ORDER BY name"))).all()
    await database.close()
    homes = [("lost", "default"), ("my-key", "acme"), ("my-key", "default"), (called, "default")]
    assert sorted(tuple(row) for row in found) == sorted(homes)


async def test_whatever_is_left_behind_or_changes_is_named(tmp_path: Path) -> None:
    source = f"sqlite:///{tmp_path}/l.db"
    keys = [
        {"token": digest("one"), "key_alias": "a", "project_id": "p", "budget_id": "b", "metadata": '{"model_rpm_limit": {"m": null}}'},
        {"token": digest("two"), "key_alias": "c", "max_budget": 1e10, "model_max_budget": '{"m": {"budget_limit": 1, "time_period": "12h"}}'},
        {"token": digest("three"), "key_alias": "e", "metadata": '{"model_rpm_limit": {"m": "many"}}'},
    ]  # fmt: skip
    rows: Rows = {
        "LiteLLM_BudgetTable": [
            {"budget_id": "b", "max_budget": 5.0, "soft_budget": "4", "budget_duration": "90d"},
        ],
        "LiteLLM_UserTable": [{"user_id": "u", "user_email": "u@example.com", "spend": 0.0}],
        "LiteLLM_VerificationToken": keys,
        "LiteLLM_Config": [{"param_name": "router_settings"}],
        "LiteLLM_ProjectTable": [{"project_id": "p"}],
        "LiteLLM_DailyTeamSpend": [{"id": "1"}],
        "LiteLLM_NewFeatureTable": [{"id": "1"}],
    }
    await filled(source, rows)
    report = await imported(source, tmp_path)
    assert report["made"] == {"user": 1, "key": 2}
    notes = report["notes"][1:]
    assert notes == [
        "key a: soft_budget is left out: warns nobody here; counters.thresholds does",
        "key a: project_id is left out: projects are not known here, nor are their budgets",
        "key a: max_budget is for 90d; here it holds for a month",
        "key c: max_budget is left out: not an amount up to $9000000",
        "key c: model_max_budget of m is for 12h; here it holds for a day",
        "key e: not made: one of its limits is not a number",
        "LiteLLM_Config: 1 rows not taken: settings kept in the database; write them into the configuration",
        "LiteLLM_NewFeatureTable: 1 rows not taken: not known here",
        "LiteLLM_ProjectTable: 1 rows not taken: projects and their budgets",
    ]


async def test_another_database_than_litellms_is_an_error(tmp_path: Path) -> None:
    told = await imported(f"sqlite:///{tmp_path}/empty.db", tmp_path, code=1)
    assert "no table of LiteLLM's is there" in told["error"]["message"]


def test_the_address_of_its_driver_is_understood() -> None:
    prisma = (
        "postgresql://u:p%40w@h:5432/d?schema=lite&connection_limit=5&pool_timeout=60&pgbouncer=true&sslmode=require"
    )
    told = "postgresql://u:p%40w@h:5432/d?sslmode=require&search_path=lite&prepared_statement_cache_size=0"
    assert plain(prisma) == told
    assert plain("postgresql://h/d") == "postgresql://h/d"


def test_a_window_that_began_anew_since_has_nothing_in_it() -> None:
    from gateway.litellm.spend import spent as spent_in

    now = datetime.now(UTC)
    row = {"spend": 0.1, "budget_duration": "1d", "budget_reset_at": now + timedelta(hours=1)}
    assert spent_in(row, now) == 100_000_000
    assert spent_in({**row, "budget_reset_at": now.replace(tzinfo=None).isoformat()}, now) == 0
    assert spent_in({**row, "budget_duration": None}, now + timedelta(days=2)) == 100_000_000
