"""The ``options`` of a provider that serves Gemini."""

from collections.abc import Mapping
from typing import Any

from pydantic import Field, SecretStr, model_validator

from ..interface import CredentialSpec
from ..options import Options


class SafetySetting(Options):
    category: str = Field(pattern=r"^HARM_CATEGORY_[A-Z_]+$")
    threshold: str = Field(pattern=r"^[A-Z_]+$")
    method: str | None = None
    """Vertex AI only."""


class GeminiOptions(Options):
    safety_settings: tuple[SafetySetting, ...] = ()
    """Sent with every request; clients cannot change them."""

    def safety(self) -> list[Mapping[str, Any]]:
        return [setting.model_dump(exclude_none=True) for setting in self.safety_settings]


class VertexOptions(GeminiOptions):
    project: str | None = Field(None, pattern=r"^[a-z0-9.:-]+$")
    """The Google Cloud project that is billed."""
    location: str = Field("global", pattern=r"^[a-z0-9-]+$")
    """A region, or ``global``, ``us`` or ``eu``."""
    express: bool = False
    """Whether requests go by ``api_key`` without a project (Google's express mode)."""
    credentials_file: str | None = None
    """A service account's or a user's; absent: Application Default Credentials."""
    credentials_json: SecretStr | None = None
    token_endpoint: str | None = None

    @model_validator(mode="after")
    def _billed(self) -> "VertexOptions":
        if self.project is None and not self.express:
            raise ValueError("'project' is missing: the Google Cloud project, or 'express: true' for an API key")
        return self

    def credential(self) -> CredentialSpec | None:
        if self.express:
            return None
        settings = {
            "credentials_file": self.credentials_file,
            "credentials_json": self.credentials_json and self.credentials_json.get_secret_value(),
            "token_endpoint": self.token_endpoint,
        }
        return CredentialSpec("google", {key: value for key, value in settings.items() if value is not None})
