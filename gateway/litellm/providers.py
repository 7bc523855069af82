"""LiteLLM's provider prefixes and connection parameters as our providers."""

import re
from collections.abc import Mapping
from typing import Any

JSON = dict[str, Any]
RESPONSES = "responses/"
"""Before a model's name: LiteLLM asks it by the Responses API."""
ADAPTERS: Mapping[str, str] = {
    "openai": "openai",
    "text-completion-openai": "openai",
    "azure": "azure",
    "azure_ai": "azure",
    "anthropic": "anthropic",
    "bedrock": "bedrock",
    "bedrock_converse": "bedrock",
    "gemini": "gemini",
    "vertex_ai": "vertex",
    "vertex_ai_beta": "vertex",
    "cohere": "cohere",
    "cohere_chat": "cohere",
    "mistral": "mistral",
    "cerebras": "cerebras",
    "deepseek": "deepseek",
    "fireworks_ai": "fireworks",
    "groq": "groq",
    "huggingface": "huggingface",
    "lm_studio": "lm-studio",
    "moonshot": "moonshot",
    "nvidia_nim": "nvidia-nim",
    "ollama": "ollama",
    "ollama_chat": "ollama",
    "openrouter": "openrouter",
    "perplexity": "perplexity",
    "dashscope": "qwen",
    "snowflake": "snowflake",
    "together_ai": "together",
    "hosted_vllm": "vllm",
    "vllm": "vllm",
    "xai": "xai",
    "zai": "zai",
    "openai_like": "openai-compatible",
    "custom_openai": "openai-compatible",
    "litellm_proxy": "openai-compatible",
}
_OPTIONS: Mapping[str, Mapping[str, str]] = {
    "azure": {
        "api_version": "api_version",
        "tenant_id": "tenant_id",
        "client_id": "client_id",
        "client_secret": "client_secret",
    },
    "bedrock": {
        "aws_region_name": "region",
        "aws_access_key_id": "access_key_id",
        "aws_secret_access_key": "secret_access_key",
        "aws_session_token": "session_token",
        "aws_role_name": "role_arn",
        "aws_session_name": "session_name",
    },
    "vertex": {"vertex_project": "project", "vertex_location": "location", "vertex_credentials": "credentials_file"},
}
_OPTIONS = {**_OPTIONS, "vertex-anthropic": _OPTIONS["vertex"]}
CONNECTION = frozenset(
    {"model", "custom_llm_provider", "api_key", "api_base", "base_url", "extra_headers", "litellm_credential_name"}
).union(*_OPTIONS.values())
"""Parameters of a deployment that say how to reach it."""
_SECRETS = frozenset({"api_key", "client_secret", "aws_secret_access_key", "aws_session_token", "aws_access_key_id"})
_CREDENTIALS = frozenset({"authorization", "proxy-authorization", "api-key", "x-api-key", "cookie"})
"""Headers that are secrets."""
_ENVIRONMENT = re.compile(r"os\.environ/([A-Za-z_][A-Za-z0-9_]*)")


def reference(value: Any) -> Any:
    """``os.environ/NAME`` becomes ``${NAME}``, here and in what is inside; dollar signs of other texts are kept."""
    if isinstance(value, dict):
        return {key: reference(item) for key, item in value.items()}
    if isinstance(value, list):
        return [reference(item) for item in value]
    if not isinstance(value, str):
        return value
    found = _ENVIRONMENT.fullmatch(value.strip())
    return f"${{{found[1]}}}" if found else value.replace("$", "$$")


class Providers:
    """Collects providers: deployments that are reached the same way share one."""

    def __init__(self, notes: list[str]) -> None:
        self.providers: dict[str, JSON] = {}
        self._notes = notes

    def of(self, parameters: Mapping[str, Any], where: str) -> tuple[str, str] | None:
        """The provider and the provider's name of the model; None, with a note, for one that we do not know."""
        prefix, model = split(parameters)
        adapter = ADAPTERS.get(prefix)
        if adapter is None and parameters.get("api_base"):
            adapter = "openai-compatible"
            self._notes.append(f"{where}: provider '{prefix}' is taken for an OpenAI-compatible one at its api_base")
        if adapter is None:
            self._notes.append(f"{where}: provider '{prefix}' is not known; the deployment is left out")
            return None
        if adapter == "vertex" and model.startswith("claude"):
            adapter = "vertex-anthropic"
        if adapter == "openai" and parameters.get("api_base"):
            adapter = "openai-compatible"
        if model.startswith(RESPONSES):  # there it chooses an API; no provider knows a model by it
            model = model.removeprefix(RESPONSES)
            self._notes.append(f"{where}: `{RESPONSES}` left out of '{model}': it is asked by chat completions here")
        return self._named(prefix, self._described(adapter, parameters, where)), model

    def _described(self, adapter: str, parameters: Mapping[str, Any], where: str) -> JSON:
        told: JSON = {"adapter": adapter}
        base = parameters.get("api_base") or parameters.get("base_url")
        if base:
            told["base_url"] = str(reference(base)).rstrip("/")
            if told["base_url"].startswith("http://"):
                told["allow_plain_http"] = True
        if parameters.get("api_key"):
            told["api_key"] = self._secret("api_key", parameters["api_key"], where)
        names = _OPTIONS.get(adapter, {})
        options = {names[k]: self._secret(k, v, where) for k, v in parameters.items() if k in names and v}
        if options:
            told["options"] = options
        if isinstance(headers := parameters.get("extra_headers"), dict):
            told["headers"] = {
                str(k): self._secret(f"extra_headers.{k}", str(v), where, secret=str(k).lower() in _CREDENTIALS)
                for k, v in headers.items()
            }
        return told

    def _secret(self, parameter: str, value: Any, where: str, *, secret: bool = False) -> Any:
        """A reference stays one; a secret that stands in the file itself is not copied."""
        told = reference(value)
        if not (secret or parameter in _SECRETS) or (isinstance(told, str) and told.startswith("${")):
            return told
        variable = re.sub(r"[^A-Z0-9]+", "_", f"{where}_{parameter}".upper()).strip("_")
        self._notes.append(f"{where}: its {parameter} stands in the file; set the environment variable {variable}")
        return f"${{{variable}}}"

    def _named(self, prefix: str, described: JSON) -> str:
        number = 1
        base = prefix.replace("_", "-")
        while (name := base if number == 1 else f"{base}-{number}") in self.providers:
            if self.providers[name] == described:
                return name
            number += 1
        self.providers[name] = described
        return name


def split(parameters: Mapping[str, Any]) -> tuple[str, str]:
    """The provider's prefix and the provider's own name of the model."""
    model = str(parameters.get("model") or "")
    prefix, slash, rest = model.partition("/")
    given = parameters.get("custom_llm_provider")
    if given:
        return str(given), rest if slash and prefix == given else model
    if not slash:
        return (
            "anthropic" if model.startswith("claude") else "gemini" if model.startswith("gemini") else "openai"
        ), model
    return prefix, rest.removeprefix("converse/") if prefix == "bedrock" else rest
