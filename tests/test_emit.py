"""The rules of a client stream, each by its number in the checklist."""

import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.emit import Accumulator, StreamWriter, chunks, completion
from adapters.errors import ErrorKind, ProviderError
from adapters.interface import Answer
from adapters.toolcalls import ToolCalls
from adapters.usage import Usage
from gateway.validation import validate_chat

from .replay import completion_problems, size_problems, stream_problems

USAGE = Usage(input=5, output=7)


def writer(**options: Any) -> StreamWriter:
    return StreamWriter(**({"id": "chatcmpl-1", "created": 1, "model": "m", "service_tier": "default"} | options))


def delta(delta: dict[str, Any], index: int = 0, **more: Any) -> dict[str, Any]:
    return {"choices": [{"index": index, "delta": delta, **more}]}


def end(reason: str = "stop", index: int = 0) -> dict[str, Any]:
    return delta({}, index, finish_reason=reason)


def events(raw: bytes) -> list[dict[str, Any]]:
    return [json.loads(e[6:]) for e in raw.decode().split("\n\n") if e.startswith("data: {")]


def play(*loose: dict[str, Any], n: int = 1, usage: Usage | None = USAGE, **options: Any) -> list[dict[str, Any]]:
    """Chunks one by one through a writer; the events, after the reference has found nothing against them."""
    w = writer(n=n, include_usage=usage is not None, **options)
    raw = b"".join(w.write([chunk]) for chunk in loose) + w.finish(usage)
    assert stream_problems(raw, include_usage=usage is not None, n=n, obfuscation=options.get("obfuscation")) == []
    return events(raw)


def deltas(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [e["choices"][0]["delta"] for e in found if e["choices"]]


def test_C_310_role_chunk_precedes_content() -> None:
    found = play(delta({"role": "assistant", "content": ""}), delta({"content": "Hi"}), end())
    assert deltas(found) == [{"role": "assistant", "content": "", "refusal": None}, {"content": "Hi"}, {}]


def test_C_310_tool_first_and_refusal_first_have_null_content() -> None:
    call = {"index": 0, "id": "call_a", "function": {"name": "f", "arguments": "{}"}}
    assert deltas(play(delta({"tool_calls": [call]}), end()))[0] == {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"index": 0, "id": "call_a", "type": "function", "function": {"name": "f", "arguments": ""}}],
        "refusal": None,
    }
    assert deltas(play(delta({"refusal": "No."}), end()))[:2] == [
        {"role": "assistant", "content": None, "refusal": ""},
        {"refusal": "No."},
    ]


def test_C_311_role_is_told_once_however_often_it_comes() -> None:
    found = play(*[delta({"role": "assistant", "content": c}) for c in "abc"], end())
    assert [d.get("role") for d in deltas(found)] == ["assistant", None, None, None, None]


def test_C_312_C_313_choices_appear_in_ascending_order_one_per_chunk() -> None:
    both = {"choices": [{"index": 2, "delta": {"content": "c"}}, {"index": 0, "delta": {"content": "a"}}]}
    found = play(both, delta({"content": "b"}, 1), *[end(index=i) for i in (2, 1, 0)], n=3)
    assert all(len(e["choices"]) == 1 for e in found[:-1])
    seen = [e["choices"][0]["index"] for e in found[:-1]]
    assert [i for at, i in enumerate(seen) if i not in seen[:at]] == [0, 1, 2]


def test_C_316_interleaved_calls_are_put_one_after_the_other() -> None:
    def fragment(index: int, text: str, **more: Any) -> dict[str, Any]:
        return delta(
            {"tool_calls": [{"index": index, **more, "function": {"name": more.get("name"), "arguments": text}}]}
        )

    found = play(
        fragment(1, '{"a"', id="call_a", name="f"),
        fragment(4, '{"b"', id="call_b", name="g"),
        fragment(1, ":1}"),
        fragment(4, ":2}"),
        end("tool_calls"),
    )
    fragments = [f for d in deltas(found) for f in d.get("tool_calls", ())]
    assert [f["index"] for f in fragments] == [0, 0, 0, 1, 1, 1]
    assert "".join(f["function"]["arguments"] for f in fragments if f["index"] == 1) == '{"b":2}'


