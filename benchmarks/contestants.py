"""What is measured: one row per contestant. Add a row to compare something else.

Of commands, headers, environments and files, ``{port}`` is where the contestant must listen on 127.0.0.1,
``{upstream}`` the upstream's address without a path, ``{redis}`` a database of a Redis of the run's own, ``{folder}``
an empty folder of its own, ``{peers}`` where `make bench-peers` puts peers.
"""

import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from .machine import output

HERE = Path(__file__).parent
ROOT = Path(os.environ.get("BENCH_ROOT", HERE.parent)).resolve()
"""The tree that Sluice runs from: this one, or one whose modules were compiled (`make compiled`)."""
PEERS = HERE.parent / ".venvs" / "peers"
PORTKEY = "{peers}/portkey/node_modules/@portkey-ai/gateway"
NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin") or "nginx"
IMAGE = {"PYTHONNODEBUGRANGES": "1", "MALLOC_ARENA_MAX": "2"}
"""What deploy/Dockerfile sets, and memory depends on."""
KEY = "Authorization: Bearer sk-bench-0123456789abcdef0123456789abcdef"


@dataclass(frozen=True, slots=True)
class Contestant:
    command: tuple[str, ...] = ()
    """Empty: the load goes to the upstream itself."""
    headers: tuple[str, ...] = (KEY,)
    environment: Mapping[str, str] = field(default_factory=dict)
    """Added to the environment."""
    files: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Name in its folder -> files of benchmarks/ that make it up, one after the other."""
    path: str = "/v1/chat/completions"
    model: str = "gpt-4o-mini"
    translated: str = ""
    """The model that it serves from the upstream's Anthropic dialect; empty: it is not measured translating."""
    needs: str = ""
    """What must be there; `make bench-peers` brings it."""
    version: tuple[str, ...] = ()
    """A command that prints it."""
    chooses_port: bool = False
    """It writes where it listens into {folder}/port."""

    @property
    def there(self) -> bool:
        needs = self.needs.replace("{peers}", str(PEERS))
        return not needs or shutil.which(needs) is not None or Path(needs).exists()

    def release(self) -> str:
        """The version of a peer; empty for what belongs to this repository."""
        printed = output(*(part.replace("{peers}", str(PEERS)) for part in self.version)) if self.version else ""
        return printed.splitlines()[0].rsplit("/", 1)[-1].rsplit(" ", 1)[-1] if printed else ""


def sluice(*files: str, workers: int = 1, wait_for: str = "kernel", root: Path = ROOT) -> Contestant:
    return Contestant(
        (sys.executable, "-P", "-m", "gateway", "serve", "{folder}/sluice.yaml"),
        environment={
            "BENCH_PORT": "{port}",
            "BENCH_UPSTREAM": "{upstream}",
            "BENCH_FOLDER": "{folder}",
            "BENCH_REDIS": "{redis}",
            "BENCH_WORKERS": str(workers),
            "BENCH_WAIT_FOR": wait_for,
            "PYTHONPATH": str(root),
            **IMAGE,
        },
        files={"sluice.yaml": files},
        translated="claude-haiku-4-5",
    )


def distribution(peer: str, name: str) -> tuple[str, ...]:
    """Prints the version of a Python distribution in a peer's own environment."""
    return (f"{{peers}}/{peer}/bin/python", "-c", f"from importlib.metadata import version; print(version({name!r}))")


CONTESTANTS: Mapping[str, Contestant] = {
    "direct": Contestant(),
    "nginx": Contestant(
        (NGINX, "-p", "{folder}", "-e", "{folder}/error.log", "-c", "{folder}/nginx.conf"),
        files={"nginx.conf": ("peers/nginx.conf",)},
        needs=NGINX,
        version=(NGINX, "-v"),
    ),
    "bare": Contestant((sys.executable, str(HERE / "bareproxy.py"), "{port}", "{upstream}")),
    "off": sluice("off.yaml"),
    "sluice": sluice("sluice.yaml"),
    "source": sluice("sluice.yaml", root=HERE.parent),
    "disk": sluice("sluice.yaml", wait_for="disk"),
    "redis": sluice("sluice.yaml", "redis.yaml"),
    "litellm": Contestant(
        ("{peers}/litellm/bin/litellm", "--config", "{folder}/litellm.yaml", "--host", "127.0.0.1", "--port", "{port}"),
        environment={"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR"},
        files={"litellm.yaml": ("peers/litellm.yaml",)},
        needs="{peers}/litellm/bin/litellm",
        version=distribution("litellm", "litellm"),
    ),
    "portkey": Contestant(
        (
            "node",
            "--import",
            str(HERE / "peers/portkey.mjs"),
            PORTKEY + "/build/start-server.js",
            "--port={port}",
            "--headless",
        ),
        headers=(KEY, "x-portkey-provider: openai", "x-portkey-custom-host: {upstream}/v1"),
        environment={"NODE_ENV": "production"},
        needs=PORTKEY + "/build/start-server.js",
        version=("node", "-p", f"require('{PORTKEY}/package.json').version"),
    ),
    "tensorzero": Contestant(
        (
            "{peers}/tensorzero/bin/python",
            str(HERE / "peers/tensorzero_gateway.py"),
            "{folder}/tensorzero.toml",
            "{folder}/port",
        ),
        environment={"BENCH_UPSTREAM_KEY": "sk-upstream"},
        files={"tensorzero.toml": ("peers/tensorzero.toml",)},
        path="/openai/v1/chat/completions",
        model="tensorzero::model_name::gpt-4o-mini",
        needs="{peers}/tensorzero/bin/python",
        version=distribution("tensorzero", "tensorzero"),
        chooses_port=True,
    ),
    "ferro": Contestant(
        ("{peers}/ferro/bin/ferrogw", "serve"),
        environment={
            "PORT": "{port}",
            "GATEWAY_CONFIG": "{folder}/ferro.yaml",
            "OPENAI_API_KEY": "sk-upstream",
            "OPENAI_BASE_URL": "{upstream}/v1",
            "ALLOW_UNAUTHENTICATED_PROXY": "true",
            "FERRO_MODEL_CATALOG_TIMEOUT": "0",
            "LOG_LEVEL": "error",
            "RATE_LIMIT_RPS": "10000000",
            "RATE_LIMIT_BURST": "10000000",
        },
        files={"ferro.yaml": ("peers/ferro.yaml",)},
        needs="{peers}/ferro/bin/ferrogw",
        version=distribution("ferro", "ferrogw"),
    ),
    "vllm-router": Contestant(
        (
            *(
                "{peers}/vllm-router/bin/vllm-router",
                "--host",
                "127.0.0.1",
                "--port",
                "{port}",
                "--worker-urls",
                "{upstream}",
            ),
            *("--policy", "round_robin", "--max-concurrent-requests", "100000", "--log-level", "error"),
        ),
        needs="{peers}/vllm-router/bin/vllm-router",
        version=distribution("vllm-router", "vllm-router"),
    ),
}
"""``bare`` is the floor of the Python stack: aiohttp that forwards bytes and does nothing else. ``off`` is Sluice with
neither limits nor budgets nor a ledger, ``sluice`` with everything and counters in memory, ``redis`` the same with
Redis. What peers do and do not do per request is in docs/performance.md."""
OWN = ("direct", "nginx", "bare", "off", "sluice", "redis")
"""What needs nothing but this repository, gcc and, for nginx, a package of the system."""
