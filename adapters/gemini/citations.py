"""Grounding and recitation metadata as ``url_citation`` annotations."""

from collections.abc import Iterator, Mapping
from typing import Any

from ..interface import JSON


def annotations(text: str, found: list[Mapping[str, Any]]) -> list[JSON]:
    """The citations in an answer's text, in its order, each once.

    ``found`` are candidates of the answer as they came. Gemini counts bytes of UTF-8, OpenAI characters.
    """
    data = text.encode(errors="replace")
    cited: dict[tuple[int, int, str], JSON] = {}
    for candidate in found:
        for start, end, url, title in (*_grounded(candidate, text, data), *_recited(candidate, data)):
            cited.setdefault((start, end, url), {
                "type": "url_citation",
                "url_citation": {"start_index": start, "end_index": end, "title": title, "url": url},
            })  # fmt: skip
    return [cited[key] for key in sorted(cited, key=lambda key: key[:2])]


def _grounded(candidate: Mapping[str, Any], text: str, data: bytes) -> Iterator[tuple[int, int, str, str]]:
    grounding = _mapping(candidate.get("groundingMetadata"))
    chunks = [_source(chunk) for chunk in _mappings(grounding.get("groundingChunks"))]
    used = set()
    for support in _mappings(grounding.get("groundingSupports")):
        start, end = _span(_mapping(support.get("segment")), text, data)
        for index in support.get("groundingChunkIndices") or ():
            if isinstance(index, int) and 0 <= index < len(chunks) and chunks[index][0]:
                used.add(index)
                yield start, end, *chunks[index]
    for index, (url, title) in enumerate(chunks):
        if url and index not in used:  # a source of the answer as a whole
            yield len(text), len(text), url, title


def _recited(candidate: Mapping[str, Any], data: bytes) -> Iterator[tuple[int, int, str, str]]:
    metadata = _mapping(candidate.get("citationMetadata"))
    for citation in _mappings(metadata.get("citations") or metadata.get("citationSources")):
        if isinstance(url := citation.get("uri"), str) and url:
            title = citation.get("title")
            start, end = _index(citation, "startIndex"), _index(citation, "endIndex")
            yield _characters(data, start), _characters(data, end), url, title if isinstance(title, str) else ""


def _source(chunk: Mapping[str, Any]) -> tuple[str, str]:
    """Address and title of a source: a web page, a place or a document."""
    for kind in ("web", "maps", "retrievedContext"):
        source = _mapping(chunk.get(kind))
        if isinstance(url := source.get("uri"), str) and url:
            title = source.get("title")
            return url, title if isinstance(title, str) else ""
    return "", ""


def _span(segment: Mapping[str, Any], text: str, data: bytes) -> tuple[int, int]:
    start = _characters(data, _index(segment, "startIndex"))
    end = _characters(data, _index(segment, "endIndex"))
    words = segment.get("text")
    if isinstance(words, str) and words and text[start:end] != words and (at := text.find(words)) >= 0:
        return at, at + len(words)  # the offsets are sometimes off by a line break
    return start, max(start, end)


def _characters(data: bytes, offset: int) -> int:
    return len(data[:offset].decode(errors="ignore"))


def _index(holder: Mapping[str, Any], key: str) -> int:
    value = holder.get(key)
    return max(value, 0) if isinstance(value, int) else 0


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _mappings(value: Any) -> list[Mapping[str, Any]]:
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []
