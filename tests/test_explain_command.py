"""``sluice explain``: the same decision from a file, without a database or a connection."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from gateway.commands.explain import command

from .running import deployment
from .test_explain import ASK, KEYS, MODELS, SECRETS, SECTIONS


def run(tmp_path: Path, request: Any, *options: str) -> tuple[int, str]:
    document = {
        "providers": {
            "anthropic": {"adapter": "anthropic", "api_key": "upstream-secret"},
            **SECTIONS["providers"],
        },
        "models": {"fast": MODELS["fast"] | {"fallbacks": {}}, "wide": {"deployments": [deployment("x", "anthropic")]}},
        "keys": [k for k in KEYS if k["name"] == "blue"],
        "teams": SECTIONS["teams"],
        "database": {"url": f"sqlite:///{tmp_path}/never.db"},
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
        (ASK, ("--key", "nobody"), "No key is called 'nobody'."),
    ],
)
def test_the_command_exits_with_1_for_what_would_be_refused(
    tmp_path: Path, request_: Any, options: tuple[str, ...], word: str
) -> None:
    code, output = run(tmp_path, request_, *options)
    assert code == 1
    assert word in output
    assert "Traceback" not in output


def test_the_example_configuration_is_explained(tmp_path: Path) -> None:
    example = Path(__file__).parents[1] / "config" / "example.yaml"
    (tmp_path / "request.json").write_text(json.dumps({"model": "fast", "messages": ASK["messages"]}))
    result = CliRunner().invoke(command, [str(tmp_path / "request.json"), "--config", str(example)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    told = json.loads(result.stdout)
    assert told["refused"] is None
    assert [d["refused"] for d in told["plan"]] == [None] * len(told["plan"]) != []
