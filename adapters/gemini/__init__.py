"""Google Gemini by API key (AI Studio): ``generateContent``, ``streamGenerateContent``, ``batchEmbedContents``."""

import re
from collections.abc import Mapping
from typing import Any, ClassVar
from urllib.parse import quote

from ..errors import ProviderError
from ..interface import JSON, Answer, ChatRequest, CredentialSpec, StreamTranslator, Target, UpstreamRequest
from ..jsonio import dumps
from ..options import decode
from ..params import Fate
from . import embeddings, errors, request, response
from .options import GeminiOptions
from .signatures import Memory
from .stream import Translator
from .usage import TIERS

__all__ = ["Gemini"]


class Gemini:
    """The adapter of AI Studio, and what Vertex AI has in common with it."""

    params: Mapping[str, Fate] = request.FATES
    base_url = "https://generativelanguage.googleapis.com/v1beta"
    tiers: Mapping[str, str] = TIERS
    reports_tier = True
    flex_refusals: frozenset[int] = frozenset({429, 503})
    vertex: ClassVar[bool] = False
    """Whether this is Vertex AI, which keeps no uploaded files (``files/NAME``) and lets a model do other things."""

    def __init__(self) -> None:
        self._memory = Memory()

    def options(self, raw: Mapping[str, Any]) -> GeminiOptions:
        return decode(GeminiOptions, raw)

    def credential(self, options: Any) -> CredentialSpec | None:  # noqa: ARG002 - the key is static
        return None

    def prepare(self, request: ChatRequest, target: Target) -> UpstreamRequest:
        built = self._build(request, target)
        stream = bool(request.get("stream"))
        operation = "streamGenerateContent?alt=sse" if stream else "generateContent"
        return UpstreamRequest(
            url=f"{self._model(target)}:{operation}",
            headers={**self._headers(target), **self._tier_headers(request), **target.headers},
            body=dumps({**built.body, **self._tier(request)}),
            stream=stream,
            dropped=built.dropped,
            notes=built.notes,
        )

    def parse(self, body: bytes, sent: UpstreamRequest) -> Answer:
        return response.parse(body, sent.notes, self._memory)

    def stream(self, sent: UpstreamRequest) -> StreamTranslator:
        return Translator(sent.notes, self._memory)

    def error(self, status: int, headers: Mapping[str, str], body: bytes) -> ProviderError:
        return errors.error(status, headers, body)

    def prepare_embeddings(self, request: Mapping[str, Any], target: Target) -> UpstreamRequest:
        size = {"outputDimensionality": request["dimensions"]} if request.get("dimensions") else {}
        name = self._name(target)
        each: list[JSON] = [
            {"model": name, "content": embeddings.content(text), **size} for text in embeddings.texts(request)
        ]
        return self._embedding(f"{self._model(target)}:batchEmbedContents", {"requests": each}, target)

    def parse_embeddings(self, body: bytes, sent: UpstreamRequest) -> Answer:
        return embeddings.parse(body, sent.notes.get("model", ""))

    def _embedding(self, url: str, body: JSON, target: Target) -> UpstreamRequest:
        headers = {**self._headers(target), **target.headers}
        return UpstreamRequest(url, headers, dumps(body), notes={"model": target.model})

    def _build(self, asked: ChatRequest, target: Target) -> request.Built:
        return request.build(
            asked,
            target,
            self._memory,
            files="" if self.vertex else self._base(target),
            safety=target.options.safety() if target.options is not None else [],
            vertex=self.vertex,
        )

    def _name(self, target: Target) -> str:
        """``models/NAME``; a name with a folder, ``tunedModels/mine`` say, stays."""
        return target.model if "/" in target.model else f"models/{target.model}"

    def _model(self, target: Target) -> str:
        """The address of the model, without an operation."""
        return f"{self._base(target)}/{quote(self._name(target), safe='/-._~@:')}"

    def _base(self, target: Target) -> str:
        """The address with its version; one that names none gets ours."""
        return versioned(target.base_url or self.base_url, self.base_url)

    def _headers(self, target: Target) -> dict[str, str]:
        headers = {"content-type": "application/json"}
        if target.api_key:
            headers["x-goog-api-key"] = target.api_key
        return headers

    def _tier(self, asked: ChatRequest) -> JSON:
        """The body's part of the service tier; ``auto`` and ``default`` are what is served unasked."""
        tier = asked.get("service_tier") or "default"
        return {"serviceTier": self.tiers[tier]} if tier in self.tiers and tier != "default" else {}

    def _tier_headers(self, asked: ChatRequest) -> dict[str, str]:  # noqa: ARG002 - AI Studio takes it in the body
        return {}


def versioned(base: str, ours: str) -> str:
    """``base`` with the version of ``ours``, unless it has one."""
    return base if re.search(r"/v\d\w*$", base) else f"{base}/{ours.rsplit('/', 1)[-1]}"
