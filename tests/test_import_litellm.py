"""Coming from LiteLLM: its configuration loads, its keys work with the official SDK, its budgets go on."""

import asyncio
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import openai
import pytest
import yaml
from click.testing import CliRunner
from openai import AsyncOpenAI
from pydantic import SecretStr
from sqlalchemy import text

from config import parse
from config.schema import Database as DatabaseOptions
from gateway.__main__ import main
from gateway.litellm.document import convert
from gateway.litellm.settings import limits, seconds, window
from gateway.records.database import Database

from .beside import SHARED
from .running import deployment, running

SOURCE = Path(__file__).with_name("litellm_config.yaml")
REFERENCE = SHARED / "reference" / "litellm.md"
OLD = "sk-old-litellm-key-1234567890"
BROKE = "sk-broke-litellm-key-1234567890"
GONE = "sk-gone-litellm-key-1234567890"
DDL = {
    "LiteLLM_BudgetTable": "budget_id TEXT, max_budget DOUBLE PRECISION, budget_duration TEXT, rpm_limit BIGINT, tpm_limit BIGINT",
    "LiteLLM_TeamTable": "team_id TEXT, team_alias TEXT, organization_id TEXT, models {list}, max_budget DOUBLE PRECISION, "
    "budget_duration TEXT, spend DOUBLE PRECISION, rpm_limit BIGINT, blocked BOOLEAN, metadata {json}",
    "LiteLLM_UserTable": "user_id TEXT, teams {list}, models {list}, max_budget DOUBLE PRECISION, spend DOUBLE PRECISION, metadata {json}",
    "LiteLLM_VerificationToken": "token TEXT, key_alias TEXT, models {list}, spend DOUBLE PRECISION, max_budget DOUBLE PRECISION, "
    "budget_duration TEXT, budget_id TEXT, tpm_limit BIGINT, rpm_limit BIGINT, max_parallel_requests BIGINT, metadata {json}, "
    "team_id TEXT, user_id TEXT, expires TIMESTAMP, blocked BOOLEAN, aliases {json}, "
    "allowed_routes {list}, permissions {json}",
    "LiteLLM_EndUserTable": "user_id TEXT, spend DOUBLE PRECISION",
}


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


async def litellm_database(url: str) -> None:
    database = Database(DatabaseOptions(url=SecretStr(url)))
    array = (lambda *items: json.dumps(items)) if database.is_sqlite else (lambda *items: "{" + ",".join(items) + "}")
    kinds = {"list": "TEXT" if database.is_sqlite else "TEXT[]", "json": "TEXT" if database.is_sqlite else "JSONB"}
    rows: dict[str, list[dict[str, Any]]] = {
        "LiteLLM_BudgetTable": [{"budget_id": "b", "max_budget": 1.0, "budget_duration": "1d"}],
        "LiteLLM_TeamTable": [
            {"team_id": "t1", "team_alias": "Search", "models": array("m"), "max_budget": 50.0, "budget_duration": "1mo",
             "spend": 12.5, "metadata": '{"cost_center": 7}'},
        ],
        "LiteLLM_UserTable": [{"user_id": "u 1", "teams": array("t1"), "models": array(), "spend": 10.0, "metadata": "{}"}],
        "LiteLLM_VerificationToken": [
            {"token": digest(OLD), "key_alias": "prod", "models": array("all-team-models"), "spend": 10.0, "rpm_limit": 100,
             "max_budget": 20.0, "budget_duration": "30d", "metadata": '{"tags": ["a"], "model_rpm_limit": {"m": 5}}',
             "team_id": "t1", "user_id": "u 1", "aliases": '{"fast": "m"}', "allowed_routes": array("/chat/completions"),
             "permissions": "{}"},
            {"token": digest(BROKE), "key_alias": None, "models": array(), "spend": 2.0, "budget_id": "b", "metadata": "{}",
             "team_id": "nowhere", "aliases": "{}"},
            {"token": digest(GONE), "key_alias": "gone", "models": array(), "spend": 0.0, "metadata": "{}", "aliases": "{}",
             "blocked": True},
        ],
        "LiteLLM_EndUserTable": [{"user_id": "customer", "spend": 1.0}],
    }  # fmt: skip
    async with database.write() as connection:
        for table, columns in DDL.items():
            await connection.execute(text(f'DROP TABLE IF EXISTS "{table}"'))
            await connection.execute(text(f'CREATE TABLE "{table}" ({columns.format(**kinds)})'))
            for row in rows[table]:

                def value(name: str, columns: str = columns, row: dict[str, Any] = row) -> str:
                    quoted = "'" + str(row[name]) + "'" if isinstance(row[name], str) else str(row[name])
                    return "NULL" if row[name] is None else quoted

                names = ", ".join(row)
                await connection.exec_driver_sql(
                    f'INSERT INTO "{table}" ({names}) VALUES ({", ".join(value(n) for n in row)})'.replace(
                        "True", "TRUE"
                    )
                )
    await database.close()


