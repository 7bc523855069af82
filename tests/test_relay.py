"""The byte path: what goes through untouched, what is hidden, and what is never missed."""

import json
from functools import cache
from typing import Any

import pytest

from adapters.errors import ErrorKind, ProviderError
from adapters.interface import Target, UpstreamRequest
from adapters.openai import OPENAI, OpenAI
from adapters.openai import relay as relaying
from adapters.openai.relay import Relay
from adapters.usage import Usage

from .replay import Recording, need, recordings, splits, stream_problems, texts
from .test_openai_adapter import own_usage

ADAPTER = OpenAI()
HEAD = (
    '"id":"c","object":"chat.completion.chunk","created":1,"model":"m","service_tier":"flex","system_fingerprint":null'
)


def frame(
    delta: dict[str, Any] | None, finish: str | None = None, usage: dict[str, int] | None = None, index: int = 0
) -> bytes:
    choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}
    choices = json.dumps([choice] if delta is not None else [], separators=(",", ":"))
    told = json.dumps(usage, separators=(",", ":"))
    return f'data: {{{HEAD},"choices":{choices},"usage":{told}}}\n\n'.encode()


ROLE, TEXT, END = (
    frame({"role": "assistant", "content": "", "refusal": None}),
    frame({"content": 'a "usage":null'}),
    frame({}, "stop"),
)
USAGE = frame(None, usage={"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3})
DONE = b"data: [DONE]\n\n"


def relay(include_usage: bool = True, n: int = 1) -> Relay:
    made = ADAPTER.relay(UpstreamRequest("", {}, b"", notes={"n": n}), include_usage=include_usage)
    assert isinstance(made, Relay)
    return made


def test_clean_frames_go_through_as_they_are() -> None:
    r = relay()
    assert r.feed(ROLE) == b""
    assert not r.started
    assert r.feed(TEXT[:30]) == b""
    assert r.feed(TEXT[30:] + END) == ROLE + TEXT + END
    assert r.started
    assert r.feed(USAGE + DONE).startswith(b"data: {")
    assert r.close() == DONE
    assert (r.usage, r.served_tier) == (Usage(input=1, output=2), "flex")


def test_C_327_usage_is_hidden_from_a_client_that_did_not_ask() -> None:
    r = relay(include_usage=False)
    raw = r.feed(ROLE + TEXT + TEXT) + r.feed(END + USAGE + DONE) + r.close()
    assert stream_problems(raw, include_usage=False, obfuscation=False) == []
    assert b'"usage":null' not in raw.replace(b'\\"usage\\":null', b"")
    assert texts(raw) == {0: 'a "usage":null' * 2}
    assert r.usage == Usage(input=1, output=2)


@pytest.mark.parametrize("include_usage", [True, False])
def test_E_056_usage_on_the_finish_chunk_gets_a_chunk_of_its_own(include_usage: bool) -> None:
    r = relay(include_usage)
    raw = (
        r.feed(ROLE + TEXT + frame({}, "stop", {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}) + DONE)
        + r.close()
    )
    assert stream_problems(raw, include_usage=include_usage, obfuscation=False) == []
    assert r.usage == Usage(input=1, output=2)


def counted(delta: dict[str, Any] | None, number: int, finish: str | None = None) -> bytes:
    return frame(delta, finish, {"prompt_tokens": 1, "completion_tokens": number, "total_tokens": number + 1})


@cache
def in_one_form(line: bytes) -> str:
    return json.dumps(json.loads(line), sort_keys=True)


@pytest.mark.parametrize("last", [b"", counted(None, 9)], ids=["no chunk of its own", "a chunk of its own"])
@pytest.mark.parametrize("null", [True, False])
@pytest.mark.parametrize("blanks", [True, False])
@pytest.mark.parametrize("include_usage", [True, False])
def test_usage_told_in_every_chunk_is_told_once_to_who_asked_in_any_split(
    include_usage: bool, blanks: bool, null: bool, last: bytes
) -> None:
    """``null``: it is null in the first chunks."""
    texts_of = ["a", '"quoted"', "usage", "b", "c"]
    before = [frame({"content": text}) for text in texts_of] if null else []
    under_way = [counted({"content": text}, at) for at, text in enumerate(texts_of)]
    body = b"".join([ROLE, *before, *under_way, counted({}, 8, "stop"), last, DONE])
    if blanks:
        body = body.replace(b'":', b'": ').replace(b',"', b', "')
    byte_by_byte = [body[at : at + 1] for at in range(len(body))]
    cuts = [[body[:at], body[at:]] for at in range(len(body))]
    outcomes = set()
    for pieces in [[body], byte_by_byte, *cuts]:
        raw, usage, _ = through(pieces, include_usage, 1)
        lines = [line[6:] for line in raw.split(b"\n") if line.startswith(b"data: {")]
        outcomes.add((*map(in_one_form, lines), usage))
    assert len(outcomes) == 1
    assert stream_problems(raw, include_usage=include_usage, obfuscation=False) == []
    assert usage == Usage(input=1, output=9 if last else 8)
    assert raw.count(b"prompt_tokens") == include_usage
    assert include_usage or b'"usage":' not in raw


@pytest.mark.parametrize("last", [counted({}, 9, "stop"), frame({}, "stop") + counted(None, 9)], ids=["end", "own"])
@pytest.mark.parametrize("blanks", [True, False])
@pytest.mark.parametrize("tier", ["flex", "priority"])
@pytest.mark.parametrize("left_out", ["everywhere", "after the first", "in the first"])
def test_C_326_usage_is_null_where_a_server_leaves_it_out_in_any_split(
    left_out: str, tier: str, blanks: bool, last: bytes
) -> None:
    words = [frame({"content": text}) for text in ("a", '"usage":null', "usage", "b", "c", "d", "e")]
    bare = [told.replace(b',"usage":null}\n', b"}\n") for told in words]
    first = words[0] if left_out == "after the first" else bare[0]
    rest = words[1:] if left_out == "in the first" else bare[1:]
    body = b"".join([ROLE if first is words[0] else ROLE.replace(b',"usage":null', b""), first, *rest, last, DONE])
    body = body.replace(b'"finish_reason":"stop"}],"usage":null', b'"finish_reason":"stop"}]')
    if blanks:
        body = body.replace(b'":', b'": ').replace(b',"', b', "')
    outcomes = set()
    for pieces in [[body], *splits(body), *([body[:at], body[at:]] for at in range(len(body)))]:
        r = Relay(OPENAI, include_usage=True, served=lambda _: tier)
        raw = b"".join([r.feed(piece) for piece in pieces]) + r.close()
        lines = [line[6:] for line in raw.split(b"\n") if line.startswith(b"data: {")]
        assert all(line.count(b'"usage":') == 1 for line in lines)
        outcomes.add(tuple(map(in_one_form, lines)))
    (chunks,) = outcomes
    assert [json.loads(told)["usage"] is None for told in chunks] == [True] * (len(chunks) - 1) + [False]
    assert {json.loads(told)["service_tier"] for told in chunks} == {tier}
    assert stream_problems(raw, include_usage=True, obfuscation=False) == []


ERROR = b'data: {"error":{"message":"gone","code":"server_is_overloaded"}}\n\n'
BARE = b'data: {"object":"error","message":"gone","type":"x","code":503}\n\n'
ERRORS = (ERROR, BARE, b"event: error\n" + ERROR, b'event: error\ndata: {"message":"gone"}\n\n')


@pytest.mark.parametrize("error", ERRORS)
def test_C_026_an_error_before_the_first_content_can_still_fall_back(error: bytes) -> None:
    r = relay()
    with pytest.raises(ProviderError, match="gone"):
        r.feed(ROLE + error)
    assert not r.started


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("together", [True, False])
def test_C_341_an_error_under_way_follows_what_came_before_it(error: bytes, together: bool) -> None:
    r = relay()
    if together:
        assert r.feed(ROLE + TEXT + error) == ROLE + TEXT
    else:
        r.feed(ROLE + TEXT)
        assert r.feed(TEXT + error) == TEXT
    for call in (lambda: r.feed(TEXT), r.close):
        with pytest.raises(ProviderError, match="gone"):
            call()


@pytest.mark.parametrize("before", [b"", TEXT])
def test_C_343_an_end_that_is_a_failure_is_no_end(before: bytes) -> None:
    r = relay()
    failed = frame({}, "abort") + USAGE + DONE
    if not before:
        with pytest.raises(ProviderError, match="before it was complete"):
            r.feed(ROLE + failed)
        assert not r.started
        return
    assert r.feed(ROLE + before) + r.feed(before + failed) == ROLE + before + before
    with pytest.raises(ProviderError, match="before it was complete"):
        r.close()


@pytest.mark.parametrize("levels", [90, 300])
def test_a_delta_that_is_nested_too_deep_is_no_answer(levels: int) -> None:
    deep = json.loads("[" * levels + "]" * levels)
    if levels < 100:
        assert relay().feed(frame({"content": deep})) == frame({"content": deep})
        return
    with pytest.raises(ValueError, match="too deep"):
        relay().feed(frame({"content": deep}))


def test_the_word_error_in_a_text_is_no_error() -> None:
    r = relay()
    said = frame({"content": '{"error": {"message": 1}} data: [DONE] "usage":{'})
    raw = r.feed(ROLE + said + said) + r.feed(said + END + USAGE + DONE) + r.close()
    assert stream_problems(raw, include_usage=True, obfuscation=False) == []
    assert len(texts(raw)[0]) == 3 * 48


@pytest.mark.parametrize("cut", [ROLE, ROLE + TEXT, ROLE + TEXT + END, ROLE + TEXT + DONE, ROLE + TEXT + END[:-9], b""])
def test_C_343_a_stream_cut_short_is_incomplete(cut: bytes) -> None:
    r = relay()
    r.feed(cut)
    with pytest.raises(ProviderError) as caught:
        r.close()
    assert caught.value.kind is ErrorKind.INCOMPLETE


def test_C_317_all_choices_must_end() -> None:
    r = relay(n=2)
    r.feed(ROLE + TEXT + frame({"role": "assistant", "content": ""}, index=1) + END + USAGE + DONE)
    with pytest.raises(ProviderError):
        r.close()


def test_nothing_follows_done() -> None:
    r = relay()
    r.feed(ROLE + TEXT + END + USAGE + DONE + TEXT)
    assert r.feed(TEXT) == b""
    assert r.close() == DONE


def test_a_last_event_without_its_blank_line() -> None:
    r = relay()
    assert r.feed(ROLE + TEXT + END + USAGE + DONE.rstrip()) == ROLE + TEXT + END
    last = r.close()
    assert last.startswith(USAGE[:-90])
    assert last.endswith(DONE)


@pytest.mark.parametrize("tier", ["flex", "priority"])
def test_C_325_a_usage_chunk_can_be_made_where_the_upstream_has_none(tier: str) -> None:
    made = Relay(OPENAI, include_usage=True, served=lambda _: tier)
    raw = made.feed(ROLE + TEXT + END + DONE)
    assert made.usage is None
    raw += made.close().removesuffix(DONE) + made.usage_chunk(Usage(input=1, output=2)) + DONE
    assert stream_problems(raw, include_usage=True, obfuscation=False) == []
    assert raw.count(f'"service_tier":"{tier}"'.encode()) == 4
    assert relay(include_usage=False).usage_chunk(Usage(input=1)) == b""


IN_CHOICE = json.loads(END[6:])
IN_CHOICE["choices"][0]["usage"] = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
BESIDE = json.loads(END[6:]) | {"x_groq": {"id": "r", "usage": IN_CHOICE["choices"][0]["usage"]}}


@pytest.mark.parametrize("include_usage", [True, False])
@pytest.mark.parametrize("end", [IN_CHOICE, BESIDE], ids=["Moonshot", "Groq"])
def test_E_056_usage_in_the_choice_or_beside_it_is_read(end: dict[str, Any], include_usage: bool) -> None:
    told = b"data: " + json.dumps({key: value for key, value in end.items() if key != "usage"}).encode() + b"\n\n"
    outcomes = set()
    for pieces in splits(ROLE + TEXT + told + DONE):
        r = relay(include_usage)
        raw = b"".join(map(r.feed, pieces)) + r.close()
        assert r.usage == Usage(input=1, output=2)
        assert stream_problems(raw, include_usage=include_usage, obfuscation=False) == []
        outcomes.add(raw)
    assert len(outcomes) == 1


def test_an_error_that_Groq_tells_in_a_stream_is_one() -> None:
    r = relay()
    r.feed(ROLE + TEXT)
    failed = json.loads(END[6:]) | {"x_groq": {"error": {"message": "over capacity", "code": 503}}}
    with pytest.raises(ProviderError, match="over capacity"):
        r.feed(b"data: " + json.dumps(failed).encode() + b"\n\n")


def test_a_byte_order_mark_before_the_first_frame_is_nothing_in_any_split() -> None:
    body = b"\xef\xbb\xbf" + ROLE + TEXT + END + USAGE + DONE
    for pieces in [[body], *splits(body)]:
        r = relay()
        raw = b"".join(map(r.feed, pieces)) + r.close()
        assert raw.startswith(ROLE + TEXT + END)
        assert texts(raw) == {0: 'a "usage":null'}
    for early in (b'{"error": {"message": "busy"}}', b'data: {"error": {"message": "busy"}}\n\n'):
        r = relay()
        with pytest.raises(ProviderError, match="busy"):
            r.feed(b"\xef\xbb\xbf" + early)
            r.close()


def test_comments_and_events_of_the_upstream_are_left_out_before_the_start() -> None:
    r = relay()
    assert r.feed(b": ping\n\nevent: message\nid: 4\n" + ROLE + TEXT) == ROLE + TEXT


@pytest.mark.parametrize("line", ["id: 7", "retry: 100", "event: message", ": hello"])
@pytest.mark.parametrize("together", [1, 3])
def test_C_301_foreign_lines_of_frames_under_way_are_left_out(line: str, together: int) -> None:
    """An ``id`` and a comment after it, such as our heartbeat, make openai-python fail."""
    words = [frame({"content": word}) for word in ("a", "b", "c", "d", "e", "f")]
    foreign = [line.encode() + b"\n" + told for told in (ROLE, *words, END, USAGE)]
    r = relay()
    raw = b"".join(r.feed(b"".join(foreign[at : at + together])) for at in range(0, len(foreign), together))
    assert raw == b"".join([ROLE, *words, END])
    assert (r.feed(DONE) + r.close()).startswith(USAGE[:-90])


@pytest.mark.parametrize("at", [0, 1, 2, 3])
def test_an_event_of_several_lines_is_one_line_where_it_is_read(at: int) -> None:
    frames = [ROLE, TEXT, END, USAGE]
    frames[at] = frames[at].replace(b',"choices"', b',\ndata: "choices"')
    r = relay()
    lines = (b"".join(map(r.feed, frames)) + r.feed(DONE) + r.close()).split(b"\n")
    told = [json.loads(line[6:]) for line in lines if line.startswith(b"data: {")]
    assert [chunk["choices"] for chunk in told] == [json.loads(f[6:])["choices"] for f in (ROLE, TEXT, END, USAGE)]


@pytest.mark.parametrize("together", [1, 4])
@pytest.mark.parametrize(
    ("good", "bad"),
    [
        (b'"usage":null}', b'"usage":null,"error":null}'),
        (b'"choices":[{"index":0,"delta":{"content":"c"},"logprobs":null,"finish_reason":null}],', b'"choices":null,'),
        (b'"choices":[{"index":0,"delta":{"content":"c"},"logprobs":null,"finish_reason":null}],', b""),
        (b'"delta":{"content":"c"}', b'"delta":null'),
        (b'"delta":{}', b'"delta":null'),
    ],
)
def test_C_347_348_nulls_that_break_clients_do_not_go_through(good: bytes, bad: bytes, together: int) -> None:
    frames = [ROLE, TEXT, *[frame({"content": word}) for word in "abcdef"], END, USAGE, DONE]
    sent = [told.replace(good, bad) for told in frames]
    assert sent != frames
    r = relay()
    raw = b"".join([r.feed(b"".join(sent[at : at + together])) for at in range(0, len(sent), together)]) + r.close()
    assert stream_problems(raw, include_usage=True, obfuscation=False) == []
    assert b'"error"' not in raw
    assert r.usage == Usage(input=1, output=2)


WORDS = ["all", " work", " and", " no", " play", ' "makes"', " J\u00e4ck", " dull", "\n"]
PIECES = ['{"', "city", '":"', "Par", "is", '"}']
CALLED = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "get", "arguments": ""}}


