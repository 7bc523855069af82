"""Makes the environments, runs the scripts, compares what they print with what every client must get."""

import argparse
import asyncio
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..running import KEY, deployment, running

HERE = Path(__file__).parent
VENVS = HERE.parents[1] / ".venvs"
TIMEOUT = 180.0
DIALECTS = {"o": "openai", "a": "anthropic"}
SCRIPTS = ("echo", "tools", "parallel", "ok", "refusal", "cut", "500", "context")
CALL = ["weather", {"city": "demo"}]

EXPECTED: Mapping[str, Any] = {
    "whole": "Say one two three",
    "usage": [4, 4],
    "stream": "Say one two three",
    "stream_usage": [4, 4],
    "async": "Say one two three",
    "tool": [CALL],
    "forced_tool": [CALL],
    "parallel_tools": [CALL, CALL],
    "stream_tools": [CALL, CALL],
    "two_turns": "rain",
    "agent": True,
    "structured": {"city": "demo", "days": 1},
    "structured_by_tool": {"city": "demo", "days": 1},
    "stream_structured": {"city": "demo", "days": 1},
    "refusal": "I'm sorry, I can't help with that.",
    "unknown_model": [404, "model_not_found"],
    "wrong_key": [401, "invalid_api_key"],
    "bad_parameter": [400, "decimal_above_max_value", "temperature"],
    "context": [400, "context_length_exceeded"],
    "upstream_down": 502,
    "cut_stream": "error",
    "models": True,
    "request_id": True,
    "embedding": [8, 3],
    "stored": True,
}
"""What each case comes to, whoever asks."""


class Client(NamedTuple):
    script: str
    cases: frozenset[str]
    """The script must print these and no others."""


OPENAI = frozenset(EXPECTED) - {"agent", "structured_by_tool"}
CLIENTS: Mapping[str, Client] = {
    "openai-3": Client("suite_openai.py", OPENAI),
    "node": Client("node/suite_openai.mjs", OPENAI - {"async"}),
    "openai-2": Client("suite_openai.py", OPENAI),
    "openai-1": Client("suite_openai.py", OPENAI),
    "vercel": Client(
        "node/suite_vercel.mjs",
        frozenset({"whole", "usage", "stream", "stream_usage", "tool", "agent", "structured", "stream_structured",
                   "unknown_model", "cut_stream"}),
    ),
    "langchain": Client(
        "suite_langchain.py",
        frozenset({"whole", "usage", "stream", "stream_usage", "async", "tool", "forced_tool", "parallel_tools",
                   "stream_tools", "two_turns", "structured", "structured_by_tool", "unknown_model", "embedding"}),
    ),
    "pydantic-ai": Client(
        "suite_pydantic_ai.py",
        frozenset({"whole", "usage", "stream", "stream_usage", "agent", "structured", "structured_by_tool",
                   "unknown_model"}),
    ),
    "instructor": Client(
        "suite_instructor.py", frozenset({"structured", "structured_by_tool", "stream_structured", "async"})
    ),
    "llamaindex": Client(
        "suite_llamaindex.py",
        frozenset({"whole", "stream", "async", "tool", "stream_tools", "structured_by_tool", "unknown_model"}),
    ),
}  # fmt: skip
FAST = ("openai-3", "node")


def environment(name: str) -> Path:
    """The interpreter of a client, installed when its pins are new."""
    client = CLIENTS[name]
    if client.script.endswith(".mjs"):
        return _node()
    folder, pins = VENVS / name, HERE / "pins" / f"{name}.txt"
    python = folder / "bin" / "python"
    if not _is_current(folder, pins):
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", str(pins)]
        subprocess.run(pip, check=True)
        _mark(folder, pins)
    return python


def _node() -> Path:
    """Node with the packages of the lock file; the scripts run from where the packages are."""
    node = shutil.which("node")
    if node is None:
        raise FileNotFoundError("node is not installed")
    folder, lock = VENVS / "node", HERE / "node" / "package-lock.json"
    if not _is_current(folder, lock):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for name in ("package.json", "package-lock.json"):
            shutil.copy(HERE / "node" / name, folder)
        subprocess.run(["npm", "ci", "--no-audit", "--no-fund", "--silent"], cwd=folder, check=True)
        _mark(folder, lock)
    for script in (HERE / "node").glob("*.mjs"):
        shutil.copy(script, folder)
    return Path(node)


def _is_current(folder: Path, pins: Path) -> bool:
    mark = folder / ".pins"
    return mark.exists() and mark.read_text() == hashlib.sha256(pins.read_bytes()).hexdigest()


def _mark(folder: Path, pins: Path) -> None:
    (folder / ".pins").write_text(hashlib.sha256(pins.read_bytes()).hexdigest())


async def play(name: str, interpreter: Path, url: str, prefix: str) -> list[str]:
    """Run a client's script against one dialect; what is wrong, nothing when all is well."""
    client = CLIENTS[name]
    script = VENVS / "node" / Path(client.script).name if client.script.endswith(".mjs") else HERE / client.script
    keep = {k: os.environ[k] for k in ("PATH", "HOME", "LANG", "SSL_CERT_FILE") if k in os.environ}
    process = await asyncio.create_subprocess_exec(
        str(interpreter), str(script),
        env={**keep, "SLUICE_URL": url, "SLUICE_KEY": KEY, "SLUICE_PREFIX": prefix, "DO_NOT_TRACK": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        out, err = await asyncio.wait_for(process.communicate(), TIMEOUT)
    except TimeoutError:
        process.kill()
        await process.wait()
        return [f"no end after {TIMEOUT:.0f} s"]
    if process.returncode:
        return [f"exit {process.returncode}: {err.decode()[-3000:]}"]
    printed = json.loads(out.decode().strip().splitlines()[-1])
    wrong = [f"{case}: missing" for case in sorted(client.cases - set(printed))]
    wrong += [f"{case}: not in the runner's list" for case in sorted(set(printed) - client.cases)]
    return wrong + [
        f"{case}: expected {EXPECTED[case]!r}, got {got!r}"
        for case, got in printed.items()
        if case in client.cases and got != EXPECTED[case]
    ]


async def main(names: list[str]) -> int:
    models: dict[str, Any] = {
        f"{prefix}-{script}": [deployment(f"demo-{script}", dialect)]
        for prefix, dialect in DIALECTS.items()
        for script in SCRIPTS
    }
    models["embedding"] = [deployment("demo")]
    failed = 0
    environments = {name: await asyncio.to_thread(environment, name) for name in names}
    async with running(
        models, retries={"attempts": 1}, health={"consecutive_failures": 1000, "success_percent": 0}
    ) as (
        gateway,
        _,
    ):
        for name in names:
            for prefix, dialect in DIALECTS.items():
                began = time.monotonic()
                wrong = await play(name, environments[name], f"{gateway.url}/v1", prefix)
                failed += bool(wrong)
                cases = len(CLIENTS[name].cases)
                verdict = "; ".join(wrong) or f"{cases} cases as expected"
                print(f"{name} on {dialect}: {verdict} ({time.monotonic() - began:.1f} s)", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.clients")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(CLIENTS)}; all without any")
    parser.add_argument("--fast", action="store_true", help=f"only {' and '.join(FAST)}")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(CLIENTS):
        parser.error(f"no such client: {', '.join(unknown)}")
    sys.exit(asyncio.run(main(arguments.names or list(FAST if arguments.fast else CLIENTS))))
