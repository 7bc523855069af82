"""A live gateway under nonsense: ``python -m tests.fuzz_gateway [--cases N] [--seconds S]``, or ``make fuzz``.

The gateway and its demo upstream run in a process of their own. Four sources of requests: lawful bodies with values
replaced and bytes overwritten, whatever Hypothesis makes of the contract's words, request heads that are hardly HTTP,
and Schemathesis over the OpenAPI document of the admin API (and over one of Chat Completions, where a folder beside the
checkout has it). No answer may be a 5xx, anything but JSON or an event stream in OpenAI's shape, or slow.
"""

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import random
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import aiohttp
import hypothesis
import orjson
from hypothesis import strategies as st

from gateway.worker import freeze

from .beside import SHARED
from .chat_requests import RICH
from .fuzz_validation import KEYS, SCALARS, anything, mangled, mutated
from .running import KEY, running

ROOT = Path(__file__).parents[1]
EXTRACT = SHARED / "reference" / "openai" / "chat-completions.openapi.json"
SCHEMATHESIS = ROOT / ".venvs" / "schemathesis"
PINS = Path(__file__).parent / "clients" / "pins" / "schemathesis.txt"
ADMIN = "admin-0123456789abcdef0123456789abcdef"
PATHS = ("/v1/chat/completions", "/v1/embeddings", "/v1/chat/completions/chatcmpl-x", "/v1/models")
SLOWEST = 10.0
"""Seconds that one answer may take: nearly all of it is waiting for a busy machine and its disk."""
LONGEST_TURN = 0.1
"""Seconds of CPU that the gateway's loop may spend without turning to anybody else: what a request can block others."""
BEARER = {"authorization": f"Bearer {KEY}"}


class Wrong(Exception):
    """An answer that breaks the rules."""


class Findings:
    """What came back, and how long it took."""

    def __init__(self) -> None:
        self.statuses: Counter[int] = Counter()
        self.slowest = 0.0
        self.resets = 0
        """Connections that broke before an answer; the request was sent again."""

    def judge(self, status: int, kind: str, body: bytes, seconds: float, case: object) -> None:
        """Count an answer; raises Wrong with the case that led to it."""
        self.statuses[status] += 1
        self.slowest = max(self.slowest, seconds)
        problem = _problem(status, kind, body) or (f"{seconds:.2f} s" if seconds > SLOWEST else None)
        if problem is not None:
            raise Wrong(f"{problem}; status {status}, body {body[:300]!r}, case {str(case)[:2000]}")


def _problem(status: int, kind: str, body: bytes) -> str | None:
    if status >= 500:
        return "a server error"
    if kind.startswith("text/event-stream"):
        return None if status == 200 and body.endswith(b"data: [DONE]\n\n") else "an unfinished stream"
    if not kind.startswith("application/json"):
        return f"content type {kind}"
    told = orjson.loads(body)
    if status >= 400 and set(told.get("error", ())) != {"message", "type", "param", "code"}:
        return "an error of another shape"
    return None


def serve(pipe: Connection) -> None:
    """The child: a gateway until the parent hangs up."""

    async def main() -> None:
        models = {"fast": "demo-echo", "m": "demo-tools", "claude": [{"provider": "anthropic", "model": "demo-echo"}]}
        models["claude"][0]["price"] = {"input": 1, "output": 2}  # type: ignore[index]
        quiet = {"admin": {"keys": {"ops": ADMIN}}, "auth": {"pepper": "p" * 32, "failures_per_minute": 10_000_000}}
        async with running(models, **quiet) as (gateway, _):
            freeze()  # as a worker does, whose full collections would count as turns of the loop
            pipe.send((gateway.url, gateway.admin_url))
            asked = asyncio.ensure_future(asyncio.to_thread(pipe.recv))
            longest = 0.0
            while not asked.done():
                before = time.thread_time()
                await asyncio.sleep(0.005)
                longest = max(longest, time.thread_time() - before)
            pipe.send(longest)

    asyncio.run(main())


@contextlib.contextmanager
def gateway() -> Iterator[tuple[str, str]]:
    """The addresses of a gateway in a process of its own; fails if that process died."""
    context = multiprocessing.get_context("spawn")
    parent, child = context.Pipe()
    process = context.Process(target=serve, args=(child,), daemon=True)
    process.start()
    try:
        yield parent.recv()
        if not process.is_alive():
            raise Wrong("the gateway died")
        parent.send("end")
        longest: float = parent.recv()
        print(f"longest turn of the gateway's loop: {longest * 1000:.0f} ms of CPU", flush=True)
        if longest > LONGEST_TURN:
            raise Wrong(f"something kept the loop for {longest:.3f} s of CPU")
    finally:
        parent.close()
        process.terminate()
        process.join()


def bodies(rng: random.Random) -> Iterator[bytes]:
    requests = [*RICH.values(), {"model": "fast", "input": ["a", "b"], "dimensions": 4}]
    encoded = [orjson.dumps(request) for request in requests]
    while True:
        yield mangled(rng, rng.choice(encoded))
        yield orjson.dumps(anything(rng))
        for _ in range(6):
            yield orjson.dumps(mutated(rng, rng.choice(requests)))


async def send(http: aiohttp.ClientSession, url: str, body: bytes, found: Findings) -> None:
    headers = {**BEARER, "content-type": "application/json"}
    for last in (False, True):
        began = time.monotonic()
        try:
            async with http.post(url, data=body, headers=headers) as response:
                raw = await response.read()
            break
        except aiohttp.ClientConnectionError as exc:
            found.resets += 1  # a refusal that did not wait for the body, or an idle connection closed: once is lawful
            if last:
                raise Wrong(f"no answer twice: {exc!r}, case {body[:2000]!r}") from exc
    found.judge(response.status, response.headers.get("content-type", ""), raw, time.monotonic() - began, body)


async def many(base: str, cases: int, seconds: float, seed: int, found: Findings) -> int:
    """Mutated bodies over keep-alive connections, until ``cases`` or ``seconds``; gives how many were sent."""
    supply, rng, deadline = bodies(random.Random(seed)), random.Random(seed + 1), time.monotonic() + seconds
    left = cases

    async def client(http: aiohttp.ClientSession) -> None:
        nonlocal left
        while left > 0 and time.monotonic() < deadline:
            left -= 1
            path = PATHS[0] if rng.random() < 0.85 else rng.choice(PATHS)
            await send(http, base + path, next(supply), found)

    async with aiohttp.ClientSession(auto_decompress=False) as http, asyncio.TaskGroup() as group:
        for _ in range(8):
            group.create_task(client(http))
    return cases - left


WORDS = st.sampled_from(KEYS)
JSON_VALUES = st.recursive(
    st.one_of(st.sampled_from(SCALARS), st.integers(), st.floats(allow_nan=False), st.text(max_size=40)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS | st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
REQUESTS = st.dictionaries(WORDS, JSON_VALUES, max_size=5).map(
    lambda found: {"model": "fast", "messages": [{"role": "user", "content": "json"}], **found}
)


async def by_hypothesis(base: str, cases: int, found: Findings) -> int:
    """What Hypothesis makes of the words of the contract, half of it around a lawful request."""
    sent = 0
    queue: asyncio.Queue[bytes | None] = asyncio.Queue(64)
    loop = asyncio.get_running_loop()

    @hypothesis.settings(
        max_examples=cases, deadline=None, database=None, suppress_health_check=list(hypothesis.HealthCheck)
    )
    @hypothesis.given(JSON_VALUES | REQUESTS)
    def generate(value: Any) -> None:
        with contextlib.suppress(TypeError):  # an integer that no JSON of ours holds
            asyncio.run_coroutine_threadsafe(queue.put(orjson.dumps(value)), loop).result()

    async def client(http: aiohttp.ClientSession) -> None:
        nonlocal sent
        while (body := await queue.get()) is not None:
            sent += 1
            await send(http, base + PATHS[sent % 2], body, found)

    async def produce() -> None:
        await asyncio.to_thread(generate)
        for _ in range(4):
            await queue.put(None)

    async with aiohttp.ClientSession() as http, asyncio.TaskGroup() as group:
        for _ in range(4):
            group.create_task(client(http))
        group.create_task(produce())
    return sent


HEAD = (
    f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\n"
    "content-type: application/json\r\ncontent-length: 2\r\nx-client-request-id: a\r\n\r\n{}"
).encode()


async def heads(base: str, cases: int, seed: int, found: Findings) -> int:
    """Request heads with bytes cut, doubled and overwritten: an answer in JSON, or a closed connection."""
    rng, port = random.Random(seed), int(base.rpartition(":")[2])
    for _ in range(cases):
        data = mangled(rng, HEAD)
        began = time.monotonic()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(data)
            writer.write_eof()
            answer = await asyncio.wait_for(reader.read(), 30)
        except ConnectionError:
            answer = b""
        finally:
            writer.close()
        for status, kind, body in _answers(answer):
            found.judge(status, kind, body, min(time.monotonic() - began, SLOWEST), data)
    return cases


def _answers(raw: bytes) -> Iterator[tuple[int, str, bytes]]:
    """Every answer on a connection: a mangled head may hold two requests."""
    while match := re.match(rb"HTTP/\d\.\d (\d+)[^\r]*\r\n(.*?)\r\n\r\n", raw, re.DOTALL):
        headers = dict(re.findall(rb"(?im)^([\w-]+): *([^\r]*)", match[2].lower()))
        length = int(headers.get(b"content-length", b"0"))
        body, raw = raw[match.end() : match.end() + length], raw[match.end() + length :]
        yield int(match[1]), headers.get(b"content-type", b"").decode(), body
    if raw:
        raise Wrong(f"not an answer: {raw[:200]!r}")


def by_schemathesis(document: str, url: str, key: str, cases: int, seconds: int) -> str:
    """Schemathesis' own summary; raises Wrong when it finds a server error or another content type."""
    python = SCHEMATHESIS / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(SCHEMATHESIS)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", "-r", str(PINS)], check=True)
    done = subprocess.run(
        [
            str(SCHEMATHESIS / "bin" / "schemathesis"), "run", document, "--url", url, "-H", f"Authorization: Bearer {key}",
            "--checks", "not_a_server_error", "--phases", "examples,coverage,fuzzing", "-n", str(cases),
            "--max-time", str(seconds), "--max-response-time", "2", "--no-color", "--warnings", "off",
            "--generation-database", "none", "--suppress-health-check", "all", "--no-shrink",
        ],
        capture_output=True, text=True, check=False, cwd=SCHEMATHESIS,
    )  # fmt: skip
    if done.returncode:
        raise Wrong(done.stdout[-6000:] + done.stderr[-2000:])
    lines = [line.strip() for line in done.stdout.splitlines() if re.search(r"test cases|generated|Tested", line)]
    return "; ".join(lines) or "no failure"


async def documents(admin: str) -> AsyncIterator[tuple[str, str, str]]:
    """(what, file, address and key parted by a blank) of every OpenAPI document at hand."""
    async with aiohttp.ClientSession(headers={"authorization": f"Bearer {ADMIN}"}) as http:
        async with http.get(f"{admin}/admin/v1/openapi.json") as response:
            document = await response.json()
    file = SCHEMATHESIS.parent / "admin.openapi.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(document))
    yield "the admin API", str(file), ADMIN
    if EXTRACT.exists():
        yield "Chat Completions", str(EXTRACT), KEY


async def fuzz(options: argparse.Namespace) -> None:
    total = Findings()
    with gateway() as (base, admin):
        began = time.monotonic()
        sent = await many(base, options.cases, options.seconds, options.seed, total)
        print(f"{sent} mutated bodies in {time.monotonic() - began:.0f} s", flush=True)
        began = time.monotonic()
        count = await by_hypothesis(base, options.cases // 25, total)
        print(f"{count} requests of Hypothesis in {time.monotonic() - began:.0f} s", flush=True)
        sent += count
        count = await heads(base, options.cases // 50, options.seed, total)
        print(f"{count} mangled heads", flush=True)
        sent += count
        print(
            f"{sent} cases: {dict(sorted(total.statuses.items()))}, slowest {total.slowest * 1000:.0f} ms, {total.resets} resets",
            flush=True,
        )
        if options.schemathesis:
            async for what, file, key in documents(admin):
                url = f"{base}/v1" if key == KEY else admin
                summary = await asyncio.to_thread(by_schemathesis, file, url, key, 200, options.schemathesis)
                print(f"Schemathesis on {what}: {summary}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz_gateway", description=__doc__)
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=600, help="for the mutated bodies")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    parser.add_argument("--schemathesis", type=int, default=120, help="seconds for each document; 0: leave it out")
    options = parser.parse_args()
    print(f"seed {options.seed}")
    wrong: list[Exception] = []
    try:
        asyncio.run(fuzz(options))
    except* Wrong as group:
        wrong = [*group.exceptions]
    for problem in wrong:
        print(f"WRONG: {problem}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
