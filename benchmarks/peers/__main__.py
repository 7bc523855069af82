"""Installs the gateways that Sluice is measured beside, each into a folder of its own: ``make bench-peers``.

A peer that cannot be had here is named with the reason and left out of the runs.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from ..contestants import CONTESTANTS, PEERS

SECONDS = 900


class Unavailable(Exception):
    """The reason why a peer cannot be had on this machine."""


def run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    if done.returncode:
        raise Unavailable(f"{' '.join(command[:3])}...: {(done.stderr or done.stdout).strip().splitlines()[-1:]}")


def pip(*requirements: str) -> Callable[[Path], None]:
    def install(folder: Path) -> None:
        run(sys.executable, "-m", "venv", str(folder))
        run(
            str(folder / "bin" / "python"),
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            *requirements,
        )

    return install


def npm(requirement: str) -> Callable[[Path], None]:
    def install(folder: Path) -> None:
        if shutil.which("npm") is None:
            raise Unavailable("there is no npm; it needs Node 20")
        run("npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(folder), requirement)

    return install


def apt(package: str) -> Callable[[Path], None]:
    def install(_: Path) -> None:
        if shutil.which("apt-get") is None or os.geteuid() != 0:
            raise Unavailable(f"only root can install it here: apt-get install {package}")
        run("apt-get", "update")
        # A service that starts by itself would share the measured core.
        policy = Path("/usr/sbin/policy-rc.d")
        made = not policy.exists()
        if made:
            policy.write_text("#!/bin/sh\nexit 101\n")
            policy.chmod(0o755)
        try:
            run("apt-get", "install", "-y", "--no-install-recommends", package)
        finally:
            if made:
                policy.unlink()

    return install


INSTALL: Mapping[str, Callable[[Path], None]] = {
    "nginx": apt("nginx-light"),
    "litellm": pip("litellm[proxy]==1.106.2"),  # the one our requests are compared with: make oracle
    "portkey": npm("@portkey-ai/gateway@1.15.2"),
    "tensorzero": pip("tensorzero==2026.6.0"),
    "ferro": pip("ferrogw==1.5.10"),
    "vllm-router": pip("vllm-router==0.1.17"),
}


def main() -> None:
    PEERS.mkdir(parents=True, exist_ok=True)
    for name, install in INSTALL.items():
        contestant = CONTESTANTS[name]
        if not contestant.there:
            print(f"{name}: installing", flush=True)
            try:
                install(PEERS / name)
            except (Unavailable, subprocess.TimeoutExpired) as reason:
                shutil.rmtree(PEERS / name, ignore_errors=True)
                print(f"{name}: skipped, {reason}", flush=True)
                continue
        print(f"{name}: {contestant.release() or 'there'}", flush=True)


if __name__ == "__main__":
    main()
