"""The table of fates: what a parameter's value may do to a request."""

import pytest

from adapters.errors import UnsupportedParameter
from adapters.interface import CredentialSpec, Target, UpstreamRequest
from adapters.params import NEUTRAL, PARAMS, Fate, unsupported


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


def test_S_secrets_are_in_no_repr():
    target = Target("https://x", "m", api_key="sk-secret", options={"k": "sk-secret"}, headers={"k": "sk-secret"})
    sent = UpstreamRequest("https://x", {"authorization": "sk-secret"}, b"sk-secret")
    spec = CredentialSpec("aws", {"secret_access_key": "sk-secret"})
    assert "sk-secret" not in f"{target!r}{sent!r}{spec!r}"