def test_C_315_repeated_ids_and_names_are_told_once() -> None:
    call = {"index": 0, "id": "call_a", "type": "function", "function": {"name": "f"}}
    pieces = ['{"x', '":', "1}"]
    found = play(
        *[delta({"tool_calls": [call | {"function": {"name": "f", "arguments": p}}]}) for p in pieces],
        end("tool_calls"),
    )
    later = [d["tool_calls"][0] for d in deltas(found)[1:-1]]
    assert later == [{"index": 0, "function": {"arguments": p}} for p in pieces]


@pytest.mark.parametrize("ids", [("", ""), (None, None), ("same", "same")])
def test_E_049_all_zero_indexes_without_usable_ids_are_separate_calls(ids: tuple[str | None, str | None]) -> None:
    calls = [{"index": at, "id": i, "function": {"name": "f", "arguments": "{}"}} for at, i in enumerate(ids)]
    if ids[0] != "same":
        calls = [c | {"index": 0} for c in calls]
    found = play(*[delta({"tool_calls": [c]}) for c in calls], end("tool_calls"))
    heads = [f for d in deltas(found) for f in d.get("tool_calls", ()) if "id" in f]
    assert [h["index"] for h in heads] == [0, 1]
    assert heads[0]["id"] != heads[1]["id"]
    assert re.fullmatch("call_[0-9A-Za-z]{24}", heads[1]["id"])


@pytest.mark.parametrize("index", [{"index": 0}, {}])
def test_C_210_an_overlong_id_is_replaced_once(index: dict[str, int]) -> None:
    """vLLM's ids have 46 characters, and no request may bring more than 40 back."""
    long = "chatcmpl-tool-" + "0" * 32
    pieces = ['{"x', '":', "1}"]
    head = {**index, "id": long, "function": {"name": "f", "arguments": ""}}
    rest = [{**index, "id": long, "function": {"arguments": piece}} for piece in pieces]
    found = play(*[delta({"tool_calls": [fragment]}) for fragment in (head, *rest)], end("tool_calls"))
    told = [d["tool_calls"][0] for d in deltas(found) if "tool_calls" in d]
    assert re.fullmatch("call_[0-9A-Za-z]{24}", told[0]["id"])
    assert told[1:] == [{"index": 0, "function": {"arguments": piece}} for piece in pieces]


@pytest.mark.parametrize("length", [40, 41])
def test_C_210_ids_of_whole_answers_can_be_sent_back(length: int) -> None:
    calls = [{"id": str(i) * length, "type": "function", "function": {"name": "f", "arguments": "{}"}} for i in (1, 2)]
    whole = {"choices": [{"message": {"content": None, "tool_calls": calls}, "finish_reason": "tool_calls"}]}
    message = completion(Answer(whole, None), id="x", created=1, model="m")["choices"][0]["message"]
    ids = [call["id"] for call in message["tool_calls"]]
    assert (ids == [call["id"] for call in calls]) is (length == 40)
    answers = [{"role": "tool", "tool_call_id": i, "content": "ok"} for i in ids]
    validate_chat({"model": "m", "messages": [{"role": "user", "content": "hi"}, message, *answers]})


