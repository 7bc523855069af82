"""What is measured: one row per contestant. Add a row to compare something else.

Of a command ``{port}`` is where it must listen on 127.0.0.1, ``{upstream}`` the upstream's address without a path,
``{folder}`` an empty folder of its own.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Contestant:
    command: tuple[str, ...] = ()
    """Empty: the load goes to the upstream itself."""
    headers: tuple[str, ...] = ("Authorization: Bearer sk-bench-0123456789abcdef0123456789abcdef",)
    environment: Mapping[str, str] = field(default_factory=dict)
    """Added to the environment, placeholders as in the command."""


_SLUICE = {"BENCH_PORT": "{port}", "BENCH_UPSTREAM": "{upstream}", "BENCH_FOLDER": "{folder}"}

CONTESTANTS: Mapping[str, Contestant] = {
    "direct": Contestant(),
    "bare": Contestant((sys.executable, str(HERE / "bareproxy.py"), "{port}", "{upstream}")),
    "sluice": Contestant(
        (sys.executable, "-m", "gateway", "serve", str(HERE / "sluice.yaml")),
        environment=_SLUICE,
    ),
    "off": Contestant(
        (sys.executable, "-m", "gateway", "serve", str(HERE / "off.yaml")),
        environment=_SLUICE,
    ),
}
"""``bare`` is the floor of the Python stack: aiohttp that forwards bytes and does nothing else. ``off`` is Sluice with
neither limits nor budgets nor a ledger."""
