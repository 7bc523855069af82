"""Gemini on Vertex AI: addresses, credentials, tiers; the bodies are those of test_gemini."""

import json

import pytest

from adapters.errors import ErrorKind, UnsupportedParameter
from adapters.gemini import Gemini
from adapters.gemini.vertex import VertexGemini
from adapters.interface import Target, UpstreamRequest
from adapters.registry import load

from .gemini_types import problems
from .replay import need, recordings, replay_stream, replay_whole

REQUEST = {"model": "x", "messages": [{"role": "user", "content": "hi"}]}
SENT = UpstreamRequest("", {}, b"", notes={"nonce": "n"})


def target(model="gemini-3-flash", base_url=VertexGemini.base_url, **options):
    return Target(base_url, model, "token", VertexGemini().options({"project": "acme", **options}))


def url(adapter=None, **more):
    return (adapter or VertexGemini()).prepare(REQUEST, target(**more)).url


# -- recordings


def test_every_recorded_answer_becomes_a_lawful_completion_with_its_usage():
    found = need(recordings("vertex", endpoint="generateContent", stream=False))
    for recording in found:
        parsed = VertexGemini().parse(recording.body, SENT)
        replay_whole(recording, parsed)
        counted = json.loads(recording.body).get("usageMetadata")
        if counted:
            prompt = counted.get("promptTokenCount", 0) + counted.get("toolUsePromptTokenCount", 0)
            made = counted.get("candidatesTokenCount", 0) + counted.get("thoughtsTokenCount", 0)
            assert (parsed.usage.prompt_tokens, parsed.usage.completion_tokens) == (prompt, made)
    assert len(found) > 30


def test_every_recorded_stream_in_every_split():
    broken = ("error-mid-stream", "malformed-content")
    found = need(recordings("vertex", endpoint="streamGenerateContent", stream=True))
    whole = [r for r in found if not any(word in r.case for word in broken)]
    for recording in whole:
        replay_stream(recording, lambda: VertexGemini().stream(SENT))
    assert len(whole) == len(found) - len(broken)


def test_the_recorded_flex_answers_tell_their_tier():
    found = [r for r in need(recordings("vertex", endpoint="generateContent", stream=False)) if "tier-flex" in r.case]
    assert [VertexGemini().parse(r.body, SENT).served_tier for r in found] == ["flex"]


def test_every_recorded_failure_has_a_kind():
    found = need([
        r
        for endpoint, stream in (("generateContent", False), ("streamGenerateContent", True))
        for r in recordings("vertex", endpoint=endpoint, stream=stream, status=None)
    ])  # fmt: skip
    ours = {ErrorKind.AUTHENTICATION, ErrorKind.NOT_FOUND}
    kinds = {r.case: VertexGemini().error(r.status, r.headers, r.body).kind for r in found}
    for case, kind in kinds.items():
        clients = "cache-id" in case or "url-image" in case
        assert kind is ErrorKind.INVALID_REQUEST if clients else kind in ours, case


# -- addresses


@pytest.mark.parametrize(
    ("location", "host"),
    [
        ("global", "aiplatform.googleapis.com"),
        ("us-central1", "us-central1-aiplatform.googleapis.com"),
        ("eu", "aiplatform.eu.rep.googleapis.com"),
    ],
)
def test_the_host_follows_from_the_location(location, host):
    path = f"projects/acme/locations/{location}/publishers/google/models/gemini-3-flash:generateContent"
    assert url(location=location) == f"https://{host}/v1beta1/{path}"


def test_the_location_is_global_unless_named():
    assert url() == url(location="global")


def test_a_configured_address_stays():
    assert url(base_url="https://proxy.example").startswith("https://proxy.example/v1beta1/projects/acme/")
    got = url(base_url="https://proxy.example/v1", location="us-central1")
    assert got.startswith("https://proxy.example/v1/projects/acme/locations/us-central1/")


@pytest.mark.parametrize(
    ("model", "path"),
    [
        ("endpoints/123", "projects/acme/locations/global/endpoints/123:"),
        ("projects/o/locations/l/endpoints/1", "v1beta1/projects/o/locations/l/endpoints/1:"),
        ("publishers/x/models/y", "projects/acme/locations/global/publishers/x/models/y:"),
    ],
)
def test_models_that_are_not_googles_own(model, path):
    assert path in url(model=model)


def test_streams_are_asked_for_as_events():
    sent = load("vertex").prepare({**REQUEST, "stream": True}, target())
    assert sent.url.endswith("gemini-3-flash:streamGenerateContent?alt=sse")
    assert sent.stream