def test_C_281_a_call_without_arguments_gets_an_empty_object() -> None:
    found = play(delta({"tool_calls": [{"index": 0, "id": "a", "function": {"name": "f", "arguments": ""}}]}), end())
    assert deltas(found)[1] == {"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]}


def test_C_317_missing_finish_is_an_incomplete_answer() -> None:
    w = writer()
    w.write([delta({"content": "half"})])
    with pytest.raises(ProviderError) as caught:
        w.finish(None)
    assert caught.value.kind is ErrorKind.INCOMPLETE
    w = writer()
    w.write([delta({"content": "half"}), end("error")])
    with pytest.raises(ProviderError):
        w.finish(None)


def test_C_343_an_end_that_is_a_failure_begins_nothing_and_is_no_end() -> None:
    w = writer()
    assert w.write([end("abort")]) == b""
    assert not w.started
    with pytest.raises(ProviderError, match="before it was complete"):
        w.finish(None)


def test_C_319_an_end_repeated_on_every_chunk_is_told_once_at_the_end() -> None:
    found = play(*[delta({"content": c}, finish_reason="STOP") for c in "abc"], end("MAX_TOKENS"))
    assert [e["choices"][0]["finish_reason"] for e in found[:-1]] == [None] * 4 + ["length"]


@pytest.mark.parametrize(
    ("reason", "forced", "calls", "told"),
    [
        ("tool_calls", False, True, "tool_calls"),
        ("STOP", False, True, "tool_calls"),
        ("tool_calls", True, True, "stop"),
        ("length", True, True, "length"),
        ("tool_calls", False, False, "stop"),
        ("end_turn", False, False, "stop"),
        ("SAFETY", False, True, "content_filter"),
        ("FAKE_ENUM", False, False, "stop"),
    ],
)
def test_C_265_C_266_finish_reason(reason: str, forced: bool, calls: bool, told: str) -> None:
    call = {"id": "a", "function": {"name": "f", "arguments": "{}"}}
    answer = {"tool_calls": [call]} if calls else {"content": "x"}
    found = play(delta(answer), end(reason), forced_tool=forced)
    assert found[-2]["choices"][0] == {"index": 0, "delta": {}, "logprobs": None, "finish_reason": told}
    whole = {"choices": [{"message": answer, "finish_reason": reason}]}
    lawful = completion(Answer(whole, USAGE), id="x", created=1, model="m", forced_tool=forced)
    assert lawful["choices"][0]["finish_reason"] == told
    assert completion_problems(lawful) == []


def test_C_323_functions_get_function_call_deltas() -> None:
    calls = [{"index": i, "id": f"c{i}", "function": {"name": "f", "arguments": '{"a":1}'}} for i in range(2)]
    found = play(delta({"tool_calls": calls}), end("tool_calls"), functions=True)
    assert deltas(found)[:2] == [
        {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": ""}, "refusal": None},
        {"function_call": {"arguments": '{"a":1}'}},
    ]
    assert found[-2]["choices"][0]["finish_reason"] == "function_call"
    native = play(delta({"function_call": {"name": "f", "arguments": ""}}), end("function_call"))
    assert native[-2]["choices"][0]["finish_reason"] == "function_call"


def test_C_324_custom_tools() -> None:
    fragments = [
        {"index": 0, "id": "c", "type": "custom", "custom": {"name": "sh", "input": ""}},
        {"index": 0, "custom": {"input": "ls"}},
    ]
    found = play(*[delta({"tool_calls": [f]}) for f in fragments], end("tool_calls"))
    assert [d["tool_calls"][0] for d in deltas(found)[:-1]] == fragments


def test_C_321_logprobs_have_both_keys_and_every_entry_is_whole() -> None:
    found = play(
        delta({"content": "a"}, logprobs={"content": [{"token": "a", "logprob": float("-inf")}]}),
        delta({}, logprobs={"content": [{"token": "b", "logprob": -1.0, "bytes": [98]}]}, finish_reason="stop"),
    )
    assert found[0]["choices"][0]["logprobs"] == {"content": [], "refusal": None}
    told = [e["choices"][0]["logprobs"]["content"][0] for e in found[1:3]]
    assert told == [
        {"token": "a", "logprob": -9999.0, "bytes": None, "top_logprobs": []},
        {"token": "b", "logprob": -1.0, "bytes": [98], "top_logprobs": []},
    ]


def test_C_326_C_327_usage_key_only_when_asked() -> None:
    asked = play(delta({"content": "a"}), end())
    assert [e["usage"] for e in asked[:-1]] == [None] * 3
    assert asked[-1]["usage"]["total_tokens"] == 12
    assert all("usage" not in e for e in play(delta({"content": "a"}), end(), usage=None))


@settings(max_examples=60)
@given(st.lists(st.text(min_size=1, alphabet=st.characters(exclude_categories=["Cs"])), min_size=1), st.booleans())
def test_C_333_all_sizes_agree_and_text_survives(words: list[str], obfuscation: bool) -> None:
    w = writer(include_usage=True, obfuscation=obfuscation, model="модель")
    raw = w.write([delta({"content": word}) for word in words] + [end()]) + w.finish(USAGE)
    assert list(size_problems(raw)) == []
    assert all(("obfuscation" in e) is obfuscation for e in events(raw))
    assert "".join(e["choices"][0]["delta"].get("content") or "" for e in events(raw)[:-1]) == "".join(words)
    assert w.text_bytes >= sum(len(word.encode()) for word in words)


@pytest.mark.parametrize("functions", [True, False])
def test_text_bytes_of_a_tool_call_are_its_arguments(functions: bool) -> None:
    pieces = ['{"', "city", '":"', "K\u00f6ln", '"}'] * 20
    w = writer(functions=functions)
    assert not w.called_tools
    head = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "get", "arguments": ""}}
    w.write([delta({"content": "I look"}), delta({"tool_calls": [head]})])
    w.write([delta({"tool_calls": [{"index": 0, "function": {"arguments": piece}}]}) for piece in pieces])
    assert w.text_bytes == len("I look") + sum(len(piece.encode()) for piece in pieces)
    assert w.called_tools


