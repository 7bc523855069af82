"""``sluice prices``: look-ups, and a list that is compared before it is written."""

import json
from importlib.resources import files
from pathlib import Path

from click.testing import CliRunner

from gateway.__main__ import main

SHIPPED = json.loads((files("config") / "prices.json").read_text("utf-8"))


def run(*arguments: str, answer: str | None = None) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["prices", *arguments], input=answer)
    return result.exit_code, result.output


def changed(folder: Path) -> Path:
    """A list in which one price is doubled and one model is new."""
    data = json.loads(json.dumps(SHIPPED))
    data["providers"]["openai"]["gpt-4o"]["prices"]["input"] *= 2
    data["providers"]["openai"]["gpt-new"] = {"prices": {"input": 1, "output": 2}}
    path = folder / "new.json"
    path.write_text(json.dumps(data))
    return path


def test_a_price_is_found_under_a_dated_name() -> None:
    code, output = run("show", "openai/gpt-4o-2024-08-06")
    assert code == 0
    told = json.loads(output)
    assert told["default"]["rates"][0] > 0
    assert told["source"]
    status, said = run("show", "openai/never-heard-of")
    assert status == 1
    assert "openai/never-heard-of: not in the price list" in said


def test_changes_are_shown_and_written_only_after_a_yes(tmp_path: Path) -> None:
    new, own = changed(tmp_path), tmp_path / "own.json"
    own.write_text(json.dumps(SHIPPED))
    code, output = run("update", str(new), "--to", str(own), answer="n\n")
    assert code == 1
    assert "~ openai/gpt-4o " in output
    assert "+ openai/gpt-new" in output
    assert json.loads(own.read_text()) == SHIPPED
    assert run("update", str(new), "--to", str(own), answer="y\n")[0] == 0
    assert json.loads(own.read_text()) == json.loads(new.read_text())
    code, output = run("update", str(new), "--to", str(own), "--json")
    assert (code, json.loads(output)) == (0, [])


def test_a_list_that_cannot_be_used_is_refused_with_its_row(tmp_path: Path) -> None:
    new = changed(tmp_path)
    data = json.loads(new.read_text())
    data["providers"]["openai"]["gpt-new"]["prices"] = {"output": 2}
    new.write_text(json.dumps(data))
    code, output = run("update", str(new), "--to", str(tmp_path / "own.json"), "--yes")
    assert code == 1
    assert "openai/gpt-new" in output
    assert not (tmp_path / "own.json").exists()
