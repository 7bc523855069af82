"""Whole answers and failures."""

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.errors import ErrorKind, ProviderError
from adapters.usage import Usage

from . import replay
from .anthropic_requests import ADAPTER, CONTENT, SENT, message
from .spoil import spoil


@pytest.mark.parametrize("recording", replay.recordings("anthropic", endpoint="messages", stream=False), ids=str)
def test_every_recorded_answer(recording: replay.Recording) -> None:
    """Text, calls, citations and counts are those of the recording."""
    answer = ADAPTER.parse(recording.body, SENT)
    whole = replay.replay_whole(recording, answer)
    recorded = json.loads(recording.body)
    blocks = recorded["content"]
    (choice,) = whole["choices"]
    assert (choice["message"]["content"] or "") == "".join(b["text"] for b in blocks if b["type"] == "text")
    calls = [(c["id"], json.loads(c["function"]["arguments"])) for c in choice["message"].get("tool_calls", [])]
    assert calls == [(b["id"], b["input"]) for b in blocks if b["type"] == "tool_use"]
    thoughts = [b for b in blocks if b["type"].endswith("thinking")]
    back = [
        {k: v for k, v in b.items() if k not in ("index", "at")} for b in choice["message"].get("thinking_blocks", [])
    ]
    assert back == thoughts
    cited = [c for b in blocks for c in b.get("citations") or [] if c["type"] == "web_search_result_location"]
    assert [a["url_citation"]["url"] for a in choice["message"]["annotations"]] == [c["url"] for c in cited]
    counts = recorded["usage"]
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == counts["input_tokens"] + counts.get("cache_read_input_tokens", 0) + counts.get(
        "cache_creation_input_tokens", 0
    )
    assert answer.usage.completion_tokens == counts["output_tokens"]
    assert answer.served_tier == ("default" if counts.get("service_tier") else None)
    if recorded["stop_reason"] == "refusal":
        assert choice["finish_reason"] == "content_filter"


def test_every_recording_of_the_provider_is_played() -> None:
    """305 exchanges: answers, streams and failures of Messages, and 4 of other operations."""

    def count(**which: Any) -> int:
        return len(replay.recordings("anthropic", **which))

    replay.need(replay.recordings("anthropic", endpoint="messages", stream=True))
    played = sum(count(endpoint="messages", stream=s, status=status) for s in (False, True) for status in (200, None))
    assert played == 301
    assert (
        played + sum(count(endpoint=e, stream=False, status=s) for e in ("count_tokens", "models") for s in (200, None))
        == 305
    )


@pytest.mark.parametrize(
    "recording",
    [
        *replay.recordings("anthropic", endpoint="messages", stream=False, status=None),
        *replay.recordings("anthropic", endpoint="models", stream=False, status=None),
        *replay.recordings("anthropic", endpoint="count_tokens", stream=False, status=None),
    ],
    ids=str,
)
def test_every_recorded_failure(recording: replay.Recording) -> None:
    failure = ADAPTER.error(recording.status, recording.headers, recording.body)
    kinds = {400: ErrorKind.INVALID_REQUEST, 401: ErrorKind.AUTHENTICATION, 404: ErrorKind.NOT_FOUND}
    assert (failure.kind, failure.status) == (kinds[recording.status], recording.status)


@pytest.mark.parametrize("usage", [{}, None])
def test_an_answer_that_counts_nothing_is_estimated_and_not_free(usage: Any) -> None:
    reply = message({"type": "text", "text": "Hi"}, usage=usage)
    assert ADAPTER.parse(reply, SENT).usage is None


def told(status: int, kind: str, text: str = "No.", **details: Any) -> bytes:
    return json.dumps(
        {"type": "error", "error": {"type": kind, "message": text, **details}, "request_id": "r"}
    ).encode()