def called(*pieces: str, name: str = "function", key: str = "arguments") -> list[dict[str, Any]]:
    return [{"tool_calls": [{"index": 0, name: {key: piece}}]} for piece in pieces]


KINDS: dict[str, list[dict[str, Any]]] = {
    "text": [{"content": word} for word in WORDS],
    "text with its role": [{"role": "assistant", "content": word} for word in WORDS],
    "reasoning": [{"reasoning_content": word} for word in WORDS],
    "reasoning under two names": [
        {"content": "", "reasoning": w, "reasoning_details": [{"type": "reasoning.text", "text": w, "format": "x"}]}
        for w in WORDS
    ],
    "a tool": [{"tool_calls": [CALLED]}, *called(*PIECES * 5)],
    "a custom tool": called(*WORDS, name="custom", key="input"),
    "a function": [{"function_call": {"arguments": piece}} for piece in PIECES],
    "whole calls": [{"tool_calls": [{**CALLED, "function": {"name": "get", "arguments": "".join(PIECES)}}]}] * 5,
}


@pytest.mark.parametrize("arguments", ["", '{"a": 1}'])
def test_C_210_an_id_that_could_not_come_back_is_replaced_in_any_split(arguments: str) -> None:
    """vLLM's ids are longer than those of OpenAI, which a request may have."""
    ids = [f"chatcmpl-tool-{digit * 32}" for digit in "ab"]
    heads = [
        frame(
            {
                "tool_calls": [
                    {"index": at, "id": long, "type": "function", "function": {"name": "f", "arguments": arguments}}
                ]
            }
        )
        for at, long in enumerate(ids)
    ]
    more = [frame({"tool_calls": [{"index": at, "function": {"arguments": "{}"}}]}) for at in (0, 1)]
    body = ROLE + heads[0] + more[0] * 3 + heads[1] + more[1] + frame({}, "tool_calls") + USAGE + DONE
    outcomes = set()
    for size in (1, 50, 300, len(body)):
        r = relay()
        outcomes.add(b"".join(r.feed(body[at : at + size]) for at in range(0, len(body), size)) + r.close())
    (raw,) = outcomes
    events = [json.loads(line[6:]) for line in raw.split(b"\n") if line.startswith(b"data: {")]
    deltas = [choice["delta"] for event in events for choice in event["choices"]]
    given = [call["id"] for delta in deltas for call in delta.get("tool_calls", ()) if "id" in call]
    assert len(set(given)) == 2
    assert max(map(len, given)) <= 40
    assert raw.count(b'"name":"f"') == 2


