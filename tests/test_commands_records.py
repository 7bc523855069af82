"""The command line for operators: the same operations in the database itself and through a running gateway."""

import asyncio
import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result
from openai import AsyncOpenAI

from gateway.__main__ import main

from .running import deployment, running

ADMIN = "admin-0123456789abcdef0123456789abcdef"
SECTIONS: dict[str, Any] = {"admin": {"keys": {"ops": ADMIN}}, "auth": {"pepper": "p" * 32}}


def sluice(*arguments: str, code: int = 0, **environment: str) -> Result:
    result = CliRunner().invoke(main, list(arguments), env={"SLUICE_ADMIN_KEY": ADMIN, **environment})
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result


@pytest.fixture
def config(tmp_path: Path) -> str:
    """A configuration file with a database of its own."""
    file = tmp_path / "sluice.yaml"
    document = {"database": {"url": f"sqlite:///{tmp_path}/s.db"}, "auth": {"pepper": "p" * 32}}
    file.write_text(yaml.safe_dump(document))
    return str(file)


def test_models_may_have_blanks_between_them_and_a_window_only_one_budget(config: str) -> None:
    at = ("-c", config)
    sluice("db", "upgrade", *at)
    made = json.loads(sluice("keys", "create", "a", "--models", "fast, embed-* ,", "--json", *at).output)
    assert made["models"] == ["fast", "embed-*"]
    refused = sluice("keys", "create", "b", "--budget", "5/day", "--budget", "50/day", *at, code=2).output
    assert "--budget" in refused
    assert "a window is given twice" in refused


def test_keys_are_made_changed_and_deleted_in_the_database(config: str) -> None:
    at = ("-c", config)
    sluice("db", "check", *at, code=1)
    sluice("db", "upgrade", *at)
    sluice("db", "check", *at)
    sluice("teams", "create", "red", "--budget", "100/month", *at)
    made = sluice(
        "keys", "create", "ci", "--team", "red", "--budget", "50/month", "--rpm", "60", "--models", "a,b*", *at
    )
    identity = made.output.split()[1]
    assert "sk-sl-" in made.output
    assert "budget $50 per month" in made.output
    shown = json.loads(sluice("keys", "show", identity, "--json", *at).output)
    assert shown["limits"]["budget"]["month"] == "50"
    assert (shown["limits"]["rpm"], shown["models"], shown["team"]) == (60, ["a", "b*"], "red")
    assert "sk-sl-" not in sluice("keys", "list", *at).output.replace("sk-sl-...", "")
    assert [k["id"] for k in json.loads(sluice("keys", "list", "--team", "red", "--json", *at).output)] == [identity]
    assert json.loads(sluice("keys", "list", "--team", "blue", "--json", *at).output) == []
    sluice("keys", "update", identity, "--budget", "5/day", "--tag", "x", "--no-store", *at)
    shown = json.loads(sluice("keys", "show", identity, *at).output)
    assert (shown["limits"]["budget"]["day"], shown["tags"], shown["store"]) == ("5", ["x"], False)
    rotated = sluice("keys", "rotate", identity, "--overlap", "12h", *at).output
    assert rotated.split()[2] != made.output.split()[2]
    sluice("keys", "block", identity, *at)
    assert json.loads(sluice("keys", "show", identity, *at).output)["blocked"]
    assert "still has keys" in sluice("teams", "delete", "red", *at, code=1).output
    sluice("keys", "delete", identity, *at)
    sluice("teams", "delete", "red", *at)
    whole = sluice("audit", "verify", *at).output
    assert "intact: 8 rows" in whole
    noted = whole.split()[-1]
    assert "intact" in sluice("audit", "verify", "--anchor", noted, *at).output
    rewritten = noted.partition(":")[0] + ":" + "0" * 64
    assert "is not the one that was noted" in sluice("audit", "verify", "--anchor", rewritten, *at, code=1).output
    assert "SEQ:HASH" in sluice("audit", "verify", "--anchor", "x", *at, code=1).output
    actions = [row["action"] for row in json.loads(sluice("audit", "list", "--json", *at).output)]
    assert actions[:2] == ["team.create", "key.create"]
    assert "team.delete" in sluice("audit", "list", *at).output


