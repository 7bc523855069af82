"""The table of fates: what a parameter's value may do to a request."""

from dataclasses import replace

import pytest

from adapters.errors import UnsupportedParameter
from adapters.interface import CredentialSpec, Target, UpstreamRequest
from adapters.openai import OpenAI
from adapters.params import GATEWAY_PARAMS, NEUTRAL, PARAMS, Fate, harmless, unsupported


def test_E_085_values_that_ask_for_nothing_are_never_refused():
    nothing = [(name, value) for name, values in NEUTRAL.items() for value in values]
    assert {name for name, _ in nothing} <= set(PARAMS)
    for name, value in nothing:
        assert unsupported({name: value}, {name: Fate.REJECT}, "reject") == ()
    with pytest.raises(UnsupportedParameter):
        unsupported({"n": 2}, {"n": Fate.REJECT}, "translate")


@pytest.mark.parametrize("policy", ["translate", "drop", "reject"])
def test_n_is_never_dropped(policy):
    with pytest.raises(UnsupportedParameter) as caught:
        unsupported({"n": 2}, {"n": Fate.REJECT}, policy)
    assert caught.value.param == "n"


@pytest.mark.parametrize("policy", ["translate", "drop", "reject"])
def test_what_is_harmless_needs_no_second_look(policy):
    """And what is not does, at least at some value and policy."""
    fates = {**{fate.value: fate for fate in Fate}, "model": Fate.REJECT}
    found = harmless(fates, ("extension", "reject"))
    assert found == {"pass", "translate", "extension", *GATEWAY_PARAMS}
    for name in found:
        for value in (None, 1, [], {"a": 1}, "x"):
            assert unsupported({name: value}, fates, policy, ("extension", "reject")) == ()


def test_what_is_worked_out_for_a_target_is_not_believed_of_another():
    one = Target("https://x", "m", api_key="a")
    one.memo["openai"] = "of this one"
    other = replace(one, api_key="b")
    assert other.memo == {}
    assert one == replace(one)
    up = [OpenAI().prepare({"messages": []}, target) for target in (replace(one), other)]
    assert [request.headers["authorization"] for request in up] == ["Bearer a", "Bearer b"]


def test_S_secrets_are_in_no_repr():
    target = Target("https://x", "m", api_key="sk-secret", options={"k": "sk-secret"}, headers={"k": "sk-secret"})
    sent = UpstreamRequest("https://x", {"authorization": "sk-secret"}, b"sk-secret")
    spec = CredentialSpec("aws", {"secret_access_key": "sk-secret"})
    assert "sk-secret" not in f"{target!r}{sent!r}{spec!r}"