def generated(value: Any, key: str = "") -> int:
    """Bytes of text and of arguments in a delta, told once."""
    if isinstance(value, str):
        return len(value.encode()) if key in ("content", "reasoning_content", "reasoning", "arguments", "input") else 0
    if isinstance(value, dict):
        return sum(generated(inner, name) for name, inner in value.items() if name != "reasoning_details")
    return sum(map(generated, value)) if isinstance(value, list) else 0


def padded(frame: bytes, length: int) -> bytes:
    return frame[:-3] + b',"obfuscation":"' + b"x" * length + b'"}\n\n'


@pytest.mark.parametrize("together", [1, 2, 8])
@pytest.mark.parametrize("padding", [True, False])
@pytest.mark.parametrize("second", KINDS)
@pytest.mark.parametrize("first", ["text", "reasoning", "a tool", "a custom tool"])
def test_text_bytes_is_near_the_text_and_the_arguments(first: str, second: str, padding: bool, together: int) -> None:
    deltas = KINDS[first] * 8 + KINDS[second] * 8
    frames = [frame(delta) for delta in deltas]
    if padding:
        frames = [padded(frame, 7 * at % 16) for at, frame in enumerate(frames)]
    r = relay()
    r.feed(ROLE)
    for at in range(0, len(frames), together):
        r.feed(b"".join(frames[at : at + together]))
    true = sum(map(generated, deltas))
    assert 0.9 * true - 20 <= r.text_bytes <= 1.4 * true + 60
    assert r.called_tools == any("tool" in kind or "call" in kind or "function" in kind for kind in (first, second))


