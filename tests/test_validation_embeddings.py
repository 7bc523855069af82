"""The request contract of Create Embeddings."""

from typing import Any

import pytest

from gateway.validation import validate_embeddings

from .chat_requests import refusal


def embed(input_: Any, **parameters: Any) -> dict[str, Any]:
    return {"model": "embed", "input": input_, **parameters}


@pytest.mark.parametrize("input_", ["a", ["a"] * 2048, [1, 2, 3], [0] * 8192, [[1], [2, 3]]])
def test_C_505_inputs(input_: object) -> None:
    validate_embeddings(embed(input_, encoding_format="base64", dimensions=1, user="u"))
    validate_embeddings(embed(input_, encoding_format=None, dimensions=None))


@pytest.mark.parametrize(("input_", "code", "param"), [
    ("", "empty_string", "input"), ([], "empty_array", "input"), (["a", ""], "empty_string", "input[1]"),
    (["a"] * 2049, "array_above_max_length", "input"), ([[1]] * 2049, "array_above_max_length", "input"),
    ([[1], []], "empty_array", "input[1]"), ([1, "a"], "invalid_type", "input[1]"), (["a", 1], "invalid_type", "input[1]"),
    ([[1], ["a"]], "invalid_type", "input[1][0]"), ([True], "invalid_type", "input"), ([1, True], "invalid_type", "input[1]"),
    ([1.5], "invalid_type", "input"), ([-1], "integer_below_min_value", "input[0]"), ({}, "invalid_type", "input"),
    (1, "invalid_type", "input"), (None, "missing_required_parameter", "input"), ([None], "invalid_type", "input"),
])  # fmt: skip
def test_C_505_bad_inputs(input_: object, code: str, param: str) -> None:
    assert refusal(embed(input_), validate_embeddings)[:2] == (code, param)


@pytest.mark.parametrize(("parameters", "code", "param"), [
    ({"encoding_format": "hex"}, "invalid_value", "encoding_format"), ({"dimensions": 0}, "integer_below_min_value", "dimensions"),
    ({"dimensions": "8"}, "invalid_type", "dimensions"), ({"user": 1}, "invalid_type", "user"),
    ({"model": None}, "missing_required_parameter", "model"), ({"input_type": "query"}, "unknown_parameter", "input_type"),
])  # fmt: skip
def test_C_505_parameters(parameters: dict[str, Any], code: str, param: str) -> None:
    assert refusal(embed("a", **parameters), validate_embeddings)[:2] == (code, param)
    validate_embeddings(embed("a", input_type="query"), allow=frozenset({"input_type"}))
