"""``sluice explain``: the same decision from a file, without a database or a connection."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from gateway.commands.explain import command

from .running import FREE, deployment
from .test_explain import ASK, KEY, KEYS, MODELS, SECRETS, SECTIONS

PLAIN = {"model": "fast", "messages": ASK["messages"]}


def run(tmp_path: Path, request: Any, *options: str, **sections: Any) -> tuple[int, str]:
    document = {
        "providers": {
            "anthropic": {"adapter": "anthropic", "api_key": "upstream-secret"},
            **SECTIONS["providers"],
        },
        "models": {"fast": MODELS["fast"] | {"fallbacks": {}}, "wide": {"deployments": [deployment("x", "anthropic")]}},
        "keys": [k for k in KEYS if k["name"] == "blue"],
        "teams": SECTIONS["teams"],
        "database": {"url": f"sqlite:///{tmp_path}/never.db"},
        **sections,
    }
    (tmp_path / "sluice.yaml").write_text(yaml.safe_dump(document))
    (tmp_path / "request.json").write_text(request if isinstance(request, str) else json.dumps(request))
    arguments = [str(tmp_path / "request.json"), "--config", str(tmp_path / "sluice.yaml"), *options]
    result = CliRunner().invoke(command, arguments)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert not (tmp_path / "never.db").exists()
    assert not [s for s in SECRETS if s in result.output]
    return result.exit_code, result.output


def test_the_command_prints_the_decision(tmp_path: Path) -> None:
    code, output = run(tmp_path, ASK, "--key", "blue")
    told = json.loads(output)
    assert code == 0
    assert [d["deployment"] for d in told["plan"]] == ["anthropic/demo-echo", "secretive/gpt-5-mini"]
    assert len(told["limits"]) == 3


@pytest.mark.parametrize(
    ("request_", "options", "word"),
    [
        ({**ASK, "temperature": 3}, (), "decimal_above_max_value"),
        ("not json", (), "request.json"),
        ("[1]", (), "not a JSON object"),
        ("[" * 100_000, (), "request.json"),
        (
            ASK,
            ("--key", "nobody"),
            "No key is called 'nobody'; those that are not in the configuration file are named by their id.",
        ),
    ],
)
def test_the_command_exits_with_1_for_what_would_be_refused(
    tmp_path: Path, request_: Any, options: tuple[str, ...], word: str
) -> None:
    code, output = run(tmp_path, request_, *options)
    assert code == 1
    assert word in output
    assert "Traceback" not in output


@pytest.mark.parametrize(
    ("most", "code", "message"),
    [
        (
            100_000,
            "rate_limit_exceeded",
            "Request too large for the gateway limit of team azure on tokens per min (TPM): ",
        ),
        (2_000_000, "insufficient_quota", "You exceeded the monthly budget of key blue: Limit $12.5, "),
    ],
)
def test_what_a_limit_could_never_admit_is_refused_and_the_limit_named(
    tmp_path: Path, most: int, code: str, message: str
) -> None:
    exit_code, output = run(tmp_path, {**ASK, "max_tokens": most}, "--key", "blue")
    told = json.loads(output)
    assert exit_code == 1
    assert (told["refused"]["status"], told["refused"]["code"]) == (429, code)
    assert told["refused"]["message"].startswith(message)
    takes = {limit["limit"]: limit["takes"] for limit in told["limits"]}
    assert takes["rpm"] == 1
    assert takes["tpm"] == told["reserves"]["input_tokens"] + told["reserves"]["output_tokens"] > 90_000
    assert takes["budget.month"] == f"${told['reserves']['cost_usd']}"
    assert told["plan"]


def poor(**limits: Any) -> list[dict[str, Any]]:
    return [{"name": "poor", "key": KEY, "allow_cheaper": True, "limits": limits or {"budget": {"total": "0.05"}}}]


@pytest.mark.parametrize("price", [FREE, {"input": 2, "output": 8}])
def test_the_cheaper_model_is_told_where_it_would_serve(tmp_path: Path, price: dict[str, int]) -> None:
    models = {
        "fast": {"deployments": [deployment("dear", "anthropic")], "cheaper": "small"},
        "small": {"deployments": [deployment("small", "anthropic", price=price)]},
    }
    code, output = run(tmp_path, {**PLAIN, "max_tokens": 10_000}, "--key", "poor", models=models, keys=poor())
    told = json.loads(output)
    assert told["route"] == "fast"
    if price is FREE:
        assert (code, told["refused"]) == (0, None)
        assert (told["instead"]["route"], told["instead"]["because"]["code"]) == ("small", "insufficient_quota")
        assert told["instead"]["plan"][0]["request"]["model"] == "small"
    else:
        assert (code, told["refused"]["code"]) == (1, "insufficient_quota")
        assert "instead" not in told


def test_an_answer_that_a_budget_shortens_is_explained_as_short_as_it_is_sent(tmp_path: Path) -> None:
    sections = {"keys": poor(), "counters": {"budget_mode": "clamp"}}
    code, output = run(tmp_path, {**PLAIN, "model": "wide", "max_tokens": 10_000}, "--key", "poor", **sections)
    told = json.loads(output)
    assert code == 0
    assert told["plan"][0]["request"]["max_tokens"] == told["reserves"]["output_tokens"] < 10_000
    assert float(told["reserves"]["cost_usd"]) <= 0.05


def test_a_tier_that_its_limit_could_never_admit_is_explained_as_what_it_runs_at(tmp_path: Path) -> None:
    keys = poor(per_tier={"priority": {"tpm": 10}})
    code, output = run(tmp_path, {**ASK, "service_tier": "priority"}, "--key", "poor", keys=keys)
    told = json.loads(output)
    assert (code, told["limits"]) == (0, [])
    assert told["service_tier"] == {
        "requested": "priority", "effective": "priority", "runs_at": "default", "downgrade": "limit",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "model", "status", "word"),
    [
        ({}, {"limits": {"tpm": 100}}, 429, "Request too large for the gateway limit of deployment anthropic/x"),
        ({"n": 2}, {}, 400, "n"),
    ],
)
def test_what_every_deployment_would_refuse_is_refused(
    tmp_path: Path, change: dict[str, Any], model: dict[str, Any], status: int, word: str
) -> None:
    models = {"fast": {"deployments": [deployment("x", "anthropic", **model)]}}
    code, output = run(tmp_path, {**ASK, **change}, models=models)
    told = json.loads(output)
    assert (code, told["refused"]["status"]) == (1, status)
    assert word in told["refused"]["message"]
    assert told["refused"]["message"] == told["plan"][0]["refused"]["message"]


def test_the_example_configuration_is_explained(tmp_path: Path) -> None:
    example = Path(__file__).parents[1] / "config" / "example.yaml"
    (tmp_path / "request.json").write_text(json.dumps({"model": "fast", "messages": ASK["messages"]}))
    result = CliRunner().invoke(command, [str(tmp_path / "request.json"), "--config", str(example)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    told = json.loads(result.stdout)
    assert told["refused"] is None
    assert [d["refused"] for d in told["plan"]] == [None] * len(told["plan"]) != []