def sluice(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(main, list(arguments))
    assert result.exit_code == code, result.output
    return result.output


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
async def test_old_keys_work_against_the_new_gateway_and_budgets_go_on(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    source = f"sqlite:///{tmp_path}/litellm.db" if kind == "sqlite" else request.getfixturevalue("postgres_url")
    await litellm_database(source)
    target = f"sqlite:///{tmp_path}/sluice.db"
    arguments = (
        *("import-litellm", str(SOURCE), "-o", str(tmp_path / "out.yaml"), "--database-url", source),
        *("--into", target, "--json", "--force"),
    )
    report = json.loads(await asyncio.to_thread(sluice, *arguments))
    assert report["made"] == {"team": 1, "user": 1, "key": 3}
    assert report["spent"] == 14_500_000_000  # 10 + 2 of keys, and 2.5 that only the team knows of
    assert report["problems"] == []
    assert any("its team nowhere does not exist" in note for note in report["notes"])
    assert "key prod: allowed_routes is left out: it may call everything here" in report["notes"]
    assert not any("permissions" in note for note in report["notes"])
    assert any("LiteLLM_EndUserTable: 1 rows not taken" in note for note in report["notes"])
    again = json.loads(await asyncio.to_thread(sluice, *arguments))
    assert again["made"] == {}

    sections: dict[str, Any] = {
        "database": {"url": target},
        "auth": {"pepper": "p" * 32},
        "admin": {"keys": {"o": "o" * 32}},
    }
    async with running({"m": [deployment("demo-echo")]}, **sections) as (gateway, _):

        async def ask(key: str, model: str) -> str:
            async with AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=key, max_retries=0) as sdk:
                answer = await sdk.chat.completions.create(model=model, messages=[{"role": "user", "content": "hi"}])
                return str(answer.choices[0].message.content)

        assert await ask(OLD, "fast") == "hi"  # an alias of the key
        with pytest.raises(openai.AuthenticationError):
            await ask(GONE, "m")
        with pytest.raises(openai.RateLimitError, match="budget"):
            await ask(BROKE, "m")  # $2 of $1 a day were spent before
        rows = await gateway.records.usage.report(("key", "team"))
        spent = {(row["team"], row["requests"]): row["cost"] for row in rows if row["cost"]}
        assert spent[("t1", 0)] == 2_500_000_000
        assert 10_000_000_000 < spent[("t1", 1)] < 10_001_000_000


def test_every_key_of_a_realistic_configuration_is_taken_over_or_named(tmp_path: Path) -> None:
    output = tmp_path / "sluice.yaml"
    report = json.loads(sluice("import-litellm", str(SOURCE), "-o", str(output), "--json"))
    assert report["models"] == ["bedrock-claude", "claude", "gemini", "gpt-4o", "local"]
    assert report["problems"] == []
    written = yaml.safe_load(output.read_text())
    assert "sk-ant-literal" not in output.read_text()
    assert "literal-header-secret" not in output.read_text()
    first, second = written["models"]["gpt-4o"]["deployments"]
    assert (first["model"], first["weight"], first["order"], first["limits"]) == (
        "my-deployment",
        2,
        1,
        {"rpm": 600, "tpm": 100_000, "concurrency": 40},
    )
    assert first["timeouts"] == {"response": 60, "first_byte": 10}
    assert second["price"] == {"input": "2.5", "output": "10"}
    assert written["models"]["gpt-4o"]["params"] == {
        "default": {"temperature": 0.5, "max_tokens": 500, "top_k": 3}, "unsupported": "drop",
    }  # fmt: skip
    assert written["models"]["gpt-4o"]["fallbacks"] == {"any": ["claude"], "context_length": ["gemini"]}
    assert written["models"]["gemini"]["fallbacks"] == {"any": ["local"], "content_policy": ["claude"]}
    assert (written["retries"], written["timeouts"]["response"]) == ({"attempts": 3}, 300)  # the router's settings win
    assert written["models"]["claude"]["fallbacks"] == {"any": ["local"]}  # its own leads back to gpt-4o
    assert written["aliases"] == {"gpt-4": "gpt-4o", "hidden": "claude"}
    assert written["redis"]["url"] == "redis://:${REDIS_PASSWORD}@${REDIS_HOST}:6379/0"
    assert written["organizations"]["default"]["limits"]["budget"] == {"month": "100"}
    notes = "\n".join(report["notes"])
    for named in ("guardrails", "mcp_servers", "custom_auth", "alerting", "callbacks", "cache", "openai/*", "nowhere"):
        assert named in notes
    assert "exists; overwrite it" in sluice("import-litellm", str(SOURCE), "-o", str(output), code=1)


TAKEN = {
    *("model_list", "credential_list", "router_settings", "litellm_settings", "general_settings"),
    *("routing_strategy", "num_retries", "timeout", "request_timeout", "allowed_fails", "cooldown_time", "fallbacks"),
    *("context_window_fallbacks", "content_policy_fallbacks", "default_fallbacks", "model_group_alias", "redis_host"),
    *("redis_port", "redis_password", "redis_url", "drop_params", "max_budget", "budget_duration"),
    *("master_key", "database_url", "set_verbose", "json_logs"),
}
"""Sections and settings with a meaning here; the last two say how LiteLLM logs."""


def test_nothing_of_a_configuration_is_dropped_in_silence() -> None:
    """Whatever is not taken over is named, where it stands."""
    source = yaml.safe_load(SOURCE.read_text())
    named = {note.partition(":")[0] for note in convert(source).notes}
    for section, value in source.items():
        assert section in TAKEN or section in named, section
        if section.endswith("_settings") and section in TAKEN:
            for key in value:
                assert key in TAKEN or f"{section}.{key}" in named, key
    assert {"model_list[0].model_info.id", "model_list[1].model_info.access_groups"} <= named
    assert "model_list[1].litellm_params.service_tier" in named
    assert {"model_list[0].litellm_params.max_retries", "model_list[0].litellm_params.tags"} <= named


@pytest.mark.skipif(not REFERENCE.exists(), reason="the reference page is not here")
def test_every_key_of_the_reference_page_is_in_the_configuration() -> None:
    page = REFERENCE.read_text().partition("```yaml")[2].partition("```")[0]
    words = set(re.findall(r"(?:^|[{,/(])\s*-?\s*([a-z][a-z0-9_]{3,})(?=\s*[:/])", page, re.MULTILINE))
    assert len(words) > 90
    known = SOURCE.read_text()
    # The file includes none (the next test does), gives Redis by its parts, and has one of two names for its agents.
    elsewhere = {"include", "redis_url", "agents", "nested", "path", "prometheus", "proxy", "https", "common_utils"}
    assert {word for word in words - elsewhere if not re.search(rf"\b{word}\b", known)} == set()


def test_included_files_are_joined(tmp_path: Path) -> None:
    (tmp_path / "models.yaml").write_text("model_list: [{model_name: b, litellm_params: {model: groq/llama}}]")
    (tmp_path / "main.yaml").write_text(
        "include: [models.yaml]\nmodel_list: [{model_name: a, litellm_params: {model: openai/gpt-5}}]"
    )
    report = json.loads(sluice("import-litellm", str(tmp_path / "main.yaml"), "-o", "-", "--json"))
    assert report["models"] == ["a", "b"]


@pytest.mark.parametrize(
    "source",
    [
        {},
        {"model_list": None},
        {"model_list": [{}, 5, {"model_name": "a"}, {"model_name": "a", "litellm_params": []}]},
        {"model_list": [{"model_name": "a b|{c}", "litellm_params": {"model": "x", "rpm": "many", "weight": -1}}]},
        {"router_settings": [], "litellm_settings": 5, "general_settings": None},
        {"router_settings": {"fallbacks": "x", "num_retries": "three", "model_group_alias": []}},
        {"model_list": [{"model_name": "a", "litellm_params": {"model": "b", "temperature": "hot", "stream": True}}]},
        {"litellm_settings": {"max_budget": "much", "default_fallbacks": 5, "drop_params": 1}},
    ],
)
def test_nonsense_is_noted_and_never_a_crash(source: Any) -> None:
    assert isinstance(convert(source).document, dict)


@pytest.mark.parametrize(
    ("duration", "length", "calendar"),
    [("30s", 30, "day"), ("24h", 86_400, "day"), ("7d", 604_800, "week"), ("1w", 604_800, "week"), ("1mo", 2_592_000, "month"),
     ("30d", 2_592_000, "month"), ("soon", None, "total")],
)  # fmt: skip
def test_durations_become_the_nearest_calendar_window(duration: str, length: int | None, calendar: str) -> None:
    assert (seconds(duration), window(duration)) == (length, calendar)


def test_one_model_of_a_provider_with_different_limits_becomes_deployments_of_different_names() -> None:
    def listed(public: str, **limits: int) -> dict[str, Any]:
        return {"model_name": public, "litellm_params": {"model": "openai/gpt", **limits}}

    given = [listed("fast"), listed("batch", rpm=2), listed("also-fast")]
    document = convert({"model_list": given}).document
    names = {public: model["deployments"][0].get("name") for public, model in document["models"].items()}
    assert names == {"fast": None, "batch": "batch-1", "also-fast": None}
    parse(yaml.safe_dump(document), {"SLUICE_PEPPER": "p" * 32, "OPENAI_API_KEY": "sk-x"})


@pytest.mark.parametrize("model", ["openai/responses/o3-mini", "azure/responses/o3-mini", "responses/o3-mini"])
def test_a_model_of_the_responses_api_is_imported_by_its_own_name_and_that_is_said(model: str) -> None:
    given = {
        "model": model,
        "api_base": "https://x.example",
        **({} if "/r" in model else {"custom_llm_provider": "openai"}),
    }
    converted = convert({"model_list": [{"model_name": "o3", "litellm_params": given}]})
    assert converted.document["models"]["o3"]["deployments"][0]["model"] == "o3-mini"
    note = "model_list[0]: `responses/` left out of 'o3-mini': it is asked by chat completions here"
    assert note in converted.notes


def test_limits_per_model_are_kept() -> None:
    row = {
        "metadata": {"model_rpm_limit": {"m": 5}},
        "model_max_budget": {"m": {"budget_limit": 0.5, "time_period": "1d"}},
    }
    assert limits(row) == {"per_model": {"m": {"rpm": 5, "budget": {"day": "0.5"}}}}


def model(public: str, **parameters: Any) -> dict[str, Any]:
    info = parameters.pop("info", {})
    return {"model_name": public, "litellm_params": parameters, "model_info": info}


def test_keys_and_addresses_that_litellm_finds_in_its_environment_are_found_there(tmp_path: Path) -> None:
    source = {
        "model_list": [
            model("gpt", model="openai/gpt-5-mini"), model("gpt", model="gpt-5"), model("claude", model="anthropic/claude-haiku-4-5"),
            model("az", model="azure/gpt-4o"), model("az2", model="azure/gpt-4o", api_base="os.environ/AZURE_TWO", tenant_id="t", client_id="c"),
            model("own", model="openai/qwen", base_url="http://127.0.0.1:8000/v1"), model("llama", model="ollama/llama3", api_base="http://127.0.0.1:11434"),
            model("br", model="bedrock/anthropic.claude-sonnet-4-5-20250929-v1:0", aws_region_name="eu-west-1"),
            model("org", model="openai/gpt-5", organization="org-1", api_key="os.environ/K"),
        ],
        "router_settings": {"redis_host": "os.environ/REDIS_HOST", "redis_port": "os.environ/REDIS_PORT"},
    }  # fmt: skip
    (tmp_path / "litellm.yaml").write_text(yaml.safe_dump(source))
    report = json.loads(
        sluice("import-litellm", str(tmp_path / "litellm.yaml"), "-o", str(tmp_path / "o.yaml"), "--json")
    )
    assert report["problems"] == []
    providers = yaml.safe_load((tmp_path / "o.yaml").read_text())["providers"]
    assert {name: p.get("api_key") for name, p in providers.items()} == {
        "openai": "${OPENAI_API_KEY}", "anthropic": "${ANTHROPIC_API_KEY}", "azure": "${AZURE_API_KEY}", "azure-2": None, "openai-2": None,
        "ollama": None, "bedrock": None, "openai-3": "${K}",
    }  # fmt: skip
    assert (providers["azure"]["base_url"], providers["azure-2"]["base_url"]) == ("${AZURE_API_BASE}", "${AZURE_TWO}")
    assert providers["openai-2"]["adapter"] == "openai-compatible"
    assert providers["ollama"]["base_url"] == "http://127.0.0.1:11434/v1"
    assert providers["bedrock"]["options"] == {"region": "eu-west-1", "auth": "aws"}
    assert providers["openai-3"]["headers"] == {"OpenAI-Organization": "org-1"}
    told = [note for note in report["notes"] if "OPENAI_API_KEY" in note]
    assert told == ["openai: deployments without api_key take it from the environment: set OPENAI_API_KEY"]
    assert (
        "models.own: openai-2/qwen has no price that is known: refused under budgets, else recorded at $0"
        in report["notes"]
    )


def test_no_secret_of_the_file_is_copied(tmp_path: Path) -> None:
    source = {
        "model_list": [
            model("g", model="vertex_ai/gemini-2.5-pro", vertex_project="p", vertex_credentials='{"private_key": "hunter2"}'),
            model("h", model="vertex_ai/gemini-2.5-pro", vertex_project="q", vertex_credentials={"private_key": "hunter2"}),
            model("o", model="openai/gpt-5", api_key="os.environ/K", extra_headers={"CF-Access-Client-Secret": "hunter2"}),
        ],
        "router_settings": {"redis_url": "redis://:hunter2@redis:6379/0"},
    }  # fmt: skip
    (tmp_path / "litellm.yaml").write_text(yaml.safe_dump(source))
    arguments = ("--database-url", f"sqlite:///{tmp_path}/none.db", "--into", "postgresql://u:hunter2@127.0.0.1:1/d")
    output = tmp_path / "o.yaml"
    sluice("import-litellm", str(tmp_path / "litellm.yaml"), "-o", str(output), *arguments, code=1)  # nobody is there
    written = yaml.safe_load(output.read_text())
    assert "hunter2" not in output.read_text()
    assert written["providers"]["vertex-ai"]["options"] == {
        "project": "p", "credentials_json": "${MODEL_LIST_0_VERTEX_CREDENTIALS}",
    }  # fmt: skip
    assert (written["redis"]["url"], written["database"]["url"]) == ("${REDIS_URL}", "${DATABASE_URL}")


def test_weights_and_prices_mean_what_they_meant() -> None:
    embedding = {"mode": "embedding", "input_cost_per_token": 1e-7}
    source = {
        "model_list": [
            model("w", model="openai/a", weight=0.5), model("w", model="openai/b", weight=1), model("w", model="openai/c", weight=0),
            model("i", model="openai/d", weight=2), model("i", model="openai/e", weight=1),
            model("e", model="openai/text-embedding-3-small", info=embedding), model("p", model="openai/f", info={"output_cost_per_token": 1}),
            model("b", model="azure/x", api_base="https://a.example", info={"base_model": "gpt-4o"}),
            model("b", model="azure/x", api_base="https://b.example", info={"base_model": "gpt-4o"}),
            model("v", model="vertex_ai/y", vertex_project="p", info={"base_model": "together_ai/z"}),
        ]
    }  # fmt: skip
    converted = convert(source)
    models = converted.document["models"]
    weights = {public: [d.get("weight") for d in models[public]["deployments"]] for public in ("w", "i")}
    assert weights == {"w": [500, 1000, 0], "i": [2, 1]}
    assert models["e"]["deployments"][0]["price"] == {"input": "0.1", "output": "0"}
    assert "model_list[6].model_info: prices without input_cost_per_token; left out" in converted.notes
    assert [d["priced_as"] for d in models["b"]["deployments"]] == ["azure/gpt-4o"] * 2
    assert models["v"]["deployments"][0]["priced_as"] == "together/z"


def test_what_is_no_number_too_much_or_litellms_own_is_named() -> None:
    parameters = {
        "rpm": "os.environ/RPM",
        "input_cost_per_second": 0.1,
        "drop_params": True,
        "max_budget": 5,
        "litellm_credential_name": "gone",
    }
    converted = convert(
        {
            "model_list": [model("m", model="openai/gpt-5", temperature=0.5, **parameters)],
            "router_settings": {"num_retries": 50, "cooldown_time": 600, "timeout": "long"},
            "litellm_settings": {"max_budget": "much"},
        }
    )
    assert converted.document["models"]["m"]["params"]["default"] == {"temperature": 0.5}
    assert converted.document["retries"] == {"attempts": 10}
    for note in (
        "model_list[0].litellm_params.rpm: not a number; left out",
        "model_list[0].litellm_params.input_cost_per_second: not supported, ignored",
        "model_list[0].litellm_params.drop_params: not supported, ignored",
        "model_list[0].litellm_params.max_budget: not supported, ignored",
        "model_list[0].litellm_params.litellm_credential_name: no 'gone' in credential_list",
        "router_settings.num_retries: 50 becomes 9, the most that there can be",
        "router_settings.cooldown_time: 600 becomes 300, the most that there can be",
        "router_settings.timeout: not a number; left out",
        "litellm_settings.max_budget is left out: not an amount up to $9000000",
    ):
        assert note in converted.notes, converted.notes
