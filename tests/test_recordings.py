"""How many recordings of each provider its adapter plays: every one of the folder's, or a reason why not."""

from collections import Counter

import pytest

from adapters import registry
from adapters.interface import Adapter, EmbeddingAdapter, UpstreamRequest
from gateway.answer import unpacked

from . import replay
from .replay import Recording

ADAPTERS = {
    "alibaba_qwen": "qwen", "bedrock_mantle": "openai-compatible", "gemini_openai": "gemini-openai",
    "openai_compat_misc": "openai-compatible", "chatgpt": "openai",
}  # fmt: skip
"""Where the folder and the adapter have different names."""
CHAT = frozenset(
    {
        "chat.completions",
        "messages",
        "converse",
        "converse-stream",
        "generateContent",
        "streamGenerateContent",
        "v2.chat",
    }
)
EMBEDDINGS = frozenset({"embeddings", "embed", "embedContent", "batchEmbedContents"})
BROKEN = {
    "anthropic": 1,  # two streams spliced into one
    "vertex": 2,  # an error in the middle, and bytes that are no answer
}
"""Recorded streams that fail, and must: the other tests of these adapters tell how."""


OTHER = frozenset({("openai", "messages"), ("ollama", "embeddings")})
"""Endpoints that share a name with one of ours and are not: OpenAI's Messages, Ollama's own embeddings."""


def other_dialect(r: Recording) -> bool:
    return r.endpoint not in CHAT | EMBEDDINGS or (r.provider, r.endpoint) in OTHER


def play(r: Recording, adapter: Adapter) -> str:
    """What became of one recording; an assertion fails for an answer that no client could take."""
    sent = UpstreamRequest("", {}, b"", stream=r.stream)
    if r.status != 200:
        failure = adapter.error(r.status, r.headers, r.body)
        assert failure.message, str(r)
        return "failures"
    if r.endpoint in EMBEDDINGS:
        assert isinstance(adapter, EmbeddingAdapter)
        answer = adapter.parse_embeddings(r.body, sent)
        numbers = [number for item in answer.completion["data"] for number in unpacked(item["embedding"])]
        assert numbers, r
        assert all(isinstance(number, float) for number in numbers), r
        return "embeddings"
    if r.stream:
        outcome = replay.translate(adapter.stream(sent), [r.body])
        if outcome.error is not None:
            return "broken streams"
        n = len({choice["index"] for chunk in outcome.chunks for choice in chunk["choices"]})
        raw = replay.written(outcome, n=n)
        assert not (problems := replay.stream_problems(raw, include_usage=outcome.usage is not None, n=n)), (
            r,
            problems[:3],
        )
        return "streams"
    answer = adapter.parse(r.body, sent)
    n = len(answer.completion["choices"])
    lawful = replay.completion(answer, id="c", created=1, model="m", n=n)
    assert not (problems := replay.completion_problems(lawful)), (r, problems[:3])
    return "answers"


def test_every_recording_of_every_provider_is_played(capsys: pytest.CaptureFixture[str]) -> None:
    every = replay.need(list(replay._index()))
    played: dict[str, Counter[str]] = {}
    for r in every:
        counted = played.setdefault(r.provider, Counter())
        if other_dialect(r):
            counted["other APIs"] += 1
            continue
        adapter = registry.load(ADAPTERS.get(r.provider, r.provider))
        counted[play(r, adapter)] += 1
    folder = Counter(r.provider for r in every)
    kinds = ("answers", "streams", "failures", "embeddings", "broken streams", "other APIs")
    with capsys.disabled():
        print(f"\n{'recordings played':<20} " + " ".join(f"{kind:>14}" for kind in kinds))
        for provider, counted in sorted(played.items()):
            print(f"{provider:<20} " + " ".join(f"{counted[kind]:>14}" for kind in kinds))
    assert {provider: counted.total() for provider, counted in played.items()} == dict(folder)
    whole = Counter(r.provider for r in every if r.status == 200 and not r.stream and not other_dialect(r))
    streamed = Counter(r.provider for r in every if r.status == 200 and r.stream and not other_dialect(r))
    for provider, counted in played.items():
        assert counted["answers"] + counted["embeddings"] == whole[provider], provider
        assert counted["streams"] == streamed[provider] - BROKEN.get(provider, 0), provider
    assert sum(whole.values()) > 900
    assert sum(streamed.values()) > 500
