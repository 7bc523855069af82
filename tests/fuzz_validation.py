"""Fuzzing the request contract: ``python -m tests.fuzz_validation [--cases N] [--seconds S]``.

Three sources: bytes that are hardly JSON, arbitrary JSON, and lawful requests with a few values replaced, removed or
moved. Whatever comes in, a checker returns or raises InvalidRequest, soon, and says little of what it was given.
Every run has a seed; ``--seed`` repeats one.
"""

import argparse
import copy
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import orjson

from gateway.errors import InvalidRequest
from gateway.validation import parse_json, validate_chat, validate_embeddings
from gateway.validation.parameters import PARAMETERS

from .chat_requests import RICH

LONGEST_MESSAGE, LONGEST_PARAM, SLOWEST = 5_000, 1_000, 2.0

SCALARS: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 41, 129, 2**31, 2**63 - 1, 2**63, 2**64 - 1, -(2**63), 0.0, -0.0, 1.5, 1e308, 2.0**64,
    "", "a", "auto", "none", "text", "function", "custom", "json_object", "user", "tool", "assistant", "call_1",
    "get_weather", "json", "\x00", "\u2028", "é" * 65, "x" * 129, "{}", "https://a.ch", "'{}'", "%s{0}",
)  # fmt: skip
KEYS = (
    *PARAMETERS, "type", "role", "content", "name", "id", "function", "custom", "arguments", "input", "text", "url",
    "image_url", "tool_calls", "tool_call_id", "refusal", "schema", "json_schema", "strict", "properties", "required",
    "anyOf", "items", "$ref", "$defs", "enum", "const", "additionalProperties", "mode", "ttl", "format", "grammar",
    "", "x" * 200, "\x00", "__class__",
)  # fmt: skip


def anything(rng: random.Random, depth: int = 0) -> Any:
    """Arbitrary JSON that likes the words of the contract."""
    kind = rng.random()
    if depth > 4 or kind < 0.6:
        return rng.choice(SCALARS)
    if kind < 0.8:
        return [anything(rng, depth + 1) for _ in range(rng.randrange(4))]
    return {rng.choice(KEYS): anything(rng, depth + 1) for _ in range(rng.randrange(5))}


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every container and key inside ``value``."""
    for key in list(value) if isinstance(value, dict) else range(len(value)):
        yield value, key
        if isinstance(value[key], dict | list):
            yield from places(value[key])


def mutated(rng: random.Random, request: dict[str, Any]) -> dict[str, Any]:
    """``request`` with one to three places changed."""
    request = copy.deepcopy(request)
    for _ in range(rng.randrange(1, 4)):
        found = list(places(request))
        if not found:
            break
        container, key = rng.choice(found)
        change = rng.random()
        if change < 0.6:
            container[key] = anything(rng)
        elif change < 0.75:
            del container[key]
        elif change < 0.9 and isinstance(container, dict):
            container[rng.choice(KEYS)] = container[key]
        elif isinstance(container, list):
            container.append(container[key])
    return request


def mangled(rng: random.Random, body: bytes) -> bytes:
    """``body`` with bytes cut out, doubled or overwritten."""
    data = bytearray(body)
    for _ in range(rng.randrange(1, 5)):
        start = rng.randrange(len(data) + 1)
        stop = min(len(data), start + rng.randrange(12))
        data[start:stop] = rng.choice(
            (b"", b"\xff", b"{", b"]", b'"', b",", b"\\ud800", b"1e999", bytes(data[start:stop]) * 2)
        )
    return bytes(data)


def refusal_of(check: Callable[[Any], object], given: Any) -> InvalidRequest | None:
    try:
        check(given)
    except InvalidRequest as error:
        return error
    return None


def survives(check: Callable[[Any], object], given: Any) -> str:
    """Run ``check`` and return how it ended; raises AssertionError if not in order."""
    start = time.process_time()
    error = refusal_of(check, given)
    assert time.process_time() - start < SLOWEST, "too slow"
    if error is None:
        return "accepted"
    assert error.status == 400, error.message
    assert len(error.message) <= LONGEST_MESSAGE, error.message[:200]
    assert len(error.param or "") <= LONGEST_PARAM, error.param
    assert orjson.dumps(error.to_openai())
    return error.code or "refused"


def bodies(rng: random.Random) -> Iterator[tuple[Callable[[Any], object], Any]]:
    """An endless supply of checks and what to give them."""
    requests = list(RICH.values())
    encoded = [orjson.dumps(request) for request in requests]

    def from_bytes(body: bytes) -> None:
        validate_chat(parse_json(body), allow=frozenset({"top_k"}))

    while True:
        yield from_bytes, mangled(rng, rng.choice(encoded))
        yield from_bytes, orjson.dumps(anything(rng))
        for _ in range(6):
            yield validate_chat, mutated(rng, rng.choice(requests))
        yield validate_embeddings, {"model": "m", "input": anything(rng), rng.choice(KEYS): anything(rng)}


def fuzz(cases: int, seconds: float, seed: int) -> Counter[str]:
    """Run until ``cases`` or ``seconds`` are reached; returns how often which outcome was seen."""
    outcomes: Counter[str] = Counter()
    deadline = time.monotonic() + seconds
    for number, (check, given) in enumerate(bodies(random.Random(seed))):
        if number >= cases or (number % 256 == 0 and time.monotonic() > deadline):
            break
        try:
            outcomes[survives(check, given)] += 1
        except Exception:
            print(f"seed {seed}, case {number}: {str(given)[:2000]}", file=sys.stderr)
            raise
    return outcomes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=200_000)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    options = parser.parse_args()
    outcomes = fuzz(options.cases, options.seconds, options.seed)
    print(f"{outcomes.total()} cases in order (seed {options.seed})")
    for outcome, count in outcomes.most_common():
        print(f"{count:>9}  {outcome}")


if __name__ == "__main__":
    main()