def test_options_as_json_are_added_to_what_flags_say(config: str) -> None:
    per_model = {"echo": {"rpm": 1}}
    further = json.dumps({"limits": {"per_model": per_model, "budget": {"day": 5, "month": 50}}, "store": False})
    flags = ("--budget", "5/day", "--rpm", "10", "--tag", "x", "--options", further, "-c", config)
    key = json.loads(sluice("keys", "create", "whole", *flags, "--json").output)
    team = json.loads(sluice("teams", "create", "red", "-c", config, "--json").output)
    changed = json.loads(sluice("teams", "update", team["id"], *flags).output)
    for made in (key, changed):
        limits = made["limits"]
        assert (limits["rpm"], limits["budget"]["day"], limits["budget"]["month"]) == (10, "5", "50")
        assert limits["per_model"]["echo"]["rpm"] == 1
        assert (made["tags"], made["store"]) == (["x"], False)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("keys", "create", "k", "--budget", "50/fortnight"), "is not like 50/month"),
        (("keys", "create", "k", "--budget", "much"), "is not like 50/month"),
        (("keys", "create", "k", "--rpm", "-1"), "--rpm"),
        (("keys", "create", "k", "--options", "[]"), "not a JSON object"),
        (
            ("keys", "create", "k", "--rpm", "5", "--options", '{"limits": {"rpm": 6}}'),
            "limits.rpm: 6 here and 5 by a flag of its own; say it once",
        ),
        (("keys", "create", "k", "--options", '{"name": "other"}'), 'name: "other" here and "k"'),
        (("keys", "update", "k", "--budget", "5/day", "--options", '{"limits": null}'), "limits: null here and {"),
        (("keys", "create", "k", "--team", "nobody"), "No team 'nobody'"),
        (("keys", "create", "two words"), "Invalid 'name'"),
        (("keys", "rotate", "k", "--overlap", "soon"), "is not like 90"),
        (("keys", "show", "key_nobody"), "No such key"),
        (("keys", "limits", "k"), "--url"),
        (("usage", "--by", "colour"), "Cannot group by 'colour'"),
        (("usage", "--since", "long ago"), "Invalid 'since'"),
    ],
)
def test_mistakes_are_one_sentence(config: str, arguments: tuple[str, ...], said: str) -> None:
    result = CliRunner().invoke(main, [*arguments, "-c", config])
    assert result.exit_code in (1, 2)
    assert said in result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)


def test_a_file_that_is_missing_or_wrong_is_said_so(tmp_path: Path) -> None:
    assert "nowhere.yaml" in sluice("keys", "list", "-c", str(tmp_path / "nowhere.yaml"), code=1).output
    assert (
        "SLUICE_ADMIN_KEY" in sluice("keys", "list", "--url", "http://127.0.0.1:1", code=1, SLUICE_ADMIN_KEY="").output
    )
    assert "does not answer" in sluice("keys", "list", "--url", "http://127.0.0.1:1", code=1).output


async def test_through_a_running_gateway_and_its_usage_adds_up() -> None:
    async with running({"m": [deployment("demo-echo")]}, **SECTIONS) as (gateway, _):

        async def remote(*arguments: str, code: int = 0) -> Result:
            return await asyncio.to_thread(sluice, *arguments, "--url", gateway.admin_url, code=code)

        await remote("teams", "create", "red")
        made = json.loads(
            (
                await remote("keys", "create", "k", "--team", "red", "--rpm", "5", "--tag", "a", "--tag", "b", "--json")
            ).output
        )
        async with AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=made["key"], max_retries=0) as sdk:
            for _ in range(2):
                await sdk.chat.completions.create(model="m", messages=[{"role": "user", "content": "one two"}])
        sums = json.loads((await remote("usage", "--by", "team,model", "--json")).output)["data"]
        assert [(row["team"], row["model"], row["requests"]) for row in sums] == [("red", "m", 2)]
        text = (await remote("usage", "--by", "team", "--since", "1d")).output
        dollars = f"{sums[0]['cost'] // 10**9}.{sums[0]['cost'] % 10**9:09d}"
        assert [line.split() for line in text.splitlines() if line.strip()] == [
            ["team", "requests", "errors", "tokens", "cost", "$"],
            ["red", "2", "0", str(sums[0]["tokens"]), dollars],
            ["total", "2", "0", str(sums[0]["tokens"]), dollars],
        ]
        tagged = (await remote("usage", "--by", "tag", "--since", "1d")).output
        assert [line.split()[:2] for line in tagged.splitlines()[1:]] == [["a", "2"], ["b", "2"], ["total", "2"]]
        lines = list(csv.DictReader(io.StringIO((await remote("usage", "--export", "csv")).output)))
        assert sum(int(line["cost"]) for line in lines) == sums[0]["cost"]
        assert (await remote("keys", "usage", made["id"])).output.count("total") == 1
        standing = json.loads((await remote("keys", "limits", made["id"])).output)["data"]
        assert [(s["limit"], s["used"]) for s in standing] == [("rpm", 2)]
        assert "No such key" in (await remote("keys", "show", "nobody/../x", code=1)).output
