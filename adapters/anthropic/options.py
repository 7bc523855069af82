"""The ``options`` of a provider that serves Claude."""

from collections.abc import Mapping

from pydantic import Field, SecretStr

from ..interface import CredentialSpec
from ..options import Options


class AnthropicOptions(Options):
    version: str = Field("2023-06-01", pattern=r"^\d{4}-\d\d-\d\d$")
    """The API version. From 2026-10-21 on no sampling parameter is taken by any model."""
    beta: tuple[str, ...] = ()
    """Beta features to ask for with every request."""
    web_search: str = "web_search_20250305"
    """The version of the web search tool."""
    same_as: Mapping[str, str] = Field({})
    """Models of your own -> the Claude model whose capabilities they have."""


class VertexOptions(AnthropicOptions):
    version: str = "vertex-2023-10-16"
    project: str = Field(pattern=r"^[a-z0-9.:-]+$")
    """The Google Cloud project that is billed."""
    location: str = Field("global", pattern=r"^[a-z0-9-]+$")
    """A region, or ``global``, ``us`` or ``eu``."""
    credentials_file: str | None = None
    """A service account's or a user's; absent: Application Default Credentials."""
    credentials_json: SecretStr | None = None
    token_endpoint: str | None = None

    def credential(self) -> CredentialSpec:
        settings = {
            "credentials_file": self.credentials_file,
            "credentials_json": self.credentials_json and self.credentials_json.get_secret_value(),
            "token_endpoint": self.token_endpoint,
        }
        return CredentialSpec("google", {key: value for key, value in settings.items() if value is not None})
