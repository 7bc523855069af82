"""Between a stream and a whole answer, both ways."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from .interface import JSON, Chunk
from .jsonio import whole
from .toolcalls import ToolCalls

_TEXTS = frozenset({"content", "refusal", "reasoning_content", "reasoning"})


class _Choice:
    def __init__(self) -> None:
        self.texts: dict[str, list[str]] = {}
        self.calls: ToolCalls | None = None
        self.fragments: list[JSON] = []
        self.function: JSON | None = None
        self.audio: JSON | None = None
        self.extras: JSON = {}
        self.logprobs: JSON | None = None
        self.finish: str | None = None


class Accumulator:
    """Chunks in, one completion out: what a stored stream is kept as (checklist C-052, C-314)."""

    def __init__(self) -> None:
        self._choices: dict[int, _Choice] = {}
        self._top: JSON = {}

    def add(self, chunks: Iterable[Chunk]) -> None:
        for chunk in chunks:
            for key in ("id", "created", "model", "service_tier", "system_fingerprint", "moderation", "usage"):
                if chunk.get(key) is not None:
                    self._top[key] = chunk[key]
            for choice in chunk.get("choices") or ():
                state = self._choices.setdefault(choice.get("index") or 0, _Choice())
                _add(state, choice.get("delta") or {})
                _add_logprobs(state, choice.get("logprobs"))
                if choice.get("finish_reason"):
                    state.finish = choice["finish_reason"]

    def completion(self) -> JSON:
        """A loose ``chat.completion``: give it to ``completion()`` to make it lawful."""
        choices = [
            {
                "index": index,
                "message": _message(state),
                "logprobs": state.logprobs,
                "finish_reason": state.finish,
            }
            for index, state in sorted(self._choices.items())
        ]
        return {"object": "chat.completion", **self._top, "choices": choices}


def chunks(completion: Mapping[str, Any]) -> list[Chunk]:
    """A stream of a whole answer, for an upstream that cannot stream (C-350)."""
    out: list[Chunk] = []
    head = {key: completion[key] for key in ("model", "service_tier", "system_fingerprint") if completion.get(key)}
    for choice in completion.get("choices") or ():
        index, message = choice.get("index") or 0, dict(choice.get("message") or {})
        message.pop("role", None)
        message["tool_calls"] = [{**call, "index": at} for at, call in enumerate(message.get("tool_calls") or ())]
        delta = {key: value for key, value in message.items() if value not in (None, "", [])}
        out.append({**head, "choices": [{"index": index, "delta": delta, "logprobs": choice.get("logprobs")}]})
        out.append({**head, "choices": [{"index": index, "delta": {}, "finish_reason": choice.get("finish_reason")}]})
    if completion.get("moderation"):
        out.append({**head, "choices": [], "moderation": completion["moderation"]})
    return out


def _add(state: _Choice, delta: Mapping[str, Any]) -> None:
    for key, value in delta.items():
        if value is None or key == "role":
            continue
        if key in _TEXTS:
            state.texts.setdefault(key, []).append(value)
        elif key in _MERGES:
            _MERGES[key](state, value)
        else:
            state.extras[key] = _merged(state.extras.get(key), value)


def _add_calls(state: _Choice, fragments: list[JSON]) -> None:
    if state.calls is None:
        state.calls = ToolCalls()
    state.fragments += state.calls.feed(fragments)


def _add_function(state: _Choice, called: JSON) -> None:
    known = state.function or {"name": "", "arguments": ""}
    state.function = {key: known[key] + (called.get(key) or "") for key in known}


def _add_audio(state: _Choice, audio: JSON) -> None:
    known = state.audio or {}
    known = known | {key: value for key, value in audio.items() if key not in ("data", "transcript")}
    for key in ("data", "transcript"):
        known[key] = (state.audio or {}).get(key, "") + (audio.get(key) or "")
    state.audio = known


_MERGES: Mapping[str, Callable[[_Choice, Any], None]] = {
    "tool_calls": _add_calls,
    "function_call": _add_function,
    "audio": _add_audio,
}


def _add_logprobs(state: _Choice, logprobs: Any) -> None:
    if not isinstance(logprobs, dict):
        return
    known = state.logprobs or {"content": None, "refusal": None}
    state.logprobs = {key: _merged(known[key], logprobs.get(key)) for key in known}


def _merged(known: Any, value: Any) -> Any:
    if value is None:
        return known
    return known + value if isinstance(known, list) and isinstance(value, list) else value


def _message(state: _Choice) -> JSON:
    message: JSON = {"role": "assistant", "content": None, "refusal": None}
    message.update({key: whole("".join(pieces)) for key, pieces in state.texts.items()})
    if state.calls is not None:
        calls: list[JSON] = []
        for fragment in [*state.fragments, *state.calls.close()]:
            _join(calls, fragment)
        message["tool_calls"] = calls
    if state.function is not None:
        message["function_call"] = state.function
    if state.audio is not None:
        message["audio"] = state.audio
    return message | state.extras


def _join(calls: list[JSON], fragment: JSON) -> None:
    if fragment["index"] == len(calls):
        kind = fragment["type"]
        calls.append({**{k: v for k, v in fragment.items() if k != "index"}, kind: dict(fragment[kind])})
        return
    call = calls[fragment["index"]]
    for key, value in fragment.items():
        if key in ("function", "custom"):
            for inner, text in value.items():
                call[key][inner] += text
        elif key != "index":
            call[key] = value