@pytest.mark.parametrize("kind", KINDS)
def test_text_bytes_is_near_the_text_in_any_split(kind: str) -> None:
    deltas = KINDS[kind][:12]
    frames = [ROLE, *map(frame, deltas), padded(frame({"content": "end"}), 3)]
    body, true = b"".join(frames), sum(map(generated, deltas)) + 3
    cuts = [[body[:at], body[at:]] for at in range(len(body))]
    for pieces in [*splits(body), *splits(body.replace(b"\n", b"\r\n")), *cuts]:
        r = relay()
        for piece in pieces:
            r.feed(piece)
        assert 0.9 * true - 20 <= r.text_bytes <= 1.4 * true + 60, len(pieces[0])


def test_text_bytes_leaves_log_probabilities_out() -> None:
    r, deltas = relay(), KINDS["text"] * 8
    r.feed(ROLE)
    for delta in deltas:
        token = {"token": delta["content"], "logprob": -0.1, "bytes": [*delta["content"].encode()], "top_logprobs": []}
        told = json.dumps({"content": [token], "refusal": None}).encode()
        r.feed(frame(delta).replace(b'"logprobs":null', b'"logprobs":' + told))
    assert r.text_bytes == sum(map(generated, deltas))


def test_an_event_that_never_ends_is_refused() -> None:
    r = relay()
    for _ in range(16):
        r.feed(b"x" * 1024 * 1024)
    with pytest.raises(ProviderError) as caught:
        r.feed(b"x")
    assert caught.value.kind is ErrorKind.PROTOCOL


