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
    {
        "model",
        "custom_llm_provider",
        "api_key",
        "api_base",
        "base_url",
        "extra_headers",
        "organization",
        "litellm_credential_name",
    }
).union(*_OPTIONS.values())
"""Parameters of a deployment that say how to reach it."""
_KEYS: Mapping[str, str] = {
    **{
        p: f"{p.upper()}_API_KEY"
        for p in ("openai", "azure", "azure_ai", "anthropic", "gemini", "cohere", "mistral", "cerebras")
    },
    **{
        p: f"{p.upper()}_API_KEY"
        for p in ("deepseek", "fireworks_ai", "groq", "moonshot", "nvidia_nim", "openrouter", "xai", "zai")
    },
    "text-completion-openai": "OPENAI_API_KEY",
    "cohere_chat": "COHERE_API_KEY",
    "dashscope": "DASHSCOPE_API_KEY",
    "fireworks_ai": "FIREWORKS_API_KEY",
    "huggingface": "HUGGINGFACE_API_KEY",
    "perplexity": "PERPLEXITYAI_API_KEY",
    "together_ai": "TOGETHERAI_API_KEY",
}
"""Where LiteLLM looks for a key that a deployment does not have."""
_SECRETS = frozenset({"api_key", "client_secret", "aws_secret_access_key", "aws_session_token", "aws_access_key_id"})
_CREDENTIAL = re.compile(r"(?i).*(authorization|cookie|key|token|secret|password).*")
"""Headers that are secrets."""
_BEFORE_MODEL = re.compile(r"(?:invoke|converse|(?P<region>[a-z]{2}(?:-[a-z]+)+-[0-9]))/")
"""Before the name of a model at Bedrock: an API and a region."""
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
        base = parameters.get("api_base") or parameters.get("base_url")
        if adapter is None and base:
            adapter = "openai-compatible"
            self._notes.append(f"{where}: provider '{prefix}' is taken for an OpenAI-compatible one at its api_base")
        if adapter is None:
            self._notes.append(f"{where}: provider '{prefix}' is not known; the deployment is left out")
            return None
        if adapter == "vertex" and model.startswith("claude"):
            adapter = "vertex-anthropic"
        if adapter == "openai" and base and not _is_openais(base):
            adapter = "openai-compatible"
        if model.startswith(RESPONSES):  # there it chooses an API; no provider knows a model by it
            model = model.removeprefix(RESPONSES)
            self._notes.append(f"{where}: `{RESPONSES}` left out of '{model}': it is asked by chat completions here")
        if adapter == "openai":  # at its own address, which needs no saying
            parameters = {k: v for k, v in parameters.items() if k not in ("api_base", "base_url")}
        if adapter == "bedrock":
            model, region = bedrock_model(model)
            parameters = {"aws_region_name": region, **parameters} if region else parameters
        if parameters.get("organization") and not adapter.startswith("openai"):
            self._notes.append(f"{where}.litellm_params.organization: not supported, ignored")
        described = self._described(adapter, parameters, where)
        self._from_environment(prefix, described)
        return self._named(prefix, described), model

    def _described(self, adapter: str, parameters: Mapping[str, Any], where: str) -> JSON:
        told: JSON = {"adapter": adapter}
        base = parameters.get("api_base") or parameters.get("base_url")
        if base:
            told["base_url"] = str(reference(base)).rstrip("/")
            if adapter == "ollama" and not told["base_url"].endswith("/v1"):
                told["base_url"] += "/v1"  # LiteLLM speaks its own dialect, here it is OpenAI's
            if told["base_url"].startswith("http://"):
                told["allow_plain_http"] = True
        if parameters.get("api_key"):
            told["api_key"] = self._secret("api_key", parameters["api_key"], where)
        names = _OPTIONS.get(adapter, {})
        options = {names[k]: self._secret(k, v, where) for k, v in parameters.items() if k in names and v}
        credentials = parameters.get("vertex_credentials")
        if "credentials_file" in options and (
            isinstance(credentials, dict) or str(credentials).lstrip().startswith("{")
        ):
            del options["credentials_file"]
            options["credentials_json"] = self._secret("vertex_credentials", "{", where, secret=True)
        if adapter == "bedrock" and not parameters.get("api_key"):
            options["auth"] = "aws"  # from the environment, a profile or a role, where nothing else is said
        if options:
            told["options"] = options
        if isinstance(headers := parameters.get("extra_headers"), dict):
            told["headers"] = {
                str(k): self._secret(
                    f"extra_headers.{k}", str(v), where, secret=_CREDENTIAL.fullmatch(str(k)) is not None
                )
                for k, v in headers.items()
            }
        if parameters.get("organization") and adapter.startswith("openai"):
            told.setdefault("headers", {})["OpenAI-Organization"] = str(reference(parameters["organization"]))
        return told

    def _from_environment(self, prefix: str, told: JSON) -> None:
        """What LiteLLM takes from its environment where a deployment does not say it."""
        lacks = {}
        has_key = "api_key" in told or bool({"tenant_id", "client_id"} & told.get("options", {}).keys())
        if not has_key and prefix in _KEYS and (prefix != "openai" or "base_url" not in told):
            lacks["api_key"] = ("api_key", _KEYS[prefix])
        if told["adapter"] == "azure" and "base_url" not in told:
            lacks["api_base"] = ("base_url", f"{prefix.upper()}_API_BASE")
        for theirs, (ours, variable) in lacks.items():
            told[ours] = f"${{{variable}}}"
            note = f"{prefix}: deployments without {theirs} take it from the environment: set {variable}"
            if note not in self._notes:
                self._notes.append(note)

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
    return prefix, rest


def bedrock_model(model: str) -> tuple[str, str | None]:
    """Bedrock's own name of ``[invoke/|converse/][REGION/]MODEL``, and the region."""
    region = None
    while (found := _BEFORE_MODEL.match(model)) is not None:
        model, region = model[found.end() :], found["region"] or region
    return model, region


def _is_openais(base: Any) -> bool:
    return str(base).strip().rstrip("/").removesuffix("/v1") == "https://api.openai.com"
