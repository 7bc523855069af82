"""Embeddings at Cohere's v2 embed."""

from collections.abc import Mapping
from typing import Any

from ..errors import ErrorKind, ProviderError, UnsupportedParameter
from ..interface import JSON, Answer, Target, UpstreamRequest
from ..jsonio import dumps, loads
from ..params import Fate, unsupported
from ..usage import Usage, count
from .request import CohereOptions, headers

PARAMS: Mapping[str, Fate] = {
    "model": Fate.PASS,
    "input": Fate.TRANSLATE,
    "dimensions": Fate.TRANSLATE,
    "encoding_format": Fate.EMULATE,
    "user": Fate.DROP,
    "input_type": Fate.PASS,
    "truncate": Fate.PASS,
}


def build(request: Mapping[str, Any], target: Target) -> UpstreamRequest:
    """Translate; raises UnsupportedParameter, for tokens instead of text too: they are OpenAI's."""
    options: CohereOptions = target.options or CohereOptions()
    given = {name: value for name, value in request.items() if name != "encoding_format"}
    dropped = unsupported(given, PARAMS, target.unsupported)
    texts = [request["input"]] if isinstance(request["input"], str) else list(request["input"])
    if not all(isinstance(text, str) for text in texts):
        raise UnsupportedParameter("input", "Unsupported value: 'input' must be text with this model, not tokens.")
    body: JSON = {
        "model": target.model,
        "texts": texts,
        "input_type": request.get("input_type") or options.input_type,
        "embedding_types": ["float"],
    }
    if request.get("dimensions") is not None:
        body["output_dimension"] = request["dimensions"]
    if truncate := request.get("truncate") or options.truncate:
        body["truncate"] = truncate
    return UpstreamRequest(
        f"{target.base_url}/v2/embed",
        headers(target),
        dumps(body),
        dropped=dropped,
        notes={"count": len(texts), "model": target.model},
    )


def parse(body: bytes, notes: Mapping[str, Any]) -> Answer:
    """Raises ProviderError when there is not one vector per text."""
    data = loads(body)
    embeddings = data.get("embeddings") if isinstance(data, dict) else None
    vectors = embeddings.get("float") if isinstance(embeddings, dict) else None
    if not isinstance(vectors, list) or len(vectors) != notes.get("count", len(vectors)):
        raise ProviderError(ErrorKind.PROTOCOL, "The upstream sent an answer without its embeddings.")
    if not all(isinstance(vector, list) for vector in vectors):
        raise ProviderError(ErrorKind.PROTOCOL, "The upstream sent embeddings that are no vectors.")
    tokens = _tokens(data.get("meta"))
    rows = [{"object": "embedding", "index": index, "embedding": vector} for index, vector in enumerate(vectors)]
    told = {"prompt_tokens": tokens, "total_tokens": tokens}
    completion = {"object": "list", "data": rows, "model": notes.get("model", ""), "usage": told}
    return Answer(completion, Usage(input=tokens) if tokens else None)


def _tokens(meta: Any) -> int:
    for name in ("tokens", "billed_units"):
        told = meta.get(name) if isinstance(meta, dict) else None
        if isinstance(told, dict) and (tokens := count(told, "input_tokens")):
            return tokens
    return 0
