"""Gemini on Vertex AI: other addresses, other credentials, the tier in a header; the same bodies."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar
from urllib.parse import quote

from ..interface import JSON, ChatRequest, CredentialSpec, Target, UpstreamRequest
from . import Gemini, embeddings, options

_VERSION = "v1beta1"
_MULTI_REGIONS = frozenset({"us", "eu"})
_TIER_HEADER = "x-vertex-ai-llm-shared-request-type"
"""Google's pages "Flex PayGo" and "Priority PayGo". Provisioned throughput, where bought, is used first."""


@dataclass(frozen=True, slots=True)
class VertexOptions(options.Options):
    project: str | None = None
    location: str = "global"
    express: bool = False
    """Whether requests go by API key without a project (Google's express mode)."""
    credentials_file: str | None = None


class VertexGemini(Gemini):
    """The adapter of Vertex AI."""

    base_url = f"https://aiplatform.googleapis.com/{_VERSION}"
    """Of the global location; those of the regions follow from it."""
    searches_with_functions: ClassVar[bool] = False
    has_files: ClassVar[bool] = False

    def options(self, raw: Mapping[str, Any]) -> VertexOptions:
        options.known(raw, ("project", "location", "express", "credentials_file", "safety_settings"))
        express = raw.get("express", False)
        if express not in (True, False):
            raise ValueError("'express' must be true or false")
        project = options.text(raw, "project")
        if not express and project is None:
            raise ValueError("'project' is missing: the Google Cloud project, or 'express: true' for an API key")
        location = options.text(raw, "location") or "global"
        if not location.replace("-", "").isalnum():
            raise ValueError(f"'location' is no location: {location}")
        return VertexOptions(
            options.safety(raw), project, location, bool(express), options.text(raw, "credentials_file")
        )

    def credential(self, options: VertexOptions) -> CredentialSpec | None:
        if options.express:
            return None
        return CredentialSpec("google", {"credentials_file": options.credentials_file, "project": options.project})

    def prepare_embeddings(self, request: Mapping[str, Any], target: Target) -> UpstreamRequest:
        texts = embeddings.texts(request)
        size = {"outputDimensionality": request["dimensions"]} if request.get("dimensions") else {}
        if "gemini" not in target.model.rsplit("/", 1)[-1]:
            return self._predict(texts, size, target)
        config = {"embedContentConfig": size} if size else {}
        each: list[JSON] = [{"content": embeddings.content(text), **config} for text in texts]
        operation = "embedContent" if len(each) == 1 else "batchEmbedContents"
        body = each[0] if len(each) == 1 else {"requests": each}
        return self._embedding(f"{self._model(target)}:{operation}", body, target)

    def _predict(self, texts: list[str], size: JSON, target: Target) -> UpstreamRequest:
        """The older text embedding models are plain predictors."""
        body: JSON = {"instances": [{"content": text} for text in texts]}
        if size:
            body["parameters"] = size
        return self._embedding(f"{self._model(target)}:predict", body, target)

    def _name(self, target: Target) -> str:
        """The resource of a model's name: Google's own, another publisher's, or an endpoint of a tuned one."""
        name, chosen = target.model, target.options
        if name.startswith("projects/"):
            return name
        if not name.startswith(("publishers/", "endpoints/")):
            name = f"publishers/google/models/{name}"
        return name if chosen.express else f"projects/{chosen.project}/locations/{chosen.location}/{name}"

    def _model(self, target: Target) -> str:
        return f"{_address(target)}/{quote(self._name(target), safe='/-._~@:')}"

    def _headers(self, target: Target) -> dict[str, str]:
        if target.options.express:
            return super()._headers(target)
        return {"content-type": "application/json", "authorization": f"Bearer {target.api_key}"}

    def _tier(self, asked: ChatRequest) -> JSON:  # noqa: ARG002 - Vertex AI takes it in a header
        return {}

    def _tier_headers(self, asked: ChatRequest) -> dict[str, str]:
        return {_TIER_HEADER: asked["service_tier"]} if asked.get("service_tier") in ("flex", "priority") else {}


def _address(target: Target) -> str:
    """The configured address, or that of the location."""
    location = target.options.location
    if target.base_url != VertexGemini.base_url or location == "global" or target.options.express:
        return target.base_url
    if location in _MULTI_REGIONS:
        return f"https://aiplatform.{location}.rep.googleapis.com/{_VERSION}"
    return f"https://{location}-aiplatform.googleapis.com/{_VERSION}"