@pytest.mark.parametrize(
    ("status", "kind", "text", "details", "expected"),
    [
        (400, "invalid_request_error", "prompt is too long: 3 tokens > 2 maximum", {}, ErrorKind.CONTEXT_LENGTH),
        (400, "invalid_request_error", "input length and `max_tokens` exceed context limit: 1 + 2 > 3", {}, ErrorKind.CONTEXT_LENGTH),
        (400, "invalid_request_error", "Your credit balance is too low to access the API.", {}, ErrorKind.QUOTA),
        (400, "invalid_request_error", "messages: at least one message is required", {}, ErrorKind.INVALID_REQUEST),
        (400, "invalid_request_error", "Output blocked by content filtering policy", {}, ErrorKind.CONTENT_POLICY),
        (401, "authentication_error", "invalid x-api-key", {}, ErrorKind.AUTHENTICATION),
        (402, "billing_error", "Pay.", {}, ErrorKind.QUOTA),
        (403, "permission_error", "No.", {}, ErrorKind.AUTHENTICATION),
        (404, "not_found_error", "model: claude-x", {}, ErrorKind.NOT_FOUND),
        (413, "request_too_large", "Request exceeds the maximum size", {}, ErrorKind.TOO_LARGE),
        (429, "rate_limit_error", "Slow down.", {}, ErrorKind.RATE_LIMITED),
        (429, "rate_limit_error", "No.", {"details": {"error_code": "enforced_spend_limit_reached"}}, ErrorKind.QUOTA),
        (500, "api_error", "Internal server error", {}, ErrorKind.SERVER),
        (504, "timeout_error", "Late.", {}, ErrorKind.TIMEOUT),
        (529, "overloaded_error", "Overloaded", {}, ErrorKind.OVERLOADED),
    ],
)  # fmt: skip
def test_E_074_E_075_failures_by_what_can_be_done_about_them(
    status: int, kind: str, text: str, details: Any, expected: ErrorKind
) -> None:
    failure = ADAPTER.error(status, {"retry-after": "7"}, told(status, kind, text, **details))
    assert (failure.kind, failure.status, failure.retry_after) == (expected, status, 7)
    if expected is ErrorKind.CONTEXT_LENGTH:
        assert failure.code == "context_length_exceeded"


@pytest.mark.parametrize("broken", [b"", b"[]", b"{}", b"<html>", b'{"type":"message","content":"x"}'])
def test_what_is_no_message_fails(broken: bytes) -> None:
    with pytest.raises(ProviderError) as caught:
        ADAPTER.parse(broken, SENT)
    assert caught.value.kind is ErrorKind.PROTOCOL


def test_an_error_inside_a_200_fails() -> None:
    with pytest.raises(ProviderError) as caught:
        ADAPTER.parse(told(200, "overloaded_error"), SENT)
    assert caught.value.kind is ErrorKind.OVERLOADED


def test_E_068_cached_tokens_are_told_once_in_buckets_of_their_own() -> None:
    counts = {
        "input_tokens": 3,
        "cache_creation_input_tokens": 12304,
        "cache_read_input_tokens": 0,
        "output_tokens": 550,
    }
    usage = ADAPTER.parse(message({"type": "text", "text": "x"}, usage=counts), SENT).usage
    assert usage == Usage(input=3, cache_write=12304, output=550)
    assert usage.to_openai()["prompt_tokens"] == 12307
    assert usage.to_openai()["prompt_tokens_details"]["cache_write_tokens"] == 12304


def test_C_281_a_long_number_in_arguments_is_kept_to_the_digit() -> None:
    long = '{"wei":115792089237316195423570985008687907853269984665640564039457584007913129639935}'
    body = json.dumps({"content": [{"type": "tool_use", "id": "a", "name": "f", "input": json.loads(long)}]})
    told = ADAPTER.parse(body.encode(), SENT).completion["choices"][0]["message"]
    assert told["tool_calls"][0]["function"]["arguments"] == long


def test_unknown_blocks_are_ignored() -> None:
    answer = ADAPTER.parse(message({"type": "hologram", "x": 1}, {"type": "text", "text": "a"}), SENT)
    assert answer.completion["choices"][0]["message"] == {"content": "a"}


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_answer_is_translated_or_a_provider_error(data: st.DataObject) -> None:
    """Whatever an upstream puts in the place of anything in its answer."""
    spoiled = spoil(data, json.loads(message(*CONTENT, stop="tool_use")))
    with contextlib.suppress(ProviderError):
        answer = ADAPTER.parse(json.dumps(spoiled).encode(), SENT)
        replay.completion(answer, id="c", created=1, model="m")
