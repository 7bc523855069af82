"""Azure: addresses, credentials, content filters, and streams that begin with no choice."""

import json
from typing import Any

import openai
import pytest

from adapters.azure import Azure
from adapters.errors import ErrorKind
from adapters.interface import Target, UpstreamRequest
from adapters.params import PARAMS

from .replay import need, recordings, replay_stream, replay_whole, stream_problems, written
from .test_compatible import own_usage
from .test_openai_adapter import chunk

ADAPTER = Azure()
BASE = "https://r.openai.azure.com"
REQUEST = {"model": "public", "messages": [{"role": "user", "content": "hi"}]}


def sent(key: str = "k", base: str = BASE, **options: Any) -> UpstreamRequest:
    return ADAPTER.prepare(REQUEST, Target(base, "gpt 4o", key, ADAPTER.options(options)))


def test_every_parameter_has_a_fate() -> None:
    assert set(PARAMS) <= ADAPTER.params.keys()
    assert ADAPTER.base_url == ""


@pytest.mark.parametrize("base", [BASE, f"{BASE}/openai", f"{BASE}/openai/v1"])
def test_addresses(base: str) -> None:
    assert sent(base=base).url == f"{BASE}/openai/v1/chat/completions"
    assert sent(base=base, api_version="2024-10-21").url == (
        f"{BASE}/openai/deployments/gpt%204o/chat/completions?api-version=2024-10-21"
    )
    assert "/deployments/d%2F1/" in sent(base=base, api_version="2024-10-21", deployment="d/1").url
    for version, query in (("v1", ""), ("latest", ""), ("preview", "?api-version=preview")):
        assert sent(base=base, api_version=version).url == f"{BASE}/openai/v1/chat/completions{query}"
    up = ADAPTER.prepare_embeddings(
        {"model": "x", "input": "a"}, Target(base, "e", "k", ADAPTER.options({"api_version": "v"}))
    )
    assert up.url == f"{BASE}/openai/deployments/e/embeddings?api-version=v"


def test_the_deployment_is_the_model_where_the_address_does_not_name_it() -> None:
    made = Target(BASE, "gpt-4o", "k", ADAPTER.options({"deployment": "prod"}))
    for _ in range(2):
        assert json.loads(ADAPTER.prepare(REQUEST, made).body)["model"] == "prod"
    up = ADAPTER.prepare_embeddings({"model": "x", "input": "a"}, made)
    assert (json.loads(up.body)["model"], up.url) == ("prod", f"{BASE}/openai/v1/embeddings")
    assert json.loads(sent().body)["model"] == "gpt 4o"


def test_addresses_are_the_official_sdk_s() -> None:
    client = openai.AzureOpenAI(azure_endpoint=BASE, api_key="k", api_version="2024-10-21", azure_deployment="gpt-4o")
    ours = ADAPTER.prepare(REQUEST, Target(BASE, "gpt-4o", "k", ADAPTER.options({"api_version": "2024-10-21"})))
    assert ours.url == f"{client.base_url}chat/completions?api-version={client._api_version}"
    client.close()


def test_a_key_has_its_own_header_and_a_token_is_a_bearer() -> None:
    assert sent().headers == {"content-type": "application/json", "api-key": "k"}
    token = "eyJhbGciOi.eyJhdWQi.c2ln"
    assert sent(token).headers == {"content-type": "application/json", "authorization": f"Bearer {token}"}
    assert "api-key" in sent(token, auth="api_key").headers
    assert sent("opaque", auth="entra").headers["authorization"] == "Bearer opaque"
    assert sent("").headers == {"content-type": "application/json"}


def test_entra_credentials() -> None:
    spec = ADAPTER.credential(ADAPTER.options({"tenant_id": "t", "client_id": "c", "client_secret": "s"}))
    assert spec is not None
    assert (spec.kind, spec.settings["client_secret"]) == ("entra", "s")
    assert spec.settings["scope"].startswith("https://cognitiveservices.azure.com/")
    assert ADAPTER.credential(ADAPTER.options({"auth": "api_key"})) is None
    assert "'s'" not in repr(ADAPTER.options({"client_secret": "s"}))
    with pytest.raises(ValueError, match="tenant"):
        ADAPTER.options({"tenant": "t"})


def test_E_055_the_first_chunk_has_no_choices_and_no_names() -> None:
    first = b'data: {"choices":[],"created":0,"id":"","model":"","object":"","prompt_filter_results":[{"prompt_index":0}]}\n\n'
    filtered = chunk({}, content_filter_results={"hate": {"filtered": False}}, model="gpt-4o-2024-11-20")
    body = (
        first
        + chunk({"content": "a"}, model="gpt-4o-2024-11-20")
        + filtered
        + chunk({}, finish_reason="stop")
        + b"data: [DONE]\n\n"
    )
    from .replay import translate

    outcome = translate(ADAPTER.stream(sent()), [body])
    assert outcome.error is None
    raw = written(outcome)
    assert stream_problems(raw) == []
    assert {json.loads(e[6:])["model"] for e in raw.decode().split("\n\n")[:-2]} == {"gpt-4o-2024-11-20"}


def test_its_streams_are_translated_unless_the_operator_vouches_for_them() -> None:
    assert ADAPTER.relay(sent(), include_usage=True) is None
    assert ADAPTER.relay(sent(relay=True), include_usage=True) is not None


BLOCKED = {
    "error": {
        "code": "content_filter",
        "type": None,
        "param": "prompt",
        "message": "The response was filtered due to the prompt triggering Azure OpenAI's content management policy.",
        "status": 400,
        "innererror": {"code": "ResponsibleAIPolicyViolation", "content_filter_result": {}},
    }
}


@pytest.mark.parametrize(
    ("status", "headers", "body", "kind", "code", "wait"),
    [
        (400, {}, BLOCKED, ErrorKind.CONTENT_POLICY, "content_filter", None),
        (401, {}, {"error": {"code": "401", "message": "Access denied due to invalid subscription key"}}, ErrorKind.AUTHENTICATION, None, None),
        (404, {}, {"error": {"code": "DeploymentNotFound", "message": "no"}}, ErrorKind.NOT_FOUND, "DeploymentNotFound", None),
        (429, {"retry-after": "1", "retry-after-ms": "0"}, {"error": {"code": "RateLimitReached", "message": "x"}}, ErrorKind.RATE_LIMITED, "RateLimitReached", 1.0),
        (429, {}, {"error": {"code": "429", "message": "Please retry after 7 seconds."}}, ErrorKind.RATE_LIMITED, None, 7.0),
    ],
)  # fmt: skip
def test_E_073_failures(
    status: int, headers: dict[str, str], body: Any, kind: ErrorKind, code: str | None, wait: float | None
) -> None:
    error = ADAPTER.error(status, headers, json.dumps(body).encode())
    assert (error.kind, error.code, error.retry_after) == (kind, code, wait)


def test_recorded_traffic() -> None:
    streams = need(recordings("azure", endpoint="chat.completions", stream=True))
    for recording in streams:
        outcome, _ = replay_stream(recording, lambda: ADAPTER.stream(sent()))
        assert outcome.usage == own_usage(recording.body)
    answers = recordings("azure", endpoint="chat.completions", stream=False)
    for recording in answers:
        replay_whole(recording, ADAPTER.parse(recording.body, sent()))
    failures = recordings("azure", endpoint="chat.completions", stream=False, status=None)
    assert [ADAPTER.error(r.status, r.headers, r.body).kind for r in failures] == [ErrorKind.NOT_FOUND]
    assert (len(streams), len(answers)) >= (1, 4)
