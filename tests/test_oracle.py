"""The differential run without its other side: the cases are lawful, and differences are found and judged."""

import pytest

from gateway.validation import validate_chat

from .oracle.__main__ import differences, ours, plain
from .oracle.cases import CASES, PROVIDERS
from .oracle.verdicts import RULES, verdict_on


@pytest.mark.parametrize("provider", PROVIDERS)
def test_every_case_is_translated_or_refused_by_name(provider: str) -> None:
    refused = [case for case in CASES if "error" in ours(provider, PROVIDERS[provider][0], CASES[case])]
    assert refused == (["image"] if provider == "deepseek" else [])


@pytest.mark.parametrize("case", CASES)
def test_every_case_is_a_lawful_request(case: str) -> None:
    validate_chat({"model": "m", **CASES[case]})


def test_spellings_are_no_differences_and_values_are() -> None:
    one = {"a": {"systemInstruction": 1}, "b": None, "c": '{"x": 1}', "stream": False}
    other = {"a": {"system_instruction": 1}, "c": '{"x":1}'}
    assert list(differences(plain(one, google=True), plain(other, google=True))) == []
    assert [path for path, *_ in differences({"a": [1, 2], "b": 1}, {"a": [1, 3]})] == ["a[1]", "b"]


def test_the_first_rule_that_fits_decides_and_an_unknown_difference_has_none() -> None:
    verdict = verdict_on("cohere", "one stop", "stop_sequences")
    assert verdict is not None
    assert verdict.word == "ours"
    assert verdict_on("cohere", "plain", "messages[0].content") is None
    assert all(providers in {*PROVIDERS, "*"} for providers, *_ in RULES)
