"""``make chaos``: every figure, or the parts that are named. Exits with 1 when one is not what was promised.

Everything is real and on this machine: gateway processes, demo upstreams, a fault-injecting proxy, Redis, the official SDK.
"""

import argparse
import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Mapping

from .clients import disconnects
from .restarts import reloads, rolling_restart, sigterm
from .traffic import Figures
from .upstreams import cuts, failover, fleet_outage, one_of_two, outage, random_errors

Part = Callable[[Figures, float], Awaitable[None]]

PARTS: Mapping[str, Part] = {
    "cuts": lambda f, scale: cuts(f),
    "one-of-two": lambda f, scale: one_of_two(f, 100, max(int(2000 * scale), 200)),
    "failover": lambda f, scale: failover(f, 100, max(int(2000 * scale), 100)),
    "random-errors": lambda f, scale: random_errors(f, 150, max(int(6000 * scale), 300)),
    "outage": lambda f, scale: outage(f, 100, max(20 * scale, 3)),
    "fleet-outage": lambda f, scale: fleet_outage(f, 50, max(20 * scale, 4)),
    "reloads": lambda f, scale: reloads(f, max(int(1000 * scale), 20), 300 if scale == 1 else 50),
    "disconnects": lambda f, scale: disconnects(f, max(int(1000 * scale), 20)),
    "sigterm": lambda f, scale: sigterm(f, max(int(200 * scale), 20)),
    "rolling-restart": lambda f, scale: rolling_restart(f, max(int(20_000 * scale), 400), 150 if scale == 1 else 80),
}
"""By name: each takes the scale, 1 for the full size."""


async def main(names: list[str], scale: float) -> int:
    """How many figures were not what was promised."""
    figures = Figures()
    for name in names:
        began = time.monotonic()
        await PARTS[name](figures, scale)
        print(f"      {name}: {time.monotonic() - began:.0f} s", flush=True)
    return figures.failed


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="part", help=f"any of {', '.join(PARTS)}; none: all")
    parser.add_argument("--scale", type=float, default=1.0, help="1: the full size")
    chosen = parser.parse_args()
    if unknown := set(chosen.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    sys.exit(min(asyncio.run(main(chosen.parts or list(PARTS), chosen.scale)), 1))
