"""Claude on Google's Vertex AI: the Messages dialect under Google's addresses and credentials."""

from collections.abc import Mapping
from typing import Any

from ..interface import ChatRequest, CredentialSpec, Target, UpstreamRequest
from ..jsonio import dumps
from ..options import decode
from . import Anthropic
from .options import VertexOptions
from .platform import VERTEX
from .request import draft

HOSTS: Mapping[str, str] = {
    "global": "https://aiplatform.googleapis.com",
    "us": "https://aiplatform.us.rep.googleapis.com",
    "eu": "https://aiplatform.eu.rep.googleapis.com",
}


class VertexAnthropic(Anthropic):
    """Images by URL and uploaded files do not exist here: the provider fetches nothing."""

    base_url = HOSTS["global"]
    """Stands for the host of the location that the options name."""
    tiers: Mapping[str, str] = {}

    def options(self, raw: Mapping[str, Any]) -> VertexOptions:
        return decode(VertexOptions, raw)

    def credential(self, options: VertexOptions) -> CredentialSpec:
        return options.credential()

    def prepare(self, request: ChatRequest, target: Target) -> UpstreamRequest:
        options: VertexOptions = target.options
        made = draft(request, target, options, VERTEX)
        made.body.pop("service_tier", None)
        made.body["anthropic_version"] = options.version
        if made.betas:
            made.body["anthropic_beta"] = list(dict.fromkeys(made.betas))
        base = target.base_url
        if base in ("", self.base_url):
            base = HOSTS.get(options.location, f"https://{options.location}-aiplatform.googleapis.com")
        streamed = bool(request.get("stream"))
        return UpstreamRequest(
            f"{base.removesuffix('/v1')}/v1/projects/{options.project}/locations/{options.location}/publishers/anthropic"
            f"/models/{target.model}:{'streamRawPredict' if streamed else 'rawPredict'}",
            {"authorization": f"Bearer {target.api_key}", "content-type": "application/json", **target.headers},
            dumps(made.body),
            streamed,
            made.dropped,
            made.notes,
        )
