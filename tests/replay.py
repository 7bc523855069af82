"""Replays recorded provider traffic through a translator: whole, byte by byte and cut at many offsets.

The recordings lie beside the checkout; without them the tests that use them skip. A short use::

    @pytest.mark.parametrize("recording", recordings("anthropic", endpoint="messages", stream=True), ids=str)
    def test_streams(recording):
        replay_stream(recording, lambda: adapter.stream(sent))

or, counting, in one test: ``assert played == len(need(recordings(...)))``. ``counts`` tells what was replayed.

``SLUICE_EVERY_OFFSET=1`` cuts at every offset of every body, however long.
"""

import base64
import functools
import gc
import importlib.util
import json
import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from adapters.emit import Accumulator, StreamWriter, completion
from adapters.errors import ProviderError
from adapters.interface import Answer, Chunk, StreamTranslator
from adapters.usage import Usage

from .beside import SHARED

RECORDED = SHARED / "recorded"
EVERY_OFFSET = os.environ.get("SLUICE_EVERY_OFFSET") == "1"
MAX_CUTS = 24
"""Cuts per body unless every offset is asked for."""
MAX_BYTEWISE = 20_000
"""Bodies over this many bytes are fed in pieces of 97 bytes instead of one."""
counts: Counter[tuple[str, str]] = Counter()
"""What was replayed: (provider, ``stream`` or ``whole``)."""


@dataclass(frozen=True)
class Recording:
    provider: str
    case: str
    endpoint: str
    model: str | None
    stream: bool
    status: int
    complete: bool
    fidelity: str
    features: tuple[str, ...]
    file: str = field(repr=False)

    def __str__(self) -> str:
        return f"{self.provider}/{self.case}"

    @functools.cached_property
    def exchange(self) -> dict[str, Any]:
        loaded: dict[str, Any] = json.loads((RECORDED / self.file).read_bytes())
        return loaded

    @property
    def request(self) -> Any:
        """The request body, or None for a recording of a response alone."""
        return (self.exchange.get("request") or {}).get("body")

    @property
    def headers(self) -> dict[str, str]:
        return {k.lower(): v for k, v in (self.exchange["response"].get("headers") or {}).items()}

    @property
    def body(self) -> bytes:
        response = self.exchange["response"]
        if "body_base64" in response:
            return base64.b64decode(response["body_base64"])
        if "body_text" in response:
            return str(response["body_text"]).encode()
        return json.dumps(response["body"], ensure_ascii=False).encode("utf-8", "surrogatepass")


@functools.cache
def _index() -> tuple[Recording, ...]:
    if not (RECORDED / "INDEX.json").exists():
        return ()
    names = ("provider", "case", "endpoint", "model", "stream", "status", "complete", "fidelity", "file")
    rows = json.loads((RECORDED / "INDEX.json").read_bytes())
    return tuple(Recording(**{n: row[n] for n in names}, features=tuple(row["features"])) for row in rows)


def recordings(*providers: str, endpoint: str, stream: bool, status: int | None = 200) -> list[Recording]:
    """The recordings of some providers; empty, so that parametrized tests skip, without the folder.

    ``status=None`` means every failure (other than 200).
    """
    return [
        r
        for r in _index()
        if r.provider in providers
        and r.endpoint == endpoint
        and r.stream == stream
        and (r.status == status if status is not None else r.status != 200)
    ]


def need(found: list[Recording]) -> list[Recording]:
    """The recordings, or a skip when the checkout has none beside it; none although the folder is there is a failure."""
    if not RECORDED.exists():
        pytest.skip("no recordings beside the checkout")
    assert found, "no recording fits"
    return found


@functools.cache
def _validate() -> Any:
    file = SHARED / "reference" / "openai" / "validate.py"
    if not file.exists():
        return None
    spec = importlib.util.spec_from_file_location("reference_validate", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # it leaves its schema open
        spec.loader.exec_module(module)
        gc.collect()
    return module


def stream_problems(raw: bytes, *, sizes: bool = True, **options: Any) -> list[str]:
    """What the reference says against a client stream; nothing without the reference. ``sizes`` needs none."""
    problems = list(size_problems(raw)) if sizes else []
    if validate := _validate():
        problems += validate.check_stream(raw.decode(), **options)
    return problems


def completion_problems(body: dict[str, Any]) -> list[str]:
    return list(_validate().check("response", body)) if _validate() else []


def size_problems(raw: bytes) -> Iterator[str]:
    """C-333: the lengths of all padded events agree modulo 16, in characters."""
    lengths = Counter(len(event) % 16 for event in raw.decode().split("\n\n") if '"obfuscation":"' in event)
    if len(lengths) > 1:
        yield f"C-333 events have different lengths modulo 16: {lengths}"


@dataclass(frozen=True)
class Outcome:
    """What a translator made of one body."""

    chunks: list[Chunk]
    usage: Usage | None
    served_tier: str | None
    error: ProviderError | None

    def same(self, other: "Outcome") -> bool:
        mine, theirs = self.error, other.error
        return (self.chunks, self.usage, self.served_tier) == (other.chunks, other.usage, other.served_tier) and (
            (mine and (mine.kind, mine.message)) == (theirs and (theirs.kind, theirs.message))
        )


def translate(translator: StreamTranslator, pieces: Iterator[bytes] | list[bytes]) -> Outcome:
    """Feed a translator; an error is an outcome too."""
    chunks: list[Chunk] = []
    error = None
    try:
        for piece in pieces:
            chunks += translator.feed(piece)
        chunks += translator.close()
    except ProviderError as e:
        error = e
    return Outcome(chunks, translator.usage, translator.served_tier, error)


def splits(body: bytes) -> Iterator[list[bytes]]:
    """A body byte by byte, and cut in two at many offsets."""
    step = 1 if len(body) <= MAX_BYTEWISE or EVERY_OFFSET else 97
    yield [body[i : i + step] for i in range(0, len(body), step)]
    stride = 1 if EVERY_OFFSET else max(1, len(body) // MAX_CUTS)
    for at in range(1, len(body), stride):
        yield [body[:at], body[at:]]


def written(outcome: Outcome, *, n: int = 1, obfuscation: bool = True, **options: Any) -> bytes:
    """What a client would get, with the usage chunk when there is usage."""
    writer = StreamWriter(
        id="chatcmpl-replay",
        created=1_700_000_000,
        model="replayed",
        include_usage=outcome.usage is not None,
        obfuscation=obfuscation,
        n=n,
        service_tier="default",
        **options,
    )
    return writer.write(outcome.chunks) + writer.finish(outcome.usage, outcome.served_tier)


def replay_stream(
    recording: Recording, make: Callable[[], StreamTranslator], *, n: int = 1, **options: Any
) -> tuple[Outcome, bytes]:
    """Replay one complete stream in all splits and check what the client gets; returns both.

    ``options`` go to the StreamWriter (``forced_tool``, ``functions``).
    """
    body = recording.body
    outcome = translate(make(), [body])
    for pieces in splits(body):
        other = translate(make(), pieces)
        assert other.same(outcome), f"{recording}: another answer when split {[len(p) for p in pieces][:3]}"
    if outcome.error is not None:
        raise outcome.error
    raw = written(outcome, n=n, **options)
    problems = stream_problems(raw, include_usage=outcome.usage is not None, n=n)
    assert not problems, f"{recording}: {problems[:5]}"
    accumulated = Accumulator()
    accumulated.add(outcome.chunks)
    lawful = completion(
        Answer(accumulated.completion(), outcome.usage),
        id="chatcmpl-replay",
        created=1,
        model="replayed",
        n=n,
        **options,
    )
    assert not (problems := completion_problems(lawful)), f"{recording}: {problems[:5]}"
    assert texts(raw) == {c["index"]: c["message"]["content"] or "" for c in lawful["choices"]}, str(recording)
    counts[recording.provider, "stream"] += 1
    return outcome, raw


def replay_whole(recording: Recording, answer: Answer, *, n: int = 1, **options: Any) -> dict[str, Any]:
    """Check the completion that a client gets for a whole recorded answer, and return it."""
    lawful = completion(answer, id="chatcmpl-replay", created=1, model="replayed", n=n, **options)
    problems = completion_problems(lawful)
    assert not problems, f"{recording}: {problems[:5]}"
    counts[recording.provider, "whole"] += 1
    return lawful


def texts(raw: bytes) -> dict[int, str]:
    """The content of each choice of a client stream, put together."""
    out: dict[int, str] = {}
    for event in raw.decode().split("\n\n"):
        if event.startswith("data: {"):
            for choice in json.loads(event[6:])["choices"]:
                index = choice["index"]
                out[index] = out.get(index, "") + (choice["delta"].get("content") or "")
    return out
