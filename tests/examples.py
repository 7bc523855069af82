"""The examples in the documents: what they are, and a place to run them in."""

import contextlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])
_FENCE = re.compile(r"^(`{3,})([^\n`]*)\n(.*?)^\1[ \t]*$", re.MULTILINE | re.DOTALL)
_ATTRIBUTE = re.compile(r"""([a-z-]+)(?:="([^"]*)")?""")


@dataclass(frozen=True)
class Block:
    """A fenced block. Its info string is a language and attributes.

    ``title="FILE"`` names the file that it is; ``reason="..."`` says why it is not run; ``background`` and
    ``stops-background`` are for commands that go on and for those that need them stopped.
    """

    page: Path
    line: int
    language: str
    text: str
    attributes: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.page.name}:{self.line}"


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text()
    found = []
    for match in _FENCE.finditer(text):
        language, _, rest = match[2].strip().partition(" ")
        attributes = dict(_ATTRIBUTE.findall(rest))
        found.append(Block(page, text.count("\n", 0, match.start()) + 1, language, match[3], attributes))
    return found


def commands(block: Block) -> str:
    """The shell commands of a block; of a console session the lines behind the prompt."""
    if block.language != "console":
        return block.text
    return "\n".join(line[2:] for line in block.text.splitlines() if line.startswith("$ "))


class Shell:
    """Runs blocks one after the other in one bash, in ``folder``; what fails ends it. ``moved`` replaces ports."""

    def __init__(self, folder: Path, environment: dict[str, str], moved: dict[str, str]) -> None:
        self._folder = folder
        self._environment = environment
        self._moved = moved
        self._lines = ["set -euo pipefail"]

    def add(self, block: Block) -> None:
        text = commands(block)
        for before, after in self._moved.items():
            text = text.replace(before, after)
        marker = f"echo {shlex.quote(f'--- {block.name}')}"
        if "background" in block.attributes:
            log = shlex.quote(str(self._folder / "background.log"))
            self._lines += [marker, f"( {text} ) > {log} 2>&1 & BACKGROUND=$!", self._wait()]
            return
        if "stops-background" in block.attributes:
            self._lines += ["kill -TERM -- -$BACKGROUND", "wait $BACKGROUND || true"]
        serving = [line for line in text.splitlines() if re.match(r"sluice serve\b.*&$", line)]
        for line in serving:
            text = text.replace(line, f"{line}\nSERVING=$!\n{self._wait()}")
        self._lines += [marker, text]
        if serving:
            self._lines += ["kill -TERM $SERVING", "wait $SERVING"]

    def _wait(self) -> str:
        url = f"http://127.0.0.1:{self._moved.get('8081', '8081')}/readyz"
        return f"{shlex.quote(sys.executable)} -m tests.examples {url}"

    def run(self, seconds: float) -> str:
        """Everything printed; raises AssertionError with it when a command failed."""
        script = "set -m\n" + "\n".join(self._lines) + "\n"
        process = subprocess.Popen(
            ["bash", "-c", script], cwd=self._folder, env={**self._environment, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip
        try:
            told, _ = process.communicate(timeout=seconds)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        assert process.returncode == 0, told[-6000:]
        return told


@contextlib.contextmanager
def demo_gateway(port: int, admin: int) -> Iterator[dict[str, str]]:
    """``sluice demo``; gives the environment of a client and an operator of it."""
    from gateway.commands.demo import ADMIN_KEY, KEY

    command = [sys.executable, "-m", "gateway", "demo", "--port", str(port), "--admin-port", str(admin)]
    environment = {k: v for k, v in os.environ.items() if k not in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY")}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=ROOT, env=environment)
    try:
        wait_until_ready(f"http://127.0.0.1:{admin}/readyz")
        yield {
            "OPENAI_BASE_URL": f"http://127.0.0.1:{port}/v1",
            "OPENAI_API_KEY": KEY,
            "SLUICE_ADMIN_URL": f"http://127.0.0.1:{admin}",
            "SLUICE_ADMIN_KEY": ADMIN_KEY,
        }
    finally:
        process.terminate()
        process.wait(30)


def wait_until_ready(url: str, seconds: float = 180) -> None:
    end = time.monotonic() + seconds
    while True:
        with contextlib.suppress(OSError, ValueError):
            with urllib.request.urlopen(url, timeout=1) as response:
                if json.loads(response.read())["status"] == "ready":
                    return
        if time.monotonic() > end:
            raise AssertionError(f"{url} is not ready")
        time.sleep(0.1)


if __name__ == "__main__":
    wait_until_ready(sys.argv[1])
