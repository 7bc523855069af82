"""The messages of a conversation: roles, what each may hold, and that tool calls and answers pair up."""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from adapters.toolcalls import LONGEST_ID

from ..errors import InvalidRequest
from .checks import Check, array, bad_role, record, string, tagged, within
from .content import content, participant_name
from .violation import Violation, clip, empty_array, invalid_type, invalid_value, missing, string_too_long, unknown

Message: TypeAlias = Mapping[str, Any]

function_call = record({"name": string, "arguments": string}, required=("name", "arguments"))
_tool_calls = array(
    tagged(
        {
            "function": record({"id": string, "function": function_call}, required=("id", "function")),
            "custom": record(
                {"id": string, "custom": record({"name": string, "input": string}, required=("name", "input"))},
                required=("id", "custom"),
            ),
        }
    ),
    of="objects",
)


def _is_function_call(call: Any) -> bool:
    """Whether ``call`` is in perfect order: spares long agent loops the general checker, which would agree."""
    return (
        type(call) is dict
        and call.get("type") == "function"
        and type(call.get("id")) is str
        and type(function := call.get("function")) is dict
        and type(function.get("name")) is str
        and type(function.get("arguments")) is str
    )


def check_tool_calls(calls: Any) -> None:
    if type(calls) is not list or not all(map(_is_function_call, calls)):
        _tool_calls(calls)


def _content(*kinds: str) -> Check:
    """A message with a content of the given part types."""
    check_content = content(*kinds)

    def check(message: Message) -> None:
        if type(message.get("content")) is not str:  # most are: nothing more to see there
            if "content" not in message:
                raise missing("content")
            within("content", check_content, message["content"])

    return check


_CALLS = frozenset({"tool_calls", "function_call", "refusal", "audio"})
_OF_OTHERS: Mapping[str, frozenset[str]] = {
    "assistant": frozenset({"tool_call_id"}),
    "tool": _CALLS,
    **dict.fromkeys(("system", "developer", "user", "function"), _CALLS | {"tool_call_id"}),
}
"""What only another role has. Clients may echo it empty; extensions are not looked into."""


def _refuse_what_others_have(message: Message) -> None:
    foreign = _OF_OTHERS[message["role"]]
    if foreign.isdisjoint(message):
        return
    for name in message:  # in the message's order, so that the same body gets the same answer
        if name in foreign and message[name]:
            raise unknown().inside(name)


def _speaker(*kinds: str) -> Check:
    """A role with such a content, and perhaps a name."""
    check_content = _content(*kinds)

    def check(message: Message) -> None:
        check_content(message)
        if len(message) == 2:
            return
        _refuse_what_others_have(message)
        if message.get("name") is not None:
            within("name", participant_name, message["name"])

    return check


_assistant_fields = record(
    {
        "content": content("text", "refusal"),
        "name": participant_name,
        "refusal": string,
        "audio": record({"id": string}, required=("id",)),
        "tool_calls": check_tool_calls,
        "function_call": function_call,
    }
)
_INSTEAD_OF_CONTENT = ("tool_calls", "function_call", "refusal", "audio")


def _assistant(message: Message) -> None:
    if type(message.get("content")) is str and len(message) == 2:
        return
    if len(message) == 3 and message.get("tool_calls") and message.get("content", "") is None:
        within("tool_calls", check_tool_calls, message["tool_calls"])  # a turn of an agent: nothing else to see
        return
    _refuse_what_others_have(message)
    _assistant_fields(message)
    answer = message.get("content")
    if answer is None and not any(map(message.get, _INSTEAD_OF_CONTENT)):
        raise missing("content") if "content" not in message else _null_content()
    if type(answer) is list and len(answer) > 1 and any(part["type"] == "refusal" for part in answer):
        raise invalid_value("a refusal must be the only part of a message.", "content")


def _null_content() -> Violation:
    return invalid_type("one of a string or array of objects", None).inside("content")


