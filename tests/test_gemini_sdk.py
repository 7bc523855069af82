"""What Google's own SDK sends and reads, against what we send and what a client of ours reads."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from urllib.parse import urlsplit

import pytest

from adapters.gemini import Gemini
from adapters.gemini.vertex import VertexGemini
from adapters.interface import Target

genai = pytest.importorskip("google.genai")
types = genai.types
ANSWER = {"candidates": [{"content": {"role": "model", "parts": [{"text": "hi"}]}, "finishReason": "STOP"}]}


@contextmanager
def upstream() -> Iterator[tuple[str, list[tuple[str, dict[str, str], dict[str, object]]]]]:
    """A server that answers everything alike, and what it was asked."""
    seen: list[tuple[str, dict[str, str], dict[str, object]]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            seen.append((self.path, {k.lower(): v for k, v in self.headers.items()}, json.loads(body)))
            streamed = "alt=sse" in self.path
            data = b"data: %b\r\n\r\n" % json.dumps(ANSWER).encode() if streamed else json.dumps(ANSWER).encode()
            self.send_response(200)
            self.send_header("content-type", "text/event-stream" if streamed else "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", seen
        server.shutdown()


REQUEST = {
    "model": "x",
    "messages": [{"role": "system", "content": "Be short."}, {"role": "user", "content": "hi"}],
    "temperature": 0.5,
    "max_completion_tokens": 9,
    "stop": ["END"],
    "reasoning_effort": "low",
    "service_tier": "flex",
    "tools": [{"type": "function", "function": {"name": "f", "description": "F.", "parameters": {"type": "object", "properties": {"a": {"type": "string"}}}}}],
    "tool_choice": "required",
}  # fmt: skip


def config():
    """The same request in the SDK's words."""
    schema = {"type": "object", "properties": {"a": {"type": "string"}}}
    return types.GenerateContentConfig(
        system_instruction=[types.Part(text="Be short.")],
        temperature=0.5,
        max_output_tokens=9,
        stop_sequences=["END"],
        thinking_config=types.ThinkingConfig(thinking_level="LOW", include_thoughts=True),
        service_tier="flex",
        tools=[
            types.Tool(function_declarations=[{"name": "f", "description": "F.", "parameters_json_schema": schema}])
        ],
        tool_config=types.ToolConfig(function_calling_config=types.FunctionCallingConfig(mode="ANY")),
    )


def camel(value):
    """JSON with the SDK's snake case (protobuf takes both) in the case of the documents, and no words of authorship."""
    if isinstance(value, dict):
        return {
            camel_word(k): v if k.endswith("son_schema") else camel(v)
            for k, v in value.items()
            if k != "role" or v != "user"
        }
    return [camel(v) for v in value] if isinstance(value, list) else value


def camel_word(word):
    head, *rest = word.split("_")
    return head + "".join(part.title() for part in rest)


@pytest.mark.parametrize("stream", [False, True])
def test_the_sdk_sends_what_we_send(stream):
    with upstream() as (address, seen):
        client = genai.Client(api_key="key", http_options=types.HttpOptions(base_url=address, api_version="v1beta"))
        ask = client.models.generate_content_stream if stream else client.models.generate_content
        answer = ask(model="gemini-3-flash-preview", contents="hi", config=config())
        for _ in answer if stream else ():
            pass
        client.close()
    path, headers, body = seen[0]
    target = Target(Gemini.base_url, "gemini-3-flash-preview", "key", Gemini().options({}))
    ours = Gemini().prepare({**REQUEST, "stream": stream}, target)
    parts = urlsplit(ours.url)
    assert (f"{parts.path}?{parts.query}" if stream else parts.path) == path
    assert ours.headers["x-goog-api-key"] == headers["x-goog-api-key"]
    assert camel(json.loads(ours.body)) == camel(body)


def test_the_sdk_asks_vertex_where_we_ask():
    from google.oauth2.credentials import Credentials

    with upstream() as (address, seen):
        client = genai.Client(
            vertexai=True,
            project="acme",
            location="us-central1",
            credentials=Credentials("tok"),
            http_options=types.HttpOptions(base_url=address),
        )
        client.models.generate_content(model="gemini-3-flash-preview", contents="hi")
        client.close()
    adapter = VertexGemini()
    options = adapter.options({"project": "acme", "location": "us-central1"})
    ours = adapter.prepare(
        {"model": "x", "messages": [{"role": "user", "content": "hi"}]},
        Target(adapter.base_url, "gemini-3-flash-preview", "tok", options),
    )
    path, headers, body = seen[0]
    assert urlsplit(ours.url).path == path
    assert ours.headers["authorization"] == headers["authorization"]
    assert camel(json.loads(ours.body)) == camel(body)
