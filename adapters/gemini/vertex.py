"""Gemini on Vertex AI: other addresses, other credentials, the tier in a header; the same bodies."""

from collections.abc import Mapping
from typing import Any, ClassVar

from ..interface import JSON, ChatRequest, CredentialSpec, Target, UpstreamRequest
from ..options import decode
from . import Gemini, embeddings
from .options import VertexOptions

_VERSION = "v1beta1"
_MULTI_REGIONS = frozenset({"us", "eu"})
_TIER_HEADER = "x-vertex-ai-llm-shared-request-type"
"""Google's pages "Flex PayGo" and "Priority PayGo". Provisioned throughput, where bought, is used first."""


class VertexGemini(Gemini):
    """The adapter of Vertex AI."""

    base_url = f"https://aiplatform.googleapis.com/{_VERSION}"
    """Of the global location; those of the regions follow from it."""
    vertex: ClassVar[bool] = True

    def options(self, raw: Mapping[str, Any]) -> VertexOptions:
        return decode(VertexOptions, raw)

    def credential(self, options: VertexOptions) -> CredentialSpec | None:
        return options.credential()

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

    def _base(self, target: Target) -> str:
        """The configured address, or that of the location."""
        location = target.options.location
        if target.base_url not in ("", self.base_url) or location == "global" or target.options.express:
            return super()._base(target)
        if location in _MULTI_REGIONS:
            return f"https://aiplatform.{location}.rep.googleapis.com/{_VERSION}"
        return f"https://{location}-aiplatform.googleapis.com/{_VERSION}"

    def _headers(self, target: Target) -> dict[str, str]:
        if target.options.express:
            return super()._headers(target)
        return {"content-type": "application/json", "authorization": f"Bearer {target.api_key}"}

    def _tier(self, asked: ChatRequest) -> JSON:  # noqa: ARG002 - Vertex AI takes it in a header
        return {}

    def _tier_headers(self, asked: ChatRequest) -> dict[str, str]:
        return {_TIER_HEADER: asked["service_tier"]} if asked.get("service_tier") in ("flex", "priority") else {}
