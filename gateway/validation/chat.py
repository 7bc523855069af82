"""The request contract of Create Chat Completion: each parameter for itself, then the rules between them.

What depends on the model (a reasoning model that takes no ``temperature``, say) is not decided here.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from .checks import check_parameters
from .messages import check_pairing, mentions_json
from .parameters import PARAMETERS
from .plain import is_plain
from .tools import check_choice_among_functions, check_choice_among_tools
from .violation import Violation, exclusive, missing, unknown

Request: TypeAlias = Mapping[str, Any]
Rule: TypeAlias = Callable[[Request], None]


def validate_chat(request: Request, *, allow: frozenset[str] = frozenset()) -> None:
    """Check the body of ``POST /v1/chat/completions``; raises InvalidRequest in OpenAI's words, naming the parameter.

    ``allow`` names the extensions that the model's providers take; one inside ``stream_options`` is written
    ``stream_options.name``. Extensions are not looked into. A parameter that is null counts as absent; so does an
    optional field inside one.
    """
    if is_plain(request):
        return
    try:
        if request.get("messages") is None and request.get("input") is not None:
            raise _responses_body()
        check_parameters(request, PARAMETERS, ("model", "messages"), allow)
        check_pairing(request["messages"])
        for name in request:
            if name in RULES and request[name] is not None:
                RULES[name](request)
        if request.get("stream_options"):
            _check_stream_extensions(request["stream_options"], allow)
    except Violation as violation:
        raise violation.refusal() from None


def _responses_body() -> Violation:
    """Some editors post a Responses body here (checklist C-178): refused, since the answer would have another shape too."""
    return Violation(
        "Missing required parameter: ",
        ". The parameter 'input' belongs to the Responses API; this endpoint takes 'messages'.",
        code="missing_required_parameter",
        path="messages",
    )


def _check_stream_extensions(options: Mapping[str, Any], allow: frozenset[str]) -> None:
    for name in options:
        if name not in ("include_usage", "include_obfuscation") and f"stream_options.{name}" not in allow:
            raise unknown().inside(name).inside("stream_options")


def _requires(name: str, other: str, message: str) -> Rule:
    """``name`` is refused unless the switch ``other`` is on."""

    def rule(request: Request) -> None:
        if request[name] != {} and request.get(other) is not True:
            raise Violation(message, path=name)

    return rule


def _max_tokens(request: Request) -> None:
    if request.get("max_completion_tokens") is not None:
        raise exclusive("max_tokens", "max_completion_tokens")


def _functions(request: Request) -> None:
    if request.get("tools") is not None:
        raise exclusive("functions", "tools")


def _parallel_tool_calls(request: Request) -> None:
    if request.get("tools") is None:
        raise Violation("'parallel_tool_calls' is only allowed when 'tools' are specified.", path="parallel_tool_calls")


def _modalities(request: Request) -> None:
    if "audio" not in request["modalities"]:
        return
    audio = request.get("audio")
    if audio is None:
        raise missing("audio")
    if request.get("stream") and audio["format"] != "pcm16":
        raise Violation(
            f"Unsupported value: 'audio.format' does not support '{audio['format']}' when stream=true. Supported values are: 'pcm16'.",
            code="unsupported_value",
            path="audio.format",
        )


_NOT_WITH_PREDICTION: dict[str, Callable[[Any], bool]] = {
    "n": lambda n: n > 1,
    "logprobs": bool,
    "presence_penalty": lambda penalty: penalty > 0,
    "frequency_penalty": lambda penalty: penalty > 0,
    "audio": lambda _: True,
    "modalities": lambda modalities: "audio" in modalities,
    "max_completion_tokens": lambda _: True,
    "tools": lambda _: True,
}
"""Source: the Predicted Outputs guide (checklist C-166)."""


def _prediction(request: Request) -> None:
    for name, excludes in _NOT_WITH_PREDICTION.items():
        value = request.get(name)
        if value is not None and excludes(value):
            raise exclusive("prediction", name)


def _response_format(request: Request) -> None:
    if request["response_format"]["type"] == "json_object" and not mentions_json(request["messages"]):
        raise Violation(
            "'messages' must contain the word 'json' in some form, to use 'response_format' of type 'json_object'.",
            path="messages",
        )


RULES: dict[str, Rule] = {
    "function_call": check_choice_among_functions,
    "functions": _functions,
    "max_tokens": _max_tokens,
    "metadata": _requires("metadata", "store", "The 'metadata' parameter is only allowed when 'store' is enabled."),
    "modalities": _modalities,
    "parallel_tool_calls": _parallel_tool_calls,
    "prediction": _prediction,
    "response_format": _response_format,
    "stream_options": _requires(
        "stream_options", "stream", "The 'stream_options' parameter is only allowed when 'stream' is enabled."
    ),
    "tool_choice": check_choice_among_tools,
    "top_logprobs": _requires(
        "top_logprobs", "logprobs", "The 'top_logprobs' parameter is only allowed when 'logprobs' is enabled."
    ),
}
"""The rules between parameters, by the parameter that sets each off."""
