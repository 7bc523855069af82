"""Configurations of LiteLLM as people write them: what is of another shape than it should be is named, and nothing crashes."""

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from gateway.__main__ import main
from gateway.litellm.document import Converted, convert

PLAIN = {"model_name": "a", "litellm_params": {"model": "openai/gpt-5-mini"}}


def listed(public: str = "a", info: Any = None, **parameters: Any) -> dict[str, Any]:
    return {
        "model_name": public,
        "litellm_params": {"model": "openai/gpt-5-mini", **parameters},
        **({"model_info": info} if info is not None else {}),
    }


def imported(*models: Any, **sections: Any) -> Converted:
    return convert({"model_list": list(models), **sections})


@pytest.mark.parametrize(
    ("source", "place"),
    [
        ({"model_list": {"a": {"model": "openai/gpt-5"}}}, "model_list"),
        ({"model_list": [PLAIN, "b"]}, "model_list[1]"),
        ({"model_list": [PLAIN, None]}, "model_list[1]"),
        ({"model_list": [{**PLAIN, "model_info": "chat"}]}, "model_list[0].model_info"),
        ({"model_list": [listed(extra_headers="X: y")]}, "model_list[0].litellm_params.extra_headers"),
        ({"model_list": [listed(extra_body="top_k")]}, "model_list[0].litellm_params.extra_body"),
        ({"model_list": [listed(timeout=0)]}, "model_list[0].litellm_params.timeout"),
        ({"model_list": [listed(info={"max_input_tokens": "lots"})]}, "model_list[0].model_info.max_input_tokens"),
        ({"model_list": [listed(litellm_credential_name=["x"])]}, "model_list[0].litellm_params.litellm_credential_name"),
        ({"model_list": [listed("b", model="groq/l", organization="o")]}, "model_list[0].litellm_params.organization"),
        ({"credential_list": [{"credential_name": "x", "credential_values": ["k"]}]}, "credential_list[0].credential_values"),
        ({"router_settings": ["num_retries"]}, "router_settings"),
        ({"router_settings": 5}, "router_settings"),
        ({"router_settings": {"fallbacks": {"a": ["b"]}}}, "router_settings.fallbacks"),
        ({"router_settings": {"fallbacks": [{"a": "b"}]}}, "router_settings.fallbacks of 'a'"),
        ({"litellm_settings": {"fallbacks": ["a"]}}, "litellm_settings.fallbacks[0]"),
        ({"litellm_settings": {"default_fallbacks": "a"}}, "litellm_settings.default_fallbacks"),
        ({"router_settings": {"model_group_alias": ["a"]}}, "router_settings.model_group_alias"),
        ({"router_settings": {"routing_strategy": ["shuffle"]}}, "router_settings.routing_strategy"),
        ({"litellm_settings": {"max_budget": 5, "budget_duration": 30}}, "litellm_settings.max_budget is for 30; here it holds for ever"),
    ],
)  # fmt: skip
def test_what_has_the_wrong_shape_is_named(source: dict[str, Any], place: str) -> None:
    notes = convert({"model_list": [PLAIN], **source}).notes
    assert any(note.startswith((f"{place}:", place + " ")) or note == place for note in notes), notes


@pytest.mark.parametrize(
    "source",
    [
        {"model_list": [listed(on=1)], "router_settings": {True: 1, "redis_url": 5}},
        {"model_list": [{"model_name": "a", "litellm_params": {"model": "openai/x", True: 3, 5: {6: 7}}}]},
        {"model_list": [listed(info={True: 1, "id": 3})]},
        {"router_settings": {"redis_host": 5, "redis_password": 7}},
    ],
)
def test_keys_and_values_that_yaml_makes_of_a_bare_word_are_no_crash(source: dict[Any, Any]) -> None:
    assert convert(source).document["auth"]


def test_a_name_that_cannot_be_one_here_is_told_with_what_becomes_of_it() -> None:
    converted = imported(
        listed("my model"), listed("my model", model="openai/gpt-5"), router_settings={"model_group_alias": {"x y": "my model"}}
    )  # fmt: skip
    assert list(converted.document["models"]) == ["my-model"]
    told = [note for note in converted.notes if "clients must ask for" in note]
    assert [("my-model" in note, "x-y" in note) for note in told] == [(True, False), (False, True)]


@pytest.mark.parametrize("other", ["my-model", "my|model"])
def test_two_models_whose_names_are_one_here_are_not_mixed(other: str) -> None:
    converted = imported(listed("my model", model="openai/gpt-5"), listed(other, model="openai/gpt-5-mini"))
    (model,) = converted.document["models"].values()
    assert len(model["deployments"]) == 1
    assert any("left out" in note and "rename it" in note for note in converted.notes)


def test_prices_of_which_one_is_no_number_are_left_out_whole() -> None:
    """An output without a price would be free."""
    converted = imported(listed(input_cost_per_token="1e-6", output_cost_per_token="os.environ/COST"))
    assert "price" not in converted.document["models"]["a"]["deployments"][0]
    assert "model_list[0]: prices left out, for this is none: output_cost_per_token" in converted.notes


@pytest.mark.parametrize(
    ("model", "name", "region"),
    [
        ("bedrock/us-west-2/anthropic.claude-haiku-4-5", "anthropic.claude-haiku-4-5", "us-west-2"),
        ("bedrock/us-gov-west-1/anthropic.claude", "anthropic.claude", "us-gov-west-1"),
        ("bedrock/invoke/us.anthropic.claude-haiku-4-5", "us.anthropic.claude-haiku-4-5", None),
        ("bedrock/converse/eu.anthropic.claude", "eu.anthropic.claude", None),
        ("bedrock_converse/anthropic.claude", "anthropic.claude", None),
        ("bedrock/arn:aws:bedrock:us-east-1:1:inference-profile/x", "arn:aws:bedrock:us-east-1:1:inference-profile/x", None),
    ],
)  # fmt: skip
def test_the_api_and_the_region_before_a_model_of_bedrock_are_no_part_of_its_name(
    model: str, name: str, region: str | None
) -> None:
    document = imported(listed(model=model)).document
    assert document["models"]["a"]["deployments"][0]["model"] == name
    (provider,) = document["providers"].values()
    assert provider["options"].get("region") == region


@pytest.mark.parametrize(
    "address", ["https://api.openai.com/v1", "https://api.openai.com/v1/", "https://api.openai.com"]
)
def test_openais_own_address_is_openai_with_its_prices_and_tiers(address: str) -> None:
    assert imported(listed(api_base=address, api_key="os.environ/K")).document["providers"] == {
        "openai": {"adapter": "openai", "api_key": "${K}"}
    }


def test_an_include_that_is_no_list_is_named(tmp_path: Path) -> None:
    (tmp_path / "main.yaml").write_text("include: models.yaml\n")
    result = CliRunner().invoke(main, ["import-litellm", str(tmp_path / "main.yaml"), "-o", "-"])
    assert result.exit_code == 1
    assert "include: not a list of files; write [models.yaml]" in result.output
