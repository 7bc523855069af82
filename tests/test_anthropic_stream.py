"""Messages streams: every recording in every cut, and the events that no recording has."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.anthropic import Anthropic
from adapters.emit import Accumulator, completion
from adapters.errors import ErrorKind, ProviderError
from adapters.interface import Answer, UpstreamRequest
from adapters.usage import Usage

from . import replay
from .anthropic_requests import message
from .spoil import spoil

ADAPTER = Anthropic()
SPLICED = "vercel-anthropic-spliced-message-start.chunks.txt"
STREAMS = [r for r in replay.recordings("anthropic", endpoint="messages", stream=True) if r.case != SPLICED]


def sent(**notes: Any) -> UpstreamRequest:
    return UpstreamRequest("", {}, b"", stream=True, notes={"custom": frozenset(), "answer": None, **notes})


def sse(*events: dict[str, Any]) -> bytes:
    return b"".join(b"event: %b\ndata: %b\n\n" % (e["type"].encode(), json.dumps(e).encode()) for e in events)


def start(**usage: int) -> dict[str, Any]:
    return {
        "type": "message_start",
        "message": {"id": "msg_1", "model": "claude-x", "content": [], "usage": {"input_tokens": 5, **usage}},
    }


def opened(index: int, **block: Any) -> dict[str, Any]:
    return {"type": "content_block_start", "index": index, "content_block": block}


def part(index: int, kind: str, **delta: Any) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": index, "delta": {"type": kind, **delta}}


def closed(index: int) -> dict[str, Any]:
    return {"type": "content_block_stop", "index": index}


def ended(reason: str = "end_turn", output: int = 7, **delta: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    told = {"type": "message_delta", "delta": {"stop_reason": reason, **delta}, "usage": {"output_tokens": output}}
    return told, {"type": "message_stop"}


def text(index: int, *pieces: str) -> list[dict[str, Any]]:
    return [opened(index, type="text", text=""), *(part(index, "text_delta", text=p) for p in pieces), closed(index)]


def tool(index: int, name: str, *pieces: str, identity: str = "toolu_1") -> list[dict[str, Any]]:
    begun = opened(index, type="tool_use", id=identity, name=name, input={})
    return [begun, *(part(index, "input_json_delta", partial_json=p) for p in pieces), closed(index)]


def answer(*events: dict[str, Any], notes: dict[str, Any] | None = None, **options: Any) -> dict[str, Any]:
    """The completion that a client of the stream ends up with; the stream itself is checked on the way."""
    outcome = replay.translate(ADAPTER.stream(sent(**(notes or {}))), [sse(*events)])
    if outcome.error:
        raise outcome.error
    assert not replay.stream_problems(replay.written(outcome, **options), include_usage=True)
    gathered = Accumulator()
    gathered.add(outcome.chunks)
    whole = completion(
        Answer(gathered.completion(), outcome.usage), id="chatcmpl-1", created=1, model="claude-x", **options
    )
    choice: dict[str, Any] = whole["choices"][0]
    return choice


def recorded_events(recording: replay.Recording) -> list[dict[str, Any]]:
    """The events of the first message (some recordings are several streams in a row)."""
    events: list[dict[str, Any]] = []
    for line in recording.body.splitlines():
        if line.startswith(b"data: {"):
            events.append(json.loads(line[6:]))
            if events[-1]["type"] == "message_stop":
                break
    return events


@pytest.mark.parametrize("recording", STREAMS, ids=str)
def test_every_recorded_stream_in_every_cut(recording: replay.Recording) -> None:
    """Usage, text, tool calls and the end are those of the recording, however its bytes arrive."""
    outcome, raw = replay.replay_stream(recording, lambda: ADAPTER.stream(sent()))
    events = recorded_events(recording)
    counts: dict[str, Any] = {}
    for event in events:
        told = event.get("usage") or event.get("message", {}).get("usage") or {}
        counts |= {k: v for k, v in told.items() if v is not None}
    assert outcome.usage is not None
    cached = counts.get("cache_read_input_tokens", 0) + counts.get("cache_creation_input_tokens", 0)
    assert outcome.usage.prompt_tokens == counts["input_tokens"] + cached
    assert outcome.usage.completion_tokens == counts["output_tokens"]
    assert outcome.usage.cache_read == counts.get("cache_read_input_tokens", 0)
    assert outcome.usage.reasoning == counts.get("output_tokens_details", {}).get("thinking_tokens", 0)
    spoken = "".join(e["delta"].get("text", "") for e in events if e["type"] == "content_block_delta")
    assert replay.texts(raw) == {0: spoken}
    gathered = Accumulator()
    gathered.add(outcome.chunks)
    calls = gathered.completion()["choices"][0]["message"].get("tool_calls", [])
    begun = [e["content_block"] for e in events if e["type"] == "content_block_start"]
    used = [b for b in begun if b["type"] == "tool_use"]
    assert [(c["id"], c["function"]["name"]) for c in calls] == [(b["id"], b["name"]) for b in used]
    if not any(e.get("delta", {}).get("stop_reason") == "max_tokens" for e in events):
        assert all(isinstance(json.loads(c["function"]["arguments"]), dict) for c in calls)


@pytest.mark.parametrize("recording", STREAMS[::7], ids=str)
def test_a_recorded_stream_cut_short_is_incomplete(recording: replay.Recording) -> None:
    """Wherever a stream breaks off before message_stop, closing it fails and no end was told."""
    body = recording.body
    body = body[: body.index(b'"message_stop"')]
    body = body[: body.rindex(b"event: message_stop")]
    for at in range(0, len(body), max(1, len(body) // 50)):
        outcome = replay.translate(ADAPTER.stream(sent()), [body[:at]])
        assert outcome.error is not None
        assert outcome.error.kind is ErrorKind.INCOMPLETE
        assert not any(c.get("finish_reason") for chunk in outcome.chunks for c in chunk["choices"])


def test_E_058_pings_unknown_events_duplicate_starts_and_a_foreign_done_change_nothing() -> None:
    plain = [start(), *text(0, "Hel", "lo"), *ended()]
    noisy: list[dict[str, Any]] = [start()]
    for event in plain:
        noisy += [{"type": "ping"}, event, {"type": "telemetry", "x": 1}]
    noisy[5:5] = [opened(9, type="hologram"), part(9, "hologram_delta", beam="x"), closed(9)]
    body = sse(*noisy) + b"event: data\ndata: [DONE]\n\n"
    outcome = replay.translate(ADAPTER.stream(sent()), [body])
    assert outcome.error is None
    assert outcome.chunks == replay.translate(ADAPTER.stream(sent()), [sse(*plain)]).chunks


def test_a_second_message_inside_the_first_is_an_error() -> None:
    second = {**start(), "message": {**start()["message"], "id": "msg_2"}}
    with pytest.raises(ProviderError) as caught:
        answer(start(), *text(0, "a"), second, *text(0, "b"), *ended())
    assert caught.value.kind is ErrorKind.PROTOCOL


def test_the_spliced_recording_is_an_error_in_every_cut() -> None:
    found = [r for r in replay.recordings("anthropic", endpoint="messages", stream=True) if r.case == SPLICED]
    for recording in replay.need(found):
        for pieces in ([recording.body], *replay.splits(recording.body)):
            outcome = replay.translate(ADAPTER.stream(sent()), pieces)
            assert outcome.error is not None
            assert outcome.error.kind is ErrorKind.PROTOCOL


def test_E_049_tool_indexes_are_dense_although_blocks_precede() -> None:
    events = [*text(0, "Let me see."), *tool(1, "a", '{"x":1}'), *tool(4, "b", '{"y":2}', identity="toolu_2")]
    choice = answer(start(), *events, *ended("tool_use"))
    assert [c["function"] for c in choice["message"]["tool_calls"]] == [
        {"name": "a", "arguments": '{"x":1}'},
        {"name": "b", "arguments": '{"y":2}'},
    ]
    assert choice["finish_reason"] == "tool_calls"


@pytest.mark.parametrize("pieces", [[], [""], ["", ""]])
def test_E_050_a_call_without_arguments_ends_as_an_empty_object(pieces: list[str]) -> None:
    choice = answer(start(), *tool(0, "now", *pieces), *ended("tool_use"))
    assert choice["message"]["tool_calls"][0]["function"]["arguments"] == "{}"


def test_arguments_that_come_with_the_block_are_told() -> None:
    begun = opened(0, type="tool_use", id="toolu_1", name="roll", input={"sides": 6})
    choice = answer(start(), begun, closed(0), *ended("tool_use"))
    assert json.loads(choice["message"]["tool_calls"][0]["function"]["arguments"]) == {"sides": 6}


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("overloaded_error", ErrorKind.OVERLOADED),
        ("rate_limit_error", ErrorKind.RATE_LIMITED),
        ("api_error", ErrorKind.SERVER),
        ("invalid_request_error", ErrorKind.INVALID_REQUEST),
    ],
)
@pytest.mark.parametrize("before", [[], [start()], [start(), *text(0, "Hi")]], ids=["first", "started", "spoken"])
def test_E_052_an_error_inside_the_stream_is_never_an_end(
    kind: str, expected: ErrorKind, before: list[dict[str, Any]]
) -> None:
    failure = {"type": "error", "error": {"type": kind, "message": "No."}, "request_id": "req_1"}
    translator = ADAPTER.stream(sent())
    outcome = replay.translate(translator, [sse(*before, failure), b""])
    assert outcome.error is not None
    assert outcome.error.kind is expected
    spoken = [c["delta"].get("content") for chunk in outcome.chunks for c in chunk["choices"]]
    assert spoken == (["Hi"] if len(before) > 1 else [])
    with pytest.raises(ProviderError):
        translator.close()


def test_E_066_nothing_is_told_before_the_first_content() -> None:
    """A failure right after message_start must still be able to become an HTTP status or another deployment."""
    translator = ADAPTER.stream(sent())
    assert translator.feed(sse(start(), {"type": "ping"}, opened(0, type="text", text=""))) == []


def test_E_053_characters_cut_in_two_arrive_whole() -> None:
    body = sse(start(), *text(0, "日本語 ", "🦥 naïve"), *ended()).decode().encode()
    raw = body.replace(b"\\ud83e\\udda5", "🦥".encode())
    whole = replay.translate(ADAPTER.stream(sent()), [raw])
    for at in range(len(raw)):
        assert replay.translate(ADAPTER.stream(sent()), [raw[:at], raw[at:]]).same(whole)
    assert replay.texts(replay.written(whole)) == {0: "日本語 🦥 naïve"}


def test_E_057_later_counts_overwrite_earlier_ones() -> None:
    told, stop = ended(output=40)
    told["usage"] |= {"input_tokens": 5, "cache_read_input_tokens": 90, "cache_creation_input_tokens": 30}
    begun = start(cache_read_input_tokens=90, cache_creation_input_tokens=30, output_tokens=1)
    begun["message"]["usage"]["cache_creation"] = {"ephemeral_5m_input_tokens": 10, "ephemeral_1h_input_tokens": 20}
    begun["message"]["usage"]["service_tier"] = "priority"
    told["usage"]["output_tokens_details"] = {"thinking_tokens": 15}
    told["usage"]["server_tool_use"] = {"web_search_requests": 2, "web_fetch_requests": 0}
    outcome = replay.translate(ADAPTER.stream(sent()), [sse(begun, *text(0, "x"), told, stop)])
    assert outcome.usage == Usage(
        input=5, cache_read=90, cache_write=10, cache_write_1h=20, output=25, reasoning=15, calls={"web_search": 2}
    )
    assert outcome.served_tier == "priority"


def test_usage_of_an_aborted_stream_is_what_was_told_so_far() -> None:
    translator = ADAPTER.stream(sent())
    assert translator.usage is None
    translator.feed(sse(start(output_tokens=1), *text(0, "x")))
    assert translator.usage == Usage(input=5, output=1)


def test_thinking_is_told_as_text_and_whole_with_its_place() -> None:
    signed = [
        opened(0, type="thinking", thinking="", signature=""),
        part(0, "thinking_delta", thinking="I "),
        part(0, "thinking_delta", thinking="think."),
        part(0, "signature_delta", signature="sig=="),
        closed(0),
    ]
    hidden = [opened(2, type="redacted_thinking", data="blob"), closed(2)]
    choice = answer(start(), *signed, *text(1, "Hé"), *hidden, *tool(3, "f", "{}"), *ended("tool_use"))
    assert choice["message"]["reasoning_content"] == "I think."
    assert choice["message"]["thinking_blocks"] == [
        {"index": 0, "type": "thinking", "thinking": "I think.", "signature": "sig==", "at": [0, 0]},
        {"index": 1, "type": "redacted_thinking", "data": "blob", "at": [2, 0]},
    ]


def test_E_061_server_tools_are_no_calls_of_the_client() -> None:
    search = [
        opened(0, type="server_tool_use", id="srvtoolu_1", name="web_search", input={}),
        part(0, "input_json_delta", partial_json='{"query":"x"}'),
        closed(0),
        opened(1, type="web_search_tool_result", tool_use_id="srvtoolu_1", content=[]),
        closed(1),
    ]
    choice = answer(start(), *search, *text(2, "Found."), *ended())
    assert "tool_calls" not in choice["message"]
    assert choice["finish_reason"] == "stop"


def test_E_062_annotations_come_once_with_offsets_of_their_text() -> None:
    cited = {"type": "web_search_result_location", "url": "https://a.example", "title": "A", "cited_text": "q"}
    document = {"type": "char_location", "document_index": 0, "start_char_index": 0, "end_char_index": 3}
    quoted = [
        opened(1, type="text", text="", citations=[]),
        part(1, "citations_delta", citation=cited),
        part(1, "citations_delta", citation=document),
        part(1, "text_delta", text="the fact"),
        closed(1),
    ]
    events = [start(), *text(0, "Look: "), *quoted, *text(2, "."), *ended()]
    choice = answer(*events)
    (found,) = choice["message"]["annotations"]
    place = found["url_citation"]
    assert choice["message"]["content"][place["start_index"] : place["end_index"]] == "the fact"
    assert (place["url"], place["title"]) == ("https://a.example", "A")
    chunks = replay.translate(ADAPTER.stream(sent()), [sse(*events)]).chunks
    assert sum("annotations" in c["delta"] for chunk in chunks for c in chunk["choices"]) == 1


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("pause_turn", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("refusal", "content_filter"),
        ("compaction_of_2027", "stop"),
    ],
)
def test_E_072_every_stop_reason_becomes_one_of_openais(reason: str, expected: str) -> None:
    assert answer(start(), *text(0, "x"), *ended(reason))["finish_reason"] == expected


def test_E_073_a_refusal_says_why() -> None:
    details = {"type": "refusal", "category": "cyber", "explanation": "Not this."}
    choice = answer(start(), *ended("refusal", stop_details=details))
    assert (choice["message"]["content"], choice["message"]["refusal"]) == (None, "Not this.")
    assert choice["finish_reason"] == "content_filter"


def test_C_324_a_custom_tools_input_streams_as_free_text() -> None:
    free = 'line "1"\n\ttab \\ 🦥 é'
    argued = json.dumps({"input": free})
    for size in (1, 2, 3, 7, 100):
        pieces = [argued[i : i + size] for i in range(0, len(argued), size)]
        choice = answer(start(), *tool(0, "shell", *pieces), *ended("tool_use"), notes={"custom": frozenset({"shell"})})
        assert choice["message"]["tool_calls"] == [
            {"id": "toolu_1", "type": "custom", "custom": {"name": "shell", "input": free}}
        ]


def test_a_custom_tools_input_of_another_shape_is_told_as_it_is() -> None:
    notes = {"custom": frozenset({"shell"})}
    choice = answer(start(), *tool(0, "shell", '{"cmd":', '"ls"}'), *ended("tool_use"), notes=notes)
    assert choice["message"]["tool_calls"][0]["custom"]["input"] == '{"cmd":"ls"}'


@pytest.mark.parametrize("custom", [False, True])
def test_a_character_cut_in_two_inside_arguments_is_one_again(custom: bool) -> None:
    notes = {"custom": frozenset({"f"})} if custom else {}
    call = answer(start(), *tool(0, "f", '{"input":"\ud83d', '\ude00!"}'), *ended("tool_use"), notes=notes)
    (made,) = call["message"]["tool_calls"]
    told = made["custom"]["input"] if custom else made["function"]["arguments"]
    assert ascii(told) == ascii("\U0001f600!" if custom else '{"input":"\U0001f600!"}')


def test_E_082_the_tool_that_is_the_answer_streams_as_content() -> None:
    notes = {"answer": "json_answer"}
    events = [start(), *text(0, "Sure:"), *tool(1, "json_answer", '{"a"', ":1}"), *ended("tool_use")]
    choice = answer(*events, notes=notes)
    assert choice["message"]["content"] == '{"a":1}'
    assert "tool_calls" not in choice["message"]
    assert choice["finish_reason"] == "stop"


def test_E_082_of_two_answers_the_first_is_the_content_streamed_or_whole() -> None:
    notes = {"answer": "json_answer"}
    events = [start(), *tool(0, "json_answer", '{"a":1}'), *tool(1, "json_answer", '{"a":2}'), *ended("tool_use")]
    assert answer(*events, notes=notes)["message"]["content"] == '{"a":1}'
    calls = [{"type": "tool_use", "id": f"t{n}", "name": "json_answer", "input": {"a": n}} for n in (1, 2)]
    whole = ADAPTER.parse(message(*calls, stop="tool_use"), UpstreamRequest("", {}, b"", notes=notes))
    assert whole.completion["choices"][0]["message"]["content"] == '{"a":1}'


def test_E_083_a_real_call_beside_the_answer_tool_stays_a_call() -> None:
    notes = {"answer": "json_answer"}
    choice = answer(start(), *text(0, "I'll look."), *tool(1, "find", "{}"), *ended("tool_use"), notes=notes)
    assert choice["message"]["content"] == "I'll look."
    assert choice["message"]["tool_calls"][0]["function"]["name"] == "find"
    assert choice["finish_reason"] == "tool_calls"


@pytest.mark.parametrize(
    ("prefix", "pieces", "expected"),
    [
        ("", ['{"a":', "1}"], '{"a":1}'),
        ("", ["``", "`js", 'on\n{"a"', ":1}", "\n``", "`\n"], '{"a":1}'),
        ("", ['```\n{"a":"```"}\n```'], '{"a":"```"}'),
        ("{", ['"a":', "1}", "\n```"], '{"a":1}'),
        ("{", [], "{"),
        ("", ["``"], "``"),
    ],
)
def test_json_text_loses_its_fence(prefix: str, pieces: list[str], expected: str) -> None:
    assert answer(start(), *text(0, *pieces), *ended(), notes={"json": prefix})["message"]["content"] == expected


def test_C_272_the_functions_api_gets_a_function_call() -> None:
    choice = answer(start(), *tool(0, "f", '{"x":1}'), *ended("tool_use"), functions=True)
    assert choice["message"]["function_call"] == {"name": "f", "arguments": '{"x":1}'}
    assert choice["finish_reason"] == "function_call"


@pytest.mark.parametrize(
    "body",
    [
        b"data: {not json\n\n",
        sse(part(0, "text_delta", text="x")),
        sse(start(), {"type": "message_stop"}),
        b"data: []\n\n",
        b"",
        b"<html>busy</html>",
    ],
)
def test_what_is_no_stream_of_a_message_fails(body: bytes) -> None:
    outcome = replay.translate(ADAPTER.stream(sent()), [body])
    assert outcome.error is not None
    assert outcome.error.kind in (ErrorKind.PROTOCOL, ErrorKind.INCOMPLETE)


def everything() -> list[dict[str, Any]]:
    """One stream with every kind of event."""
    cited = {"type": "web_search_result_location", "url": "https://a.example", "title": "A", "cited_text": "q"}
    told, stop = ended("tool_use", stop_details=None)
    told["usage"] |= {"server_tool_use": {"web_search_requests": 1}, "output_tokens_details": {"thinking_tokens": 1}}
    return [
        start(cache_creation_input_tokens=3),
        opened(0, type="thinking", thinking="", signature=""),
        part(0, "thinking_delta", thinking="Hm"),
        part(0, "signature_delta", signature="s"),
        closed(0),
        opened(1, type="redacted_thinking", data="d"),
        closed(1),
        opened(2, type="text", text="", citations=[cited]),
        part(2, "citations_delta", citation=cited),
        part(2, "text_delta", text="Hi"),
        closed(2),
        *tool(3, "f", '{"a"', ":1}"),
        *tool(4, "shell", '{"input"', ':"ls"}', identity="toolu_2"),
        told,
        stop,
    ]


@settings(max_examples=500, deadline=None)
@given(st.data())
def test_any_event_is_translated_or_a_provider_error(data: st.DataObject) -> None:
    """Whatever an upstream puts in the place of anything in its stream, and however it repeats or loses events."""
    events = everything()
    at = data.draw(st.integers(0, len(events) - 1))
    match data.draw(st.sampled_from(["spoil", "drop", "twice", "swap"])):
        case "spoil":
            events[at] = spoil(data, events[at])
        case "drop":
            del events[at]
        case "twice":
            events.insert(at, events[at])
        case _:
            events[at], events[at - 1] = events[at - 1], events[at]
    body = b"".join(b"data: %b\n\n" % json.dumps(e).encode() for e in events)
    notes = {"custom": frozenset({"shell"})}
    outcome = replay.translate(ADAPTER.stream(sent(**notes)), [body])
    if outcome.error is None:
        try:
            raw = replay.written(outcome)
        except ProviderError:
            return
        assert not replay.stream_problems(raw, include_usage=outcome.usage is not None)
