"""Bytes to one JSON object of bounded shape."""

import json
import time
import tracemalloc
from collections.abc import Callable

import orjson
import pytest

from gateway.errors import InvalidRequest
from gateway.validation import parse_json
from gateway.validation.body import MAX_DEPTH, MAX_ITEMS, MAX_WEIGHT

WORDS = "We could not parse the JSON body of your request."


def unreadable(body: bytes) -> str:
    """The message that refuses ``body``."""
    with pytest.raises(InvalidRequest) as caught:
        parse_json(body)
    error = caught.value
    assert (error.status, error.type, error.param, error.code) == (400, "invalid_request_error", None, None)
    assert error.message.startswith(WORDS)
    return error.message


def nested(depth: int, opening: str = "[", closing: str = "]") -> bytes:
    """An object with ``depth`` levels, itself included."""
    return f'{{"a":{opening * (depth - 1)}{closing * (depth - 1)}}}'.encode()


@pytest.mark.parametrize(
    "body", [b"hello", b"{", b'{"a":1,}', b"{'a':1}", b'{"a":01}', b'{"a" 1}', b"{}x", b'{"a":"\x01"}']
)
def test_C_005_broken_json_is_refused_in_openai_words(body: bytes) -> None:
    assert "What was sent is not valid JSON" in unreadable(body)


def test_C_005_the_body_is_never_echoed() -> None:
    assert "secret" not in unreadable(b'{"messages": "my secret prompt", "secret')


@pytest.mark.parametrize(
    ("body", "named"),
    [(b"[]", "an array"), (b'"x"', "a string"), (b"null", "null"), (b"1", "an integer"), (b"true", "a boolean")],
)
def test_C_006_only_an_object_is_a_body(body: bytes, named: str) -> None:
    assert f"A JSON object was expected, but got {named}" in unreadable(body)


def test_C_006_an_empty_body_is_refused() -> None:
    assert "The body was empty" in unreadable(b"")
    unreadable(b"  \n")


@pytest.mark.parametrize(
    "body",
    [
        b'{"a":"\xff"}',
        b'{"a":"\xed\xa0\xbd"}',
        b'{"a":"\xc0\xaf"}',
        b'{"a":"\\ud83d"}',
        b'{"a":"\\ude00\\ud83d"}',
        b'\xef\xbb\xbf{"a":1}',
        '{"a":1}'.encode("utf-16"),
    ],
)
def test_C_009_what_is_no_utf8_text_is_refused(body: bytes) -> None:
    unreadable(body)


def test_C_009_a_surrogate_pair_is_one_character() -> None:
    assert parse_json(b'{"a":"\\ud83d\\ude00"}') == {"a": "\N{GRINNING FACE}"}


@pytest.mark.parametrize("number", [b"NaN", b"Infinity", b"-Infinity", b"1e400", b"-1e999"])
def test_C_010_numbers_that_are_none_are_refused(number: bytes) -> None:
    unreadable(b'{"temperature":' + number + b"}")


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}"), ('[{"a":', "}]")])
def test_C_011_deep_nesting_is_refused(opening: str, closing: str) -> None:
    inner = "0" if opening.endswith(":") else ""
    body = f'{{"a":{opening * 10_000}{inner}{closing * 10_000}}}'.encode()
    unreadable(body)


def test_C_011_the_depth_cap_is_exact() -> None:
    assert parse_json(nested(MAX_DEPTH))
    assert f"more than {MAX_DEPTH} levels" in unreadable(nested(MAX_DEPTH + 1))


def test_C_011_huge_integers_are_refused_or_become_floats() -> None:
    unreadable(b'{"n":' + b"9" * 1_000_000 + b"}")
    assert type(parse_json(b'{"n":18446744073709551616}')["n"]) is float


def test_C_011_of_duplicate_keys_the_last_counts_for_everyone() -> None:
    """Not refused: the gateway sends on what it parsed, so no provider can read another value than was checked."""
    assert parse_json(b'{"model":"a","model":"b"}') == {"model": "b"}


@pytest.mark.parametrize("container", [[0] * (MAX_ITEMS + 1), {str(i): 0 for i in range(MAX_ITEMS + 1)}])
def test_C_011_wide_arrays_and_objects_are_refused(container: object) -> None:
    assert f"more than {MAX_ITEMS} items" in unreadable(orjson.dumps({"a": {"b": container}}))


def test_C_011_as_many_items_as_allowed_pass() -> None:
    assert len(parse_json(orjson.dumps({"a": [0] * MAX_ITEMS}))["a"]) == MAX_ITEMS


def many(item: bytes, weight: int) -> bytes:
    """A little more of an item than may be, the comma weighed too."""
    one = b"[" + (item * 9_000)[:-1] + b"],"
    return b'{"a":[' + (one * (MAX_WEIGHT // (9_000 * weight) + 1))[:-1] + b"]}"


@pytest.mark.parametrize(
    ("item", "weight"), [(b"{},", 11), (b"[],", 11), (b"1,", 1), (b'"a",', 6), (b'{"\\\\\\"":""},', 22)]
)
def test_C_011_too_many_values_are_refused(item: bytes, weight: int) -> None:
    assert "too many values" in unreadable(many(item, weight))


def test_C_011_too_many_values_are_refused_before_they_take_memory() -> None:
    body = many(b"{},", 11)
    tracemalloc.start()
    try:
        unreadable(body)
        assert tracemalloc.get_traced_memory()[1] < 1.5 * len(body)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("text", ["[{,", '",[{"a": 1},', "\\,{[", '\\",', "\n,[,"])
def test_C_011_what_a_text_holds_is_no_value(text: str) -> None:
    request = {"a": [{"b": text * 200_000, "c": [text] * 9_000}] * 3}
    assert parse_json(orjson.dumps(request)) == request
    assert parse_json(json.dumps(request, indent=1).encode()) == request


def test_C_011_as_many_values_as_allowed_pass() -> None:
    """Tokens of 2,048 texts for embeddings among them."""
    for request in ({"input": [[100] * 2_048] * 2_048}, {"a": [{"b": "c"}] * 9_000, "d": [["e"] * 9_000] * 85}):
        assert parse_json(orjson.dumps(request)) == request


def test_C_011_time_is_linear_in_the_body() -> None:
    """Refusing or accepting the nastiest of a megabyte stays near what reading it as JSON costs."""
    for body in (orjson.dumps({"a": [[[]] * 600] * 500}), orjson.dumps({"a": [{"b": [1]}] * 9_000}), nested(100)):
        assert best_of_three(parse_json, body) < 20 * best_of_three(json.loads, body) + 0.05


def best_of_three(read: Callable[[bytes], object], body: bytes) -> float:
    """CPU seconds; the best, because a garbage collection or a busy neighbour is not what is measured."""
    times = []
    for _ in range(3):
        start = time.process_time()
        read(body)
        times.append(time.process_time() - start)
    return min(times)


def test_C_011_the_caps_are_those_that_the_documents_name() -> None:
    assert (MAX_DEPTH, MAX_ITEMS, MAX_WEIGHT) == (100, 10_000, 5_000_000)


def test_a_body_is_returned_as_it_was_sent() -> None:
    request = {"model": "m", "messages": [{"role": "user", "content": 'He said: "[[[{{{"'}], "temperature": 0.1}
    assert parse_json(orjson.dumps(request)) == request
