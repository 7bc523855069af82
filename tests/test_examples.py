"""Every example in the documents is loaded or run, or says why it is not."""

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from config import ConfigError, parse
from gateway.validation import validate_chat

from .examples import PAGES, ROOT, Block, Shell, blocks_of, demo_gateway
from .servers import free_port

BLOCKS = [block for page in PAGES for block in blocks_of(page)]
SHELLS = ("sh", "bash", "shell", "console")
ELSEWHERE = {"README.md": "tests/newcomer.py runs all of its commands in a clean clone"}
VARIABLE = re.compile(r"(?<!\$)\$\{([A-Za-z_][A-Za-z0-9_]*)")
AROUND: dict[str, Any] = {
    "providers": {
        name: {"adapter": "openai-compatible", "base_url": "http://127.0.0.1:9/v1", "api_key": "x"}
        for name in ("in-house",)
    },
}
"""What the rest of a file would say where an example shows a part of one."""


def named(blocks: list[Block]) -> Any:
    return pytest.mark.parametrize("block", blocks, ids=[b.name for b in blocks])


def of(*languages: str) -> list[Block]:
    return [b for b in BLOCKS if b.language in languages and "reason" not in b.attributes]


def test_every_block_is_run_or_says_why_not() -> None:
    known = {*SHELLS, "yaml", "json", "python", "toml", "text"}
    assert [b.name for b in BLOCKS if b.language not in known] == []
    assert [b.name for b in BLOCKS if "reason" in b.attributes and len(b.attributes["reason"]) < 10] == []
    assert len(of("yaml")) > 5
    assert len(of(*SHELLS)) > 5


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_command_hides_in_an_indented_block(page: Path) -> None:
    fenced = {line for block in blocks_of(page) for line in block.text.splitlines()}
    lines = [line for line in page.read_text().splitlines() if line not in fenced]
    assert [line for line in lines if re.match(r" {4,}(sluice|make|curl|docker|helm|kubectl|pip) ", line)] == []


@named(of("yaml"))
def test_configurations_load(block: Block) -> None:
    """As they stand, or as a part of a file that names the providers and models they mention."""
    document = yaml.safe_load(block.text)
    providers = AROUND["providers"] | {
        d["provider"]: {"adapter": "openai-compatible", "base_url": "http://127.0.0.1:9/v1", "api_key": "x"}
        for model in document.get("models", {}).values()
        for d in model.get("deployments", ())
    }
    whole = {**document, "providers": providers | document.get("providers", {})}
    models = set(mentioned(document)) - set(whole.get("models", {}))
    whole["models"] = whole.get("models", {}) | {
        name: {"deployments": [{"provider": "in-house", "model": name}]} for name in models
    }
    for name, model in whole["models"].items():  # a part of one
        model.setdefault("deployments", [{"provider": "in-house", "model": name}])
    try:
        parse(yaml.safe_dump(whole), dict.fromkeys(VARIABLE.findall(block.text), "x" * 40))
    except ConfigError as exc:
        pytest.fail(f"{block.name}: {exc.problems}")


def mentioned(value: Any) -> Iterator[str]:
    """The models that limits, fallbacks, aliases and groups name."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key == "per_model":
                yield from inner
            elif key == "fallbacks":
                yield from (name for names in inner.values() for name in names)
            elif key == "cheaper" and isinstance(inner, str):
                yield inner
            elif key == "model_groups":
                yield from (name for names in inner.values() for name in names)
            elif key == "aliases":
                yield from inner.values()
            yield from mentioned(inner)
    elif isinstance(value, list):
        for item in value:
            yield from mentioned(item)


@named(of("json"))
def test_documents_in_json_are_json(block: Block) -> None:
    document = json.loads(block.text)
    if isinstance(document, dict) and "messages" in document:
        validate_chat(document)


@named(of("toml"))
def test_documents_in_toml_are_toml(block: Block) -> None:
    assert tomllib.loads(block.text)


@pytest.fixture(scope="module")
def ports() -> tuple[int, int]:
    return free_port(), free_port()


@pytest.fixture(scope="module")
def demo(ports: tuple[int, int]) -> Iterator[dict[str, str]]:
    """A gateway that runs, and the environment of its client and operator."""
    with demo_gateway(*ports) as environment:
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        kept = {k: v for k, v in os.environ.items() if not k.startswith("SLUICE")}
        yield {**kept, **environment, "PATH": path}


def pages_with_commands() -> list[Path]:
    return [page for page in PAGES if page.name not in ELSEWHERE and any(b.page == page for b in of(*SHELLS))]


@pytest.mark.parametrize("page", pages_with_commands(), ids=lambda page: page.name)
def test_commands_work_in_the_order_of_their_page(
    page: Path, demo: dict[str, str], ports: tuple[int, int], tmp_path: Path
) -> None:
    """With a gateway that runs and the files that the page shows."""
    environment, moved = demo, {"8080": str(ports[0]), "8081": str(ports[1])}
    serves = any("sluice serve" in b.text for b in of(*SHELLS) if b.page == page)
    if serves:  # a gateway of its own, as the page says
        moved = {"8080": str(free_port()), "8081": str(free_port())}
        ours = ("SLUICE_ADMIN_URL", "SLUICE_ADMIN_KEY", "OPENAI_BASE_URL")
        environment = {k: v for k, v in demo.items() if k not in ours}
    shell = Shell(tmp_path, environment, moved)
    for block in (b for b in BLOCKS if b.page == page):
        if name := block.attributes.get("title"):
            ported = f"server: {{port: {moved['8080']}}}\n" if serves else ""
            text = block.text.replace("admin:\n", f"admin:\n  port: {moved['8081']}\n") if serves else block.text
            (tmp_path / name).write_text(text + ported)
        elif block.language in SHELLS and "reason" not in block.attributes:
            shell.add(block)
    shell.run(90)


@named(of("python"))
def test_programs_run(block: Block, demo: dict[str, str], ports: tuple[int, int], tmp_path: Path) -> None:
    text = block.text.replace("127.0.0.1:8080", f"127.0.0.1:{ports[0]}")
    (tmp_path / "example.py").write_text(text)
    environment = {**demo, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "example.py"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
