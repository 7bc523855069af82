"""Claude on Vertex AI: addresses, credentials and what is missing there."""

import http.server
import json
import threading
from collections.abc import Iterator
from typing import Any

import anthropic
import pytest

from adapters import registry
from adapters.anthropic.vertex import VertexAnthropic
from adapters.errors import ErrorKind, UnsupportedParameter
from adapters.interface import Target, UpstreamRequest

from .anthropic_requests import LATE, PIXEL, SIGNED, USER, ask, message
from .anthropic_types import problems
from .test_anthropic_stream import ended, sse, start, text

ADAPTER = VertexAnthropic()
MODEL = "claude-opus-4-8@default"


def target(base_url: str = ADAPTER.base_url, **options: str) -> Target:
    decoded = ADAPTER.options({"project": "p-1", **options})
    return Target(base_url, MODEL, "ya29.token", options=decoded)


def prepared(request: dict[str, Any], **options: str) -> UpstreamRequest:
    return ADAPTER.prepare({"model": "m", **request}, target(**options))


def body(request: dict[str, Any], **options: str) -> Any:
    made = json.loads(prepared(request, **options).body)
    version = made.pop("anthropic_version")
    assert version == "vertex-2023-10-16"
    assert "model" not in made
    assert not problems({"model": MODEL, **made})
    return made


@pytest.mark.parametrize(
    ("region", "host"),
    [
        ("global", "aiplatform.googleapis.com"),
        ("us", "aiplatform.us.rep.googleapis.com"),
        ("eu", "aiplatform.eu.rep.googleapis.com"),
        ("us-east5", "us-east5-aiplatform.googleapis.com"),
    ],
)
@pytest.mark.parametrize(("stream", "verb"), [(False, "rawPredict"), (True, "streamRawPredict")])
def test_the_address_names_project_region_model_and_verb(region: str, host: str, stream: bool, verb: str) -> None:
    sent = prepared(ask(stream=stream), location=region)
    place = f"https://{host}/v1/projects/p-1/locations/{region}/publishers/anthropic/models/{MODEL}:{verb}"
    assert sent.url == place
    assert sent.headers["authorization"] == "Bearer ya29.token"
    assert "anthropic-version" not in sent.headers
    assert json.loads(sent.body).get("stream", False) is stream


def test_options_and_credential() -> None:
    assert isinstance(registry.load("vertex-anthropic"), VertexAnthropic)
    spec = ADAPTER.credential(ADAPTER.options({"project": "p"}))
    assert spec is not None
    assert spec.kind == "google"
    for bad in ({}, {"project": ""}, {"project": "p", "zone": "x"}):
        with pytest.raises(ValueError, match=r"project|zone"):
            ADAPTER.options(bad)


def test_E_021_what_the_provider_would_have_to_fetch_is_refused() -> None:
    for part in (
        {"type": "image_url", "image_url": {"url": "https://a.example/x.png"}},
        {"type": "file", "file": {"file_id": "file_1"}},
    ):
        with pytest.raises(UnsupportedParameter) as caught:
            prepared(ask({"role": "user", "content": [part]}))
        assert caught.value.param.startswith("messages[0].content[0]")
    inline = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}}
    assert body(ask({"role": "user", "content": [inline]}))["messages"][0]["content"][0]["type"] == "image"


def test_late_instructions_join_the_system_prompt() -> None:
    """Vertex takes no system turns, even for models that have them elsewhere."""
    made = body(ask(*LATE, USER))
    assert [t["role"] for t in made["messages"]] == ["user", "assistant", "user"]
    assert made["system"][0]["text"] == "Be brief."


def test_service_tiers_and_the_version_do_not_leak_from_the_other_platform() -> None:
    made = body(ask(service_tier="default", temperature=1))
    assert "service_tier" not in made
    older = ADAPTER.prepare(
        {**ask(temperature=0.5), "model": "m"}, Target("", "claude-sonnet-4@20250514", options=target().options)
    )
    assert json.loads(older.body)["temperature"] == 0.5


def test_betas_go_into_the_body() -> None:
    history = [USER, {"role": "assistant", "content": "Hi", "thinking_blocks": [SIGNED]}, USER]
    one = Target("", "claude-opus-5-5", options=target().options)
    made = json.loads(ADAPTER.prepare({**ask(*history), "model": "m"}, one).body)
    assert made["anthropic_beta"] == ["thinking-binding-controls-2026-08-01"]


@pytest.mark.parametrize(
    ("status", "told", "expected"),
    [
        (403, {"error": {"code": 403, "message": "Permission denied", "status": "PERMISSION_DENIED"}}, ErrorKind.AUTHENTICATION),
        (429, [{"error": {"code": 429, "message": "Quota exceeded", "status": "RESOURCE_EXHAUSTED"}}], ErrorKind.RATE_LIMITED),
        (529, {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}, ErrorKind.OVERLOADED),
        (
            400,
            {"error": {"code": 400, "message": json.dumps({"type": "error", "error": {"type": "invalid_request_error", "message": "prompt is too long: 9 tokens > 1 maximum"}}), "status": "INVALID_ARGUMENT"}},
            ErrorKind.CONTEXT_LENGTH,
        ),
    ],
)  # fmt: skip
def test_E_076_failures_in_googles_shape_and_in_anthropics(status: int, told: Any, expected: ErrorKind) -> None:
    assert ADAPTER.error(status, {}, json.dumps(told).encode()).kind is expected


class Upstream(http.server.BaseHTTPRequestHandler):
    """Answers what the test gave the server and remembers what was asked."""

    def do_POST(self) -> None:
        asked = self.rfile.read(int(self.headers["content-length"]))
        self.server.asked.append((self.path, dict(self.headers), json.loads(asked)))  # type: ignore[attr-defined]
        kind, answer = self.server.answer  # type: ignore[attr-defined]
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def upstream() -> Iterator[http.server.HTTPServer]:
    server = http.server.HTTPServer(("127.0.0.1", 0), Upstream)
    server.asked = []  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_sdk_asks_the_same_address_and_reads_our_answers(upstream: Any) -> None:
    """Google's path by the official SDK is ours, and what our tests take for an answer is one for the SDK."""
    base = f"http://127.0.0.1:{upstream.server_port}"
    messages: Any = [{"role": "user", "content": "Hi"}]
    with anthropic.AnthropicVertex(
        base_url=f"{base}/v1", region="us-east5", project_id="p-1", access_token="t", max_retries=0
    ) as client:
        upstream.answer = ("application/json", message({"type": "text", "text": "Hello"}))
        reply = client.messages.create(model=MODEL, max_tokens=5, messages=messages)
        assert reply.content[0].text == "Hello"  # type: ignore[union-attr]
        upstream.answer = ("text/event-stream", sse(start(), *text(0, "Hel", "lo"), *ended()))
        with client.messages.stream(model=MODEL, max_tokens=5, messages=messages) as stream:
            assert stream.get_final_text() == "Hello"
    for streamed, (path, _, _) in zip((False, True), upstream.asked, strict=True):
        ours = ADAPTER.prepare({"model": "m", **ask(stream=streamed)}, target(base, location="us-east5"))
        assert ours.url == base + path