def test_an_error_that_is_no_event() -> None:
    r = relay()
    assert r.feed(b'{"error":{"message":"slow","code":429}}') == b""
    with pytest.raises(ProviderError) as caught:
        r.close()
    assert caught.value.kind is ErrorKind.RATE_LIMITED


def test_a_large_frame_in_many_reads() -> None:
    r = relay()
    large = frame({"content": "x" * 4_000_000})
    raw = b"".join(r.feed(data) for data in (ROLE, *(large[i : i + 4096] for i in range(0, len(large), 4096))))
    assert raw == ROLE + large


def test_audio_and_untrusted_upstreams_are_translated() -> None:
    request = {
        "model": "m",
        "messages": [],
        "modalities": ["text", "audio"],
        "audio": {"voice": "a", "format": "pcm16"},
    }
    target = Target("https://h/v1", "m")
    assert ADAPTER.relay(ADAPTER.prepare(request, target), include_usage=True) is None
    plain = {"model": "m", "messages": []}
    untrusted = Target("https://h/v1", "m", options=ADAPTER.options({"relay": False}))
    assert ADAPTER.relay(ADAPTER.prepare(plain, untrusted), include_usage=True) is None
    assert ADAPTER.relay(ADAPTER.prepare(plain, target), include_usage=True) is not None


