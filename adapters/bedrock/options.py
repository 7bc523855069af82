"""The ``options`` of a Bedrock provider, and the credential they ask for."""

from typing import Any, Literal

from pydantic import Field, SecretStr, model_validator

from ..interface import CredentialSpec
from ..options import Options

TEMPLATE = "https://bedrock-runtime.{region}.amazonaws.com"


class Guardrail(Options):
    """A guardrail for every request; a client's own cannot replace it."""

    identifier: str
    version: str = "DRAFT"
    trace: Literal["enabled", "disabled", "enabled_full"] | None = None
    stream_processing: Literal["sync", "async"] | None = None

    def told(self, *, stream: bool) -> dict[str, str]:
        """The guardrailConfig."""
        config = {"guardrailIdentifier": self.identifier, "guardrailVersion": self.version}
        if self.trace:
            config["trace"] = self.trace
        if self.stream_processing and stream:
            config["streamProcessingMode"] = self.stream_processing
        return config


class BedrockOptions(Options):
    region: str = Field("us-east-1", pattern=r"^[a-z]{2}(-[a-z]+)+-\d$")
    auth: Literal["aws", "api_key"] | None = None
    """aws: requests are signed; api_key: the provider's ``api_key`` is a Bedrock API key. Absent: aws where the provider has
    no ``api_key``."""
    access_key_id: str | None = None
    secret_access_key: SecretStr | None = None
    session_token: SecretStr | None = None
    role_arn: str | None = None
    """A role to assume, with the keys of whatever source: on EKS with those of the pod's own role."""
    external_id: str | None = None
    session_name: str | None = None
    web_identity_token_file: str | None = None
    container_credentials_uri: str | None = None
    sts_endpoint: str | None = None
    guardrail: Guardrail | None = None
    latency: Literal["standard", "optimized"] | None = None
    additional_fields: dict[str, Any] = Field({})
    """additionalModelRequestFields for every request."""
    profiles: dict[str, str] = Field({})
    """What stands behind an opaque ARN: ARN -> model id, for what the family decides."""

    @model_validator(mode="after")
    def _paired(self) -> "BedrockOptions":
        if (self.access_key_id is None) != (self.secret_access_key is None):
            raise ValueError("'access_key_id' and 'secret_access_key' go together")
        return self

    def credential(self) -> CredentialSpec | None:
        settings = self.model_dump(include=_AWS, exclude_none=True)
        if self.auth == "api_key":
            return None
        for name, value in settings.items():
            if isinstance(value, SecretStr):
                settings[name] = value.get_secret_value()
        return CredentialSpec("aws", {"service": "bedrock", "region": self.region, **settings})


_AWS = {
    "access_key_id", "secret_access_key", "session_token", "role_arn", "external_id", "session_name",
    "web_identity_token_file", "container_credentials_uri", "sts_endpoint",
}  # fmt: skip


def endpoint(base_url: str, region: str) -> str:
    """The config's address, or the region's own."""
    if base_url and base_url != TEMPLATE:
        return base_url
    domain = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
    return f"https://bedrock-runtime.{region}.{domain}"