def test_text_bytes_of_sound_are_few() -> None:
    w = writer()
    w.write([delta({"audio": {"id": "a", "data": "A" * 64_000, "transcript": "Hi"}})])
    assert w.text_bytes == 80 + 2  # a second: 20 tokens


def test_C_337_halves_of_a_surrogate_pair_are_joined() -> None:
    found = play(delta({"content": "a\ud83d"}), delta({"content": "\ude00b"}), delta({"content": "\ud83d"}), end())
    assert "".join(d.get("content", "") for d in deltas(found)) == "a😀b\ufffd"


def test_C_341_an_error_is_an_object_and_nothing_follows() -> None:
    raw = writer().error({"error": {"message": "x", "type": "server_error", "param": None, "code": None}})
    assert raw.startswith(b'data: {"error":{')
    assert raw.endswith(b"}}\n\n")
    assert b"[DONE]" not in raw


def test_C_351_moderation_chunk() -> None:
    verdict = {"type": "moderation_results", "model": "m", "results": []}
    found = play(delta({"content": "a"}), end(), {"choices": [], "moderation": {"input": verdict, "output": verdict}})
    assert next(e for e in found if "moderation" in e)["choices"] == []


def test_C_352_audio_ends_with_expiry_alone() -> None:
    found = play(
        delta({"audio": {"id": "audio_1", "transcript": "a"}}),
        delta({"audio": {"data": "AAA="}}),
        delta({"audio": {"expires_at": 5}}),
    )
    assert [d["audio"] for d in deltas(found)[:-1]] == [
        {"id": "audio_1", "transcript": "a"},
        {"data": "AAA="},
        {"expires_at": 5},
    ]


def test_C_354_reasoning_precedes_content() -> None:
    found = play(delta({"content": "b", "reasoning_content": "a"}), end())
    assert deltas(found)[1:3] == [{"reasoning_content": "a"}, {"content": "b"}]


def test_E_062_annotations_are_sent_whole_in_one_delta() -> None:
    found = play(delta({"content": "a", "annotations": [{"n": 1}]}), delta({"annotations": [{"n": 2}]}), end())
    assert deltas(found)[-2] == {"annotations": [{"n": 1}, {"n": 2}]}


def test_names_the_model_and_tier_that_the_upstream_named() -> None:
    found = play(delta({"content": "a"}) | {"model": "m-2", "service_tier": "flex"}, end())
    assert {(e["model"], e["service_tier"]) for e in found} == {("m-2", "flex")}


