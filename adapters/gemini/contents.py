"""Messages as Gemini's ``systemInstruction`` and ``contents``."""

import mimetypes
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

import orjson

from .. import history, media
from ..errors import UnsupportedParameter
from ..history import Call, IdRule, Message
from ..interface import JSON
from . import signatures
from .functions import wire_name
from .models import Gates

_ANY_ID = IdRule(r"[\s\S]+", 128)
_IN_RESULTS = frozenset({"image/png", "image/jpeg", "image/webp", "application/pdf", "text/plain"})
"""Media types that a functionResponse may hold (Google's page "Function calling", multimodal responses)."""
_EXACT = re.compile(r"\d{16}")
"""Numbers this long lose digits in Gemini's JSON values: a result that has one is sent as text."""
_VIDEO_HOSTS = frozenset({"youtu.be", "youtube.com", "www.youtube.com", "m.youtube.com"})
_AUDIO = {"wav": "audio/wav", "mp3": "audio/mp3"}
_NOTHING = {"text": "."}
"""Gemini refuses a conversation without any part."""
_CONTINUE = {"text": "Continue."}
"""The user's turn after the model's own at the end, for models that refuse to continue one (edge case 17)."""


class Conversation:
    """Builds both from one list of messages; raises UnsupportedParameter naming the part that cannot be told."""

    def __init__(self, gates: Gates, memory: signatures.Memory, files: str) -> None:
        self._gates, self._memory, self._files = gates, memory, files
        self._system: list[JSON] = []
        self._contents: list[JSON] = []
        self._results: list[tuple[int, JSON, list[JSON]]] = []
        """Of the open turn: the position of its call, the response part, and what must follow in a part of its own."""
        self._order: list[str] = []

    def read(self, messages: list[Mapping[str, Any]]) -> tuple[JSON | None, list[JSON]]:
        handlers: dict[str, Callable[[Message], None]] = {
            "system": self._instruct,
            "user": self._user,
            "assistant": self._model,
            "tool": self._result,
        }
        for message in history.asked(history.read(messages, _ANY_ID)):
            if message.role != "tool":
                self._flush()
            handlers[message.role](message)
        self._flush()
        return self._finished()

    def _finished(self) -> tuple[JSON | None, list[JSON]]:
        if not self._gates.system and self._system:
            self._contents.insert(0, {"role": "user", "parts": self._system})
            self._system = []
        if not self._contents:  # only instructions: they are the question then (edge case 16)
            return None, [{"role": "user", "parts": self._system or [_NOTHING]}]
        first = self._contents[0]
        if first["role"] == "model" and any("functionCall" in part for part in first["parts"]):
            self._contents.insert(0, {"role": "user", "parts": [_NOTHING]})  # a call must follow a user's turn
        if not self._gates.prefill and self._contents[-1]["role"] == "model":
            self._contents.append({"role": "user", "parts": [_CONTINUE]})
        return ({"parts": self._system} if self._system else None), self._contents

    def _add(self, role: str, parts: list[JSON]) -> None:
        """A turn, merged with the one before of the same role unless that one answers calls."""
        if not parts:
            return
        last = self._contents[-1] if self._contents else None
        if last is not None and last["role"] == role and "functionResponse" not in last["parts"][0]:
            last["parts"].extend(parts)
        else:
            self._contents.append({"role": role, "parts": parts})

    def _instruct(self, message: Message) -> None:
        self._system.extend({"text": part["text"]} for part in message.parts if part.get("type") == "text")

    def _user(self, message: Message) -> None:
        parts = list(self._parts(message))
        answered = bool(self._contents) and self._contents[-1]["role"] == "model"
        self._add("user", [dict(_NOTHING)] if answered and not parts else parts)  # else that answer would go on

    def _parts(self, message: Message) -> Iterator[JSON]:
        for position, part in enumerate(message.parts):
            yield self._part(part, f"messages[{message.index}].content[{position}]")

    def _model(self, message: Message) -> None:
        source = message.source or {}
        parts = list(self._parts(message))
        if isinstance(source.get("audio"), Mapping) and not parts:
            raise UnsupportedParameter(
                f"messages[{message.index}].audio",
                "Invalid value: this model's provider does not keep the audio of earlier answers.",
            )
        if self._gates.generation_3 and (signature := signatures.carried(source)):
            if not parts:
                parts.append({"text": ""})  # it may ride on an empty text (edge case 42)
            parts[-1]["thoughtSignature"] = signature
        self._order = [call.id for call in message.calls]
        sources = [*(source.get("tool_calls") or ()), None]  # none of the deprecated function_call
        parts.extend(
            self._call(call, given, first=position == 0)
            for position, (call, given) in enumerate(zip(message.calls, sources, strict=False))
        )
        self._add("model", parts)

    def _call(self, call: Call, source: Mapping[str, Any] | None, *, first: bool) -> JSON:
        made: JSON = {"name": wire_name(call.name), "args": dict(call.arguments)}
        part: JSON = {"functionCall": made}
        signature = signatures.carried(source) or self._memory.recall(call.id, call.name)
        if self._gates.generation_3:
            made["id"] = call.id
            if first and not signature:  # of parallel calls only the first one carries it
                signature = signatures.SKIP
        if signature:
            part["thoughtSignature"] = signature
        return part

    def _result(self, message: Message) -> None:
        texts = [part["text"] for part in message.parts if part.get("type") == "text"]
        response: JSON = {"name": wire_name(message.name), "response": _response("".join(texts))}
        if self._gates.generation_3:
            response["id"] = message.call_id
        inside: list[JSON] = []
        after: list[JSON] = []
        for position, part in enumerate(message.parts):
            if part.get("type") == "text":
                continue
            piece = self._part(part, f"messages[{message.index}].content[{position}]")
            fits = self._gates.generation_3 and piece.get("inlineData", {}).get("mimeType") in _IN_RESULTS
            (inside if fits else after).append(piece)
        if inside:
            response["parts"] = inside
        self._results.append((self._order.index(message.call_id), {"functionResponse": response}, after))

    def _flush(self) -> None:
        """The results of one turn of calls: one turn of the user's, in the order of the calls (edge case 3)."""
        results = sorted(self._results, key=lambda result: result[0])
        self._results = []
        if results:
            self._contents.append({"role": "user", "parts": [part for _, part, _ in results]})
            if after := [piece for _, _, pieces in results for piece in pieces]:
                self._contents.append({"role": "user", "parts": after})

    def _part(self, part: Mapping[str, Any], at: str) -> JSON:
        reader = _READERS.get(str(part.get("type")))
        if reader is None:
            raise UnsupportedParameter(f"{at}.type", f"Invalid value: '{part.get('type')}' is not supported here.")
        return reader(self, part, at)

    def _text(self, part: Mapping[str, Any], _at: str) -> JSON:
        return {"text": part["text"]}

    def _image(self, part: Mapping[str, Any], at: str) -> JSON:
        return self._url(part["image_url"]["url"], f"{at}.image_url.url", "image/jpeg")

    def _audio(self, part: Mapping[str, Any], at: str) -> JSON:
        sound = part["input_audio"]
        if media.is_data_url(sound["data"]):
            return _inline(media.read(sound["data"], f"{at}.input_audio.data"))
        data = media.of_base64(sound["data"], f"{at}.input_audio.data")
        return _inline(media.Media(_AUDIO.get(sound.get("format"), f"audio/{sound.get('format') or 'wav'}"), data))

    def _file(self, part: Mapping[str, Any], at: str) -> JSON:
        file = part["file"]
        kind = mimetypes.guess_type(file.get("filename") or "")[0]
        if data := file.get("file_data"):
            if media.is_data_url(data):
                return _inline(media.read(data, f"{at}.file.file_data"))
            plain = media.of_base64(data, f"{at}.file.file_data")
            return _inline(media.Media(kind or media.sniff(plain) or "application/pdf", plain))
        name = file.get("file_id") or ""
        if name.startswith("files/") and self._files:  # Google's own file service
            return {"fileData": {"fileUri": f"{self._files}/{name}", **({"mimeType": kind} if kind else {})}}
        if "://" in name:
            return self._url(name, f"{at}.file.file_id", kind or "application/pdf")
        raise UnsupportedParameter(f"{at}.file.file_id", "Invalid value: this model's provider has no such file.")

    def _url(self, url: str, at: str, default: str) -> JSON:
        """``default`` is the media type of a name that tells none."""
        if media.is_data_url(url):
            return _inline(media.read(url, at))
        try:
            address = urlsplit(url)
        except ValueError:
            raise UnsupportedParameter(at, f"Invalid '{at}': expected a URL.") from None
        video = address.hostname in _VIDEO_HOSTS
        own = url.startswith("gs://") or (self._files and url.startswith(f"{self._files}/files/"))
        if not (video or own or (self._gates.fetches and address.scheme in ("http", "https"))):
            raise UnsupportedParameter(at, f"Invalid '{at}': this model's provider does not fetch it; send a data URL.")
        kind = "video/mp4" if video else mimetypes.guess_type(address.path)[0] or default
        return {"fileData": {"fileUri": url, "mimeType": kind}}


_READERS: Mapping[str, Callable[[Conversation, Mapping[str, Any], str], JSON]] = {
    "text": Conversation._text,
    "image_url": Conversation._image,
    "input_audio": Conversation._audio,
    "file": Conversation._file,
}


def _inline(found: media.Media) -> JSON:
    return {"inlineData": {"mimeType": found.type, "data": found.data}}


def _response(text: str) -> JSON:
    """A tool's result as the object Gemini wants: an object as it is, anything else as ``output``."""
    if text.lstrip().startswith("{") and not _EXACT.search(text):
        try:
            value = orjson.loads(text)
        except orjson.JSONDecodeError:
            pass
        else:
            if isinstance(value, dict):
                return value
    return {"output": text}
