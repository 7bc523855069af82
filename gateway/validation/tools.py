"""Tools, the deprecated functions, and the choices among them (checklist C-140..C-154)."""

from collections.abc import Mapping
from typing import Any

from .checks import Check, array, boolean, mapping, matching, one_of, record, string, string_or, tagged
from .schema import SchemaError, check_strict
from .violation import Violation, clip, invalid_value, unsupported_choice

NAME_PATTERN = "^[a-zA-Z0-9_-]{1,64}$"
MAX_TOOLS = 128

function_name = matching(NAME_PATTERN)
_function_fields = {"name": function_name, "description": string, "parameters": mapping, "strict": boolean}
_plain_function = record(_function_fields, required=("name",))


def _function(function: Any) -> None:
    _plain_function(function)
    parameters = function.get("parameters")
    if function.get("strict") and parameters is not None:
        try:
            check_strict(parameters)
        except SchemaError as error:
            raise Violation(
                f"Invalid schema for function '{clip(function['name'])}': {error}",
                code="invalid_function_parameters",
                path="parameters",
            ) from None


_grammar = record({"syntax": one_of("lark", "regex"), "definition": string}, required=("syntax", "definition"))
_custom = record(
    {
        "name": string,
        "description": string,
        "format": tagged(
            {
                "text": record({"type": string}, closed=True),
                "grammar": record({"type": string, "grammar": _grammar}, required=("grammar",), closed=True),
            }
        ),
    },
    required=("name",),
)
_tool_array = array(
    tagged(
        {
            "function": record({"function": _function}, required=("function",)),
            "custom": record({"custom": _custom}, required=("custom",)),
        }
    ),
    of="objects",
    nonempty=True,
    most=MAX_TOOLS,
)


def check_tools(tools: Any) -> None:
    _tool_array(tools)
    seen: set[str] = set()
    for index, tool in enumerate(tools):
        kind, name = _identity(tool)
        if name in seen:
            raise invalid_value(f"there is more than one tool named '{clip(name)}'.", f"[{index}].{kind}.name")
        seen.add(name)


def _identity(tool: Mapping[str, Any]) -> tuple[str, str]:
    """The type and the name of a tool, or of what chooses one: both have the same shape."""
    kind = tool["type"]
    return kind, tool[kind]["name"]


check_functions = array(
    record({"name": function_name, "description": string, "parameters": mapping}, required=("name",)),
    of="objects",
    nonempty=True,
    most=MAX_TOOLS,
)

_named = record({"name": string}, required=("name",))
_one_tool: dict[str, Check] = {
    "function": record({"function": _named}, required=("function",)),
    "custom": record({"custom": _named}, required=("custom",)),
}
_allowed_tools = record(
    {"mode": one_of("auto", "required"), "tools": array(tagged(_one_tool), of="objects")},
    required=("mode", "tools"),
)
check_tool_choice = string_or(
    tagged({**_one_tool, "allowed_tools": record({"allowed_tools": _allowed_tools}, required=("allowed_tools",))}),
    "one of a string or object",
)
check_function_call = string_or(_named, "one of a string or object")
_CHOICES = ("none", "auto", "required")


def check_choice_among_tools(request: Mapping[str, Any]) -> None:
    """``tool_choice`` needs tools, and may name only those (checklist C-148, C-149)."""
    tools, choice = request.get("tools"), request["tool_choice"]
    if tools is None:
        raise only_with("tool_choice", "tools")
    if type(choice) is str:
        if choice not in _CHOICES:
            raise unsupported_choice(choice, _CHOICES).inside("tool_choice")
        return
    named = choice["allowed_tools"]["tools"] if choice["type"] == "allowed_tools" else [choice]
    known = {_identity(tool) for tool in tools}
    for tool in named:
        if _identity(tool) not in known:
            name = clip(_identity(tool)[1])
            raise Violation(
                f"Tool choice '{name}' not found in 'tools' parameter.", code="invalid_value", path="tool_choice"
            )


def check_choice_among_functions(request: Mapping[str, Any]) -> None:
    """``function_call`` needs functions, and may name only those."""
    functions, choice = request.get("functions"), request["function_call"]
    if functions is None:
        raise only_with("function_call", "functions")
    if type(choice) is str:
        if choice not in ("none", "auto"):
            raise unsupported_choice(choice, ("none", "auto")).inside("function_call")
    elif all(choice["name"] != function["name"] for function in functions):
        name = clip(choice["name"])
        raise Violation(
            f"Function '{name}' not found in 'functions' parameter.", code="invalid_value", path="function_call"
        )


def only_with(name: str, other: str) -> Violation:
    return Violation(f"Invalid value for '{name}': '{name}' is only allowed when '{other}' are specified.", path=name)
