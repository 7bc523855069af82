"""In which order the deployments of one priority group are tried: a table of strategies, and stickiness on top."""

import hashlib
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import orjson

from .call import Call, Deployment
from .fleet import Fleet

LADDER: Mapping[str, int] = {"provisioned": 0, "priority": 1, "default": 2, "flex": 3}
"""The rungs of the capacity ladder: what is paid for anyway is filled first."""
PREFIX = 8192
"""Bytes of a message that tell conversations apart."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What strategies look at."""

    fleet: Fleet
    costs: Mapping[str, int]
    """Deployment -> nano-dollars of a typical request; one without a price is not in it."""


Group: TypeAlias = Sequence[Deployment]
Strategy: TypeAlias = Callable[[Group, Facts, Call | None], Group]


def ordered(group: Group, facts: Facts, call: Call | None) -> Group:  # noqa: ARG001 - one signature for all
    return group


def weighted(group: Group, facts: Facts, call: Call | None) -> Group:  # noqa: ARG001 - one signature for all
    """A random order in which each place is drawn by weight (Efraimidis and Spirakis, 2006); weight 0 comes last."""
    keyed = [(random.random() ** (1 / d.config.weight) if d.config.weight else -1.0, d) for d in group]  # noqa: S311
    return [d for _, d in sorted(keyed, key=lambda pair: -pair[0])]


def least_busy(group: Group, facts: Facts, call: Call | None) -> Group:
    """By requests in flight for each unit of weight; equals in a random order."""
    return sorted(weighted(group, facts, call), key=lambda d: _busy(d, facts))


def lowest_latency(group: Group, facts: Facts, call: Call | None) -> Group:
    """By the time to first token of requests of the same size. One that is not known is tried, by one call at a time."""
    stream, size = (call.stream, call.size) if call is not None else (False, 0)

    def key(deployment: Deployment) -> tuple[float, float]:
        load = facts.fleet[deployment.id].load
        seconds = load.latency(stream, size)
        if seconds is None:
            seconds = -1.0 if not load.in_flight else math.inf
        return seconds, _busy(deployment, facts)

    return sorted(group, key=key)


def lowest_cost(group: Group, facts: Facts, call: Call | None) -> Group:
    """By the price of a typical request; without a price last, equals by weight."""
    return sorted(weighted(group, facts, call), key=lambda d: facts.costs.get(d.id, math.inf))


def _busy(deployment: Deployment, facts: Facts) -> float:
    weight = deployment.config.weight
    return facts.fleet[deployment.id].load.in_flight / weight if weight else math.inf  # the last resort, however idle


STRATEGIES: Mapping[str, Strategy] = {
    "ordered": ordered,
    "weighted": weighted,
    "least_busy": least_busy,
    "lowest_latency": lowest_latency,
    "lowest_cost": lowest_cost,
}


def sticky(group: Group, identity: bytes) -> Group:
    """Rendezvous hashing by weight: each conversation has its own order, and losing one deployment moves no other."""

    def score(deployment: Deployment) -> float:
        digest = hashlib.blake2b(identity + deployment.id.encode(), digest_size=8).digest()
        draw = (int.from_bytes(digest) + 1) / 2**64
        return deployment.config.weight / -math.log(draw) if draw < 1 else math.inf

    return sorted(group, key=score, reverse=True)


def conversation(request: Mapping[str, Any]) -> bytes | None:
    """What all turns of a conversation share: its cache key, else everything up to the first words of the user."""
    key = request.get("prompt_cache_key")
    if isinstance(key, str) and key:
        return key.encode("utf-8", "surrogatepass")
    beginning = []
    for message in request.get("messages") or ():
        content = message.get("content")
        beginning.append(
            content[:PREFIX] if isinstance(content, str) else orjson.dumps(content)[:PREFIX].decode("latin-1")
        )
        if message.get("role") == "user":
            break
    return orjson.dumps(beginning) if beginning else None