_tool_content = _content("text", "image_url")
"""The guide says text only; the live error names both (checklist C-202)."""


def _tool(message: Message) -> None:
    if type(message.get("tool_call_id")) is not str:
        if "tool_call_id" not in message:
            raise missing("tool_call_id")
        raise invalid_type("a string", message["tool_call_id"]).inside("tool_call_id")
    _tool_content(message)
    if len(message) > 3:
        _refuse_what_others_have(message)
        if message.get("name") is not None:
            within("name", string, message["name"])


def _function(message: Message) -> None:
    for name in ("name", "content"):
        if name not in message:
            raise missing(name)
    within("name", participant_name, message["name"])
    if message["content"] is not None:
        within("content", string, message["content"])
    _refuse_what_others_have(message)


ROLES: dict[str, Callable[[Message], None]] = {
    "system": _speaker("text"),
    "assistant": _assistant,
    "user": _speaker("text", "image_url", "input_audio", "file"),
    "function": _function,
    "tool": _tool,
    "developer": _speaker("text"),
}
_ROLE_NAMES = tuple(ROLES)


def check_messages(messages: Any) -> None:
    """Each message for itself, by its role."""
    if type(messages) is not list:
        raise invalid_type("an array of objects", messages)
    if not messages:
        raise empty_array()
    index = 0
    try:
        for index, message in enumerate(messages):  # noqa: B007 - read by the handler
            if type(message) is not dict:
                raise invalid_type("an object", message)
            role = message.get("role")
            check = ROLES.get(role) if type(role) is str else None
            if check is None:
                raise bad_role(message, _ROLE_NAMES)
            check(message)
    except Violation as violation:
        raise violation.inside(f"[{index}]") from None


def check_pairing(messages: list[dict[str, Any]]) -> None:
    """Every tool call is answered before anything else is said, and every answer has its call (C-205, C-206).

    OpenAI's ``param`` for these two rules has a dot before the index.
    """
    asked: set[str] = set()
    waiting: set[str] = set()
    for index, message in enumerate(messages):
        role = message["role"]
        if role == "tool":
            if message["tool_call_id"] not in asked:
                raise InvalidRequest(
                    "Invalid parameter: messages with role 'tool' must be a response to a preceeding message with 'tool_calls'.",
                    param=f"messages.[{index}].role",
                )
            waiting.discard(message["tool_call_id"])
        elif waiting:
            raise _unanswered(waiting, f"messages.[{index}].role")
        elif role == "assistant" and message.get("tool_calls"):
            asked = _call_ids(message["tool_calls"], index)
            waiting = set(asked)
        elif asked:
            asked = set()
    if waiting:
        raise _unanswered(waiting, "messages")


def _call_ids(calls: list[dict[str, Any]], index: int) -> set[str]:
    for position, call in enumerate(calls):
        if len(call["id"]) > LONGEST_ID:
            raise string_too_long(LONGEST_ID, len(call["id"])).inside(f"messages[{index}].tool_calls[{position}].id")
    return {call["id"] for call in calls}


def _unanswered(waiting: set[str], param: str) -> InvalidRequest:
    ids = ", ".join(clip(call) for call in sorted(waiting)[:4])
    return InvalidRequest(
        "An assistant message with 'tool_calls' must be followed by tool messages responding to each 'tool_call_id'. "
        f"The following tool_call_ids did not have response messages: {ids}",
        param=param,
    )


def mentions_json(messages: list[dict[str, Any]]) -> bool:
    """Whether any text says ``json`` in whatever case; stops at the first (checklist C-158)."""
    texts = [text for message in messages for text in _texts(message.get("content"))]
    # Folding a text copies it: only when the two usual spellings are nowhere.
    return any("JSON" in text or "json" in text for text in texts) or any("json" in text.lower() for text in texts)


def _texts(value: Any) -> list[str]:
    if type(value) is str:
        return [value]
    return [part["text"] for part in value or () if part["type"] == "text"]