def through(pieces: list[bytes], include_usage: bool, n: int) -> tuple[bytes, Usage | None, str | None]:
    r = relay(include_usage, n)
    out = b"".join(r.feed(piece) for piece in pieces)
    return out + r.close(), r.usage, r.served_tier


def playable() -> list[Recording]:
    """Complete streams of OpenAI's own; audio has no end, and some asked for no usage."""
    found = recordings("openai", endpoint="chat.completions", stream=True)
    return [
        r for r in found if "audio_out" not in r.features and r.fidelity != "fixture" and own_usage(r.body) is not None
    ]


def test_E_053_E_054_every_recorded_stream_comes_out_the_same_in_any_split() -> None:
    played = need(playable())
    for recording in played:
        n = (recording.request or {}).get("n") or 1
        for body in (recording.body, recording.body.replace(b"\n", b"\r\n")):
            for include_usage in (True, False):
                whole = through([body], include_usage, n)
                for pieces in splits(body):
                    assert through(pieces, include_usage, n) == whole, str(recording)
                problems = stream_problems(
                    whole[0], sizes=recording.fidelity == "raw", include_usage=include_usage, n=n
                )
                assert problems == [], str(recording)
        assert whole[1] == own_usage(recording.body)
    assert len(played) >= 50


UNNAMED = HEAD.replace('"service_tier":"flex",', "")
"""The head of a chunk whose upstream names no tier."""