def test_express_mode_goes_by_key_without_a_project():
    adapter = VertexGemini()
    options = adapter.options({"express": True})
    sent = adapter.prepare(REQUEST, Target(adapter.base_url, "gemini-3-flash", "key", options))
    assert (
        sent.url == "https://aiplatform.googleapis.com/v1beta1/publishers/google/models/gemini-3-flash:generateContent"
    )
    assert sent.headers["x-goog-api-key"] == "key"
    assert adapter.credential(options) is None


def test_the_credential_is_googles_and_its_token_is_sent():
    adapter = VertexGemini()
    spec = adapter.credential(adapter.options({"project": "acme", "credentials_file": "/k.json"}))
    assert (spec.kind, spec.settings["credentials_file"]) == ("google", "/k.json")
    assert adapter.prepare(REQUEST, target()).headers["authorization"] == "Bearer token"


@pytest.mark.parametrize(
    ("raw", "named"),
    [
        ({}, "project"), ({"project": ""}, "project"), ({"project": 5}, "project"), ({"project": "p", "region": "x"}, "region"),
        ({"project": "p", "location": "a/b"}, "location"), ({"project": "p", "express": "perhaps"}, "express"),
    ],
)  # fmt: skip
def test_a_bad_option_is_named(raw, named):
    with pytest.raises(ValueError, match=named):
        VertexGemini().options(raw)


# -- differences


@pytest.mark.parametrize(
    ("tier", "header"), [("flex", "flex"), ("priority", "priority"), ("default", None), (None, None)]
)
def test_the_service_tier_is_a_header(tier, header):
    sent = VertexGemini().prepare({**REQUEST, "service_tier": tier}, target())
    assert sent.headers.get("x-vertex-ai-llm-shared-request-type") == header
    assert "serviceTier" not in json.loads(sent.body)


def test_the_body_is_that_of_ai_studio():
    request = {**REQUEST, "temperature": 1, "tools": [{"type": "function", "function": {"name": "f"}}]}
    body = json.loads(VertexGemini().prepare(request, target()).body)
    assert problems(body) == []
    assert body == json.loads(Gemini().prepare(request, Target("u", "gemini-3-flash")).body)


def test_web_search_with_functions_is_refused():
    request = {**REQUEST, "web_search_options": {}, "tools": [{"type": "function", "function": {"name": "f"}}]}
    with pytest.raises(UnsupportedParameter) as caught:
        VertexGemini().prepare(request, target())
    assert caught.value.param == "web_search_options"


def test_E_076_a_page_of_html_is_a_failure_without_words():
    failure = VertexGemini().error(404, {"content-type": "text/html"}, b"<!DOCTYPE html><p>Error 404")
    assert failure.kind is ErrorKind.NOT_FOUND
    assert "<" not in failure.message


# -- embeddings


def embed(model, given, **more):
    sent = VertexGemini().prepare_embeddings({"model": "x", "input": given, **more}, target(model))
    return sent.url.rsplit("/", 1)[-1], json.loads(sent.body)


def test_embeddings_by_the_model():
    a = {"content": {"parts": [{"text": "a"}]}}
    assert embed("gemini-embedding-2", "a") == ("gemini-embedding-2:embedContent", a)
    sized = {**a, "embedContentConfig": {"outputDimensionality": 64}}
    assert embed("gemini-embedding-2", ["a", "a"], dimensions=64) == (
        "gemini-embedding-2:batchEmbedContents",
        {"requests": [sized, sized]},
    )
    assert embed("text-embedding-005", ["a"], dimensions=64) == (
        "text-embedding-005:predict",
        {"instances": [{"content": "a"}], "parameters": {"outputDimensionality": 64}},
    )


def test_the_recorded_embedding_and_those_of_predictors():
    [recording] = need(recordings("vertex", endpoint="embedContent", stream=False))
    sent = VertexGemini().prepare_embeddings({"model": "x", "input": "a"}, target("gemini-embedding-2"))
    got = VertexGemini().parse_embeddings(recording.body, sent)
    assert got.completion["data"][0]["embedding"] == json.loads(recording.body)["embedding"]["values"]
    assert got.usage.input == 11
    predicted = [{"embeddings": {"values": [0.5], "statistics": {"token_count": n}}} for n in (2, 3)]
    got = VertexGemini().parse_embeddings(json.dumps({"predictions": predicted}).encode(), sent)
    assert [d["embedding"] for d in got.completion["data"]] == [[0.5], [0.5]]
    assert got.usage.input == 5
