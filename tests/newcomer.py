"""The newcomer's path (``make newcomer``): a clean clone, the README's commands and nothing else.

It must lead to a streamed answer, a created key, a call refused over its budget, and the row of it in ``sluice usage``.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from .examples import ROOT, Shell, blocks_of
from .servers import free_port


def main() -> None:
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="sluice-newcomer-") as folder:
        clone = Path(folder) / "sluice"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        told = walk(clone)
    print(told)
    check(told)
    print(
        f"The README's commands do what it says, in {time.monotonic() - began:.0f} s with the downloads. 1 passed, 0 failed"
    )


def walk(clone: Path) -> str:
    """Every shell block of the README, in order; the ports are moved where somebody has them."""
    port, admin = str(free_port()), str(free_port())
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("OPENAI", "ANTHROPIC", "SLUICE", "VIRTUAL_ENV"))}
    environment = {**kept, "SLUICE_DEMO_PORT": port, "SLUICE_DEMO_ADMIN_PORT": admin}
    shell = Shell(clone, environment, {"8080": port, "8081": admin})
    for block in blocks_of(clone / "README.md"):
        if name := block.attributes.get("title"):
            moved = f"server: {{port: {port}}}\nadmin: {{port: {admin}}}\n" if name == "sluice.yaml" else ""
            (clone / name).write_text(block.text + moved)
        elif block.language == "sh" and "reason" not in block.attributes:
            shell.add(block)
    told = shell.run(600)
    return (clone / "background.log").read_text() + told


def check(told: str) -> None:
    """What must be there to see."""
    assert "served by demo-anthropic/demo-echo, after 2 attempts" in told, "make run shows a failover"
    assert re.search(r'"key": "sk-sl-\S+"', told), "a key was made"
    streamed = re.findall(r'^data: (?:\{.*"chat\.completion\.chunk".*\}|\[DONE\])$', told, re.MULTILINE)
    assert len(streamed) > 2, "an answer was streamed"
    assert streamed[-1] == "data: [DONE]"
    assert '"code":"insufficient_quota"' in told.replace(": ", ":"), "the call over the budget was refused"
    (row,) = re.findall(r"^key_\S+ +(\d+) +(\d+) +(\d+) +([\d.]+)$", told, re.MULTILINE)
    requests, errors, tokens, cost = int(row[0]), int(row[1]), int(row[2]), float(row[3])
    assert (requests, errors) == (1, 2), "one that ran, its failed attempt, and the row of the one that was refused"
    assert tokens > 0
    assert 0 < cost < 0.01
    assert "250 of 250 answered" in told or "500 of 500 answered" in told, "the load test ran"


if __name__ == "__main__":
    sys.exit(main())