def untiered(content: str, opening: str = "data: {", before: str = "") -> str:
    choice = {"index": 0, "delta": {"content": content}, "finish_reason": None}
    return f'{before}{opening}{UNNAMED},"choices":[{json.dumps(choice, separators=(",", ":"))}]}}\n\n'


def test_a_tier_that_the_upstream_does_not_name_is_in_every_chunk_in_any_split() -> None:
    texts = ["a", 'data: {"', '\n\ndata: {"x', "data:", "b"]
    end = f'data: {{{UNNAMED},"choices":[{{"index":0,"delta":{{}},"finish_reason":"stop"}}]}}\n\n'
    usage = f'data: {{{UNNAMED},"choices":[],"usage":{{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}}}}\n\n'
    for odd in (
        {},
        {"opening": "data:{"},
        {"opening": "data: { "},
        {"before": ": ping\n"},
        {"before": "event: chunk\n"},
    ):
        frames = [untiered(text) for text in texts] + [untiered("odd", **odd), untiered("c"), end, usage]
        body = "".join(frames).encode() + DONE
        sent = [json.loads(part[part.index("{") :]) for part in frames]
        cuts = [[body[:at], body[at:]] for at in range(len(body))]
        for pieces in [[body], [frame.encode() for frame in frames] + [DONE], *splits(body), *cuts]:
            lines = through(pieces, True, 1)[0].split(b"\n")
            told = [json.loads(line[5:]) for line in lines if line.startswith(b"data:") and line[6:7] != b"["]
            assert told == [{"usage": None, **c, "service_tier": "default"} for c in sent], (odd, len(pieces[0]))


TEXTS = [
    *(
        "one",
        "two",
        "",
        " ",
        "usage",
        "error",
        "finish_reason",
        '"',
        'a "quoted" word',
        "\\",
        "ends in \\",
        "\n\n",
        "\r\n",
    ),
    *(
        "data: {",
        "\u00e9\u4e2d\U0001f600",
        "x" * 5000,
        '","usage":null',
        '","finish_reason":null}]}\n\n',
        "three",
        "four",
    ),
]


@pytest.mark.parametrize("alone", [1, 3])
@pytest.mark.parametrize("together", [1, 2, 5])
@pytest.mark.parametrize("include_usage", [True, False])
@pytest.mark.parametrize("tier", ['"service_tier":"flex",', '"service_tier":null,', ""])
@pytest.mark.parametrize("usage", ['"usage":null', ' "usage": null', ""])
@pytest.mark.parametrize("key", ["content", "reasoning_content"])
def test_frames_that_differ_in_their_text_alone_fare_as_those_that_are_looked_at(
    alone: int, together: int, include_usage: bool, tier: str, usage: str, key: str
) -> None:
    """``together``: how many come in one read, once the first few have come by themselves."""
    head = HEAD.replace('"service_tier":"flex",', tier)

    def told(text: str, more: str = "") -> bytes:
        delta = f'{{"{key}":{json.dumps(text, ensure_ascii=False)}{more}}}'
        choices = f'"choices":[{{"index":0,"delta":{delta},"logprobs":null,"finish_reason":null}}]'
        return f"data: {{{head},{choices}{',' if usage else ''}{usage}}}\n\n".encode()

    frames = [told(text) for text in TEXTS] + [told("tool", ',"tool_calls":[]'), told("five"), told("six")]
    quick, slow = relay(include_usage), relay(include_usage)
    outs = []
    for frame in frames:
        cut = len(frame) // 2  # in two reads: such frames are never taken for known
        out = slow.feed(frame[:cut]) + slow.feed(frame[cut:])
        outs.append(out)
        chunk = json.loads(out[5:])
        assert chunk["choices"] == json.loads(frame[5:])["choices"]
        assert chunk["service_tier"] == ("flex" if "flex" in tier else "default")
        assert ("usage" in chunk) == include_usage
        assert chunk.get("usage") is None
    assert [quick.feed(frame) for frame in frames[:alone]] == outs[:alone]
    for at in range(alone, len(frames), together):
        assert quick.feed(b"".join(frames[at : at + together])) == b"".join(outs[at : at + together])
    assert quick.text_bytes == pytest.approx(slow.text_bytes, rel=0.01)
    assert quick.feed(END + USAGE + DONE) == slow.feed(END + USAGE + DONE)
    assert (quick.close(), quick.usage) == (slow.close(), slow.usage) == (DONE, Usage(input=1, output=2))


@pytest.mark.parametrize(
    "between", [b"", TEXT, USAGE, END, b": ping\n\n", b'data: {"error":{"message":"over"}}\n\n', b"data: {\n\n"]
)
def test_what_comes_between_two_known_frames_is_not_missed(between: bytes) -> None:
    def outcome(*reads: bytes) -> tuple[bytes, str, Usage | None]:
        r, out = relay(include_usage=False), b""
        try:
            for read in (ROLE, *(frame({"content": text}) for text in "abc"), *reads, END, DONE):
                out += r.feed(read)
            return out + r.close(), "", r.usage
        except ProviderError as error:
            return out, error.kind.value, r.usage

    before, after = frame({"content": "d"}), frame({"content": "e"})
    together = before + between + after
    for at in range(1, len(together)):
        assert outcome(together) == outcome(together[:at], together[at:]), at


def test_an_end_of_one_choice_beside_the_text_of_another_is_not_missed() -> None:
    r = relay(n=2)
    r.feed(ROLE)
    for text in ("a", "b", "c"):
        assert r.feed(frame({"content": text})) != b""
    both = frame({"content": "d"}, "stop").split(b'],"usage"')[0]
    second = frame({"content": "e"}, index=1).split(b'"choices":[')[1]
    assert r.feed(both + b"," + second) == both + b"," + second
    assert not r.finished
    assert r.feed(END) == END
    assert r.finished


@pytest.mark.parametrize("together", [1, 3])
@pytest.mark.parametrize("include_usage", [True, False])
@pytest.mark.parametrize("length", [1, 5, 19, 60, 4000])
def test_pieces_of_any_length_are_read_until_their_shape_is_known_and_not_after(
    length: int, include_usage: bool, together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``together``: how many come in each read, under load from the first."""
    read: list[bytes] = []
    decode = relaying.loads
    monkeypatch.setattr(relaying, "loads", lambda data: read.append(data) or decode(data))
    r = relay(include_usage)
    for _ in range(50):
        piece = frame({"content": "x" * length}) * together
        assert r.feed(piece) == (piece if include_usage else piece.replace(b',"usage":null', b""))
    assert len(read) <= 4 * together
    assert r.text_bytes == 50 * length * together


def test_an_error_behind_a_long_piece_in_one_read_is_raised_after_it() -> None:
    r = relay()
    long = frame({"content": "x" * 100})
    r.feed(long)
    assert r.feed(long + b'data: {"error": {"message": "no", "type": "server_error"}}\n\n') == long
    with pytest.raises(ProviderError):
        r.feed(long)