def test_a_tier_known_only_at_the_end_is_told_at_the_end() -> None:
    w = writer()
    raw = w.write([delta({"content": "a"}), end()]) + w.finish(None, "priority")
    assert [e["service_tier"] for e in events(raw)] == ["default", "default", "priority"]


def test_started_only_with_an_answer() -> None:
    w = writer()
    assert w.write([delta({"role": "assistant", "content": ""}), {"choices": []}]) == b""
    assert not w.started
    w.write([delta({"reasoning_content": "hm"})])
    assert w.started


def test_a_choice_that_was_not_asked_for_is_a_protocol_error() -> None:
    with pytest.raises(ProviderError) as caught:
        writer().write([delta({"content": "a"}, 1)])
    assert caught.value.kind is ErrorKind.PROTOCOL


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_tool_arguments_survive_any_interleaving(data: st.DataObject) -> None:
    whole = [json.dumps({"k": data.draw(st.text(max_size=8))}) for _ in range(data.draw(st.integers(1, 4)))]
    left = [
        [{"index": 7 * i, "id": f"c{i}", "function": {"name": f"f{i}", "arguments": ""}}] for i in range(len(whole))
    ]
    for i, text in enumerate(whole):
        left[i] += [{"index": 7 * i, "function": {"arguments": c}} for c in text]
    calls, out = ToolCalls(), []
    for i in range(len(whole)):
        out += calls.feed([left[i].pop(0)])
    while any(left):
        i = data.draw(st.sampled_from([i for i, rest in enumerate(left) if rest]))
        out += calls.feed([left[i].pop(0)])
    out += calls.close()
    assert [f["index"] for f in out] == sorted(f["index"] for f in out)
    for i, text in enumerate(whole):
        assert "".join(f["function"]["arguments"] for f in out if f["index"] == i) == text


MESSAGE = {
    "role": "assistant",
    "content": "a",
    "reasoning_content": "r",
    "tool_calls": [{"id": "call_a", "function": {"name": "f", "arguments": '{"a":1}'}}],
}


def test_C_350_a_whole_answer_becomes_a_stream_and_back() -> None:
    whole = {"model": "m", "choices": [{"index": 0, "message": MESSAGE, "finish_reason": "tool_calls"}]}
    play(*chunks(whole))
    accumulated = Accumulator()
    accumulated.add(chunks(whole))
    names = {"id": "x", "created": 1, "model": "m"}
    assert completion(Answer(accumulated.completion(), USAGE), **names) == completion(Answer(whole, USAGE), **names)  # type: ignore[arg-type]


def test_C_267_C_286_a_completion_has_all_keys() -> None:
    whole = {"choices": [{"message": MESSAGE | {"content": ""}, "finish_reason": "tool_calls"}]}
    lawful = completion(Answer(whole, USAGE, "flex"), id="x", created=1, model="m")
    assert completion_problems(lawful) == []
    message = lawful["choices"][0]["message"]
    assert (message["content"], message["refusal"], message["annotations"]) == (None, None, [])
    assert lawful["choices"][0]["logprobs"] is None
    assert (lawful["service_tier"], lawful["system_fingerprint"]) == ("flex", None)


@pytest.mark.parametrize("body", [{}, {"choices": []}, {"choices": None}, {"choices": [{"finish_reason": "error"}]}])
def test_C_401_no_answer_is_an_error(body: dict[str, Any]) -> None:
    with pytest.raises(ProviderError):
        completion(Answer(body, None), id="x", created=1, model="m")
    with pytest.raises(ProviderError):
        completion(Answer({"choices": [{"message": {}}]}, None), id="x", created=1, model="m", n=2)


def test_C_282_ids_are_present_and_unique() -> None:
    calls = [{"id": i, "function": {"name": "f", "arguments": None}} for i in ("a", "a", None, "")]
    whole = {"choices": [{"message": {"tool_calls": calls}, "finish_reason": "stop"}]}
    told = completion(Answer(whole, None), id="x", created=1, model="m")["choices"][0]["message"]["tool_calls"]
    assert len({c["id"] for c in told}) == 4
    assert {c["function"]["arguments"] for c in told} == {"{}"}
