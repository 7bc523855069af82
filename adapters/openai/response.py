"""A whole answer of an OpenAI-shaped provider, mended where it is not quite OpenAI's."""

from collections.abc import Callable, Mapping
from typing import Any

from ..classify import embedded_error
from ..completion import OPENAI_FINISH_REASONS as FINISH_REASONS
from ..errors import ErrorKind, ProviderError
from ..interface import JSON, Answer
from ..jsonio import loads
from .dialect import Dialect, read_usage, told_tier, told_usage
from .request import LONG_IDS
from .think import ThinkSplitter

_MESSAGE_KEYS = frozenset({"role", "content", "refusal", "annotations"})


def parse(body: bytes, dialect: Dialect) -> Answer:
    """Read; raises ProviderError for an error in a 200 and for what is no completion."""
    loose = loads(body)
    if not isinstance(loose, dict):
        raise ProviderError(ErrorKind.PROTOCOL, "The upstream's answer is not a completion.")
    if (error := failure(loose)) is not None:
        raise embedded_error(error)
    choices = loose.get("choices")
    if not isinstance(choices, list) or not choices:
        raise ProviderError(ErrorKind.PROTOCOL, "The upstream's answer has no choices.")
    usage, tier = read_usage(told_usage(loose)), told_tier(dialect, loose)
    if tier is not None and not dialect.lenient and loose.get("service_tier") == tier and _lawful(loose, choices):
        return Answer(loose, usage, tier, body)
    told = [_choice(choice, dialect) for choice in choices if isinstance(choice, dict)]
    if told:
        told[0]["message"].update(sources(loose))
    return Answer({**loose, "choices": told}, usage, tier)


def _lawful(whole: JSON, choices: list[JSON]) -> bool:
    """Whether the client can have the provider's own bytes: all keys there that OpenAI sends on its best days."""
    if "system_fingerprint" not in whole or not isinstance(whole.get("usage"), dict):
        return False
    for choice in choices:
        message = choice.get("message") if isinstance(choice, dict) else None
        if not isinstance(message, dict) or "logprobs" not in choice:
            return False
        if choice.get("finish_reason") not in FINISH_REASONS or message.get("tool_calls") == []:
            return False
        if not message.keys() >= _MESSAGE_KEYS:
            return False
    return True


def _choice(choice: JSON, dialect: Dialect) -> JSON:
    given = choice.get("message")
    message = mend(given if isinstance(given, dict) else {})
    if dialect.think_tags is not None and "content" in message:
        splitter = ThinkSplitter(dialect.think_tags)
        pieces = (splitter.feed(message["content"]), splitter.close())
        split(message, *("".join(texts) for texts in zip(*pieces, strict=True)))
    reason = choice.get("finish_reason")
    return {
        "index": choice.get("index") if isinstance(choice.get("index"), int) else 0,
        "message": message,
        "logprobs": lawful(choice.get("logprobs")),
        "finish_reason": reason if isinstance(reason, str) and reason else "stop",
    }


def lawful(logprobs: Any) -> Any:
    """Token probabilities in OpenAI's shape; other shapes (Together's lists) are left out."""
    if not isinstance(logprobs, dict):
        return None
    told = {key: found for key in ("content", "refusal") if (found := _dicts(logprobs.get(key)))}
    return told or None


EXTENSIONS = frozenset(
    {
        "tool_calls",
        "function_call",
        "refusal",
        "audio",
        "annotations",
        "reasoning_details",
        "thinking_blocks",
        "images",
        "extra_content",
        "executed_tools",
        "citations",
        "search_results",
    }
)
"""Keys of a message or delta that go on to the client besides the texts."""


def sources(whole: Mapping[str, Any]) -> JSON:
    """What Perplexity tells of its search beside the choices, where OpenAI has no place: it goes into the message."""
    return {
        key: whole[key] for key in ("citations", "search_results") if isinstance(whole.get(key), list) and whole[key]
    }


def failure(chunk: Mapping[str, Any], event: str = "") -> Any:
    """The error that an event of a stream is, if it is one: some servers put it there without the ``error`` around it,
    Groq within its ``x_groq``."""
    inner = chunk.get("x_groq")
    if error := chunk.get("error") or (inner.get("error") if isinstance(inner, dict) else None):
        return error
    bare = "choices" not in chunk and (chunk.get("object") == "error" or chunk.get("message") or chunk.get("detail"))
    return chunk if bare or event == "error" else None


def shortened(choices: list[JSON]) -> bool:
    """Whether any tool call of a chunk had an id too long to come back, and has another now (checklist C-210)."""
    calls = [call for choice in choices for call in (choice.get("delta") or {}).get("tool_calls") or ()]
    long = [call for call in calls if LONG_IDS.apply(call.get("id") or "") != (call.get("id") or "")]
    for call in long:
        call["id"] = LONG_IDS.apply(call["id"])
    return bool(long)


def mend(given: Mapping[str, Any]) -> JSON:
    """A message or delta with one name per thing: ``reasoning`` becomes ``reasoning_content``, once (edge case 47)."""
    told: JSON = {}
    content = given.get("content")
    thought = ""
    if isinstance(content, list):
        thought, content = _parts(content)
    reasoning = given.get("reasoning_content") or given.get("reasoning") or thought
    if isinstance(reasoning, str) and reasoning:
        told["reasoning_content"] = reasoning
    if isinstance(content, str):
        told["content"] = content
    for key, value in given.items():
        if key in EXTENSIONS and value and (shaped := _SHAPES.get(key, _any)(value)):
            told[key] = shaped
    return told


def _any(value: Any) -> Any:
    return value


def _dicts(value: Any) -> list[JSON]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _function(value: Any) -> JSON:
    return _texts(value, ("name", "arguments"))


def _audio(value: Any) -> JSON:
    told = _texts(value, ("id", "data", "transcript"))
    expiry = value.get("expires_at") if isinstance(value, dict) else None
    return told | ({"expires_at": expiry} if type(expiry) is int and expiry > 0 else {})


def _texts(value: Any, keys: tuple[str, ...]) -> JSON:
    if not isinstance(value, dict):
        return {}
    return {key: value[key] for key in keys if isinstance(value.get(key), str) and value[key]}


_SHAPES: Mapping[str, Callable[[Any], Any]] = {
    "tool_calls": _dicts,
    "function_call": _function,
    "refusal": _text,
    "audio": _audio,
    "annotations": _dicts,
    "reasoning_details": _dicts,
}
"""What of a value has the type that clients rely on; some servers send the empty shells of all types."""


def split(told: JSON, reasoning: str, content: str) -> None:
    """Put split text where it belongs."""
    told.pop("content", None)
    if reasoning:
        told["reasoning_content"] = told.get("reasoning_content", "") + reasoning
    if content:
        told["content"] = content


def _parts(parts: Any) -> tuple[str, str]:
    """The thinking and the text of content told as a list of parts, as Mistral does (edge case 48)."""
    if not isinstance(parts, list):
        return "", parts if isinstance(parts, str) else ""
    thought, text = "", ""
    for part in parts:
        if not isinstance(part, dict):
            continue
        if part.get("type") == "thinking":
            thought += _parts(part.get("thinking"))[1]
        elif isinstance(part.get("text"), str):
            text += part["text"]
    return thought, text
